//! What sinks and sources of one broker share.

pub(crate) mod kafka;
pub(crate) mod nats;
pub(crate) mod signature;
pub(crate) mod tls;
