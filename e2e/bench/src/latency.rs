//! latency.*: from the client's return of the publishing commit to an ordinary consumer's receipt, at a steady rate;
//! and beside it limit.latency.*, from the plain client library's send to the same consumer, without PostgreSQL and
//! relay.
//!
//! The schedule is open: event k is due at start + k / rate whatever became of those before, so a relay that stalls
//! is not spared by its publishers. Both moments are taken in this process with one clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::StreamExt as _;
use rdkafka::message::Message as _;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use crate::bench::Bench;
use crate::broker::{Broker, Target};
use crate::clock::Clock;
use crate::event::{self, Payload};
use crate::kafka::Sender;
use crate::nats;
use crate::poll::until;
use crate::report::Values;
use crate::statistics::percentile;

/// Connections that publish, in turn.
pub const PUBLISHERS: u64 = 8;

/// Events a second.
pub const RATE: u64 = 1000;

/// Seconds at the beginning that are dropped.
pub const WARM_UP: f64 = 1.0;

/// How long the first event may take (the relay starts, the consumer joins), and the last after its publish.
const PATIENCE: Duration = Duration::from_secs(30);

/// A publish that begins later than this after it was due is worth a remark: the load was not steady.
const LATE: Duration = Duration::from_millis(100);

/// One run through the outbox and a relay, with an outbox, a pipeline, a topic or stream and a relay of its own.
pub async fn run(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let label = format!("latency-{}-{run}", broker.name());
    let client = bench.database.connect().await?;
    client.execute("SELECT tide.outbox_create($1)", &[&label]).await?;
    let target = broker.create_target(bench, &label).await?;
    bench
        .set_outbox(&label, &label, broker.name(), &target.config(bench))
        .await?;
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        publishers.push(Publisher::commit(bench, &label).await?);
    }

    let mut relay = bench.start_relay(&label)?;
    let events = RATE * bench.sizes.latency_seconds;
    let mut check = || relay.check();
    let latencies = match measure(bench, &target, publishers, events, &mut |_| {}, &mut check).await {
        Ok(delays) => delays.delivery,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    bench.delete_pipeline(&label).await?;
    target.delete(bench).await?;
    percentiles(
        bench,
        &format!("latency.{}.r{RATE}", broker.name()),
        run,
        &latencies,
    )
}

/// One run by the plain client library, with a topic or stream of its own.
pub async fn limit(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let target = broker
        .create_target(bench, &format!("limit-latency-{}-{run}", broker.name()))
        .await?;
    let publisher = Publisher::send(bench, &target)?;
    let publishers = (0..PUBLISHERS).map(|_| publisher.clone()).collect();
    let events = RATE * bench.sizes.latency_seconds;
    let delays = measure(bench, &target, publishers, events, &mut |_| {}, &mut || Ok(())).await?;
    target.delete(bench).await?;
    percentiles(
        bench,
        &format!("limit.latency.{}.r{RATE}", broker.name()),
        run,
        &delays.delivery,
    )
}

/// Percentiles of what comes after the warm-up; all latencies are written to a file, to see when stalls were.
fn percentiles(bench: &Bench, name: &str, run: usize, latencies: &[(f64, f64)]) -> Result<Values> {
    let path = bench.output.join(format!("{name}-{run}.csv"));
    write_csv(&path, latencies)?;

    let warm: Vec<f64> = latencies
        .iter()
        .filter(|(at, _)| *at >= WARM_UP)
        .map(|(_, latency)| *latency)
        .collect();
    let figure = |(part, percent)| {
        Ok((
            format!("{name}.{part}"),
            percentile(&warm, percent).context("no latencies")?,
        ))
    };
    [("p50", 50.0), ("p99", 99.0), ("max", 100.0)]
        .map(figure)
        .into_iter()
        .collect()
}

/// Writes down when something was, and how long it took.
pub fn write_csv(path: &Path, delays: &[(f64, f64)]) -> Result<()> {
    let lines: Vec<_> = delays
        .iter()
        .map(|(at, delay)| format!("{at:.4},{delay:.3}\n"))
        .collect();
    std::fs::write(path, format!("published_s,latency_ms\n{}", lines.concat()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Of each event: when, in seconds from the start of the schedule, and how many milliseconds it took.
#[derive(Debug)]
pub struct Delays {
    /// From the publisher's call to its return.
    pub publish: Vec<(f64, f64)>,
    /// From there to the receipt.
    pub delivery: Vec<(f64, f64)>,
}

/// Publishes the events 1 to `last` when they are due. `begin` is told the start of the schedule; `check` says when
/// waiting is in vain.
pub async fn measure(
    bench: &Bench,
    target: &Target,
    publishers: Vec<Publisher>,
    last: u64,
    begin: &mut (dyn FnMut(Instant) + Send),
    check: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<Delays> {
    // Event 0 warms everything up; the schedule begins with event 1.
    let clock = Arc::new(Clock::new(last + 1));
    let consumer = Consumer::start(bench, target, Arc::clone(&clock)).await?;
    publishers
        .first()
        .context("no publisher")?
        .publish(0, &clock)
        .await?;
    consumer.wait_for(1, &clock, check).await?;

    let start = Instant::now() + Duration::from_millis(100);
    begin(start);
    let mut running = JoinSet::new();
    for (publisher, offset) in publishers.into_iter().zip(1..) {
        let clock = Arc::clone(&clock);
        running.spawn(async move { publish_in_turn(&publisher, start, offset, last, &clock).await });
    }
    let mut latest = Duration::ZERO;
    while let Some(publisher) = running.join_next().await {
        latest = latest.max(publisher??);
    }
    if latest > LATE {
        eprintln!("the load was not quite steady: a publish began {latest:?} after it was due");
    }
    consumer.wait_for(last + 1, &clock, check).await?;
    ensure!(
        clock.repeated() == 0,
        "{} events were delivered again",
        clock.repeated()
    );
    Ok(Delays {
        publish: clock.publishing(start),
        delivery: clock.latencies(start),
    })
}

/// Publishes every `PUBLISHERS`-th event when it is due; returns the largest delay of a beginning.
async fn publish_in_turn(
    publisher: &Publisher,
    start: Instant,
    offset: u64,
    last: u64,
    clock: &Clock,
) -> Result<Duration> {
    let mut latest = Duration::ZERO;
    for n in (offset..=last).step_by(PUBLISHERS.try_into()?) {
        let due = start + Duration::from_micros(n * 1_000_000 / RATE);
        tokio::time::sleep_until(due).await;
        latest = latest.max(due.elapsed());
        publisher.publish(n, clock).await?;
    }
    Ok(latest)
}

/// One that publishes, and notes the moment from which a latency counts.
#[derive(Clone)]
pub enum Publisher {
    /// By outbox_publish, in a transaction: from the commit's return.
    Commit(Arc<Client>, Statement),
    /// By Kafka's client library: from the call.
    Kafka(Sender, String),
    /// By NATS' client library: from the call.
    Nats(nats::Sender, String),
}

impl Publisher {
    /// One that commits.
    pub async fn commit(bench: &Bench, outbox: &str) -> Result<Self> {
        let client = bench.database.connect().await?;
        let publish = format!("SELECT tide.outbox_publish('{outbox}', $1::text::jsonb, $2::text::jsonb)");
        let publish = client.prepare(&publish).await?;
        Ok(Self::Commit(Arc::new(client), publish))
    }

    fn send(bench: &Bench, target: &Target) -> Result<Self> {
        Ok(match target {
            Target::Topic(topic) => Self::Kafka(bench.kafka.sender()?, topic.clone()),
            Target::Stream(stream) => Self::Nats(bench.nats.sender(), stream.subject.clone()),
        })
    }

    async fn publish(&self, n: u64, clock: &Clock) -> Result<()> {
        let payload = Payload::text(n);
        clock.handed(n);
        match self {
            Self::Commit(client, publish) => {
                client.execute(publish, &[&payload, &event::headers(n)]).await?;
                clock.published(n);
            }
            Self::Kafka(sender, topic) => {
                clock.published(n);
                sender.send(topic, event::event_type(n), payload.as_bytes())?;
            }
            Self::Nats(sender, subject) => {
                clock.published(n);
                sender.send(subject, n, payload).await?;
            }
        }
        Ok(())
    }
}

/// A consumer in a task of its own; dropped, it ends.
struct Consumer(JoinHandle<Result<()>>);

impl Consumer {
    async fn start(bench: &Bench, target: &Target, clock: Arc<Clock>) -> Result<Self> {
        Ok(Self(match target {
            Target::Topic(topic) => {
                let consumer = bench.kafka.consumer(topic)?;
                tokio::spawn(async move {
                    loop {
                        clock.received(consumer.recv().await?.payload().unwrap_or_default())?;
                    }
                })
            }
            Target::Stream(stream) => {
                let mut messages = bench.nats.consumer(&stream.name).await?;
                tokio::spawn(async move {
                    while let Some(message) = messages.next().await {
                        let message = message?;
                        clock.received(&message.payload)?;
                        message
                            .ack()
                            .await
                            .map_err(|error| anyhow!("cannot acknowledge: {error}"))?;
                    }
                    bail!("the consumer's messages ended")
                })
            }
        }))
    }

    async fn wait_for(
        &self,
        events: u64,
        clock: &Clock,
        check: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<()> {
        let waiting = until(PATIENCE, "the events to arrive", async || {
            check()?;
            ensure!(!self.0.is_finished(), "the consumer failed");
            Ok(clock.distinct() >= events)
        });
        waiting
            .await
            .with_context(|| format!("{} of {events} events came", clock.distinct()))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.abort();
    }
}
