//! What sinks and sources of one broker share.

pub(crate) mod nats;
