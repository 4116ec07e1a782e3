//! latency.*: from the client's return of the publishing commit to an ordinary consumer's receipt, at a steady rate;
//! and beside it limit.latency.*, from the plain client library's send to the same consumer, without PostgreSQL and
//! relay.
//!
//! The schedule is open (`Schedule`), so a relay that stalls is not spared by its publishers. All moments are taken in
//! this process with one clock. The family `load` measures by the same means, from the moment an event was due.

use std::ops::RangeInclusive;
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
use crate::shape::Shape;
use crate::statistics::percentile;

/// Connections that publish, in turn.
pub const PUBLISHERS: u64 = 8;

/// Events a second.
pub const RATE: u64 = 1000;

/// Seconds at the beginning that are dropped.
pub const WARM_UP: f64 = 1.0;

/// When events are due: whatever became of those before.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Events a second.
    pub rate: u64,
    /// Events that are due at once and published in one transaction.
    pub at_once: u64,
    /// The number of the last event; the first on schedule is 1.
    pub last: u64,
}

impl Schedule {
    /// One event at a time at the usual rate.
    pub fn usual(seconds: u64) -> Self {
        Self {
            rate: RATE,
            at_once: 1,
            last: RATE * seconds,
        }
    }

    /// How many times something is published.
    fn turns(self) -> u64 {
        self.last.div_ceil(self.at_once)
    }

    /// The events of the n-th turn, n from 1.
    fn events(self, turn: u64) -> RangeInclusive<u64> {
        (turn - 1) * self.at_once + 1..=self.last.min(turn * self.at_once)
    }

    /// When the n-th turn is due, from the start.
    fn due(self, turn: u64) -> Duration {
        Duration::from_micros(turn * self.at_once * 1_000_000 / self.rate)
    }

    /// When an event is due, from the start.
    fn due_of(self, n: u64) -> Duration {
        self.due(n.div_ceil(self.at_once))
    }
}

/// How long the first event may take (the relay starts, the consumer joins), and the last after its publish.
const PATIENCE: Duration = Duration::from_secs(30);

/// A publish that begins later than this after it was due is worth a remark: the load was not steady.
const LATE: Duration = Duration::from_millis(100);

/// One run through the outbox and a relay.
pub async fn run(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let label = format!("latency-{}-{run}", broker.name());
    let schedule = Schedule::usual(bench.sizes.latency_seconds);
    let delays = through_relay(bench, broker, &label, schedule).await?;
    let name = format!("latency.{}.r{RATE}", broker.name());
    percentiles(bench, &name, run, &delays.delivery)
}

/// One run by the plain client library.
pub async fn limit(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let label = format!("limit-latency-{}-{run}", broker.name());
    let schedule = Schedule::usual(bench.sizes.latency_seconds);
    let delays = by_client(bench, broker, &label, schedule).await?;
    let name = format!("limit.latency.{}.r{RATE}", broker.name());
    percentiles(bench, &name, run, &delays.delivery)
}

/// Publishes by a schedule to an outbox; a relay delivers. Outbox, pipeline, topic or stream and relay are of its own.
pub async fn through_relay(bench: &Bench, broker: Broker, label: &str, schedule: Schedule) -> Result<Delays> {
    let client = bench.database.connect().await?;
    client.execute("SELECT tide.outbox_create($1)", &[&label]).await?;
    let target = broker.create_target(bench, label).await?;
    let config = target.config(bench, Shape::USUAL);
    bench.set_outbox(label, label, broker.name(), &config).await?;
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        publishers.push(Publisher::commit(bench, label).await?);
    }
    let mut relay = bench.start_relay(label)?;
    let mut check = || relay.check();
    let delays = match measure(bench, &target, publishers, schedule, &mut |_| {}, &mut check).await {
        Ok(delays) => delays,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    bench.delete_pipeline(label).await?;
    target.delete(bench).await?;
    Ok(delays)
}

/// Sends by a schedule to a topic or stream of its own.
pub async fn by_client(bench: &Bench, broker: Broker, label: &str, schedule: Schedule) -> Result<Delays> {
    let target = broker.create_target(bench, label).await?;
    let publisher = Publisher::send(bench, &target)?;
    let publishers = (0..PUBLISHERS).map(|_| publisher.clone()).collect();
    let delays = measure(bench, &target, publishers, schedule, &mut |_| {}, &mut || Ok(())).await?;
    target.delete(bench).await?;
    Ok(delays)
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
    /// From when it was due to the receipt: with what the publisher was late by.
    pub since_due: Vec<(f64, f64)>,
}

/// Publishes the events of a schedule when they are due, and one before. `begin` is told the start of the schedule; `check` says when
/// waiting is in vain.
pub async fn measure(
    bench: &Bench,
    target: &Target,
    publishers: Vec<Publisher>,
    schedule: Schedule,
    begin: &mut (dyn FnMut(Instant) + Send),
    check: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<Delays> {
    // Event 0 warms everything up; the schedule begins with event 1.
    let clock = Arc::new(Clock::new(schedule.last + 1));
    let consumer = Consumer::start(bench, target, Arc::clone(&clock)).await?;
    publishers
        .first()
        .context("no publisher")?
        .publish(0..=0, &clock)
        .await?;
    consumer.wait_for(1, &clock, check).await?;

    let start = Instant::now() + Duration::from_millis(100);
    begin(start);
    let mut running = JoinSet::new();
    let step = publishers.len();
    for (publisher, first) in publishers.into_iter().zip(1..) {
        let clock = Arc::clone(&clock);
        running
            .spawn(async move { publish_in_turn(&publisher, start, schedule, (first, step), &clock).await });
    }
    let mut latest = Duration::ZERO;
    while let Some(publisher) = running.join_next().await {
        latest = latest.max(publisher??);
    }
    if latest > LATE {
        eprintln!("the load was not quite steady: a publish began {latest:?} after it was due");
    }
    consumer.wait_for(schedule.last + 1, &clock, check).await?;
    ensure!(
        clock.repeated() == 0,
        "{} events were delivered again",
        clock.repeated()
    );
    Ok(Delays {
        publish: clock.publishing(start),
        delivery: clock.latencies(start),
        since_due: clock.since_due(start, |n| schedule.due_of(n)),
    })
}

/// Publishes at every `step`-th turn when it is due; returns the largest delay of a beginning.
async fn publish_in_turn(
    publisher: &Publisher,
    start: Instant,
    schedule: Schedule,
    (first, step): (u64, usize),
    clock: &Clock,
) -> Result<Duration> {
    let mut latest = Duration::ZERO;
    for turn in (first..=schedule.turns()).step_by(step) {
        let due = start + schedule.due(turn);
        tokio::time::sleep_until(due).await;
        latest = latest.max(due.elapsed());
        publisher.publish(schedule.events(turn), clock).await?;
    }
    Ok(latest)
}

/// One that publishes, and notes the moment from which a latency counts.
#[derive(Clone)]
pub enum Publisher {
    /// By outbox_publish, or outbox_publish_batch for several, in a transaction: from the commit's return.
    Commit {
        /// Its connection.
        client: Arc<Client>,
        /// For one event.
        one: Statement,
        /// For several.
        several: Statement,
    },
    /// By Kafka's client library: from the call.
    Kafka(Sender, String),
    /// By NATS' client library: from the call.
    Nats(nats::Sender, String),
}

impl Publisher {
    /// One that commits.
    pub async fn commit(bench: &Bench, outbox: &str) -> Result<Self> {
        let client = bench.database.connect().await?;
        let one = format!("SELECT tide.outbox_publish('{outbox}', $1::text::jsonb, $2::text::jsonb)");
        let several =
            format!("SELECT tide.outbox_publish_batch('{outbox}', $1::text[]::jsonb[], $2::text[]::jsonb[])");
        Ok(Self::Commit {
            one: client.prepare(&one).await?,
            several: client.prepare(&several).await?,
            client: Arc::new(client),
        })
    }

    /// One that sends straight to the broker.
    pub fn send(bench: &Bench, target: &Target) -> Result<Self> {
        Ok(match target {
            Target::Topic(topic) => Self::Kafka(bench.kafka.sender()?, topic.name.clone()),
            Target::Stream(stream) => Self::Nats(bench.nats.sender(), stream.subject.clone()),
        })
    }

    async fn publish(&self, events: RangeInclusive<u64>, clock: &Clock) -> Result<()> {
        events.clone().for_each(|n| clock.handed(n));
        match self {
            Self::Commit { client, one, several } => {
                let payloads: Vec<_> = events.clone().map(Payload::text).collect();
                let headers: Vec<_> = events.clone().map(event::headers).collect();
                match (payloads.as_slice(), headers.as_slice()) {
                    ([payload], [headers]) => client.execute(one, &[payload, headers]).await?,
                    _ => client.execute(several, &[&payloads, &headers]).await?,
                };
                events.for_each(|n| clock.published(n));
            }
            Self::Kafka(sender, topic) => {
                for n in events {
                    clock.published(n);
                    sender.send(topic, event::event_type(n), Payload::text(n).as_bytes())?;
                }
            }
            Self::Nats(sender, subject) => {
                for n in events {
                    clock.published(n);
                    sender.send(subject, n, Payload::text(n)).await?;
                }
            }
        }
        Ok(())
    }
}

/// A consumer in a task of its own; dropped, it ends.
pub struct Consumer(JoinHandle<Result<()>>);

impl Consumer {
    /// Notes receipts from now on.
    pub async fn start(bench: &Bench, target: &Target, clock: Arc<Clock>) -> Result<Self> {
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

    /// Waits until so many events have come; `check` says when that is in vain.
    pub async fn wait_for(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_one_by_one_or_several_at_once() {
        let one = Schedule::usual(2);
        assert_eq!((one.turns(), one.events(7)), (2000, 7..=7));
        assert_eq!(one.due_of(1500), Duration::from_millis(1500));
        let ten = Schedule {
            rate: 10_000,
            at_once: 10,
            last: 25,
        };
        assert_eq!((ten.turns(), ten.events(1), ten.events(3)), (3, 1..=10, 21..=25));
        assert_eq!(ten.due_of(1), Duration::from_millis(1));
        assert_eq!(ten.due_of(10), Duration::from_millis(1));
        assert_eq!(ten.due_of(11), Duration::from_millis(2));
    }
}
