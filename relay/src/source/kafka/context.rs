//! What librdkafka calls back: partitions come and go, and errors.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, Claims, take_commits};
use super::plan::{Committed, EndsBefore, Facts, Plan, Stored, plan};
use crate::broker::kafka::{Quiet, Watch, describe, is_connection};
use crate::config::{KafkaSourceSpec, Start};
use crate::database::inbox::{self, Batch, Moves, StoredPosition, WriteError};
use crate::failure::Failure;
use crate::source::Reader;

/// For one answer of a broker.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long a partition that goes to another consumer is kept, so that what is
/// being stored need not be read twice.
const SETTLE: Duration = Duration::from_secs(3);

/// Shared by the consumer's thread, librdkafka's callbacks and the pipeline.
pub(super) struct Shared {
    pub(super) spec: KafkaSourceSpec,
    pub(super) reader: Reader,
    runtime: Handle,
    pub(super) claims: Mutex<Claims>,
    /// What ends the attempt.
    trouble: Mutex<Option<Failure>>,
    /// Fetches tokens, and knows why connections fail.
    pub(super) quiet: Quiet,
    pub(super) note: Mutex<Option<String>>,
    /// The cluster's id; known before the first assignment.
    pub(super) cluster: Mutex<String>,
    pub(super) assigned: watch::Sender<bool>,
    /// The pipeline takes nothing any more.
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn new(spec: &KafkaSourceSpec, reader: &Reader) -> Self {
        Self {
            spec: spec.clone(),
            reader: reader.clone(),
            runtime: Handle::current(),
            claims: Mutex::default(),
            trouble: Mutex::default(),
            quiet: Quiet(Watch::new(&spec.connection)),
            note: Mutex::default(),
            cluster: Mutex::default(),
            assigned: watch::Sender::new(false),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn trouble(&self) -> Option<Failure> {
        self.trouble.lock().take()
    }

    fn give_up(&self, failure: Failure) {
        self.trouble.lock().get_or_insert(failure);
    }

    pub(super) fn failure(&self, what: &str) -> Failure {
        Failure::transient(format!("kafka {}: {what}", self.spec.connection.brokers))
    }

    /// No broker answers; says why, if that is known.
    pub(super) fn unreachable(&self, error: &KafkaError) -> Failure {
        match self.runtime.block_on(self.quiet.0.explained()) {
            Some(reason) if self.quiet.0.is_hopeless() => self.failure(&reason),
            Some(reason) if is_connection(error) => {
                self.failure(&format!("no broker can be reached: {reason}"))
            }
            _ => self.failure(&format!("no broker can be reached: {}", describe(error))),
        }
    }

    pub(super) fn failed(&self, what: &str, error: &KafkaError) -> Failure {
        self.failure(&format!("{what}: {}", self.quiet.0.describe(error)))
    }

    /// How the inbox calls a topic partition.
    fn name(&self, topic: &str, partition: i32) -> String {
        format!("kafka:{}/{topic}/{partition}", self.cluster.lock())
    }

    /// What is committed for this inbox carries this.
    fn mark(&self) -> String {
        format!("pg-tide inbox {}", self.reader.inbox)
    }

    /// A topic that is not what the inbox has read: only a person can tell
    /// what is to become of it.
    pub(super) fn other_topic(&self, topic: &str, what: &str) -> Failure {
        self.failure(&format!(
            "topic \"{topic}\": {what}: the topic was deleted and made anew, or its brokers lost records. Nothing \
             is read until you say what to do: SELECT tide.relay_forget_position('{}', '{topic}', p_as_new => true) \
             takes it for a new topic, from its beginning",
            self.reader.pipeline.replace('\'', "''")
        ))
    }

    /// Tells Kafka how far the inbox is.
    pub(super) fn commit<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        due: Vec<(Arc<Claim>, i64)>,
    ) -> KafkaResult<()> {
        if due.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(due.len());
        let mark = self.mark();
        for (claim, offset) in due {
            let mut element = list.add_partition(&claim.topic, claim.partition);
            element.set_offset(Offset::Offset(offset))?;
            element.set_metadata(&mark);
        }
        consumer.commit(&list, CommitMode::Async)
    }

    /// Decides where to begin, notes it in the inbox, and makes the claims.
    fn claim<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        assigned: &TopicPartitionList,
    ) -> Result<TopicPartitionList, Failure> {
        let mut list = TopicPartitionList::with_capacity(assigned.count());
        if assigned.count() == 0 {
            return Ok(list);
        }
        let committed = consumer
            .committed_offsets(assigned.clone(), ANSWER)
            .map_err(|e| self.failed("reading the group's offsets", &e))?;
        let low = self.ends(consumer, assigned, Offset::Beginning)?;
        let high = self.ends(consumer, assigned, Offset::End)?;
        let partitions: Vec<(String, i32)> = partitions(assigned);
        let names: Vec<String> = partitions.iter().map(|(t, p)| self.name(t, *p)).collect();
        let group = &self.spec.consumer_group;
        let stored = self.runtime.block_on(inbox::positions(
            &self.reader.writers,
            self.reader.inbox_id,
            group,
            &names,
        ))?;

        let mut moves = Moves::default();
        let mut plans = Vec::with_capacity(partitions.len());
        for ((topic, partition), name) in partitions.iter().zip(&names) {
            let stored = stored
                .iter()
                .find(|s| s.name == *name)
                .ok_or_else(|| self.failure(&format!("no position came back for {name}")))?;
            let committed = committed.find_partition(topic, *partition);
            let facts = Facts {
                stored: stored.next.map(|next| Stored {
                    next,
                    last_time: stored.last_time,
                }),
                committed: committed.and_then(|c| match c.offset() {
                    Offset::Offset(offset) => Some(Committed {
                        offset,
                        by_us: c.metadata() == self.mark(),
                    }),
                    _ => None,
                }),
                low: offset_of(&low, topic, *partition),
                high: offset_of(&high, topic, *partition),
                // A partition that was added later is read from its beginning.
                latest: self.spec.start == Start::Latest && !stored.topic_known,
            };
            let plan = plan(&facts).map_err(|EndsBefore { high, stored }| {
                let what = format!(
                    "partition {partition} ends at offset {high}, but the inbox has it up to {stored}"
                );
                self.other_topic(topic, &what)
            })?;
            self.tell(topic, *partition, &plan);
            begin_at(&mut moves, stored, &plan);
            plans.push(plan);
        }
        if !moves.next.is_empty() {
            self.runtime.block_on(self.begin(&moves))?;
        }
        let mut claims = self.claims.lock();
        for (((topic, partition), name), plan) in partitions.iter().zip(&names).zip(plans) {
            claims.add((topic, *partition), name, plan.next, plan.verify);
            let from = plan.next - i64::from(plan.verify.is_some());
            list.add_partition_offset(topic, *partition, Offset::Offset(from))
                .map_err(|e| self.failed("assigning", &e))?;
        }
        drop(claims);
        self.note_ends(&high);
        Ok(list)
    }

    /// Looks where the logs end, for the lag; whether the brokers told it.
    pub(super) fn measure<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) -> bool {
        let partitions = self.claims.lock().partitions();
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        let found = (!partitions.is_empty())
            .then(|| self.ends(consumer, &list, Offset::End).ok())
            .flatten();
        if let Some(high) = &found {
            self.note_ends(high);
        }
        found.is_some()
    }

    fn note_ends(&self, high: &TopicPartitionList) {
        let ends = partitions(high).into_iter().map(|(topic, partition)| {
            let end = offset_of(high, &topic, partition);
            ((topic, partition), end)
        });
        self.claims.lock().ends(ends);
    }

    fn ends<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        assigned: &TopicPartitionList,
        end: Offset,
    ) -> Result<TopicPartitionList, Failure> {
        let failed = |e: &KafkaError| self.failed("reading the ends of the topic", e);
        let mut wanted = assigned.clone();
        wanted.set_all_offsets(end).map_err(|e| failed(&e))?;
        let found = consumer
            .offsets_for_times(wanted, ANSWER)
            .map_err(|e| failed(&e))?;
        for element in found.elements() {
            element.error().map_err(|e| failed(&e))?;
        }
        Ok(found)
    }

    /// Notes in the inbox where partitions begin that it does not know yet.
    async fn begin(&self, moves: &Moves) -> Result<(), Failure> {
        let reader = &self.reader;
        let positions = Some((self.spec.consumer_group.as_str(), moves));
        let empty = Batch::default();
        let written = inbox::write(
            &reader.writers,
            reader.pipeline_id,
            reader.epoch,
            &empty,
            positions,
        );
        match written.await {
            Ok(_) => Ok(()),
            Err(WriteError::Failed(failure)) => Err(failure),
            Err(WriteError::Refused(reason)) => Err(Failure::transient(reason)),
        }
    }

    fn tell(&self, topic: &str, partition: i32, plan: &Plan) {
        if let Some(note) = plan.note {
            let pipeline = &self.reader.pipeline;
            tracing::warn!(pipeline, topic, partition, "{note}");
            *self.note.lock() = Some(format!("topic \"{topic}\", partition {partition}: {note}"));
        }
    }

    /// Lets what was handed out be stored, and tells Kafka of it, before the
    /// partitions go.
    fn give_back<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, revoked: &TopicPartitionList) {
        let claims = self.claims.lock().revoke(&partitions(revoked));
        let deadline = Instant::now() + SETTLE;
        while !claims.iter().all(|claim| claim.is_settled())
            && !self.closing.is_cancelled()
            && !consumer.assignment_lost()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Err(error) = self.commit(consumer, take_commits(claims.iter())) {
            tracing::debug!("committing before a rebalance: {error}");
        }
    }
}

/// The move that makes the inbox stand where reading begins.
fn begin_at(moves: &mut Moves, stored: &StoredPosition, plan: &Plan) {
    if stored.next != Some(plan.next) {
        moves.source_refs.push(stored.source_ref);
        moves.expected.push(stored.next);
        moves.next.push(plan.next);
        moves.times.push(None);
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements()
        .iter()
        .map(|e| (e.topic().to_owned(), e.partition()))
        .collect()
}

fn offset_of(list: &TopicPartitionList, topic: &str, partition: i32) -> i64 {
    match list.find_partition(topic, partition).map(|e| e.offset()) {
        Some(Offset::Offset(offset)) => offset,
        _ => 0,
    }
}

/// See the module's description.
pub(super) struct Context(pub(super) Arc<Shared>);

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Quiet::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.quiet.log(level, facility, message);
        // librdkafka goes on at the old offset in a topic made anew. It tells
        // so in this line alone, for which "debug" is set to "topic".
        if facility == "METADATA"
            && let Some((topic, ids)) = message
                .split_once("Topic ")
                .and_then(|(_, rest)| rest.split_once(" changed id from "))
            && !ids.starts_with(NO_ID)
        {
            self.0.give_up(self.0.failure(&format!(
                "topic \"{topic}\" was deleted and made anew: looking where it is now"
            )));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.quiet.error(error, reason);
    }

    fn generate_oauth_token(&self, settings: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.quiet.generate_oauth_token(settings)
    }
}

/// How librdkafka writes the id of a topic that it did not know.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let shared = &self.0;
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let result = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let claimed = match shared.claim(consumer, list) {
                Ok(claimed) => {
                    tracing::info!(
                        pipeline = shared.reader.pipeline,
                        group = shared.spec.consumer_group,
                        partitions = shared.claims.lock().len(),
                        "partitions assigned"
                    );
                    shared.assigned.send_replace(true);
                    claimed
                }
                Err(failure) => {
                    shared.give_up(failure);
                    TopicPartitionList::new()
                }
            };
            if cooperative {
                consumer.incremental_assign(&claimed)
            } else {
                consumer.assign(&claimed)
            }
        } else {
            shared.give_back(consumer, list);
            if cooperative {
                consumer.incremental_unassign(list)
            } else {
                consumer.unassign()
            }
        };
        if let Err(error) = result {
            shared.give_up(shared.failed("changing the assignment", &error));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let claims = self.0.claims.lock();
        for element in offsets.elements() {
            if result.is_err() || element.error().is_err() {
                // A rebalance, or a broker that is away: tried again.
                claims.uncommitted(element.topic(), element.partition());
            }
        }
    }
}
