//! Kafka as an ordinary consumer sees it.

use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{
    DefaultProducerContext, FutureProducer, FutureRecord, Producer as _, ThreadedProducer,
};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::{answer, await_condition};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic partition.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Key, if it has one.
    pub key: Option<String>,
    /// Headers in their order.
    pub headers: Vec<(String, String)>,
    /// Value.
    pub value: String,
}

impl Record {
    /// The value of its header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Creates a topic with settings such as `max.message.bytes`.
pub async fn create_topic(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "creating topic {topic}: {made:?}");
}

/// Deletes a topic.
pub async fn delete_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let gone = admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert!(gone.iter().all(Result::is_ok), "deleting topic {topic}: {gone:?}");
}

/// A batch of records as the broker keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its size, in bytes.
    pub bytes: usize,
    /// 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub compression: u8,
    /// How many records are in it.
    pub records: u32,
    /// Whether it comes from an idempotent producer.
    pub idempotent: bool,
}

/// The batches in a partition's log, read from the broker's own files in the
/// folder of its bed.
pub fn stored_batches(bed_state: &Path, topic: &str, partition: i32) -> Vec<StoredBatch> {
    let folder = bed_state.join(format!("kafka/data/{topic}-{partition}"));
    let mut batches = Vec::new();
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for file in files.map(|f| f.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let log = std::fs::read(&file).unwrap();
        let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
        let mut at = 0;
        // First offset (8), length of the rest (4), leader's epoch (4), magic
        // (1), checksum (4), attributes (2), ..., id of an idempotent producer
        // (at 43), ..., number of records (at 57).
        while at + 61 <= log.len() && number(at + 8) > 0 {
            let bytes = number(at + 8) as usize + 12;
            let is_marker = log[at + 22] & 0x20 != 0;
            if !is_marker {
                batches.push(StoredBatch {
                    bytes,
                    compression: log[at + 22] & 7,
                    records: number(at + 57),
                    idempotent: number(at + 43) != u32::MAX,
                });
            }
            at += bytes;
        }
    }
    batches
}

/// Adds partitions to a topic, up to this count.
pub async fn add_partitions(brokers: &str, topic: &str, count: usize) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let more = NewPartitions::new(topic, count);
    let made = admin
        .create_partitions([&more], &AdminOptions::new())
        .await
        .unwrap();
    assert!(
        made.iter().all(Result::is_ok),
        "partitions of topic {topic}: {made:?}"
    );
}

/// A producer as an application has one.
pub struct Producer {
    producer: FutureProducer,
}

impl Producer {
    /// Connects, with further settings of librdkafka.
    pub fn connect(brokers: &str, settings: &[(&str, &str)]) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "1")
            .set("enable.idempotence", "true");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        Self {
            producer: config.create().unwrap(),
        }
    }

    /// Sends one record and waits until the broker has it.
    pub async fn send(&self, record: FutureRecord<'_, [u8], [u8]>) {
        let sent = self.producer.send(record, TIMEOUT).await;
        sent.unwrap_or_else(|(error, _)| panic!("producing: {error}"));
    }

    /// Sends `{"n": first}` to `{"n": last}` to partitions in turn, and waits
    /// until the broker has them.
    pub async fn send_numbers(&self, topic: &str, first: i64, last: i64, partitions: i32) {
        let mut waiting = Vec::new();
        for n in first..=last {
            let payload = format!("{{\"n\": {n}}}");
            let record = FutureRecord::<[u8], str>::to(topic)
                .payload(&payload)
                .partition(i32::try_from(n).unwrap() % partitions);
            let mut next = record;
            loop {
                match self.producer.send_result(next) {
                    Ok(delivery) => break waiting.push(delivery),
                    // The library's queue is full.
                    Err((_, again)) => {
                        next = again;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        }
        for delivery in waiting {
            delivery.await.unwrap().unwrap();
        }
    }

    /// The client itself, for transactions.
    pub fn client(&self) -> &FutureProducer {
        &self.producer
    }
}

/// The offset that a group has committed in a partition.
pub async fn committed(brokers: &str, group: &str, topic: &str, partition: i32) -> Option<i64> {
    let (brokers, group, topic) = (brokers.to_owned(), group.to_owned(), topic.to_owned());
    let asking = move || {
        let consumer = member(&brokers, &group, &[]);
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&topic, partition);
        let found = consumer.committed_offsets(wanted, TIMEOUT).unwrap();
        match found.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    };
    tokio::task::spawn_blocking(asking).await.unwrap()
}

/// Sets a group's offset, as `kafka-consumer-groups --reset-offsets` does; the
/// group must have no member.
pub async fn set_committed(brokers: &str, group: &str, topic: &str, partition: i32, offset: i64) {
    let mut last = None;
    let set = answer(Duration::from_mins(1), async || {
        let (brokers, group, topic) = (brokers.to_owned(), group.to_owned(), topic.to_owned());
        let setting = move || {
            let consumer = member(&brokers, &group, &[]);
            let mut wanted = TopicPartitionList::new();
            wanted
                .add_partition_offset(&topic, partition, Offset::Offset(offset))
                .unwrap();
            consumer.commit(&wanted, CommitMode::Sync)
        };
        last = Some(tokio::task::spawn_blocking(setting).await.unwrap());
        last.as_ref().unwrap().is_ok().then_some(())
    })
    .await;
    assert!(set.is_some(), "setting the offset of group {group}: {last:?}");
}

/// An ordinary consumer of a group, with settings of its own.
pub fn member(brokers: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// All records of a topic, partition by partition, each in order; none when
/// there is no such topic.
pub async fn records(brokers: &str, topic: &str) -> Vec<Record> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&brokers, &topic))
        .await
        .unwrap()
}

/// Waits until a topic has at least this many records, and returns all. Offsets
/// alone do not tell: markers have some, too.
pub async fn await_records(brokers: &str, topic: &str, count: usize, within: Duration) -> Vec<Record> {
    let owned = topic.to_owned();
    let reader: std::sync::Arc<BaseConsumer> = consumer(brokers).into();
    await_condition(within, &format!("{count} records in topic {topic}"), async || {
        let (reader, topic) = (reader.clone(), owned.clone());
        let there = tokio::task::spawn_blocking(move || {
            let ends = ends(&reader, &topic)?;
            usize::try_from(ends.iter().map(|(_, low, high)| high - low).sum::<i64>()).ok()
        });
        (there.await.unwrap()? >= count).then_some(())
    })
    .await;
    await_condition(within, &format!("{count} records in topic {topic}"), async || {
        let all = records(brokers, topic).await;
        (all.len() >= count).then_some(all)
    })
    .await
}

/// The next offset of each partition; markers of transactions have offsets,
/// too.
pub async fn end_offsets(brokers: &str, topic: &str) -> Vec<i64> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    let ends = tokio::task::spawn_blocking(move || ends(&consumer(&brokers), &topic));
    let ends = ends.await.unwrap().unwrap_or_default();
    ends.into_iter().map(|(_, _, end)| end).collect()
}

/// A producer of this transactional id, which it takes over.
pub async fn transactional(brokers: &str, id: &str) -> ThreadedProducer<DefaultProducerContext> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("transactional.id", id);
    tokio::task::spawn_blocking(move || {
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer
    })
    .await
    .unwrap()
}

fn consumer(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "e2e-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap()
}

/// First and next offset of each partition; none when there is no such topic.
/// Asks again while the broker does not answer: that is not the same.
fn ends(consumer: &BaseConsumer, topic: &str) -> Option<Vec<(i32, i64, i64)>> {
    let deadline = Instant::now() + 3 * TIMEOUT;
    loop {
        match try_ends(consumer, topic) {
            Ok(ends) => return ends,
            Err(error) => assert!(Instant::now() < deadline, "the ends of topic {topic}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

type Ends = Option<Vec<(i32, i64, i64)>>;

fn try_ends(consumer: &BaseConsumer, topic: &str) -> Result<Ends, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let Some(found) = found.filter(|t| t.error().is_none()) else {
        return Ok(None);
    };
    let ends = found.partitions().iter().map(|p| {
        let (low, high) = consumer.fetch_watermarks(topic, p.id(), TIMEOUT)?;
        Ok((p.id(), low, high))
    });
    ends.collect::<Result<_, _>>().map(Some)
}

fn read(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer = consumer(brokers);
    let ends = ends(&consumer, topic).unwrap_or_default();
    let mut left = ends.iter().filter(|(_, low, high)| low < high).count();
    let mut records = Vec::new();
    if left == 0 {
        return records;
    }
    let mut assignment = TopicPartitionList::new();
    for (partition, low, high) in &ends {
        if low < high {
            assignment
                .add_partition_offset(topic, *partition, Offset::Offset(*low))
                .unwrap();
        }
    }
    consumer.assign(&assignment).unwrap();
    let mut last_sign = Instant::now();
    while left > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_sign = Instant::now();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(text),
                    headers: message
                        .headers()
                        .map(|all| {
                            all.iter()
                                .map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default()))
                                .collect()
                        })
                        .unwrap_or_default(),
                    value: message.payload().map(text).unwrap_or_default(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
            Some(Err(error)) => assert!(last_sign.elapsed() < TIMEOUT, "reading topic {topic}: {error}"),
            None => assert!(last_sign.elapsed() < TIMEOUT, "reading topic {topic}: no answer"),
        }
    }
    records.sort_by_key(|r| (r.partition, r.offset));
    records
}

/// The `n` of each record, see [`crate::numbers`].
pub fn values(records: &[Record]) -> Vec<i64> {
    crate::numbers(records.iter().map(|r| r.value.as_str()))
}
