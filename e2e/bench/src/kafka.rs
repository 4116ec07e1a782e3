//! Kafka by its plain client library: topics, counting, producing from memory, reading everything back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::task::block_in_place;

use crate::delivery::Delivery;
use crate::event::{self, Payload};
use crate::poll::until;
use crate::shape::Shape;

/// All topics made here begin so.
const PREFIX: &str = "tide-bench-";

const TIMEOUT: Duration = Duration::from_secs(30);

/// Topics made with one request.
const TOPICS_AT_ONCE: usize = 50;

/// A topic that was made here.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name, unique to this process.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

/// One Kafka cluster.
pub struct Kafka {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    watcher: BaseConsumer,
}

impl Kafka {
    /// Connects, and deletes topics that an earlier run left behind.
    pub async fn connect(brokers: &str) -> Result<Self> {
        let config = client_config(brokers);
        let kafka = Self {
            brokers: brokers.to_owned(),
            admin: config.create()?,
            watcher: config.create()?,
        };
        kafka
            .clean_up()
            .await
            .with_context(|| format!("Kafka on {brokers}"))?;
        Ok(kafka)
    }

    /// Deletes all topics that the harness made, now or in a run that was cut off.
    pub async fn clean_up(&self) -> Result<()> {
        let metadata = block_in_place(|| self.watcher.fetch_metadata(None, TIMEOUT))?;
        let ours: Vec<&str> = metadata
            .topics()
            .iter()
            .map(MetadataTopic::name)
            .filter(|name| name.starts_with(PREFIX))
            .collect();
        self.delete_named(&ours).await
    }

    /// Where it is.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Makes a topic of so many partitions.
    pub async fn create_topic(&self, label: &str, partitions: i32) -> Result<Topic> {
        let topic = Topic {
            name: format!("{PREFIX}{}-{label}", std::process::id()),
            partitions,
        };
        let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1));
        for result in self.admin.create_topics([&new], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| KafkaError::AdminOp(code).context_of(&name))?;
        }
        // Metadata first: the library remembers for a while that it did not know a topic.
        until(TIMEOUT, "the new topic to answer", async || {
            block_in_place(|| self.watcher.fetch_metadata(Some(&topic.name), TIMEOUT))?;
            Ok(self.end_offset(&topic).is_ok())
        })
        .await?;
        Ok(topic)
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        self.delete_named(&[&topic.name]).await
    }

    async fn delete_named(&self, topics: &[&str]) -> Result<()> {
        for topics in topics.chunks(TOPICS_AT_ONCE) {
            for result in self.admin.delete_topics(topics, &AdminOptions::new()).await? {
                match result {
                    Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                    Err((name, code)) => bail!("cannot delete topic {name}: {code}"),
                }
            }
        }
        Ok(())
    }

    /// How many records the topic's partitions have been given.
    pub fn end_offset(&self, topic: &Topic) -> Result<u64> {
        self.end_offsets(&[topic])
    }

    /// How many records all the topics have been given, by one request to each broker: with a hundred topics looked at
    /// a hundred times a second, the looking itself would be work.
    pub fn end_offsets(&self, topics: &[&Topic]) -> Result<u64> {
        let mut partitions = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..topic.partitions {
                // In the place of a moment: the end means the latest offset.
                partitions.add_partition_offset(&topic.name, partition, Offset::End)?;
            }
        }
        let ends = block_in_place(|| self.watcher.offsets_for_times(partitions, TIMEOUT))?;
        let mut sum = 0;
        for end in ends.elements() {
            end.error()?;
            match end.offset() {
                Offset::Offset(offset) => sum += u64::try_from(offset)?,
                other => bail!("topic {} ends at {other:?}", end.topic()),
            }
        }
        Ok(sum)
    }

    /// Sends the orders 0 to `count` - 1 with their key, their headers and two more, as a relay adds them; returns the
    /// time until the last acknowledgement.
    pub fn produce(&self, topic: &Topic, count: u64, shape: Shape) -> Result<Duration> {
        block_in_place(|| self.produce_blocking(&topic.name, count, shape))
    }

    fn produce_blocking(&self, topic: &str, count: u64, shape: Shape) -> Result<Duration> {
        let mut config = client_config(&self.brokers);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "100000");
        let producer: BaseProducer<Acknowledgements> =
            config.create_with_context(Acknowledgements::default())?;
        // The connection and the producer id are not part of the time.
        producer.client().fetch_metadata(Some(topic), TIMEOUT)?;

        let mut payload = Payload::of(shape.bytes);
        let (mut id, mut key) = (String::new(), String::new());
        let began = Instant::now();
        for n in 0..count {
            id.clear();
            id.push_str(&(event::FIRST_ORDER + n).to_string());
            let payload = payload.set(n);
            let mut headers = OwnedHeaders::new_with_capacity(2 + shape.headers);
            for (key, value) in shape.headers(n) {
                headers = with_header(headers, key, value);
            }
            headers = with_header(headers, "tide-id", &id);
            headers = with_header(headers, "tide-outbox", "bench");
            let mut record = BaseRecord::<str, [u8]>::to(topic)
                .payload(payload)
                .headers(headers);
            if shape.write_key(n, &mut key) {
                record = record.key(&key);
            }
            while let Err((error, unsent)) = producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error.into());
                }
                producer.poll(Duration::from_millis(1));
                record = unsent;
            }
            if n % 1000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        let acknowledgements = producer.context();
        while acknowledgements.total() < count {
            if began.elapsed() > TIMEOUT + Duration::from_micros(count * 100) {
                bail!(
                    "Kafka acknowledged {} of {count} records",
                    acknowledgements.total()
                );
            }
            producer.poll(Duration::from_millis(1));
        }
        let took = began.elapsed();
        match acknowledgements.failed.load(Ordering::Relaxed) {
            0 => Ok(took),
            failed => bail!("Kafka refused {failed} of {count} records"),
        }
    }

    /// Reads the partitions from their beginning to their present end. Offsets alone do
    /// not tell how many records there are: markers have some, too.
    pub fn read_back(&self, topic: &Topic, expected: u64, shape: Shape) -> Result<Delivery> {
        block_in_place(|| {
            let consumer: BaseConsumer = client_config(&self.brokers)
                .set("group.id", &topic.name)
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                .create()?;
            let mut start = TopicPartitionList::new();
            for partition in 0..topic.partitions {
                start.add_partition_offset(&topic.name, partition, Offset::Beginning)?;
            }
            consumer.assign(&start)?;
            let mut delivery = Delivery::new(expected, shape);
            let mut ended = 0;
            loop {
                match consumer.poll(TIMEOUT).context("no record came")? {
                    Ok(message) => delivery.note(message.payload().and_then(event::number)),
                    Err(KafkaError::PartitionEOF(_)) => {
                        ended += 1;
                        if ended == topic.partitions {
                            return Ok(delivery);
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// A producer for single events, acks=all, that waits for nothing.
    pub fn sender(&self) -> Result<Sender> {
        let mut config = client_config(&self.brokers);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0");
        Ok(Sender(Arc::new(config.create()?)))
    }

    /// An ordinary consumer of a topic in a group of its own, from the beginning.
    pub fn consumer(&self, topic: &Topic) -> Result<StreamConsumer> {
        let consumer: StreamConsumer = client_config(&self.brokers)
            .set("group.id", &topic.name)
            .set("auto.offset.reset", "earliest")
            .create()?;
        consumer.subscribe(&[&topic.name])?;
        Ok(consumer)
    }
}

/// A producer whose deliveries are served by a thread of its own.
#[derive(Clone)]
pub struct Sender(Arc<ThreadedProducer<DefaultProducerContext>>);

impl Sender {
    /// Hands a record to the library.
    pub fn send(&self, topic: &str, key: &str, payload: &[u8]) -> Result<()> {
        let record = BaseRecord::to(topic).key(key).payload(payload);
        self.0.send(record).map_err(|(error, _)| error.into())
    }
}

fn with_header(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

fn client_config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// Counts what the broker acknowledged.
#[derive(Default)]
struct Acknowledgements {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl Acknowledgements {
    fn total(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

impl ClientContext for Acknowledgements {}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        let counter = if result.is_ok() {
            &self.delivered
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says which topic an admin operation failed for.
trait ContextOf {
    fn context_of(self, topic: &str) -> anyhow::Error;
}

impl ContextOf for KafkaError {
    fn context_of(self, topic: &str) -> anyhow::Error {
        anyhow::Error::from(self).context(format!("topic {topic}"))
    }
}
