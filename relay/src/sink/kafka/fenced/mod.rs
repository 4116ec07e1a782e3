//! A producer whose predecessors are shut out by the brokers.
//!
//! It sends idempotent batches outside of transactions, so that every reader
//! has each message at once, under a producer id whose epoch rises with each
//! owner of the pipeline. What an earlier owner sent and the network, a stalled
//! broker or a frozen process delivers late, is refused. See
//! docs/design/kafka-producer.md.

mod compression;
mod connection;
mod fence;
mod link;
mod partition;
mod protocol;
mod queues;
mod record_batch;
mod sasl;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::compression::Compression;
use self::connection::Connection;
use self::partition::{Batching, Due};
use self::queues::{AGAIN, Over, Queues, Verdict};
use self::record_batch::{ProducerId, Record};
use super::client::{Delivered, Reports, Trouble};
use crate::broker::kafka::Watch;
use crate::config::KafkaSinkSpec;
use crate::status::now_micros;

pub(super) use self::fence::{NoFence, denied};

/// Messages without a key go to one partition for so long: fewer and larger
/// batches.
const STAY: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The topics are looked at so often without cause.
const LOOK: Duration = Duration::from_mins(5);

/// What the tasks share with the sink.
struct Shared {
    watch: Watch,
    client: String,
    /// To ask first.
    bootstrap: Vec<(String, u16)>,
    queues: Mutex<Queues>,
    links: Mutex<HashMap<i32, Link>>,
    refresh: Notify,
    reports: Reports,
}

struct Link {
    wake: Arc<Notify>,
    task: AbortHandle,
}

/// See the module's description.
pub(super) struct FencedProducer {
    shared: Arc<Shared>,
    transactional_id: String,
    batching: Batching,
    producer: Option<ProducerId>,
    refreshing: AbortHandle,
    /// Where messages without a key go, and since when.
    stays: (i32, Instant),
}

impl Drop for FencedProducer {
    fn drop(&mut self) {
        self.refreshing.abort();
        for link in self.shared.links.lock().values() {
            link.task.abort();
        }
    }
}

impl FencedProducer {
    pub(super) fn new(
        spec: &KafkaSinkSpec,
        transactional_id: String,
        watch: Watch,
        bootstrap: Vec<(String, u16)>,
        reports: Reports,
    ) -> Self {
        let shared = Arc::new(Shared {
            watch,
            client: spec.connection.client_id().to_owned(),
            bootstrap,
            queues: Mutex::default(),
            links: Mutex::default(),
            refresh: Notify::new(),
            reports,
        });
        Self {
            refreshing: tokio::spawn(refresh(Arc::clone(&shared))).abort_handle(),
            shared,
            transactional_id,
            batching: Batching {
                linger: spec.linger,
                bytes: usize::try_from(spec.batch_bytes).unwrap_or(usize::MAX),
                compression: Compression::of(spec.compression),
            },
            producer: None,
            stays: (0, Instant::now()),
        }
    }

    /// Shuts everybody else out of these topics, given with their partitions,
    /// and takes them in. Topics are numbered in this order, over all calls.
    ///
    /// # Errors
    /// When the brokers do not, or this producer was shut out itself.
    pub(super) async fn fence(&mut self, topics: &[(&str, i32)]) -> Result<(), NoFence> {
        let partitions: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition)))
            .collect();
        let brokers = self.shared.addresses();
        let producer = fence::set(&self.shared.watch, &brokers, &self.transactional_id, &partitions).await?;
        // Later topics may be sent to under the later epoch, and the earlier
        // ones under theirs: what counts is that each is behind its marker.
        self.producer = Some(producer);
        let mut queues = self.shared.queues.lock();
        for (topic, count) in topics {
            queues.add(topic, *count, producer, self.batching);
        }
        drop(queues);
        self.shared.refresh.notify_one();
        Ok(())
    }

    /// Hands a record over; nothing fails here.
    pub(super) fn send<'a, H>(
        &mut self,
        to: To,
        key: Option<&'a [u8]>,
        value: &'a [u8],
        headers: H,
        opaque: usize,
    ) where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let now = Instant::now();
        let partition = match (to.partition, key) {
            (Some(partition), _) => partition,
            // As librdkafka does it, so that keys stay where they were.
            (None, Some(key)) if !key.is_empty() => {
                let count = u32::try_from(to.partitions.max(1)).unwrap_or(1);
                i32::try_from(crc32fast::hash(key) % count).unwrap_or(0)
            }
            _ => self.any(to.partitions, now),
        };
        let record = Record { key, value, headers };
        let timestamp = now_micros() / 1_000;
        let broker = self
            .shared
            .queues
            .lock()
            .push(to.topic, partition, (now, timestamp), record, opaque);
        if let Some(broker) = broker {
            self.shared.wake(broker);
        }
    }

    fn any(&mut self, partitions: i32, now: Instant) -> i32 {
        if now.duration_since(self.stays.1) > STAY || self.stays.0 >= partitions {
            self.stays = (rand::rng().random_range(0..partitions.max(1)), now);
        }
        self.stays.0
    }
}

/// Where a record goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct To {
    /// The topic's number and its partitions.
    pub(super) topic: usize,
    pub(super) partitions: i32,
    /// If it is given.
    pub(super) partition: Option<i32>,
}

impl Shared {
    fn addresses(&self) -> Vec<(String, u16)> {
        let mut all = self.queues.lock().addresses();
        for address in &self.bootstrap {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    fn wake(&self, broker: i32) {
        match self.links.lock().get(&broker) {
            Some(link) => link.wake.notify_one(),
            None => self.refresh.notify_one(),
        }
    }

    /// Waits until a broker is wanted: there is something for it, or it has
    /// just been found to lead. The connection to it is made also without work,
    /// since its end is what tells that the broker is gone.
    async fn await_want(&self, broker: i32, wake: &Notify) {
        let due = self.queues.lock().due(broker, Instant::now());
        match due {
            Due::Now => {}
            Due::At(at) => tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            Due::Later => wake.notified().await,
        }
    }

    /// Passes on what became of records.
    fn tell(&self, verdict: Verdict) {
        if verdict.stale {
            self.refresh.notify_one();
        }
        if verdict.over == Some(Over::Fenced) {
            self.reports.end(Trouble::Fenced);
        }
        // What was refused tells by itself that it is over.
        self.reports.add(verdict.outcomes.into_iter().map(|outcome| {
            Delivered {
                opaque: outcome.opaque,
                result: outcome
                    .result
                    .map_err(|code| library_code(code).unwrap_or(RDKafkaErrorCode::Unknown)),
            }
        }));
    }
}

/// Asks who leads, whenever that is in doubt.
async fn refresh(shared: Arc<Shared>) {
    loop {
        // Partitions may have been added.
        let _ = tokio::time::timeout(LOOK, shared.refresh.notified()).await;
        let mut pause = AGAIN;
        loop {
            match ask(&shared).await {
                Ok(()) if !shared.queues.lock().lacks_leaders() => break,
                Ok(()) => {}
                Err(reason) => {
                    tracing::debug!("asking for leaders: {reason}");
                    shared.reports.end(Trouble::NoBroker(reason));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // Not more often, however many doubt.
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ask(shared: &Arc<Shared>) -> Result<(), String> {
    let names = shared.queues.lock().names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut last = String::new();
    for (host, port) in shared.addresses() {
        let asked = async {
            let mut connection = Connection::open(&shared.watch, &host, port).await?;
            let answer = connection
                .request(protocol::METADATA, &protocol::metadata_request(&names))
                .await?;
            protocol::metadata(answer).map_err(|e| e.to_string())
        };
        match asked.await {
            Ok(metadata) => {
                let learnt = shared.queues.lock().learn(metadata);
                link(shared, &learnt.leading);
                if let Some(topic) = learnt.grown {
                    shared.reports.end(Trouble::Grown(topic));
                }
                return Ok(());
            }
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// Makes sure that there is a connection to each of these brokers, and that it
/// looks.
fn link(shared: &Arc<Shared>, brokers: &[i32]) {
    let mut links = shared.links.lock();
    for broker in brokers {
        let link = links.entry(*broker).or_insert_with(|| {
            let wake = Arc::new(Notify::new());
            let task = tokio::spawn(link::run(Arc::clone(shared), *broker, Arc::clone(&wake)));
            Link {
                wake,
                task: task.abort_handle(),
            }
        });
        link.wake.notify_one();
    }
}

/// A broker's error code as the library names it.
fn library_code(code: i16) -> Option<RDKafkaErrorCode> {
    RDKafkaRespErr::try_from(i32::from(code))
        .ok()
        .map(RDKafkaErrorCode::from)
}
