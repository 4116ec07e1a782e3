//! Sources: outboxes (forward) and brokers (reverse).

pub(crate) mod identity;
mod incoming;
pub(crate) mod nats;
pub(crate) mod outbox;

use std::sync::Arc;

pub(crate) use incoming::{Ack, Headers, Incoming, Position};

use crate::config::SourceSpec;
use crate::failure::Failure;

/// An open source of a reverse pipeline.
pub(crate) enum Source {
    Nats(Box<nats::NatsSource>),
}

impl Source {
    /// Connects and makes sure that messages can come.
    pub(crate) async fn open(spec: &SourceSpec, pipeline: &str, batch_size: usize) -> Result<Self, Failure> {
        Ok(match spec {
            SourceSpec::Nats(spec) => Self::Nats(Box::new(
                nats::NatsSource::open(spec, pipeline, batch_size).await?,
            )),
        })
    }

    /// What people should know about this source.
    pub(crate) fn note(&self) -> Option<&str> {
        match self {
            Self::Nats(source) => source.note(),
        }
    }

    /// Names a stream of [`Position`] for the inbox, over restarts the same.
    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        match self {
            Self::Nats(source) => source.stream_name(stream),
        }
    }

    /// How many messages are known to wait at the source.
    pub(crate) fn lag(&self) -> Option<u64> {
        match self {
            Self::Nats(source) => source.lag(),
        }
    }

    /// Waits for messages and takes what is there, up to `limit`.
    /// Cancel-safe: a message is either in `into` or still to come.
    pub(crate) async fn next(&mut self, into: &mut Vec<Incoming>, limit: usize) -> Result<(), Failure> {
        match self {
            Self::Nats(source) => source.next(into, limit).await,
        }
    }

    /// Makes sure that acknowledgements have left, and closes the connection.
    pub(crate) async fn close(self) {
        match self {
            Self::Nats(source) => source.close().await,
        }
    }
}
