//! The looking: everything that doctor reads from servers.

pub(super) mod kafka;
pub(super) mod nats;
pub(super) mod pipelines;
pub(super) mod server;
pub(super) mod stores;
