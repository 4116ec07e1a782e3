//! The consumer's thread: takes records from librdkafka's queue and hands them
//! to the pipeline in chunks, so that a record costs no wake-up of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::metadata::Metadata;
use tokio::sync::mpsc;

use super::claim::{Check, Claim};
use super::context::{ANSWER, Context, Shared};
use crate::broker::kafka::{self, describe, is_connection};
use crate::failure::Failure;
use crate::source::incoming::{KEY, KEY_BASE64};
use crate::source::{Ack, Headers, Incoming, Position};

/// Records and bytes of a chunk, at most (but one record in any case).
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;
/// Between two looks at whether the pipeline still wants anything.
const IDLE: Duration = Duration::from_millis(250);
/// Within this some broker answers, else all are taken to be away.
const ALIVE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
const COMPLAINTS: Duration = Duration::from_millis(50);
const COMMIT_EVERY: Duration = Duration::from_millis(200);
const MEASURE_EVERY: Duration = Duration::from_secs(5);

pub(super) type Chunk = Result<Vec<Incoming>, Failure>;

/// Runs until the pipeline has gone or something fails.
pub(super) fn run(shared: &Arc<Shared>, sender: &mpsc::Sender<Chunk>) {
    let opened = open(shared);
    let result = match &opened {
        Ok(consumer) => read(shared, consumer, sender),
        Err(failure) => Err(failure.clone()),
    };
    // Told before the consumer goes: without brokers that takes its time.
    if let Err(failure) = result {
        let _ = sender.blocking_send(Err(failure));
    }
    if let Ok(consumer) = opened {
        // What the pipeline has settled by now; librdkafka waits for the answer
        // when the consumer is dropped.
        commit(shared, &consumer);
    }
}

fn read(
    shared: &Shared,
    consumer: &BaseConsumer<Context>,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), Failure> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    let mut last: Option<Arc<Claim>> = None;
    let mut committed_at = Instant::now();
    let mut measured_at = Instant::now();
    loop {
        let wait = if chunk.is_empty() { IDLE } else { Duration::ZERO };
        let mut drained = true;
        match consumer.poll(wait) {
            None => {}
            Some(Ok(message)) => {
                drained = false;
                match take(shared, &message, &mut last) {
                    Ok(None) => {}
                    Ok(Some(incoming)) => {
                        bytes += incoming.payload.as_ref().map_or(0, Bytes::len);
                        chunk.push(incoming);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Some(Err(error)) => {
                if let Some(failure) = judge(shared, consumer, &error) {
                    return Err(failure);
                }
            }
        }
        if let Some(failure) = shared.trouble() {
            return Err(failure);
        }
        if drained || chunk.len() >= CHUNK || bytes >= CHUNK_BYTES {
            bytes = 0;
            if !hand_over(std::mem::take(&mut chunk), sender) || shared.closing.is_cancelled() {
                return Ok(());
            }
        }
        if committed_at.elapsed() >= COMMIT_EVERY {
            committed_at = Instant::now();
            commit(shared, consumer);
        }
        if measured_at.elapsed() >= MEASURE_EVERY {
            measured_at = Instant::now();
            // A broker that hangs causes no error of its own, nor does metadata
            // without a broker, after which librdkafka knows none any more.
            if !shared.measure(consumer) {
                look_for_brokers(shared, consumer)?;
            }
        }
    }
}

fn commit(shared: &Shared, consumer: &BaseConsumer<Context>) {
    let due = shared.claims.lock().take_commits();
    if let Err(error) = shared.commit(consumer, due) {
        tracing::debug!(pipeline = shared.reader.pipeline, "committing: {error}");
    }
}

/// False when the pipeline takes nothing any more.
fn hand_over(mut chunk: Vec<Incoming>, sender: &mpsc::Sender<Chunk>) -> bool {
    // Partitions may have gone while the chunk was filled.
    chunk.retain(|message| match (&message.ack, message.position) {
        (Ack::Kafka(claim), Some(position)) if !claim.is_revoked() => {
            claim.hand_out(position.sequence);
            true
        }
        _ => false,
    });
    chunk.is_empty() || sender.blocking_send(Ok(chunk)).is_ok()
}

/// Joins the group.
fn open(shared: &Arc<Shared>) -> Result<BaseConsumer<Context>, Failure> {
    let spec = &shared.spec;
    let mut config = kafka::client_config(&spec.connection)?;
    config
        // A relay that takes the pipeline over takes its place in the group as
        // well, at once, instead of waiting until the old one is missed.
        .set("session.timeout.ms", "10000")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("isolation.level", "read_committed")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "16384");
    kafka::set_properties(&mut config, &spec.connection);
    // Beside what the user wants to see.
    let debug = match spec
        .connection
        .librdkafka
        .iter()
        .find(|(name, _)| name == "debug")
    {
        Some((_, more)) => format!("topic,{more}"),
        None => "topic".to_owned(),
    };
    config
        // For the one line that tells of a topic made anew.
        .set("debug", debug)
        .set_log_level(RDKafkaLogLevel::Debug)
        .set("group.id", &spec.consumer_group)
        .set("group.instance.id", shared.reader.instance_id())
        .set("allow.auto.create.topics", "false")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that is not there must never become another by itself.
        .set("auto.offset.reset", "error");
    let consumer: BaseConsumer<Context> = config
        .create_with_context(Context(Arc::clone(shared)))
        .map_err(|e| shared.failed("making a consumer", &e))?;
    for topic in &spec.topics {
        check_topic(shared, &consumer, topic)?;
    }
    let cluster = consumer
        .client()
        .fetch_cluster_id(ANSWER)
        .ok_or_else(|| shared.failure("the cluster does not tell its id"))?;
    *shared.cluster.lock() = cluster;
    let topics: Vec<&str> = spec.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(|e| shared.failed("joining the consumer group", &e))?;
    Ok(consumer)
}

fn check_topic(shared: &Shared, consumer: &BaseConsumer<Context>, topic: &str) -> Result<(), Failure> {
    let metadata = ask(shared, consumer, topic)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    match found.map(|t| t.error().map(RDKafkaErrorCode::from)) {
        Some(None) => Ok(()),
        Some(Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) | None => {
            Err(shared.failure(&format!(
                "topic \"{topic}\" does not exist; create it, or set another \"topic\""
            )))
        }
        Some(Some(code)) => Err(shared.failure(&format!("topic \"{topic}\": {}", words(code)))),
    }
}

/// What some broker knows of a topic, if one answers in time. Only for a
/// consumer that has no partitions yet: what it is sent meanwhile is dropped.
fn ask(shared: &Shared, consumer: &BaseConsumer<Context>, topic: &str) -> Result<Metadata, Failure> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match consumer.fetch_metadata(Some(topic), LOOK) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => {
                hear_complaints(consumer);
                if !is_connection(&error) || shared.quiet.0.is_hopeless() || Instant::now() >= deadline {
                    return Err(shared.unreachable(&error));
                }
            }
        }
    }
}

/// Complaints and requests for tokens lie in the same queue as records and
/// lines of the log. Drops records: there must be none, or they must be read
/// again.
fn hear_complaints(consumer: &BaseConsumer<Context>) {
    let until = Instant::now() + COMPLAINTS;
    while Instant::now() < until {
        let _ = consumer.poll(COMPLAINTS / 10);
    }
}

/// Connections come back by themselves, as long as some broker answers; if
/// none does, that ends the attempt.
fn look_for_brokers(shared: &Shared, consumer: &BaseConsumer<Context>) -> Result<(), Failure> {
    let pipeline = &shared.reader.pipeline;
    tracing::debug!(pipeline, "looking whether any broker answers");
    let topic = shared.spec.topics.first().map(String::as_str);
    let Err(error) = consumer.fetch_metadata(topic, ALIVE) else {
        return Ok(());
    };
    // The next attempt reads again from the inbox's position.
    hear_complaints(consumer);
    Err(shared.unreachable(&error))
}

/// Whether an error ends the attempt.
fn judge(shared: &Shared, consumer: &BaseConsumer<Context>, error: &KafkaError) -> Option<Failure> {
    if is_connection(error) {
        return look_for_brokers(shared, consumer).err();
    }
    let group = &shared.spec.consumer_group;
    let what = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            "a partition does not have the offset that comes next: looking where it begins and ends"
                .to_owned()
        }
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            format!(
                "one of the topics {:?} does not exist any more",
                shared.spec.topics
            )
        }
        Some(RDKafkaErrorCode::FencedInstanceId) => {
            format!("another relay has taken this pipeline's place in consumer group \"{group}\"")
        }
        Some(code) => format!("reading as consumer group \"{group}\": {}", words(code)),
        None => format!("reading as consumer group \"{group}\": {}", describe(error)),
    };
    Some(shared.failure(&what))
}

/// A code as a reader's trouble.
fn words(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "no right to read the topic: allow the user DESCRIBE and READ on it".into()
        }
        code => kafka::describe_code(code),
    }
}

/// A record as a message; none when it is not for us, or known.
fn take(
    shared: &Shared,
    record: &BorrowedMessage<'_>,
    last: &mut Option<Arc<Claim>>,
) -> Result<Option<Incoming>, Failure> {
    let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
    let same = last
        .take()
        .filter(|c| c.partition == partition && c.topic == topic && !c.is_revoked());
    let Some(claim) = same.or_else(|| shared.claims.lock().get(topic, partition)) else {
        return Ok(None);
    };
    let time = record.timestamp().to_millis();
    let check = claim.check(offset, time);
    let message = (check == Check::New).then(|| message(&claim, record, time));
    *last = Some(claim);
    if check == Check::Other {
        let what =
            format!("partition {partition} has another record at offset {offset} than the inbox read there");
        return Err(shared.other_topic(topic, &what));
    }
    Ok(message)
}

fn message(claim: &Arc<Claim>, record: &BorrowedMessage<'_>, time: Option<i64>) -> Incoming {
    let key = record.key().map(|key| match std::str::from_utf8(key) {
        Ok(text) => (KEY.to_owned(), text.to_owned()),
        Err(_) => (KEY_BASE64.to_owned(), BASE64.encode(key)),
    });
    let headers = record.headers().into_iter().flat_map(|headers| {
        headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default());
            (header.key.to_owned(), value.into_owned())
        })
    });
    let headers: Headers = key.into_iter().chain(headers).collect();
    Incoming {
        kind: "kafka",
        subject: record.topic().to_owned(),
        payload: record.payload().map(Bytes::copy_from_slice),
        headers,
        position: Some(Position {
            stream: claim.stream,
            sequence: record.offset(),
            time,
        }),
        ack: Ack::Kafka(Arc::clone(claim)),
    }
}
