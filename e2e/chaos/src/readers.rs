//! Ordinary consumers of what forward pipelines deliver: they know nothing of
//! pg-tide, note when each message came, and live through outages as client
//! libraries do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::StreamExt as _;
use pg_tide_e2e::nats::Nats;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::check::{Id, Read};
use crate::fault::Sink;
use crate::timing::Millis;
use crate::world::PARTITIONS;

/// Nothing more comes when nothing came for so long, at the end of the log.
const QUIET: Duration = Duration::from_secs(3);
/// A client that hears nothing for so long is replaced.
const SILENT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct Payload {
    t: i64,
    p: u16,
    i: u16,
    k: i32,
    n: i64,
}

#[derive(Debug, Default)]
struct Seen {
    reads: Vec<Read>,
    /// Values that no publisher made.
    strange: Vec<String>,
    /// Lanes whose end was reached and that brought nothing since: when they
    /// were last seen to be there.
    at_end: HashMap<u16, Instant>,
    last: Option<Instant>,
}

/// A consumer of one topic or stream.
#[derive(Debug)]
pub struct Reader {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    lanes: usize,
    task: JoinHandle<()>,
}

/// Notes what comes.
#[derive(Clone)]
struct Notes {
    seen: Arc<Mutex<Seen>>,
    began: Instant,
}

impl Notes {
    fn take(&self, lane: u16, value: &[u8]) {
        let at = Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let mut seen = lock(&self.seen);
        seen.at_end.remove(&lane);
        seen.last = Some(Instant::now());
        match serde_json::from_slice::<Payload>(value) {
            Ok(p) => seen.reads.push(Read {
                id: Id {
                    transaction: p.t,
                    part: p.p,
                    index: p.i,
                },
                key: p.k,
                n: p.n,
                at,
                lane,
            }),
            Err(_) => seen.strange.push(String::from_utf8_lossy(value).into_owned()),
        }
    }

    fn at_end(&self, lane: u16) {
        lock(&self.seen).at_end.insert(lane, Instant::now());
    }
}

impl Reader {
    /// Reads a topic or stream from its beginning. `began` is the instant from
    /// which times are counted.
    pub fn start(sink: Sink, address: &str, name: &str, began: Instant) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let notes = Notes {
            seen: Arc::clone(&seen),
            began,
        };
        let (address, name, stopped) = (address.to_owned(), name.to_owned(), Arc::clone(&stop));
        let task = if sink.is_kafka() {
            tokio::task::spawn_blocking(move || read_kafka(sink, &address, &name, &notes, &stopped))
        } else {
            tokio::spawn(async move { read_nats(&address, &name, &notes, &stopped).await })
        };
        Self {
            seen,
            stop,
            lanes: if sink.is_kafka() {
                usize::try_from(PARTITIONS).unwrap_or(1)
            } else {
                1
            },
            task,
        }
    }

    /// Messages so far.
    pub fn count(&self) -> usize {
        lock(&self.seen).reads.len()
    }

    /// Whether the end of every lane was seen after `since`, and nothing came
    /// for a while.
    pub fn is_quiet(&self, since: Instant) -> bool {
        let seen = lock(&self.seen);
        seen.at_end.values().filter(|seen_at| **seen_at > since).count() == self.lanes
            && seen.last.is_some_and(|last| last.elapsed() > QUIET)
    }

    /// Ends it; returns what it has read, and values that no publisher made.
    pub async fn end(mut self) -> (Vec<Read>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.expect("the reader ends");
        let seen = std::mem::take(&mut *lock(&self.seen));
        (seen.reads, seen.strange)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A thread that reads on would keep the process alive.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// librdkafka forgets the address of a broker alone that was fenced by its
/// controller, and never comes back: so a client that hears nothing is
/// replaced, as an application would be restarted.
fn read_kafka(sink: Sink, brokers: &str, topic: &str, notes: &Notes, stop: &AtomicBool) {
    let mut next = vec![0; usize::try_from(PARTITIONS).unwrap_or(1)];
    while !stop.load(Ordering::Relaxed) {
        read_kafka_once(sink, brokers, topic, notes, stop, &mut next);
    }
}

fn read_kafka_once(
    sink: Sink,
    brokers: &str,
    topic: &str,
    notes: &Notes,
    stop: &AtomicBool,
    next: &mut [i64],
) {
    let committed_only = sink == Sink::Transactional;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "chaos-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set(
            "isolation.level",
            if committed_only {
                "read_committed"
            } else {
                "read_uncommitted"
            },
        )
        .set("fetch.wait.max.ms", "20")
        .set("fetch.error.backoff.ms", "20")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(&*next) {
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(*offset))
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut heard = Instant::now();
    while !stop.load(Ordering::Relaxed) && heard.elapsed() < SILENT {
        match consumer.poll(AGAIN) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let lane = u16::try_from(message.partition()).unwrap_or(u16::MAX);
                next[usize::from(lane)] = message.offset() + 1;
                notes.take(lane, message.payload().unwrap_or_default());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                notes.at_end(u16::try_from(partition).unwrap_or(u16::MAX));
            }
            // The library connects again by itself.
            Some(Err(_)) | None => {}
        }
    }
}

async fn read_nats(url: &str, name: &str, notes: &Notes, stop: &AtomicBool) {
    let nats = Nats::connect(url).await;
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        let opening = async {
            let stream = nats.jetstream.get_stream(name).await.ok()?;
            let config = OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
                ..OrderedConfig::default()
            };
            stream.create_consumer(config).await.ok()?.messages().await.ok()
        };
        let Some(mut messages) = opening.await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            match tokio::time::timeout(AGAIN, messages.next()).await {
                Ok(Some(Ok(message))) => {
                    let Ok(sequence) = message.info().map(|info| info.stream_sequence) else {
                        break;
                    };
                    if sequence >= next {
                        next = sequence + 1;
                        notes.take(0, &message.payload);
                    }
                }
                Ok(Some(Err(_)) | None) => break,
                Err(_) => {
                    let stream = nats.jetstream.get_stream(name).await;
                    if stream.is_ok_and(|s| s.cached_info().state.last_sequence < next) {
                        notes.at_end(0);
                    } else if nats.client.connection_state() != async_nats::connection::State::Connected {
                        break;
                    }
                }
            }
        }
    }
}
