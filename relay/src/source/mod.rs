//! Sources: outboxes (forward) and brokers (reverse).

pub(crate) mod identity;
pub(crate) mod nats;
pub(crate) mod outbox;
