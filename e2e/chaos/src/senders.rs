//! For the way in: applications that send to the broker and note what it
//! acknowledged, and the log as an ordinary consumer reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use pg_tide_e2e::kafka;
use pg_tide_e2e::nats::Nats;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::fault::Sink;
use crate::inbox_check::Sent;
use crate::timing::Millis;
use crate::world::INCOMING;

const SENDERS: u32 = 2;
/// Messages that are sent at once.
const BURST: u64 = 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Senders at work.
pub struct Senders {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<(Sent, Millis)>>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    s: u32,
    n: u64,
}

/// The message's name in a payload.
pub fn name(payload: &str) -> Option<Sent> {
    let payload: Payload = serde_json::from_str(payload).ok()?;
    Some((payload.s, payload.n))
}

enum Client {
    Kafka(FutureProducer),
    Nats(Box<Nats>),
}

impl Client {
    async fn connect(sink: Sink, address: &str) -> Self {
        if !sink.is_kafka() {
            return Self::Nats(Box::new(Nats::connect(address).await));
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "60000")
            .set("reconnect.backoff.max.ms", "200")
            .create();
        Self::Kafka(producer.unwrap())
    }

    /// Sends a message; whether the broker has acknowledged it.
    async fn send(&self, sent: Sent) -> bool {
        let (sender, n) = sent;
        let payload = format!(r#"{{"s": {sender}, "n": {n}}}"#);
        match self {
            Self::Kafka(producer) => {
                let key = (n % 17).to_string();
                let record = FutureRecord::to(INCOMING).key(&key).payload(&payload);
                producer.send(record, TIMEOUT).await.is_ok()
            }
            Self::Nats(nats) => match nats.jetstream.publish(INCOMING, payload.into()).await {
                Ok(acknowledgement) => acknowledgement.await.is_ok(),
                Err(_) => false,
            },
        }
    }
}

impl Senders {
    /// Starts them, so many messages a second together. `began` is the instant
    /// from which times are counted.
    pub fn start(sink: Sink, address: &str, rate: u32, began: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let interval = Duration::from_secs(BURST) * SENDERS / rate.max(1);
        for sender in 0..SENDERS {
            let (address, stop) = (address.to_owned(), Arc::clone(&stop));
            tasks.spawn(async move {
                let client = Client::connect(sink, &address).await;
                let mut acknowledged = Vec::new();
                let mut pace = tokio::time::interval(interval);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let burst: Vec<Sent> = (next..next + BURST).map(|n| (sender, n)).collect();
                    next += BURST;
                    // A message without an answer is never sent again: another
                    // one is, under another number.
                    let answers = join_all(burst.iter().map(|sent| client.send(*sent))).await;
                    let taken = burst.iter().zip(answers).filter(|(_, answer)| *answer);
                    let at = Millis::try_from(began.elapsed().as_millis()).unwrap_or(Millis::MAX);
                    acknowledged.extend(taken.map(|(sent, _)| (*sent, at)));
                }
                acknowledged
            });
        }
        Self { stop, tasks }
    }

    /// Tells them to stop; returns what the broker has acknowledged, and when.
    pub async fn end(self) -> Vec<(Sent, Millis)> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.concat()
    }
}

/// All that the broker has accepted, as an ordinary consumer reads it.
pub async fn log(sink: Sink, address: &str) -> Vec<Sent> {
    let payloads: Vec<String> = if sink.is_kafka() {
        let records = kafka::records(address, INCOMING).await;
        records.into_iter().map(|r| r.value).collect()
    } else {
        let messages = Nats::connect(address).await.messages(INCOMING).await;
        messages.into_iter().map(|m| m.payload).collect()
    };
    payloads.iter().filter_map(|p| name(p)).collect()
}
