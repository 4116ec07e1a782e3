//! The two brokers seen alike: a place that a pipeline delivers to.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::delivery::Delivery;
use crate::kafka::Topic;
use crate::nats::Stream;
use crate::shape::Shape;

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

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
        }
    }

    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Kafka, Self::Nats];

    /// Makes an empty target.
    pub async fn create_target(self, bench: &Bench, label: &str) -> Result<Target> {
        Ok(match self {
            Self::Kafka => Target::Topic(bench.kafka.create_topic(label, 1).await?),
            Self::Nats => Target::Stream(bench.nats.create_stream(label).await?),
        })
    }
}

/// A topic or stream made for one measurement.
#[derive(Debug)]
pub enum Target {
    /// A topic, of one partition if nothing else is said.
    Topic(Topic),
    /// By its name and subject.
    Stream(Stream),
}

impl Target {
    /// Which broker it is on.
    pub fn broker(&self) -> Broker {
        match self {
            Self::Topic(_) => Broker::Kafka,
            Self::Stream(_) => Broker::Nats,
        }
    }

    /// The configuration of a pipeline that delivers messages of this shape here.
    pub fn config(&self, bench: &Bench, shape: Shape) -> Value {
        match self {
            Self::Topic(topic) => {
                let mut config = json!({"brokers": bench.kafka.brokers(), "topic": topic.name});
                if let Some(key) = shape.key_template() {
                    config["key"] = json!(key);
                }
                config
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

    /// How many messages all of these have.
    pub async fn count_all(targets: &[&Self], bench: &Bench) -> Result<u64> {
        let (mut topics, mut sum) = (Vec::new(), 0);
        for target in targets {
            match target {
                Self::Topic(topic) => topics.push(topic),
                Self::Stream(_) => sum += target.count(bench).await?,
            }
        }
        if !topics.is_empty() {
            sum += bench.kafka.end_offsets(&topics)?;
        }
        Ok(sum)
    }

    /// Reads all it has.
    pub async fn read_back(&self, bench: &Bench, expected: u64, shape: Shape) -> Result<Delivery> {
        match self {
            Self::Topic(topic) => bench.kafka.read_back(topic, expected, shape),
            Self::Stream(stream) => bench.nats.read_back(&stream.name, expected, shape).await,
        }
    }

    /// Has the plain client library send so many messages from memory, as fast as it can: messages a second. Nothing
    /// else may have sent here.
    pub async fn fill(&self, bench: &Bench, count: u64, shape: Shape) -> Result<f64> {
        let took = match self {
            Self::Topic(topic) => bench.kafka.produce(topic, count, shape)?,
            Self::Stream(stream) => bench.nats.publish(&stream.subject, count, shape, true).await?,
        };
        let stored = self.count(bench).await?;
        ensure!(
            stored == count,
            "{} stored {stored} of {count} messages",
            self.broker().name()
        );
        Ok(count as f64 / took.as_secs_f64())
    }

    /// Deletes it.
    pub async fn delete(&self, bench: &Bench) -> Result<()> {
        match self {
            Self::Topic(topic) => bench.kafka.delete_topic(topic).await,
            Self::Stream(stream) => bench.nats.delete_stream(&stream.name).await,
        }
    }
}
