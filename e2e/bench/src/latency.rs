//! latency.*: from the client's return of the publishing commit to an ordinary consumer's receipt, at a steady rate.
//!
//! The schedule is open: event k is due at start + k / rate whatever became of those before, so a relay that stalls
//! is not spared by its publishers. Both moments are taken in this process with one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::StreamExt as _;
use futures::future::try_join_all;
use rdkafka::message::Message as _;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::bench::Bench;
use crate::broker::{Broker, Target};
use crate::event::{self, Payload};
use crate::poll::until;
use crate::relay::Relay;
use crate::report::Values;
use crate::statistics::percentile;

/// Connections that publish, in turn.
const PUBLISHERS: u64 = 8;

/// Events a second.
const RATE: u64 = 1000;

/// What comes before is dropped.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long the first event may take (the relay starts, the consumer joins), and the last after its publish.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run in which a publish began later than this after it was due does not measure the relay.
const LATEST_START: Duration = Duration::from_millis(250);

/// One run at 1,000 events a second, with an outbox, a pipeline, a topic or stream and a relay of its own.
pub async fn run(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let label = format!("latency-{}-{run}", broker.name());
    let client = bench.database.connect().await?;
    client.execute("SELECT tide.outbox_create($1)", &[&label]).await?;
    let target = broker.create_target(bench, &label).await?;
    bench
        .set_outbox(&label, &label, broker.name(), &target.config(bench))
        .await?;

    let mut relay = bench.start_relay(&label)?;
    let latencies = match measure(bench, &label, &target, &mut relay).await {
        Ok(latencies) => latencies,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    bench.delete_pipeline(&label).await?;
    target.delete(bench).await?;

    let name = format!("latency.{}.r{RATE}", broker.name());
    let figure = |part: &str, percent| -> Result<(String, f64)> {
        Ok((
            format!("{name}.{part}"),
            percentile(&latencies, percent).context("no latencies")?,
        ))
    };
    Ok(vec![
        figure("p50", 50.0)?,
        figure("p99", 99.0)?,
        figure("max", 100.0)?,
    ])
}

/// Latencies in milliseconds.
async fn measure(bench: &Bench, outbox: &str, target: &Target, relay: &mut Relay) -> Result<Vec<f64>> {
    let connections: Vec<Client> = try_join_all((0..PUBLISHERS).map(|_| bench.database.connect())).await?;
    // Event 0 warms everything up; the schedule begins with event 1.
    let last = RATE * bench.sizes.latency_seconds;
    let clock = Arc::new(Clock::new(last + 1));
    let consumer = Consumer::start(bench, target, Arc::clone(&clock)).await?;

    let publish = format!("SELECT tide.outbox_publish('{outbox}', $1::text::jsonb, $2::text::jsonb)");
    let first = connections.first().context("no connection")?;
    first
        .execute(&publish, &[&Payload::text(0), &event::headers(0)])
        .await?;
    consumer.wait_for(1, &clock, relay).await?;

    let start = Instant::now() + Duration::from_millis(100);
    let mut publishers = JoinSet::new();
    for (client, offset) in connections.into_iter().zip(1..) {
        let (publish, clock) = (publish.clone(), Arc::clone(&clock));
        publishers
            .spawn(async move { publish_in_turn(&client, &publish, start, offset, last, &clock).await });
    }
    let mut latest = Duration::ZERO;
    while let Some(publisher) = publishers.join_next().await {
        latest = latest.max(publisher??);
    }
    consumer.wait_for(last + 1, &clock, relay).await?;
    ensure!(
        clock.repeated() == 0,
        "{} events were delivered again",
        clock.repeated()
    );
    ensure!(
        latest <= LATEST_START,
        "the load was not steady: a publish began {latest:?} after it was due"
    );
    Ok(clock.latencies(start + WARM_UP))
}

/// Publishes every `PUBLISHERS`-th event when it is due; returns the largest delay of a beginning.
async fn publish_in_turn(
    client: &Client,
    publish: &str,
    start: Instant,
    offset: u64,
    last: u64,
    clock: &Clock,
) -> Result<Duration> {
    let publish = client.prepare(publish).await?;
    let mut latest = Duration::ZERO;
    for n in (offset..=last).step_by(PUBLISHERS.try_into()?) {
        let due = start + Duration::from_micros(n * 1_000_000 / RATE);
        tokio::time::sleep_until(due).await;
        latest = latest.max(due.elapsed());
        client
            .execute(&publish, &[&Payload::text(n), &event::headers(n)])
            .await?;
        clock.committed(n);
    }
    Ok(latest)
}

/// When each event was committed and received, in nanoseconds from a common beginning; 0 is not yet.
struct Clock {
    began: Instant,
    committed: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    distinct: AtomicU64,
    repeated: AtomicU64,
}

impl Clock {
    fn new(events: u64) -> Self {
        let zeros = || (0..events).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            committed: zeros(),
            received: zeros(),
            distinct: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    fn nanoseconds(&self, moment: Instant) -> u64 {
        (moment - self.began).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    fn committed(&self, n: u64) {
        let now = self.nanoseconds(Instant::now());
        if let Some(slot) = usize::try_from(n)
            .ok()
            .and_then(|index| self.committed.get(index))
        {
            slot.store(now, Ordering::Relaxed);
        }
    }

    fn received(&self, payload: &[u8]) -> Result<()> {
        let now = self.nanoseconds(Instant::now());
        let index = event::number(payload).and_then(|n| usize::try_from(n).ok());
        let slot = index
            .and_then(|index| self.received.get(index))
            .context("an unknown event was delivered")?;
        let first = slot
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        let counter = if first { &self.distinct } else { &self.repeated };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Of the events committed from a moment on. An event that came before its publisher knew of the commit took 0 ms.
    fn latencies(&self, from: Instant) -> Vec<f64> {
        let from = self.nanoseconds(from);
        let pairs = self.committed.iter().zip(&self.received);
        pairs
            .map(|(committed, received)| {
                (
                    committed.load(Ordering::Relaxed),
                    received.load(Ordering::Relaxed),
                )
            })
            .filter(|(committed, _)| *committed >= from)
            .map(|(committed, received)| received.saturating_sub(committed) as f64 / 1e6)
            .collect()
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

    async fn wait_for(&self, events: u64, clock: &Clock, relay: &mut Relay) -> Result<()> {
        let waiting = until(PATIENCE, "the events to arrive", async || {
            relay.check()?;
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
    fn a_latency_runs_from_the_commit_to_the_first_receipt() {
        let clock = Clock::new(3);
        for (n, committed, received) in [
            (0, 1_000_000, 2_000_000),
            (1, 5_000_000, 7_500_000),
            (2, 6_000_000, 5_900_000),
        ] {
            clock.committed[n].store(committed, Ordering::Relaxed);
            clock.received[n].store(received, Ordering::Relaxed);
        }
        assert_eq!(
            clock.latencies(clock.began + Duration::from_millis(2)),
            [2.5, 0.0]
        );
    }

    #[test]
    fn a_second_receipt_is_counted_and_does_not_move_the_first() {
        let clock = Clock::new(1);
        clock
            .received(Payload::text(0).as_bytes())
            .expect("event 0 is known");
        let first = clock.received[0].load(Ordering::Relaxed);
        clock
            .received(Payload::text(0).as_bytes())
            .expect("event 0 is known");
        assert_eq!((clock.distinct(), clock.repeated()), (1, 1));
        assert_eq!(clock.received[0].load(Ordering::Relaxed), first);
        assert!(clock.received(Payload::text(1).as_bytes()).is_err());
    }
}
