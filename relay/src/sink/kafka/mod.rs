//! Kafka: an idempotent or transactional producer whose delivery reports carry
//! the offsets.

mod client;
mod fenced;
mod producer;
mod tail;
mod topics;
mod transaction;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use tokio::time::Instant;

use self::client::Delivered;
use self::fenced::{FencedProducer, NoFence, To};
use self::producer::Producer;
use self::topics::{TOPIC_BITS, Topic, Topics};
use self::transaction::Transaction;
use super::{News, Outcome, Settled, Stall};
use crate::broker::kafka;
use crate::config::{Delivery, KafkaSinkSpec};
use crate::cursor::{Positions, Ticket};
use crate::encode::{Event, EventId, Identity, added};
use crate::failure::Failure;

/// The window keeps the library's queue from filling up; should it be full all
/// the same, it is asked again every millisecond, so often.
const QUEUE_FULL_TRIES: u32 = 5_000;

/// Brokers end a connection on which a request of more than 100 MiB comes
/// (`socket.request.max.bytes`), and would do so again and again.
pub(crate) const LARGEST: i64 = 64 << 20;

/// The same trouble is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Of the transactional ids of all pipelines.
const ID_PREFIX: &str = "pg-tide-";

/// Why earlier owners of a pipeline to these brokers cannot be shut out, if so.
/// Takes nothing over from an owner that is at work.
pub(crate) async fn denies_fence(watch: &kafka::Watch) -> Option<String> {
    let bootstrap = producer::addresses(&watch.connection().brokers);
    fenced::denied(watch, &bootstrap, &format!("{ID_PREFIX}doctor")).await
}

/// See the module's description.
pub(crate) struct KafkaSink {
    spec: KafkaSinkSpec,
    identity: Identity,
    producer: Producer,
    /// What sends, unless the options or the brokers leave it to the library.
    fenced: Option<FencedProducer>,
    topics: Topics,
    /// With `delivery: transactional`.
    transaction: Option<Transaction>,
    incoming: Vec<Delivered>,
    /// Sent and not reported.
    in_flight: usize,
    /// What was told of the broker being away, and when.
    told: Option<(String, Instant)>,
    news: Option<News>,
}

impl KafkaSink {
    /// `origin` tells the database apart from all others: its pipelines must
    /// not fence those of another of the same name.
    pub(crate) async fn open(
        spec: &KafkaSinkSpec,
        identity: &Identity,
        origin: &str,
        max_in_flight: usize,
    ) -> Result<Self, Failure> {
        let transactional = spec.delivery == Delivery::Transactional;
        let id = format!("{ID_PREFIX}{origin}-{}", identity.pipeline);
        let may_be_fenced = spec.may_be_fenced();
        let transactional_id = transactional.then_some(id.as_str());
        let producer = Producer::new(spec, max_in_flight, transactional_id, !may_be_fenced)?;
        let fenced = may_be_fenced.then(|| {
            let (watch, reports) = (producer.watch.clone(), producer.reports.clone());
            let bootstrap = producer::addresses(&spec.connection.brokers);
            FencedProducer::new(spec, id, watch, bootstrap, reports)
        });
        let mut sink = Self {
            spec: spec.clone(),
            identity: identity.clone(),
            producer,
            fenced,
            topics: Topics::default(),
            transaction: transactional.then(Transaction::default),
            incoming: Vec::new(),
            in_flight: 0,
            told: None,
            news: None,
        };
        match sink.start().await {
            Ok(()) => Ok(sink),
            Err(failure) => {
                sink.close().await;
                Err(failure)
            }
        }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        match self.spec.topic.literal() {
            Some(topic) => self.add_topic(&topic).await?,
            None => self.producer.connect().await?,
        }
        if self.transaction.is_some() {
            self.producer.take_over().await?;
        }
        Ok(())
    }

    async fn add_topic(&mut self, name: &str) -> Result<(), Failure> {
        let partitions = self.producer.partitions(name).await?;
        if let Some(wanted) = self.spec.partition.filter(|wanted| *wanted >= partitions) {
            return Err(self.producer.said(&format!(
                "topic \"{name}\" has {partitions} partitions, so none with the number {wanted}; check \"partition\""
            )));
        }
        if self.topics.add(name, partitions) {
            return Ok(());
        }
        Err(Failure::transient(format!(
            "kafka: the topic template \"{}\" has led to more than {} topics",
            self.spec.topic.text(),
            1 << TOPIC_BITS
        )))
    }

    /// Where partitions begin that have no position yet: at their end, when the
    /// topic is new to the pipeline. A partition that was added to a topic in
    /// use may hold messages of ours already, so it is read from its beginning.
    async fn ends(&self, topic: &Topic, known: &Positions) -> Result<Positions, Failure> {
        let unknown = topic.unknown(known);
        if unknown.is_empty() {
            return Ok(Positions::new());
        }
        if unknown.len() < usize::try_from(topic.partitions).unwrap_or(0) {
            return Ok(unknown
                .into_iter()
                .map(|p| (format!("{}/{p}", topic.name), 0))
                .collect());
        }
        self.producer.ends(&topic.name, unknown).await
    }

    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        // Topics of a template that were in use before.
        let before: HashSet<String> = known
            .keys()
            .filter_map(|k| k.rsplit_once('/'))
            .map(|(topic, _)| topic.to_owned())
            .collect();
        for topic in before {
            if !self.is_open(&topic) && !self.spec.topic.is_literal() {
                self.add_topic(&topic).await?;
            }
        }
        self.fence(0).await?;
        let mut new = Positions::new();
        for topic in self.topics.iter() {
            new.extend(self.ends(topic, known).await?);
        }
        // A thousand pipelines that start would have thousands of threads.
        if self.spec.topic.is_literal() {
            self.producer.rest();
        }
        Ok(new)
    }

    /// Shuts earlier owners out of the topics from this number on. Where the
    /// brokers do not allow that, the library sends, and the end of the log has
    /// to be watched for what comes late.
    async fn fence(&mut self, from: usize) -> Result<(), Failure> {
        let Some(fenced) = &mut self.fenced else {
            return Ok(());
        };
        let topics: Vec<(&str, i32)> = self
            .topics
            .iter()
            .skip(from)
            .map(|t| (t.name.as_str(), t.partitions))
            .collect();
        if topics.is_empty() {
            return Ok(());
        }
        match fenced.fence(&topics).await {
            Ok(()) => Ok(()),
            Err(NoFence::Fenced) => Err(self.producer.fenced()),
            Err(NoFence::Denied(reason)) if from == 0 => {
                tracing::warn!(
                    pipeline = self.identity.pipeline,
                    "the brokers cannot be made to refuse what an earlier owner sends late: {reason}; see docs/guide/security-kafka.md"
                );
                self.fenced = None;
                self.producer.send()
            }
            Err(NoFence::Denied(reason) | NoFence::NoCoordinator(reason) | NoFence::Failed(reason)) => {
                Err(self.producer.said(&reason))
            }
        }
    }

    pub(crate) fn is_open(&self, destination: &str) -> bool {
        self.topics.number(destination).is_some()
    }

    pub(crate) async fn open_destination(
        &mut self,
        destination: &str,
        known: &Positions,
    ) -> Result<Positions, Failure> {
        self.add_topic(destination).await?;
        self.fence(self.topics.iter().count() - 1).await?;
        match self.topics.last() {
            Some(topic) => self.ends(topic, known).await,
            None => Ok(Positions::new()),
        }
    }

    pub(crate) async fn landed(
        &mut self,
        since: &Positions,
        quiet: Duration,
    ) -> Result<HashSet<EventId>, Failure> {
        if self.spec.delivery == Delivery::AtLeastOnce || self.spec.acks == "0" {
            return Ok(HashSet::new());
        }
        let since = self.still_there(since).await?;
        let settle = match (&self.transaction, &self.fenced) {
            (None, None) => tail::SETTLE.max(quiet),
            // Nothing of anybody else comes any more.
            _ => Duration::ZERO,
        };
        let (spec, identity) = (self.spec.clone(), self.identity.clone());
        tokio::task::spawn_blocking(move || tail::read(&spec, &identity, &since, settle))
            .await
            .map_err(|e| Failure::transient(format!("kafka: {e}")))?
    }

    /// Without the positions in partitions that are gone: a topic may have been
    /// deleted, or made anew with fewer.
    async fn still_there(&self, since: &Positions) -> Result<Positions, Failure> {
        let mut partitions: HashMap<String, i32> = self
            .topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.partitions))
            .collect();
        let place = |name: &str| {
            let (topic, partition) = name.rsplit_once('/')?;
            Some((topic.to_owned(), partition.parse::<i32>().ok()?))
        };
        if since
            .keys()
            .filter_map(|name| place(name))
            .any(|(topic, _)| !partitions.contains_key(&topic))
        {
            partitions.extend(self.producer.topics().await?);
        }
        let is_there = |name: &str| {
            place(name).is_some_and(|(topic, p)| partitions.get(&topic).is_some_and(|count| p < *count))
        };
        let there = since.iter().filter(|(name, _)| is_there(name));
        Ok(there.map(|(name, position)| (name.clone(), *position)).collect())
    }

    /// Whether the library sends, which has threads for it.
    pub(crate) fn is_heavy(&self) -> bool {
        self.fenced.is_none()
    }

    /// Whether more may be sent now, or outcomes must come first.
    pub(crate) fn accepts(&self) -> bool {
        self.transaction.as_ref().is_none_or(Transaction::accepts)
    }

    pub(crate) async fn send(
        &mut self,
        ticket: Ticket,
        event: &Event<'_>,
    ) -> Result<Option<String>, Failure> {
        let Some(topic) = self.topics.number(event.destination) else {
            return Err(Failure::transient(format!(
                "kafka: topic \"{}\" is not open",
                event.destination
            )));
        };
        let opaque = usize::try_from(ticket).unwrap_or(usize::MAX) << TOPIC_BITS | topic;
        let redelivery = event.redelivery.map(|r| r.to_string());
        if let Some(fenced) = &mut self.fenced {
            if i64::try_from(event.payload.len()).is_ok_and(|size| size > LARGEST) {
                return Ok(Some(kafka::describe_code(RDKafkaErrorCode::MessageSizeTooLarge)));
            }
            let to = To {
                topic,
                partitions: self.topics.of(topic).partitions,
                partition: self.spec.partition,
            };
            let headers = headers(&self.identity, event, redelivery.as_deref());
            fenced.send(to, event.key, event.payload, headers, opaque);
            self.in_flight += 1;
            return Ok(None);
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(event.destination, opaque)
                .payload(event.payload.as_ref())
                .headers(owned(headers(&self.identity, event, redelivery.as_deref())));
        if let Some(key) = event.key {
            record = record.key(key);
        }
        if let Some(partition) = self.spec.partition {
            record = record.partition(partition);
        }
        let inner = self.producer.inner()?;
        for _ in 0..QUEUE_FULL_TRIES {
            match inner.send(record) {
                Ok(()) => {
                    self.in_flight += 1;
                    if let Some(transaction) = &mut self.transaction {
                        transaction.sent();
                    }
                    return Ok(None);
                }
                Err((error, back)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => record = back,
                    // A message before it was refused, as its report says.
                    Some(RDKafkaErrorCode::State) if self.transaction.is_some() => {
                        let failure = self.producer.failure("producing", &error);
                        if let Some(transaction) = &mut self.transaction {
                            transaction.spoil(failure);
                        }
                        return Ok(None);
                    }
                    Some(code) if client::is_refusal(code) => return Ok(Some(kafka::describe_code(code))),
                    // What was sent before has its reports, taken first.
                    Some(RDKafkaErrorCode::Fatal) => {
                        self.producer.reports.give_up();
                        return Ok(None);
                    }
                    _ => return Err(self.producer.failure("producing", &error)),
                },
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(self.producer.said("the producer's queue stays full"))
    }

    /// Cancel-safe: nothing is taken from where it is kept before an await.
    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        loop {
            if let Some(transaction) = &mut self.transaction {
                if let Some(end) = transaction.due() {
                    transaction.ending = Some(self.producer.end(end)?);
                }
                if let Some(ending) = &mut transaction.ending {
                    let ended = ending.await;
                    transaction.ending = None;
                    let ended = ended.map_err(|e| Failure::transient(format!("kafka: {e}")))?;
                    if let Err(error) = ended {
                        let trouble = self.producer.trouble();
                        return Err(
                            trouble.unwrap_or_else(|| self.producer.failure("ending a transaction", &error))
                        );
                    }
                    return transaction.ended(out);
                }
            }
            self.producer.reports.take(&mut self.incoming).await;
            self.take_reports(out)?;
            if self.transaction.is_none() {
                return Ok(());
            }
        }
    }

    fn take_reports(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        let mut failure = None;
        let mut refused = false;
        let before = out.len();
        let mut incoming = std::mem::take(&mut self.incoming);
        self.in_flight = self.in_flight.saturating_sub(incoming.len());
        for delivered in incoming.drain(..) {
            let outcome = self.outcome(&delivered).map(|outcome| Settled {
                ticket: (delivered.opaque >> TOPIC_BITS) as Ticket,
                outcome,
            });
            match (outcome, &mut self.transaction) {
                (Ok(settled), Some(transaction)) => transaction.report(settled),
                (Err(error), Some(transaction)) => transaction.fail(error),
                (Ok(settled), None) => {
                    refused |= matches!(settled.outcome, Outcome::Refused(_));
                    out.push(settled);
                }
                (Err(error), None) => {
                    failure.get_or_insert(error);
                }
            }
        }
        self.incoming = incoming;
        if out.len() > before {
            self.producer.reports.acknowledged();
            if self.told.take().is_some() {
                self.news = Some(News::Recovered);
            }
        }
        // What was refused for good explains whatever else failed.
        if refused {
            return Ok(());
        }
        if failure.is_none()
            && self.keeps_what_is_in_flight()
            && let Some(failure) = self.producer.no_broker()
        {
            self.tell(failure.message);
            return Ok(());
        }
        match self.producer.trouble().or(failure) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Whether the fate of messages is left to the producer, however long the
    /// broker is away: it sends them again under their numbers, and the broker
    /// knows those it has. Under another producer's numbers it would not, should
    /// the first request only be late.
    fn keeps_what_is_in_flight(&self) -> bool {
        self.in_flight > 0 && self.fenced.is_some()
    }

    /// The library complains each time that it fails to connect.
    fn tell(&mut self, trouble: String) {
        let is_known = |(told, at): &(String, Instant)| *told == trouble && at.elapsed() < TELL_AGAIN;
        if !self.told.as_ref().is_some_and(is_known) {
            self.told = Some((trouble.clone(), Instant::now()));
            self.news = Some(News::Trouble(trouble));
        }
    }

    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.take()
    }

    fn outcome(&self, delivered: &Delivered) -> Result<Outcome, Failure> {
        let topic = self.topics.of(delivered.opaque);
        match delivered.result {
            Ok((partition, offset)) if offset >= 0 => match topic.stream(partition) {
                Some(stream) => Ok(Outcome::Placed {
                    stream,
                    position: offset,
                }),
                // No position is kept for it until the sink is opened anew.
                None => Err(self.producer.grown(&topic.name)),
            },
            // acks=0: nothing is known of the place.
            Ok(_) => Ok(Outcome::Unplaced),
            Err(code) if client::is_refusal(code) => Ok(Outcome::Refused(kafka::describe_code(code))),
            Err(code) => Err(self.producer.failure(
                &format!("delivering to topic \"{}\"", topic.name),
                &KafkaError::MessageProduction(code),
            )),
        }
    }

    /// Why nothing is acknowledged, and whether that may pass.
    pub(crate) async fn stalled(&mut self) -> Stall {
        let Some(topic) = self.topics.last() else {
            return Stall::Over(String::new());
        };
        let (reason, is_there) = self.producer.why_stalled(&topic.name).await;
        if is_there && self.keeps_what_is_in_flight() {
            self.told = Some((reason.clone(), Instant::now()));
            return Stall::Waiting(reason);
        }
        Stall::Over(reason)
    }

    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        self.topics.stream_name(stream)
    }

    pub(crate) async fn close(self) {
        let in_transaction = self.transaction.as_ref().is_some_and(|t| !t.is_empty());
        self.producer.close(in_transaction).await;
    }
}

/// A message's own headers and those that pg-tide adds.
fn headers<'a>(
    identity: &'a Identity,
    event: &'a Event<'_>,
    redelivery: Option<&'a str>,
) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone {
    let added = [
        (added::ID, Some(event.tide_id)),
        (added::OUTBOX, Some(identity.outbox.as_str())),
        (added::PIPELINE, Some(identity.pipeline.as_str())),
    ];
    let redelivery = redelivery.map(|text| (added::REDELIVERY, Some(text)));
    event
        .headers
        .iter()
        .chain(added)
        .chain(redelivery)
        .map(|(name, value)| (name, value.map(str::as_bytes)))
}

/// For the library.
fn owned<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> OwnedHeaders {
    headers.fold(OwnedHeaders::new(), |all, (key, value)| {
        all.insert(Header { key, value })
    })
}
