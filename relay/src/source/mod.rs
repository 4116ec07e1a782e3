//! Sources: outboxes (forward) and brokers (reverse).

pub(crate) mod identity;
mod incoming;
pub(crate) mod kafka;
pub(crate) mod nats;
pub(crate) mod outbox;
pub(crate) mod webhook;

use std::sync::Arc;

use sha2::{Digest, Sha256};

pub(crate) use incoming::{Ack, Headers, Incoming, Position};

use crate::config::SourceSpec;
use crate::database::Pool;
use crate::failure::Failure;

/// An open source of a reverse pipeline.
pub(crate) enum Source {
    Kafka(Box<kafka::KafkaSource>),
    Nats(Box<nats::NatsSource>),
}

/// For whom a source is opened.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) pipeline: String,
    /// The name that it was made with.
    pub(crate) first_name: String,
    pub(crate) pipeline_id: i32,
    pub(crate) epoch: i64,
    pub(crate) inbox_id: i32,
    pub(crate) inbox: String,
    pub(crate) batch_size: usize,
    /// Tells the database apart from all others.
    pub(crate) origin: Arc<str>,
    pub(crate) writers: Arc<Pool>,
}

impl Reader {
    /// Tells this pipeline from every other one of the world, over restarts
    /// the same; letters, digits, `-` and `.` only.
    pub(crate) fn instance_id(&self) -> String {
        let digest = Sha256::digest(self.origin.as_bytes());
        let origin = digest[..8]
            .iter()
            .fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
        format!("pg-tide.{origin:016x}.{}", self.pipeline_id)
    }
}

/// A stream or topic partition, as the inbox knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Over restarts the same.
    pub(crate) name: Arc<str>,
    /// Where the inbox stands in it, when the inbox keeps that.
    pub(crate) next: Option<i64>,
}

impl Source {
    /// Connects and makes sure that messages can come.
    pub(crate) async fn open(spec: &SourceSpec, reader: &Reader) -> Result<Self, Failure> {
        Ok(match spec {
            SourceSpec::Kafka(spec) => Self::Kafka(Box::new(kafka::KafkaSource::open(spec, reader).await?)),
            SourceSpec::Nats(spec) => Self::Nats(Box::new(
                nats::NatsSource::open(spec, &reader.first_name, reader.batch_size).await?,
            )),
            SourceSpec::Webhook(_) => {
                return Err(Failure::transient("requests come to the listener for webhooks"));
            }
        })
    }

    /// What people should know about this source.
    pub(crate) fn note(&self) -> Option<String> {
        match self {
            Self::Kafka(source) => source.note(),
            Self::Nats(source) => source.note().map(str::to_owned),
        }
    }

    /// Headers in which senders usually give a message's id.
    pub(crate) fn id_headers(&self) -> &'static [&'static str] {
        match self {
            // CloudEvents have one spelling for Kafka and another for the rest.
            Self::Kafka(_) => &["ce_id", "ce-id", "tide-id"],
            Self::Nats(_) => &["Nats-Msg-Id", "ce-id"],
        }
    }

    /// The consumer group whose positions the inbox keeps.
    pub(crate) fn group(&self) -> Option<&str> {
        match self {
            Self::Kafka(source) => Some(source.group()),
            Self::Nats(_) => None,
        }
    }

    /// The stream of a [`Position`].
    pub(crate) fn stream(&self, stream: u32) -> Result<Stream, Failure> {
        match self {
            Self::Kafka(source) => source.stream(stream),
            Self::Nats(source) => Ok(source.stream()),
        }
    }

    /// How many messages are known to wait at the source.
    pub(crate) fn lag(&self) -> Option<u64> {
        match self {
            Self::Kafka(source) => Some(source.lag()),
            Self::Nats(source) => source.lag(),
        }
    }

    /// Waits for messages and takes what is there, up to `limit`.
    /// Cancel-safe: a message is either in `into` or still to come.
    pub(crate) async fn next(&mut self, into: &mut Vec<Incoming>, limit: usize) -> Result<(), Failure> {
        match self {
            Self::Kafka(source) => source.next(into, limit).await,
            Self::Nats(source) => source.next(into, limit).await,
        }
    }

    /// Makes sure that acknowledgements have left, and closes the connection.
    pub(crate) async fn close(self) {
        match self {
            Self::Kafka(source) => source.close().await,
            Self::Nats(source) => source.close().await,
        }
    }
}
