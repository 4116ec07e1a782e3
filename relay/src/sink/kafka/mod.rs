//! Kafka: an idempotent producer whose delivery reports carry the offsets.

mod client;
mod tail;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::time::Instant;

use self::client::{Delivered, Reports, Trouble};
use super::{Outcome, Settled};
use crate::broker::kafka::{self, Watch};
use crate::config::{Delivery, KafkaSinkSpec, Sasl};
use crate::cursor::{Positions, Ticket};
use crate::encode::{Event, EventId, Identity, added};
use crate::failure::Failure;

const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
const METADATA_TURN: Duration = Duration::from_millis(500);

/// The window keeps the library's queue from filling up; should it be full all
/// the same, it is asked again every millisecond, so often.
const QUEUE_FULL_TRIES: u32 = 5_000;

/// Bits of a delivery opaque that number the topic; the rest is the ticket.
const TOPIC_BITS: u32 = 12;

#[derive(Debug)]
struct Topic {
    name: String,
    partitions: i32,
    /// Number of partition 0's stream; the others follow.
    first_stream: u32,
}

/// See the module's description.
pub(crate) struct KafkaSink {
    spec: KafkaSinkSpec,
    identity: Identity,
    producer: Option<Arc<ThreadedProducer<Reports>>>,
    reports: Reports,
    watch: Watch,
    topics: Vec<Topic>,
    by_name: HashMap<String, usize>,
    streams: Vec<Arc<str>>,
    incoming: Vec<Delivered>,
}

/// Name, number of partitions, error.
type TopicMetadata = (String, i32, Option<RDKafkaErrorCode>);

/// Whether a topic's error may be one of its creation.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable
    )
}

/// Blocking.
fn ask_metadata(
    producer: &ThreadedProducer<Reports>,
    topic: Option<&str>,
    reports: &Reports,
) -> Result<Vec<TopicMetadata>, KafkaError> {
    let metadata = producer.client().fetch_metadata(topic, METADATA_TURN)?;
    reports.connected_to(metadata.brokers().len());
    let topics = metadata.topics().iter().map(|t| {
        (
            t.name().to_owned(),
            i32::try_from(t.partitions().len()).unwrap_or(0),
            t.error().map(RDKafkaErrorCode::from),
        )
    });
    Ok(topics.collect())
}

impl KafkaSink {
    pub(crate) async fn open(
        spec: &KafkaSinkSpec,
        identity: &Identity,
        max_in_flight: usize,
    ) -> Result<Self, Failure> {
        let watch = Watch::new(&spec.connection);
        let reports = Reports::new(watch.clone());
        let producer = client::producer(spec, max_in_flight, reports.clone())?;
        let mut sink = Self {
            spec: spec.clone(),
            identity: identity.clone(),
            producer: Some(Arc::new(producer)),
            reports,
            watch,
            topics: Vec::new(),
            by_name: HashMap::new(),
            streams: Vec::new(),
            incoming: Vec::new(),
        };
        let opened = match spec.topic.literal() {
            Some(topic) => sink.add_topic(&topic).await,
            None => sink.metadata(None).await.map(drop),
        };
        match opened {
            Ok(()) => Ok(sink),
            Err(failure) => {
                sink.close().await;
                Err(failure)
            }
        }
    }

    /// An error of the producer, explained where a connection is missing.
    async fn failure(&self, what: &str, error: &KafkaError) -> Failure {
        let reason = if kafka::is_connection(error) {
            self.watch.explained().await
        } else {
            None
        };
        let reason = reason.unwrap_or_else(|| kafka::describe(error));
        Failure::transient(format!(
            "kafka {}: {what}: {reason}",
            self.spec.connection.brokers
        ))
    }

    async fn trouble(&self, trouble: Trouble) -> Failure {
        let words = match trouble {
            Trouble::NoBroker(reason) => {
                let reason = self.watch.explained().await.unwrap_or(reason);
                format!("no broker can be reached: {reason}")
            }
            Trouble::GaveUp(reason) => format!("the producer gave up: {reason}"),
        };
        Failure::transient(format!("kafka {}: {words}", self.spec.connection.brokers))
    }

    fn producer(&self) -> Result<Arc<ThreadedProducer<Reports>>, Failure> {
        self.producer
            .clone()
            .ok_or_else(|| Failure::transient("kafka: closed"))
    }

    /// Partition counts by topic, as the brokers tell them.
    async fn metadata(&self, topic: Option<&str>) -> Result<Vec<TopicMetadata>, Failure> {
        let deadline = Instant::now() + self.patience();
        loop {
            let producer = self.producer()?;
            let owned = topic.map(str::to_owned);
            let reports = self.reports.clone();
            let result =
                tokio::task::spawn_blocking(move || ask_metadata(&producer, owned.as_deref(), &reports))
                    .await
                    .map_err(|e| Failure::transient(format!("kafka: {e}")))?;
            match result {
                Ok(topics) => return Ok(topics),
                // Asked again in short turns, so that what the broker does not
                // forgive (a wrong password, say) is told as soon as it is known.
                Err(error)
                    if kafka::is_connection(&error)
                        && Instant::now() < deadline
                        && !self.watch.is_hopeless() => {}
                Err(error) => return Err(self.failure("asking for metadata", &error).await),
            }
        }
    }

    /// How long the first answer may take.
    fn patience(&self) -> Duration {
        match self.spec.connection.security.sasl {
            Some(Sasl::OAuth(_)) => METADATA_TIMEOUT + kafka::TOKEN_TIMEOUT,
            _ => METADATA_TIMEOUT,
        }
    }

    fn unusable(&self, topic: &str, reason: &str) -> Failure {
        Failure::transient(format!(
            "kafka {}: topic \"{topic}\" cannot be used: {reason}",
            self.spec.connection.brokers
        ))
    }

    /// Looks a topic up (which creates it where the brokers do that by
    /// themselves) and numbers its partitions.
    async fn add_topic(&mut self, name: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + METADATA_TIMEOUT;
        let partitions = loop {
            let topics = self.metadata(Some(name)).await?;
            let found = topics.into_iter().find(|(topic, ..)| topic == name);
            match found {
                Some((_, partitions, None)) if partitions > 0 => break partitions,
                Some((_, _, Some(code))) if !is_passing(code) => {
                    return Err(self.unusable(name, &kafka::describe_code(code)));
                }
                // A topic being created has no leader for a moment.
                _ if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Some((_, _, Some(RDKafkaErrorCode::LeaderNotAvailable))) => {
                    return Err(self.unusable(name, "it has no leader: brokers that hold it are away"));
                }
                _ => {
                    return Err(self.unusable(
                        name,
                        "the topic does not exist and the brokers do not create it; create it, or set auto.create.topics.enable at the brokers",
                    ));
                }
            }
        };
        if self.topics.len() >= 1 << TOPIC_BITS {
            return Err(Failure::transient(format!(
                "kafka: the topic template \"{}\" has led to more than {} topics",
                self.spec.topic.text(),
                1 << TOPIC_BITS
            )));
        }
        let first_stream = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.streams
            .extend((0..partitions).map(|p| Arc::<str>::from(format!("{name}/{p}"))));
        self.by_name.insert(name.to_owned(), self.topics.len());
        self.topics.push(Topic {
            name: name.to_owned(),
            partitions,
            first_stream,
        });
        Ok(())
    }

    /// Where partitions begin that have no position yet: at their end, when the
    /// topic is new to the pipeline. A partition that was added to a topic in
    /// use may hold messages of ours already, so it is read from its beginning.
    async fn ends(&self, topic: &Topic, known: &Positions) -> Result<Positions, Failure> {
        let unknown: Vec<i32> = (0..topic.partitions)
            .filter(|p| !known.contains_key(&format!("{}/{p}", topic.name)))
            .collect();
        if unknown.is_empty() {
            return Ok(Positions::new());
        }
        if unknown.len() < usize::try_from(topic.partitions).unwrap_or(0) {
            return Ok(unknown
                .into_iter()
                .map(|p| (format!("{}/{p}", topic.name), 0))
                .collect());
        }
        let producer = self.producer()?;
        let name = topic.name.clone();
        let result = tokio::task::spawn_blocking(move || {
            unknown
                .into_iter()
                .map(|p| {
                    let (_, end) = producer.client().fetch_watermarks(&name, p, METADATA_TIMEOUT)?;
                    Ok((format!("{name}/{p}"), end))
                })
                .collect::<Result<Positions, KafkaError>>()
        })
        .await
        .map_err(|e| Failure::transient(format!("kafka: {e}")))?;
        match result {
            Ok(ends) => Ok(ends),
            Err(error) => Err(self.failure("asking for end offsets", &error).await),
        }
    }

    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        // Topics of a template that were in use before.
        let before: HashSet<String> = known
            .keys()
            .filter_map(|k| k.rsplit_once('/'))
            .map(|(topic, _)| topic.to_owned())
            .collect();
        for topic in before {
            if !self.by_name.contains_key(&topic) && !self.spec.topic.is_literal() {
                self.add_topic(&topic).await?;
            }
        }
        let mut new = Positions::new();
        for topic in &self.topics {
            new.extend(self.ends(topic, known).await?);
        }
        Ok(new)
    }

    pub(crate) fn is_open(&self, destination: &str) -> bool {
        self.by_name.contains_key(destination)
    }

    pub(crate) async fn open_destination(
        &mut self,
        destination: &str,
        known: &Positions,
    ) -> Result<Positions, Failure> {
        self.add_topic(destination).await?;
        match self.topics.last() {
            Some(topic) => self.ends(topic, known).await,
            None => Ok(Positions::new()),
        }
    }

    pub(crate) async fn landed(&mut self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        if self.spec.delivery == Delivery::AtLeastOnce || self.spec.acks == "0" {
            return Ok(HashSet::new());
        }
        let (spec, identity, since) = (self.spec.clone(), self.identity.clone(), since.clone());
        tokio::task::spawn_blocking(move || tail::read(&spec, &identity, &since))
            .await
            .map_err(|e| Failure::transient(format!("kafka: {e}")))?
    }

    pub(crate) async fn send(
        &mut self,
        ticket: Ticket,
        event: &Event<'_>,
    ) -> Result<Option<String>, Failure> {
        let Some(topic) = self.by_name.get(event.destination) else {
            return Err(Failure::transient(format!(
                "kafka: topic \"{}\" is not open",
                event.destination
            )));
        };
        let mut headers = OwnedHeaders::new_with_capacity(event.headers.len() + 3);
        for (name, value) in event.headers.iter() {
            headers = headers.insert(Header { key: name, value });
        }
        headers = headers
            .insert(Header {
                key: added::ID,
                value: Some(event.tide_id),
            })
            .insert(Header {
                key: added::OUTBOX,
                value: Some(self.identity.outbox.as_str()),
            })
            .insert(Header {
                key: added::PIPELINE,
                value: Some(self.identity.pipeline.as_str()),
            });
        if let Some(redelivery) = event.redelivery {
            headers = headers.insert(Header {
                key: added::REDELIVERY,
                value: Some(redelivery.to_string().as_str()),
            });
        }
        let opaque = usize::try_from(ticket).unwrap_or(usize::MAX) << TOPIC_BITS | *topic;
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(event.destination, opaque)
                .payload(event.payload.as_ref())
                .headers(headers);
        if let Some(key) = event.key {
            record = record.key(key);
        }
        if let Some(partition) = self.spec.partition {
            record = record.partition(partition);
        }
        let Some(producer) = &self.producer else {
            return Err(Failure::transient("kafka: closed"));
        };
        for _ in 0..QUEUE_FULL_TRIES {
            match producer.send(record) {
                Ok(()) => return Ok(None),
                Err((error, back)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => record = back,
                    Some(code) if client::is_refusal(code) => return Ok(Some(kafka::describe_code(code))),
                    // Its reports say why, and are taken first.
                    Some(RDKafkaErrorCode::Fatal) => {
                        self.reports.give_up("the producer gave up");
                        return Ok(None);
                    }
                    _ => return Err(self.failure("producing", &error).await),
                },
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(Failure::transient(format!(
            "kafka {}: the producer's queue stays full",
            self.spec.connection.brokers
        )))
    }

    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        let mut first_failure = None;
        self.reports.take(&mut self.incoming).await;
        let mut incoming = std::mem::take(&mut self.incoming);
        for delivered in incoming.drain(..) {
            let ticket = (delivered.opaque >> TOPIC_BITS) as Ticket;
            let topic = &self.topics[delivered.opaque & ((1 << TOPIC_BITS) - 1)];
            match delivered.result {
                Ok((partition, offset)) if offset >= 0 => {
                    // Partitions added since the topic was opened: no position
                    // is kept for them until the sink is opened anew.
                    let known = partition < topic.partitions;
                    let stream = topic.first_stream + u32::try_from(partition).unwrap_or(0);
                    let outcome = if known {
                        Outcome::Placed {
                            stream,
                            position: offset,
                        }
                    } else {
                        first_failure.get_or_insert_with(|| {
                            Failure::transient(format!(
                                "kafka {}: topic \"{}\" has more partitions than before; opening it anew",
                                self.spec.connection.brokers, topic.name
                            ))
                        });
                        continue;
                    };
                    out.push(Settled { ticket, outcome });
                }
                // acks=0: nothing is known of the place.
                Ok(_) => out.push(Settled {
                    ticket,
                    outcome: Outcome::Unplaced,
                }),
                Err(code) if client::is_refusal(code) => {
                    out.push(Settled {
                        ticket,
                        outcome: Outcome::Refused(kafka::describe_code(code)),
                    });
                }
                Err(code) => {
                    if first_failure.is_none() {
                        let what = format!("delivering to topic \"{}\"", topic.name);
                        let error = KafkaError::MessageProduction(code);
                        first_failure = Some(self.failure(&what, &error).await);
                    }
                }
            }
        }
        self.incoming = incoming;
        // What was refused for good explains whatever else failed.
        if out.iter().any(|s| matches!(s.outcome, Outcome::Refused(_))) {
            return Ok(());
        }
        if let Some(failure) = first_failure {
            return Err(failure);
        }
        match self.reports.trouble() {
            Some(trouble) => Err(self.trouble(trouble).await),
            None => Ok(()),
        }
    }

    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        self.streams
            .get(stream as usize)
            .cloned()
            .unwrap_or_else(|| Arc::from(""))
    }

    pub(crate) async fn close(mut self) {
        if let Some(producer) = self.producer.take() {
            // Purges what is queued, then waits for the library's threads.
            let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
        }
    }
}
