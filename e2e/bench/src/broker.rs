//! The two brokers seen alike: a place that a pipeline delivers to.

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::delivery::Delivery;
use crate::nats::Stream;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// A topic of one partition.
    Kafka,
    /// A JetStream stream of one subject.
    Nats,
}

impl Broker {
    /// As in SQL and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }

    /// Makes an empty target.
    pub async fn create_target(self, bench: &Bench, label: &str) -> Result<Target> {
        Ok(match self {
            Self::Kafka => Target::Topic(bench.kafka.create_topic(label).await?),
            Self::Nats => Target::Stream(bench.nats.create_stream(label).await?),
        })
    }
}

/// A topic or stream made for one measurement.
#[derive(Debug)]
pub enum Target {
    /// By its name.
    Topic(String),
    /// By its name and subject.
    Stream(Stream),
}

impl Target {
    /// The configuration of a pipeline that delivers here.
    pub fn config(&self, bench: &Bench) -> Value {
        match self {
            Self::Topic(topic) => {
                json!({"brokers": bench.kafka.brokers(), "topic": topic, "key": "{event_type}"})
            }
            Self::Stream(stream) => {
                json!({"url": bench.nats.url(), "subject": stream.subject, "stream": stream.name})
            }
        }
    }

    /// How many messages it has.
    pub async fn count(&self, bench: &Bench) -> Result<u64> {
        match self {
            Self::Topic(topic) => bench.kafka.end_offset(topic),
            Self::Stream(stream) => bench.nats.count(&stream.name).await,
        }
    }

    /// Reads all it has.
    pub async fn read_back(&self, bench: &Bench, expected: u64) -> Result<Delivery> {
        match self {
            Self::Topic(topic) => bench.kafka.read_back(topic, expected),
            Self::Stream(stream) => bench.nats.read_back(&stream.name, expected).await,
        }
    }

    /// Deletes it.
    pub async fn delete(&self, bench: &Bench) -> Result<()> {
        match self {
            Self::Topic(topic) => bench.kafka.delete_topic(topic).await,
            Self::Stream(stream) => bench.nats.delete_stream(&stream.name).await,
        }
    }
}
