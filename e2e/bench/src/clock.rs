//! When events were published and received, by one clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::event;

/// When each event was handed over, published and received, in nanoseconds from a common beginning; 0 is not yet.
pub struct Clock {
    began: Instant,
    handed: Vec<AtomicU64>,
    published: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    distinct: AtomicU64,
    repeated: AtomicU64,
}

impl Clock {
    /// For the events 0 to `events` - 1.
    pub fn new(events: u64) -> Self {
        let zeros = || (0..events).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            handed: zeros(),
            published: zeros(),
            received: zeros(),
            distinct: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    fn nanoseconds(&self, moment: Instant) -> u64 {
        (moment - self.began).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// Notes that the publisher begins to publish the event.
    pub fn handed(&self, n: u64) {
        self.note(&self.handed, n);
    }

    /// Notes that the event is published: its latency begins.
    pub fn published(&self, n: u64) {
        self.note(&self.published, n);
    }

    fn note(&self, moments: &[AtomicU64], n: u64) {
        let now = self.nanoseconds(Instant::now());
        let slot = usize::try_from(n).ok().and_then(|index| moments.get(index));
        if let Some(slot) = slot {
            slot.store(now, Ordering::Relaxed);
        }
    }

    /// Notes a receipt, by the payload.
    pub fn received(&self, payload: &[u8]) -> Result<()> {
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

    /// How many events were received.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// How many were received again.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Of each event that was published: when, in seconds since a moment (negative before it), and its latency in
    /// milliseconds. One that came before its publisher knew of the commit took 0 ms.
    pub fn latencies(&self, since: Instant) -> Vec<(f64, f64)> {
        self.between(&self.published, &self.received, since)
    }

    /// Of each event: when its publisher began, and how long that took, likewise.
    pub fn publishing(&self, since: Instant) -> Vec<(f64, f64)> {
        self.between(&self.handed, &self.published, since)
    }

    /// Of each event that was received: when it was due, in seconds since the start, and how many milliseconds later it
    /// was there, whenever it was published. `due` says how long after the start an event is due; event 0 never is.
    pub fn since_due(&self, start: Instant, due: impl Fn(u64) -> Duration) -> Vec<(f64, f64)> {
        let start = self.nanoseconds(start);
        (1_u64..)
            .zip(self.received.iter().skip(1))
            .map(|(n, received)| (due(n), received.load(Ordering::Relaxed)))
            .filter(|(_, received)| *received > 0)
            .map(|(due, received)| {
                let moment = start as f64 + due.as_secs_f64() * 1e9;
                (due.as_secs_f64(), ((received as f64 - moment) / 1e6).max(0.0))
            })
            .collect()
    }

    fn between(&self, from: &[AtomicU64], to: &[AtomicU64], since: Instant) -> Vec<(f64, f64)> {
        let since = self.nanoseconds(since) as f64;
        let pairs = from.iter().zip(to);
        pairs
            .map(|(from, to)| (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed)))
            .filter(|(from, _)| *from > 0)
            .map(|(from, to)| ((from as f64 - since) / 1e9, to.saturating_sub(from) as f64 / 1e6))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Payload;

    #[test]
    fn a_latency_runs_from_the_publish_to_the_first_receipt() {
        let clock = Clock::new(3);
        for (n, published, received) in [
            (0, 1_000_000, 2_000_000),
            (1, 5_000_000, 7_500_000),
            (2, 6_000_000, 5_900_000),
        ] {
            clock.published[n].store(published, Ordering::Relaxed);
            clock.received[n].store(received, Ordering::Relaxed);
        }
        let latencies = clock.latencies(clock.began + Duration::from_millis(2));
        assert_eq!(latencies, [(-0.001, 1.0), (0.003, 2.5), (0.004, 0.0)]);
    }

    #[test]
    fn a_late_publisher_does_not_shorten_what_is_counted_from_when_an_event_was_due() {
        let clock = Clock::new(3);
        let start = clock.began + Duration::from_millis(10);
        // Event 1 was due 1 ms after the start and published 4 ms later; event 2 never came.
        clock.published[1].store(15_000_000, Ordering::Relaxed);
        clock.received[1].store(16_000_000, Ordering::Relaxed);
        let delays = clock.since_due(start, Duration::from_millis);
        assert_eq!(delays.len(), 1);
        assert!((delays[0].1 - 5.0).abs() < 1e-6, "{delays:?}");
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
