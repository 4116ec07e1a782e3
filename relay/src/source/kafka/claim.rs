//! Topic partitions that the group has assigned to us, and how far their
//! messages have come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// One assignment of a partition. A partition that is taken away and comes back
/// is another claim, so that late news of the old one change nothing.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Number of [`super::super::Position`].
    pub(super) stream: u32,
    /// Names the partition for the inbox.
    pub(super) name: Arc<str>,
    /// Where the inbox stood at the assignment.
    pub(super) next: i64,
    /// Time of the record before `next`, which comes first and must carry it.
    verify: AtomicI64,
    revoked: AtomicBool,
    /// Next offset after the last message handed out, settled, committed.
    handed: AtomicI64,
    settled: AtomicI64,
    committed: AtomicI64,
    /// Where the log ended when it was last looked at.
    high: AtomicI64,
}

/// No time to verify.
const NONE: i64 = i64::MIN;

/// What a record says about the partition's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// A new message.
    New,
    /// The record before it, as it was.
    Known,
    /// Another record lies where that one was.
    Other,
}

impl Claim {
    pub(super) fn new(
        (topic, partition): (&str, i32),
        stream: u32,
        name: &str,
        next: i64,
        verify: Option<i64>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            stream,
            name: name.into(),
            next,
            verify: verify.unwrap_or(NONE).into(),
            revoked: false.into(),
            handed: next.into(),
            settled: next.into(),
            committed: AtomicI64::new(NONE),
            high: next.into(),
        }
    }

    /// The message at this offset is stored or set aside.
    pub(crate) fn settle(&self, offset: i64) {
        self.settled.fetch_max(offset + 1, Ordering::AcqRel);
    }

    pub(super) fn hand_out(&self, offset: i64) {
        self.handed.fetch_max(offset + 1, Ordering::AcqRel);
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) >= self.handed.load(Ordering::Acquire)
    }

    /// Compares a record with the one that the inbox had last.
    pub(super) fn check(&self, offset: i64, time: Option<i64>) -> Check {
        let wanted = self.verify.load(Ordering::Relaxed);
        if wanted == NONE {
            return if offset < self.next {
                Check::Known
            } else {
                Check::New
            };
        }
        let check = match offset + 1 {
            // Compacted away since, or no record but a transaction's mark.
            after if after > self.next => Check::New,
            after if after == self.next && time != Some(wanted) => Check::Other,
            _ => Check::Known,
        };
        if check != Check::Other {
            self.verify.store(NONE, Ordering::Relaxed);
        }
        check
    }

    /// The offset to commit, once; none when Kafka has it, or as long as it may
    /// belong to another topic of the same name.
    fn take_commit(&self) -> Option<i64> {
        if self.verify.load(Ordering::Relaxed) != NONE {
            return None;
        }
        let settled = self.settled.load(Ordering::Acquire);
        (self.committed.swap(settled, Ordering::AcqRel) != settled).then_some(settled)
    }
}

/// The claims of a consumer.
#[derive(Debug, Default)]
pub(super) struct Claims {
    current: HashMap<(String, i32), Arc<Claim>>,
    by_stream: HashMap<u32, Arc<Claim>>,
    last_stream: u32,
}

impl Claims {
    pub(super) fn add(
        &mut self,
        partition: (&str, i32),
        name: &str,
        next: i64,
        verify: Option<i64>,
    ) -> Arc<Claim> {
        self.last_stream += 1;
        let claim = Arc::new(Claim::new(partition, self.last_stream, name, next, verify));
        self.current
            .insert((partition.0.to_owned(), partition.1), Arc::clone(&claim));
        self.by_stream.insert(claim.stream, Arc::clone(&claim));
        // Old claims that no message refers to any more.
        self.by_stream
            .retain(|_, claim| !claim.is_revoked() || Arc::strong_count(claim) > 1);
        claim
    }

    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<Arc<Claim>> {
        self.current.get(&(topic.to_owned(), partition)).cloned()
    }

    pub(super) fn of_stream(&self, stream: u32) -> Option<Arc<Claim>> {
        self.by_stream.get(&stream).cloned()
    }

    pub(super) fn revoke(&mut self, partitions: &[(String, i32)]) -> Vec<Arc<Claim>> {
        let revoked: Vec<_> = partitions
            .iter()
            .filter_map(|partition| self.current.remove(partition))
            .collect();
        for claim in &revoked {
            claim.revoke();
        }
        revoked
    }

    /// Notes where the logs end now.
    pub(super) fn ends(&self, ends: impl Iterator<Item = ((String, i32), i64)>) {
        for (partition, high) in ends {
            if let Some(claim) = self.current.get(&partition) {
                claim.high.store(high, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn partitions(&self) -> Vec<(String, i32)> {
        self.current.keys().cloned().collect()
    }

    pub(super) fn lag(&self) -> u64 {
        let lag = |claim: &Arc<Claim>| {
            let high = claim.high.load(Ordering::Relaxed);
            u64::try_from(high - claim.settled.load(Ordering::Acquire)).unwrap_or(0)
        };
        self.current.values().map(lag).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// What Kafka does not have yet.
    pub(super) fn take_commits(&self) -> Vec<(Arc<Claim>, i64)> {
        take_commits(self.current.values())
    }

    /// Kafka did not take these.
    pub(super) fn uncommitted(&self, topic: &str, partition: i32) {
        if let Some(claim) = self.get(topic, partition) {
            claim.committed.store(NONE, Ordering::Release);
        }
    }
}

pub(super) fn take_commits<'a>(claims: impl Iterator<Item = &'a Arc<Claim>>) -> Vec<(Arc<Claim>, i64)> {
    claims
        .filter_map(|claim| Some((Arc::clone(claim), claim.take_commit()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(next: i64, verify: Option<i64>) -> Claim {
        Claim::new(("t", 0), 1, "kafka:c/t/0", next, verify)
    }

    #[test]
    fn the_first_record_tells_whether_the_topic_is_the_same() {
        assert_eq!(claim(5, Some(70)).check(4, Some(70)), Check::Known);
        assert_eq!(claim(5, Some(70)).check(4, Some(71)), Check::Other);
        assert_eq!(claim(5, Some(70)).check(4, None), Check::Other);
        assert_eq!(claim(5, Some(70)).check(6, Some(71)), Check::New);
        assert_eq!(claim(5, None).check(5, Some(71)), Check::New);
        let claim = claim(5, Some(70));
        assert_eq!(claim.check(4, Some(70)), Check::Known);
        assert_eq!(claim.check(5, Some(70)), Check::New);
    }

    #[test]
    fn settled_offsets_are_committed_once() {
        let mut claims = Claims::default();
        let claim = claims.add(("t", 3), "kafka:c/t/3", 10, None);
        // The beginning is committed as well: lag tools show the group at once.
        assert_eq!(claims.take_commits()[0].1, 10);
        assert!(claims.take_commits().is_empty());
        claims.ends([(("t".to_owned(), 3), 20), (("t".to_owned(), 9), 99)].into_iter());
        assert_eq!(claims.lag(), 10);
        claim.hand_out(12);
        assert!(!claim.is_settled());
        claim.settle(12);
        assert!(claim.is_settled());
        assert_eq!(claims.lag(), 7);
        assert_eq!(claims.take_commits()[0].1, 13);
        claims.uncommitted("t", 3);
        assert_eq!(claims.take_commits()[0].1, 13);
        let unsure = claims.add(("t", 4), "kafka:c/t/4", 10, Some(70));
        assert!(claims.take_commits().is_empty());
        unsure.check(9, Some(70));
        assert_eq!(claims.take_commits()[0].1, 10);
    }

    #[test]
    fn a_partition_that_comes_back_is_another_claim() {
        let mut claims = Claims::default();
        let old = claims.add(("t", 0), "kafka:c/t/0", 1, None);
        let revoked = claims.revoke(&[("t".to_owned(), 0), ("t".to_owned(), 1)]);
        assert_eq!(revoked.len(), 1);
        assert!(old.is_revoked() && claims.get("t", 0).is_none());
        let new = claims.add(("t", 0), "kafka:c/t/0", 5, None);
        assert_ne!(old.stream, new.stream);
        // Messages may still refer to the old one.
        assert!(claims.of_stream(old.stream).is_some());
        let stream = old.stream;
        drop((old, revoked));
        claims.add(("t", 1), "kafka:c/t/1", 5, None);
        assert!(claims.of_stream(stream).is_none());
    }
}
