//! What waits for one partition and what is under way to it, in order and
//! numbered. Pure: time is given, nothing is sent from here.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::compression::Compression;
use super::record_batch::{ProducerId, Record, Records};

/// The broker knows the last five batches of a producer again. So none is sent
/// that lies further behind the first one whose fate is not known.
const MOST_UNDER_WAY: u64 = 5;
/// A batch that is not full waits while so many are under way: what comes
/// meanwhile makes it larger, and a broker pays by the batch.
const ENOUGH_UNDER_WAY: usize = 2;
/// Unless told otherwise, a batch that is not alone waits so long for more.
const LINGER: Duration = Duration::from_millis(1);

/// How batches are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    /// If the user wants it: each batch waits so long to be filled.
    pub(super) linger: Option<Duration>,
    pub(super) bytes: usize,
    pub(super) compression: Compression,
}

/// A batch with its numbers, for good: sent again it is the same.
#[derive(Debug)]
struct Batch {
    /// How many were sealed before it.
    place: u64,
    base_sequence: i32,
    bytes: Bytes,
    opaques: Vec<usize>,
    /// How often it was sent.
    sent: u32,
}

/// A batch to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) base_sequence: i32,
    pub(super) attempt: u32,
    pub(super) bytes: Bytes,
}

/// When there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    /// After something else: a record, or an answer.
    Later,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Partition {
    producer: ProducerId,
    batching: Batching,
    next_sequence: i32,
    sealed: u64,
    open: Records,
    opaques: Vec<usize>,
    opened_at: Option<Instant>,
    /// Sealed, in order; to be sent, or sent again.
    waiting: VecDeque<Batch>,
    /// In order; all numbers lie before those that wait.
    under_way: VecDeque<Batch>,
    /// After a failure.
    not_before: Option<Instant>,
}

impl Partition {
    pub(super) fn new(producer: ProducerId, batching: Batching) -> Self {
        Self {
            producer,
            batching,
            next_sequence: 0,
            sealed: 0,
            open: Records::default(),
            opaques: Vec::new(),
            opened_at: None,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            not_before: None,
        }
    }

    /// Adds a record; true when its connection should look: it may go at once,
    /// or a time has begun to run.
    pub(super) fn push<'a, H>(
        &mut self,
        now: Instant,
        timestamp: i64,
        record: Record<'a, H>,
        opaque: usize,
    ) -> bool
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let size = record.value.len() + record.key.map_or(0, <[u8]>::len);
        if !self.open.is_empty() && self.open.bytes() + size > self.batching.bytes {
            self.seal();
        }
        let first = self.open.is_empty();
        self.open.push(timestamp, record);
        self.opaques.push(opaque);
        if first {
            self.opened_at = Some(now);
        }
        if self.open.bytes() >= self.batching.bytes {
            self.seal();
            return true;
        }
        first
    }

    fn seal(&mut self) {
        let count = self.open.count();
        if count == 0 {
            return;
        }
        self.waiting.push_back(Batch {
            place: self.sealed,
            base_sequence: self.next_sequence,
            bytes: self
                .open
                .seal(self.producer, self.next_sequence, self.batching.compression),
            opaques: std::mem::take(&mut self.opaques),
            sent: 0,
        });
        self.sealed += 1;
        self.next_sequence = after(self.next_sequence, count);
        self.opened_at = None;
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return if self.waiting.is_empty() {
                Due::Later
            } else {
                Due::At(at)
            };
        }
        if let Some(next) = self.waiting.front() {
            let first = self.under_way.front().map_or(next.place, |batch| batch.place);
            return if next.place < first + MOST_UNDER_WAY {
                Due::Now
            } else {
                Due::Later
            };
        }
        let Some(opened_at) = self.opened_at else {
            return Due::Later;
        };
        let lingered = opened_at + self.batching.linger.unwrap_or(LINGER);
        match self.under_way.front() {
            None if self.batching.linger.is_none() => Due::Now,
            Some(_) if self.under_way.len() >= ENOUGH_UNDER_WAY => Due::Later,
            Some(first) if self.sealed >= first.place + MOST_UNDER_WAY => Due::Later,
            _ if lingered <= now => Due::Now,
            _ => Due::At(lingered),
        }
    }

    /// The next batch, which is under way from now on.
    pub(super) fn take(&mut self, now: Instant) -> Option<Sending> {
        if self.due(now) != Due::Now {
            return None;
        }
        if self.waiting.is_empty() {
            self.seal();
        }
        self.not_before = None;
        let mut batch = self.waiting.pop_front()?;
        batch.sent += 1;
        let sending = Sending {
            base_sequence: batch.base_sequence,
            attempt: batch.sent,
            bytes: batch.bytes.clone(),
        };
        self.under_way.push_back(batch);
        Some(sending)
    }

    /// Something that is sent has no answer yet.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// The broker has this batch. Also when it was taken for lost meanwhile:
    /// the opaques of its records in order, none if that is known already.
    pub(super) fn acknowledged(&mut self, base_sequence: i32) -> Option<Vec<usize>> {
        let of = |batch: &Batch| batch.base_sequence == base_sequence;
        if let Some(at) = self.under_way.iter().position(of) {
            return self.under_way.remove(at).map(|batch| batch.opaques);
        }
        // One that was never sent under this number cannot be meant.
        let at = self
            .waiting
            .iter()
            .position(|batch| of(batch) && batch.sent > 0)?;
        self.waiting.remove(at).map(|batch| batch.opaques)
    }

    /// Whether this is the answer to the last sending of a batch that is still
    /// under way.
    pub(super) fn awaits(&self, base_sequence: i32, attempt: u32) -> bool {
        self.under_way
            .iter()
            .any(|batch| batch.base_sequence == base_sequence && batch.sent == attempt)
    }

    /// Whether nothing with lower numbers is without an answer.
    pub(super) fn is_first(&self, base_sequence: i32) -> bool {
        self.under_way
            .front()
            .is_some_and(|batch| batch.base_sequence == base_sequence)
    }

    /// This batch and those behind it are to be sent again, in their order.
    pub(super) fn again_from(&mut self, base_sequence: i32, not_before: Instant) {
        let Some(at) = self
            .under_way
            .iter()
            .position(|batch| batch.base_sequence == base_sequence)
        else {
            return;
        };
        for batch in self.under_way.drain(at..).rev() {
            self.waiting.push_front(batch);
        }
        self.not_before = Some(not_before);
    }

    /// All that is under way is to be sent again: the connection is gone.
    pub(super) fn all_again(&mut self, not_before: Instant) {
        if let Some(first) = self.under_way.front() {
            let first = first.base_sequence;
            self.again_from(first, not_before);
        }
    }

    /// The broker refuses this batch: its opaques, and whether others may be
    /// sent yet. They may when it was alone, for then its numbers are free.
    pub(super) fn refused(&mut self, base_sequence: i32) -> Option<(Vec<usize>, bool)> {
        let at = self
            .under_way
            .iter()
            .position(|batch| batch.base_sequence == base_sequence)?;
        let batch = self.under_way.remove(at)?;
        let was_alone = self.under_way.is_empty() && self.waiting.is_empty();
        if was_alone {
            self.next_sequence = base_sequence;
        }
        Some((batch.opaques, was_alone))
    }
}

/// Numbers begin again at 0 after the largest.
fn after(sequence: i32, count: i32) -> i32 {
    sequence.wrapping_add(count) & i32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(linger: Option<Duration>) -> Partition {
        let batching = Batching {
            linger,
            bytes: 400,
            compression: Compression::None,
        };
        Partition::new(ProducerId { id: 1, epoch: 2 }, batching)
    }

    fn push(to: &mut Partition, now: Instant, opaque: usize) -> bool {
        let record = Record {
            key: None,
            value: &[0; 100],
            headers: std::iter::empty(),
        };
        to.push(now, 0, record, opaque)
    }

    #[tokio::test]
    async fn the_first_goes_at_once_the_next_wait_for_more_and_a_full_batch_for_nothing() {
        let (mut partition, now) = (partition(None), Instant::now());
        assert_eq!(partition.due(now), Due::Later);
        assert!(push(&mut partition, now, 0));
        assert_eq!(partition.due(now), Due::Now);
        assert_eq!(partition.take(now).unwrap().base_sequence, 0);
        assert!(push(&mut partition, now, 1));
        assert!(!push(&mut partition, now, 2));
        assert_eq!(partition.due(now), Due::At(now + LINGER));
        assert_eq!(partition.take(now), None);
        let later = now + LINGER;
        assert_eq!(partition.take(later).unwrap().base_sequence, 1);
        // Two are under way: only what is full goes.
        assert!(push(&mut partition, later, 3));
        assert_eq!(partition.due(later + LINGER), Due::Later);
        for opaque in 4..20 {
            push(&mut partition, later, opaque);
        }
        assert_eq!(partition.take(later).unwrap().base_sequence, 3);
        while partition.take(later).is_some() {}
        assert_eq!(partition.under_way.len(), 5);
        assert_eq!(partition.due(later), Due::Later);
        assert_eq!(partition.acknowledged(0), Some(vec![0]));
        assert_eq!(partition.due(later), Due::Now);
    }

    #[tokio::test]
    async fn a_user_may_want_each_batch_to_wait() {
        let long = Duration::from_secs(2);
        let (mut partition, now) = (partition(Some(long)), Instant::now());
        assert!(push(&mut partition, now, 0));
        assert_eq!(partition.due(now), Due::At(now + long));
        assert_eq!(partition.due(now + long), Due::Now);
    }

    #[tokio::test]
    async fn what_was_taken_for_lost_may_be_acknowledged_yet() {
        let (mut partition, now) = (partition(None), Instant::now());
        push(&mut partition, now, 7);
        partition.take(now).unwrap();
        partition.all_again(now + LINGER);
        assert_eq!(partition.due(now), Due::At(now + LINGER));
        assert_eq!(partition.acknowledged(0), Some(vec![7]));
        assert_eq!(partition.acknowledged(0), None);
        assert_eq!(partition.due(now + LINGER), Due::Later);
    }

    #[tokio::test]
    async fn the_numbers_of_a_refused_batch_are_used_again_if_none_came_after_it() {
        let (mut partition, now) = (partition(None), Instant::now());
        push(&mut partition, now, 0);
        partition.take(now).unwrap();
        push(&mut partition, now, 1);
        assert_eq!(partition.refused(0), Some((vec![0], true)));
        assert_eq!(partition.take(now).unwrap().base_sequence, 0);
        push(&mut partition, now, 2);
        partition.take(now + LINGER).unwrap();
        assert_eq!(partition.refused(0), Some((vec![1], false)));
    }

    #[test]
    fn numbers_begin_again() {
        assert_eq!(after(i32::MAX, 1), 0);
        assert_eq!(after(i32::MAX - 1, 3), 1);
        assert_eq!(after(5, 3), 8);
    }
}
