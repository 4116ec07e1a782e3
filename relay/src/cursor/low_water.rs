//! The id up to which nothing can be undelivered any more.
//!
//! A transaction whose xid was not yet given out when the sequence was read
//! takes its ids above the value read. Once every transaction below that next
//! xid is finished and delivered, the value is a low-water mark: an id, and so
//! still meaningful where snapshots are not (another cluster, another
//! timeline).

use std::collections::VecDeque;

use super::{Positions, Snapshot};

/// Samples kept while an old transaction holds the mark back.
const SAMPLES: usize = 64;

#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
struct Sample {
    next_xid: u64,
    sequence_value: i64,
    positions: Positions,
}

/// See the module's description.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(crate) struct LowWater {
    id: i64,
    positions: Positions,
    samples: VecDeque<Sample>,
}

impl LowWater {
    pub(crate) fn new(id: i64, positions: Positions) -> Self {
        Self {
            id,
            positions,
            samples: VecDeque::new(),
        }
    }

    /// The mark, and the broker positions that were reached when it was set.
    pub(crate) fn mark(&self) -> (i64, &Positions) {
        (self.id, &self.positions)
    }

    /// Broker positions of streams that were not known before.
    pub(crate) fn add_positions(&mut self, positions: &Positions) {
        for (name, position) in positions {
            self.positions.entry(name.clone()).or_insert(*position);
        }
    }

    /// Notes a tick: `sequence_value` was read before `next_xid`; everything
    /// delivered up to then lies before `positions`.
    pub(crate) fn sample(&mut self, sequence_value: i64, next_xid: u64, positions: &Positions) {
        if self.samples.back().is_some_and(|s| s.next_xid == next_xid) {
            return;
        }
        if self.samples.len() >= SAMPLES {
            // Thin out: every second one, so that the span covered doubles.
            let mut n = 0usize;
            self.samples.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
        self.samples.push_back(Sample {
            next_xid,
            sequence_value,
            positions: positions.clone(),
        });
    }

    /// Raises the mark: everything visible in `delivered` is delivered.
    pub(crate) fn advance(&mut self, delivered: &Snapshot) {
        while self
            .samples
            .front()
            .is_some_and(|s| s.next_xid <= delivered.xmin())
        {
            if let Some(sample) = self.samples.pop_front() {
                self.id = self.id.max(sample.sequence_value);
                let before = std::mem::replace(&mut self.positions, sample.positions);
                self.add_positions(&before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn waits_for_the_oldest_open_transaction() {
        let mut low = LowWater::new(0, Positions::new());
        let none = Positions::new();
        low.sample(100, 20, &none);
        low.advance(&snapshot("10:20:10"));
        assert_eq!(low.mark().0, 0, "xid 10 may hold an id below 100");
        low.sample(300, 30, &none);
        low.advance(&snapshot("20:25:20"));
        assert_eq!(low.mark().0, 100);
        low.advance(&snapshot("30:30:"));
        assert_eq!(low.mark().0, 300);
    }

    #[test]
    fn memory_stays_bounded_while_held_back() {
        let mut low = LowWater::new(0, Positions::new());
        for n in 0..10_000u64 {
            low.sample(i64::try_from(n).unwrap(), 20 + n, &Positions::new());
        }
        assert!(low.samples.len() <= SAMPLES);
        low.advance(&snapshot("50000:50000:"));
        assert!(low.mark().0 > 9_000);
    }
}
