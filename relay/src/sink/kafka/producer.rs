//! The producer: what is asked of the brokers beside sending, and its failures
//! in words.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use tokio::time::Instant;

use super::client::{self, Reports, Trouble};
use crate::broker::kafka::{self, Watch};
use crate::config::{KafkaSinkSpec, Sasl};
use crate::cursor::Positions;
use crate::failure::Failure;

/// Longer than a connection may take to be made, so that it is known what it
/// failed of.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
const METADATA_TURN: Duration = Duration::from_millis(500);
/// For looking why nothing is acknowledged.
const LOOKING: Duration = Duration::from_secs(2);
/// Before a broker is asked again that has said "not now".
const METADATA_PAUSE: Duration = Duration::from_millis(50);
/// A transaction's beginning or end that takes longer has failed.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// One call for reports lasts so long. The library spins in the last
/// millisecond of each, and its own thread, which calls every 100 ms, costs an
/// idle producer 0.3 % of a core.
const POLL: Duration = Duration::from_secs(1);

/// A client that does not send is closed when nothing was asked of it for so
/// long: its threads take a thousandth of a core each, doing nothing.
const KEPT: Duration = Duration::from_secs(5);

pub(super) type Inner = BaseProducer<Reports>;

/// A topic as the brokers tell it: name, number of partitions, error.
type TopicMetadata = (String, i32, Option<RDKafkaErrorCode>);

/// See the module's description.
pub(super) struct Producer {
    brokers: String,
    patience: Duration,
    /// What became of records; troubles of whoever sends.
    pub(super) reports: Reports,
    pub(super) watch: Watch,
    shared: Arc<Shared>,
}

/// What it takes to open a client, and the one that is open.
struct Shared {
    spec: KafkaSinkSpec,
    max_in_flight: usize,
    transactional_id: Option<String>,
    client: Mutex<Option<Client>>,
}

/// A client of the library, and the thread that takes its reports.
struct Client {
    inner: Arc<Inner>,
    reports: Reports,
    stop: Arc<AtomicBool>,
    /// When it was last wanted. None: it is there to stay.
    used: Option<Instant>,
}

/// How a transaction ends. The next one is begun at once: a transaction
/// without messages costs the brokers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Abort,
}

impl Client {
    fn open(shared: &Shared, reports: Reports, used: Option<Instant>) -> Result<Self, Failure> {
        let id = shared.transactional_id.as_deref();
        let inner = client::producer(&shared.spec, shared.max_in_flight, id, reports.clone())?;
        let inner = Arc::new(inner);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (Arc::clone(&inner), Arc::clone(&stop));
        std::thread::Builder::new()
            .name("kafka-reports".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|e| Failure::transient(format!("kafka: starting a thread: {e}")))?;
        Ok(Self {
            inner,
            reports,
            stop,
            used,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nothing more of it is to be sent, however long the thread takes.
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Closes the client when it was not wanted for a while.
async fn close_unused(shared: Weak<Shared>) {
    let mut until = Instant::now() + KEPT;
    loop {
        tokio::time::sleep_until(until).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut client = shared.client.lock();
        match client.as_ref().and_then(|client| client.used) {
            Some(used) if used.elapsed() < KEPT => until = used + KEPT,
            Some(_) => {
                *client = None;
                return;
            }
            None => return,
        }
    }
}

impl Producer {
    /// With `sends`, the library's client is there for good; otherwise while
    /// something is asked of it.
    pub(super) fn new(
        spec: &KafkaSinkSpec,
        max_in_flight: usize,
        transactional_id: Option<&str>,
        sends: bool,
    ) -> Result<Self, Failure> {
        let watch = Watch::new(&spec.connection);
        let mut producer = Self {
            brokers: spec.connection.brokers.clone(),
            // The first answer may have to wait for a token.
            patience: match spec.connection.security.sasl {
                Some(Sasl::OAuth(_)) => METADATA_TIMEOUT + kafka::TOKEN_TIMEOUT,
                _ => METADATA_TIMEOUT,
            },
            reports: Reports::new(watch.clone()),
            watch,
            shared: Arc::new(Shared {
                spec: spec.clone(),
                max_in_flight,
                transactional_id: transactional_id.map(str::to_owned),
                client: Mutex::default(),
            }),
        };
        if sends {
            producer.send()?;
        }
        Ok(producer)
    }

    /// From now on the library sends.
    pub(super) fn send(&mut self) -> Result<(), Failure> {
        let client = Client::open(&self.shared, self.reports.clone(), None)?;
        *self.shared.client.lock() = Some(client);
        Ok(())
    }

    /// The library's client. One that does not send has its own reports, which
    /// nobody reads: calls tell what is wrong.
    fn client(&self) -> Result<(Arc<Inner>, Reports), Failure> {
        let mut client = self.shared.client.lock();
        let open = match &mut *client {
            Some(open) => open,
            none => {
                let reports = Reports::new(self.watch.clone());
                let opened = Client::open(&self.shared, reports, Some(Instant::now()))?;
                tokio::spawn(close_unused(Arc::downgrade(&self.shared)));
                none.insert(opened)
            }
        };
        open.used = open.used.map(|_| Instant::now());
        Ok((Arc::clone(&open.inner), open.reports.clone()))
    }

    /// Nothing more is asked for the time being.
    pub(super) fn rest(&self) {
        self.shared.client.lock().take_if(|client| client.used.is_some());
    }

    pub(super) fn inner(&self) -> Result<Arc<Inner>, Failure> {
        self.client().map(|(inner, _)| inner)
    }

    /// What the library has given up for.
    fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        let client = self.shared.client.lock();
        client.as_ref()?.inner.client().fatal_error()
    }

    /// Whether the library sends.
    fn sends(&self) -> bool {
        let client = self.shared.client.lock();
        client.as_ref().is_some_and(|client| client.used.is_none())
    }

    pub(super) fn said(&self, words: &str) -> Failure {
        Failure::transient(format!("kafka {}: {words}", self.brokers))
    }

    /// A failed call in words. Whoever was fenced is no longer the owner.
    pub(super) fn failure(&self, what: &str, error: &KafkaError) -> Failure {
        if error.rdkafka_error_code().is_some_and(kafka::is_fencing) {
            return self.fenced();
        }
        self.said(&format!("{what}: {}", self.watch.describe(error)))
    }

    /// The same; a missing connection is looked into.
    async fn explained(&self, what: &str, error: &KafkaError) -> Failure {
        match self
            .watch
            .explained()
            .await
            .filter(|_| kafka::is_connection(error))
        {
            Some(reason) => self.said(&format!("{what}: {reason}")),
            None => self.failure(what, error),
        }
    }

    pub(super) fn grown(&self, topic: &str) -> Failure {
        self.said(&format!(
            "topic \"{topic}\" has more partitions than before; opening it anew"
        ))
    }

    pub(super) fn fenced(&self) -> Failure {
        Failure::lost(format!(
            "kafka {}: another owner of the pipeline has begun to send; the broker takes nothing more from this one",
            self.brokers
        ))
    }

    /// What makes the producer useless. The library is asked itself first: it
    /// refuses to send before it has reported why.
    pub(super) fn trouble(&self) -> Option<Failure> {
        if let Some((code, reason)) = self.fatal() {
            return Some(if kafka::is_fencing(code) {
                self.fenced()
            } else {
                self.said(&format!("the producer gave up: {reason}"))
            });
        }
        Some(match self.reports.trouble()? {
            Trouble::NoBroker(reason) => self.unreachable(reason),
            Trouble::GaveUp => self.said("the producer gave up"),
            Trouble::Fenced => self.fenced(),
            Trouble::Grown(topic) => self.grown(&topic),
        })
    }

    /// That no broker can be reached, once each time that the library says so.
    pub(super) fn no_broker(&self) -> Option<Failure> {
        if self.fatal().is_some() {
            return None;
        }
        self.reports
            .take_no_broker()
            .map(|reason| self.unreachable(reason))
    }

    fn unreachable(&self, reason: String) -> Failure {
        let reason = if self.sends() {
            self.watch.reason().unwrap_or(reason)
        } else {
            self.watch.explain(&reason)
        };
        self.said(&format!("no broker can be reached: {reason}"))
    }

    /// Runs a blocking call of the library again until it is through, in short
    /// turns, so that what the broker does not forgive (a wrong password, say)
    /// is told as soon as it is known.
    async fn turns<T: Send + 'static>(
        &self,
        what: &str,
        patience: Duration,
        call: impl Fn(&Inner, &Reports) -> Result<T, KafkaError> + Clone + Send + 'static,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let ((inner, reports), call) = (self.client()?, call.clone());
            let result = blocking(move || call(&inner, &reports)).await?;
            match result {
                Ok(answer) => return Ok(answer),
                Err(error)
                    if (kafka::is_connection(&error) || kafka::is_retriable(&error))
                        && Instant::now() < deadline
                        && !self.watch.is_hopeless() =>
                {
                    // A leader that was just elected may not know it yet.
                    if !kafka::is_connection(&error) {
                        tokio::time::sleep(METADATA_PAUSE).await;
                    }
                }
                Err(error) => return Err(self.explained(what, &error).await),
            }
        }
    }

    /// What the brokers tell of a topic, or of all.
    async fn metadata(&self, topic: Option<&str>) -> Result<Vec<TopicMetadata>, Failure> {
        let topic = topic.map(str::to_owned);
        self.turns("asking for metadata", self.patience, move |inner, reports| {
            let metadata = inner.client().fetch_metadata(topic.as_deref(), METADATA_TURN)?;
            reports.connected_to(metadata.brokers().len());
            let topics = metadata.topics().iter().map(|t| {
                let partitions = i32::try_from(t.partitions().len()).unwrap_or(0);
                (
                    t.name().to_owned(),
                    partitions,
                    t.error().map(RDKafkaErrorCode::from),
                )
            });
            Ok(topics.collect())
        })
        .await
    }

    /// Makes sure that the brokers answer.
    pub(super) async fn connect(&self) -> Result<(), Failure> {
        self.metadata(None).await.map(drop)
    }

    /// All topics there are, with their numbers of partitions.
    pub(super) async fn topics(&self) -> Result<Vec<(String, i32)>, Failure> {
        let all = self.metadata(None).await?;
        Ok(all
            .into_iter()
            .map(|(name, partitions, _)| (name, partitions))
            .collect())
    }

    /// How many partitions a topic has. Asking creates it where the brokers
    /// do that by themselves.
    pub(super) async fn partitions(&self, name: &str) -> Result<i32, Failure> {
        let unusable = |reason: &str| self.said(&format!("topic \"{name}\" cannot be used: {reason}"));
        let deadline = Instant::now() + METADATA_TIMEOUT;
        loop {
            let topics = self.metadata(Some(name)).await?;
            match topics.into_iter().find(|(topic, ..)| topic == name) {
                Some((_, partitions, None)) if partitions > 0 => return Ok(partitions),
                Some((_, _, Some(code))) if !is_passing(code) => {
                    return Err(unusable(&kafka::describe_code(code)));
                }
                // A topic being created has no leader for a moment.
                _ if Instant::now() < deadline => {
                    tokio::time::sleep(METADATA_PAUSE).await;
                }
                Some((_, _, Some(RDKafkaErrorCode::LeaderNotAvailable))) => {
                    return Err(unusable("it has no leader: brokers that hold it are away"));
                }
                _ => {
                    return Err(unusable(
                        "the topic does not exist and the brokers do not create it; create it, or set auto.create.topics.enable at the brokers",
                    ));
                }
            }
        }
    }

    /// Why the brokers acknowledge nothing, as far as that can be seen from
    /// here, and whether the topic is there, as far as is known.
    pub(super) async fn why_stalled(&self, topic: &str) -> (String, bool) {
        // A client that is made only now has to connect first.
        let patience = if self.sends() { METADATA_TURN } else { LOOKING };
        let name = topic.to_owned();
        let look = move |inner: &Inner, _: &Reports| {
            let metadata = inner.client().fetch_metadata(Some(&name), METADATA_TURN)?;
            let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            Ok(partitions
                .map(|p| (p.id(), p.leader(), p.isr().len(), p.replicas().len()))
                .min_by_key(|(_, leader, in_sync, _)| (*leader >= 0, *in_sync)))
        };
        let looked = self.turns("the brokers do not answer", patience, look).await;
        let reason = match looked {
            Ok(None) => return (format!("topic \"{topic}\" is gone"), false),
            Ok(Some((id, leader, ..))) if leader < 0 => {
                format!("partition {id} of topic \"{topic}\" has no leader: brokers that hold it are away")
            }
            Ok(Some((id, _, in_sync, replicas))) => format!(
                "the brokers answer; perhaps topic \"{topic}\" has fewer in-sync replicas than its min.insync.replicas wants (partition {id}: {in_sync} of {replicas} in sync)"
            ),
            Err(failure) => failure.message,
        };
        (reason, true)
    }

    /// The ends of partitions of a topic.
    pub(super) async fn ends(&self, topic: &str, partitions: Vec<i32>) -> Result<Positions, Failure> {
        let name = topic.to_owned();
        self.turns("asking for end offsets", METADATA_TIMEOUT, move |inner, _| {
            partitions
                .iter()
                .map(|p| {
                    let (_, end) = inner.client().fetch_watermarks(&name, *p, METADATA_TURN)?;
                    Ok((format!("{name}/{p}"), end))
                })
                .collect()
        })
        .await
    }

    /// Takes the transactional id over: whoever had it can send nothing more,
    /// and what it had not committed is aborted. Begins a transaction.
    pub(super) async fn take_over(&self) -> Result<(), Failure> {
        self.turns(
            "taking over the transactional id",
            TRANSACTION_TIMEOUT,
            |inner, _| inner.init_transactions(METADATA_TURN),
        )
        .await?;
        self.inner()?
            .begin_transaction()
            .map_err(|e| self.failure("beginning a transaction", &e))
    }

    /// Ends the transaction, all of whose messages are reported, and begins
    /// the next.
    pub(super) fn end(&self, end: End) -> Result<tokio::task::JoinHandle<Result<(), KafkaError>>, Failure> {
        let inner = self.inner()?;
        Ok(tokio::task::spawn_blocking(move || {
            // Reported is not yet gone from the library's queue; a commit that
            // finds something there waits in a poll of 100 ms, while the
            // producer's own thread takes what it waits for.
            let deadline = std::time::Instant::now() + Duration::from_millis(200);
            while inner.in_flight_count() > 0 && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(50));
            }
            match end {
                End::Commit => inner.commit_transaction(TRANSACTION_TIMEOUT)?,
                End::Abort => inner.abort_transaction(TRANSACTION_TIMEOUT)?,
            }
            inner.begin_transaction()
        }))
    }

    /// Drops what is still queued. An open transaction is aborted, so that it
    /// holds no reader back. The connections close when the thread that polls
    /// has seen it.
    pub(super) async fn close(self, in_transaction: bool) {
        let useless = self.reports.trouble().is_some();
        let _ = blocking(move || {
            let client = self.shared.client.lock().take();
            if let Some(client) = client.filter(|_| in_transaction && !useless) {
                let _ = client.inner.abort_transaction(CLOSING_TIMEOUT);
            }
        })
        .await;
    }
}

/// Of a list of brokers as it is in the options.
pub(super) fn addresses(brokers: &str) -> Vec<(String, u16)> {
    brokers.split(',').filter_map(address).collect()
}

/// Of `host:port`, `[host]:port` or either alone.
fn address(text: &str) -> Option<(String, u16)> {
    const DEFAULT_PORT: u16 = 9092;
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Whether a topic's error may be one of its creation.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable
    )
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|e| Failure::transient(format!("kafka: {e}")))
}
