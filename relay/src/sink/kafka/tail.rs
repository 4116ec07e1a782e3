//! Reading the end of a topic: which messages of this pipeline are there
//! beyond the last checkpoint.
//!
//! Requests of an owner that died may still be on their way (its socket's
//! buffer outlives it, a busy broker answers late), so reading goes on until
//! nothing of this pipeline has been added for a settle time.
//!
//! In transactions it is the broker who lets no such request in any more once
//! the transactional id is taken over; what is committed then is all there is.
//! Committed messages can only be read up to the first transaction that is
//! still open, which may be another producer's, so its end is waited for.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::broker::kafka;
use crate::config::{Delivery, KafkaSinkSpec};
use crate::cursor::Positions;
use crate::encode::{EventId, Identity, added};
use crate::failure::Failure;

/// How long nothing of ours may have been added. Measured: a broker on the
/// same machine answers within a few ms also when busy.
pub(super) const SETTLE: Duration = Duration::from_millis(150);
/// A broker that does not let us read for so long is not available.
const STALLED: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

type Consumer = BaseConsumer<kafka::Quiet>;

/// Blocking: runs on a thread of its own. Returns when nothing was added for
/// `settle`.
pub(super) fn read(
    spec: &KafkaSinkSpec,
    identity: &Identity,
    since: &Positions,
    settle: Duration,
) -> Result<HashSet<EventId>, Failure> {
    let mut topics: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (name, position) in since {
        if let Some((topic, partition)) = name.rsplit_once('/')
            && let Ok(partition) = partition.parse()
        {
            topics.entry(topic).or_default().push((partition, *position));
        }
    }
    let mut landed = HashSet::new();
    if topics.is_empty() {
        return Ok(landed);
    }
    let transactional = spec.delivery == Delivery::Transactional;
    let mut config = kafka::client_config(&spec.connection)?;
    config
        .set("group.id", "pg-tide-tail")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set(
            "isolation.level",
            if transactional {
                "read_committed"
            } else {
                "read_uncommitted"
            },
        )
        .set("fetch.wait.max.ms", "10")
        .set("fetch.error.backoff.ms", "20")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "8192");
    kafka::set_properties(&mut config, &spec.connection);
    let watch = kafka::Watch::new(&spec.connection);
    let failed = |e: &KafkaError| {
        Failure::transient(format!(
            "kafka {}: reading the end of the topic: {}",
            spec.connection.brokers,
            watch.describe(e)
        ))
    };
    let make = |config: &ClientConfig| -> Result<Consumer, Failure> {
        config
            .create_with_context(kafka::Quiet(watch.clone()))
            .map_err(|e| failed(&e))
    };
    let consumer = make(&config)?;
    if transactional {
        // The ends of all that is there, committed or not.
        let looker = make(config.set("isolation.level", "read_uncommitted"))?;
        for (topic, partitions) in &topics {
            for (partition, _) in partitions {
                await_committed(&consumer, &looker, topic, *partition, &failed)?;
            }
        }
    }
    for (topic, partitions) in topics {
        read_topic(&consumer, topic, &partitions, identity, settle, &mut landed).map_err(|e| failed(&e))?;
    }
    Ok(landed)
}

/// Waits until everything that is in a partition now can be read as committed
/// or aborted.
fn await_committed(
    committed: &Consumer,
    all: &Consumer,
    topic: &str,
    partition: i32,
    failed: &dyn Fn(&KafkaError) -> Failure,
) -> Result<(), Failure> {
    let began = Instant::now();
    let end = |consumer: &Consumer| loop {
        // Serves what the library asks its owner for, such as tokens.
        let _ = consumer.poll(Duration::ZERO);
        match consumer.fetch_watermarks(topic, partition, LOOK) {
            Ok((_, end)) => return Ok(end),
            Err(error) if kafka::is_connection(&error) && began.elapsed() < STALLED => {}
            Err(error) => return Err(failed(&error)),
        }
    };
    let goal = end(all)?;
    loop {
        let reached = end(committed)?;
        if reached >= goal {
            return Ok(());
        }
        if began.elapsed() > STALLED {
            return Err(Failure::transient(format!(
                "kafka: topic \"{topic}\" partition {partition}: a transaction of another producer has been open at offset {reached} for {} s; what was committed behind it cannot be told before it ends",
                STALLED.as_secs()
            )));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn read_topic(
    consumer: &Consumer,
    topic: &str,
    partitions: &[(i32, i64)],
    identity: &Identity,
    settle: Duration,
    landed: &mut HashSet<EventId>,
) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, position) in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*position))?;
    }
    consumer.assign(&assignment)?;
    let mut at_end: HashSet<i32> = HashSet::new();
    let mut last_added = Instant::now();
    let mut last_sign = Instant::now();
    loop {
        if at_end.len() == partitions.len() && last_added.elapsed() >= settle {
            return Ok(());
        }
        match consumer.poll(Duration::from_millis(10)) {
            None => {
                if at_end.len() < partitions.len() && last_sign.elapsed() > STALLED {
                    return Err(KafkaError::MessageConsumption(
                        rdkafka::error::RDKafkaErrorCode::OperationTimedOut,
                    ));
                }
            }
            Some(Ok(message)) => {
                last_sign = Instant::now();
                at_end.remove(&message.partition());
                if let Some(id) = own_id(&message, identity) {
                    landed.insert(id);
                    last_added = Instant::now();
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                last_sign = Instant::now();
                if at_end.insert(partition) && at_end.len() == partitions.len() {
                    // The settle time counts from the first time at the end.
                    last_added = Instant::now();
                }
            }
            Some(Err(error)) if kafka::is_connection(&error) && last_sign.elapsed() < STALLED => {}
            Some(Err(error)) => return Err(error),
        }
    }
}

/// The id of a message that this pipeline sent.
fn own_id(message: &BorrowedMessage<'_>, identity: &Identity) -> Option<EventId> {
    let headers = message.headers()?;
    let find = |name: &str| headers.iter().find(|h| h.key == name).and_then(|h| h.value);
    if find(added::PIPELINE)? != identity.pipeline.as_bytes()
        || find(added::OUTBOX)? != identity.outbox.as_bytes()
    {
        return None;
    }
    let text = |name: &str| find(name).and_then(|value| std::str::from_utf8(value).ok());
    EventId::parse(text(added::ID)?, text(added::REDELIVERY))
}
