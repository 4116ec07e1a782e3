//! What one pipeline's reader has read, for the others on the same outbox.
//!
//! A round's messages depend on its two snapshots alone. So a reader that
//! stands where another one has read on from takes the same step, with the rows
//! that are there already, or will be in a moment; in this way readers that are
//! near each other stay together and ask once. One that is further behind than
//! what is kept reads for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::Mark;
use crate::cursor::{Round, Snapshot};
use crate::encode::Row;
use crate::failure::Failure;
use crate::status::Metrics;

/// Steps kept for an outbox, and the bytes of their messages.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 512 << 10;

/// The outboxes that readers of this relay are at, by table.
#[derive(Debug, Clone)]
pub(crate) struct Outboxes {
    by_table: Arc<Mutex<HashMap<String, Weak<Outbox>>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Outbox {
    readers: AtomicUsize,
    steps: Mutex<VecDeque<Arc<Step>>>,
}

/// A round that some reader has read, or is reading.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) round: Arc<Round>,
    /// Of the tick that opened it.
    pub(super) mark: Mark,
    /// All of its messages; none if they are too many to be kept.
    rows: OnceCell<Option<Arc<[Row]>>>,
    /// Readers that have yet to take it.
    wanted: AtomicUsize,
}

/// A reader's place at its outbox.
#[derive(Debug)]
pub(super) struct Place {
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
}

impl Outboxes {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            by_table: Arc::default(),
            metrics,
        }
    }

    /// Takes a place, for as long as it is held.
    pub(super) fn enter(&self, table: &str) -> Place {
        let mut outboxes = self.by_table.lock();
        let outbox = outboxes.get(table).and_then(Weak::upgrade).unwrap_or_else(|| {
            outboxes.retain(|_, outbox| outbox.strong_count() > 0);
            let outbox = Arc::<Outbox>::default();
            outboxes.insert(table.to_owned(), Arc::downgrade(&outbox));
            outbox
        });
        outbox.readers.fetch_add(1, Ordering::Relaxed);
        Place {
            outbox,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.outbox.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// A query for new messages is made.
    pub(super) fn count_read(&self) {
        self.metrics.outbox_reads.inc();
    }

    /// The step that another reader took from here.
    pub(super) fn step_from(&self, base: &Snapshot) -> Option<Arc<Step>> {
        let steps = self.outbox.steps.lock();
        steps.iter().find(|step| step.round.old == *base).cloned()
    }

    /// Begins a step that others may take, too, unless one of them has just begun
    /// another from the same place: then that one. None if there is nobody, or if
    /// it leads nowhere.
    pub(super) fn begin(&self, round: &Arc<Round>, mark: Mark) -> Option<Arc<Step>> {
        let others = self.outbox.readers.load(Ordering::Relaxed).saturating_sub(1);
        if others == 0 || round.old == round.new {
            return None;
        }
        let mut steps = self.outbox.steps.lock();
        if let Some(begun) = steps.iter().find(|step| step.round.old == round.old) {
            return Some(Arc::clone(begun));
        }
        let step = Arc::new(Step {
            round: Arc::clone(round),
            mark,
            rows: OnceCell::new(),
            wanted: AtomicUsize::new(others + 1),
        });
        steps.push_back(Arc::clone(&step));
        let mut bytes: usize = steps.iter().map(|step| step.bytes()).sum();
        while steps.len() > KEPT || bytes > KEPT_BYTES {
            bytes -= steps.pop_front().map_or(0, |step| step.bytes());
        }
        Some(step)
    }

    /// The messages of a step, read by whoever comes first; and whether they are
    /// all of them, which only whoever has read them just now sees otherwise.
    /// None when others have found them too many to be shared.
    ///
    /// # Errors
    /// When reading them fails; the next one tries again.
    pub(super) async fn take(
        &self,
        step: &Arc<Step>,
        read: impl Future<Output = Result<(Vec<Row>, bool), Failure>>,
    ) -> Result<Option<(Vec<Row>, bool)>, Failure> {
        let (mut asked, mut first_of_many) = (false, None);
        let rows = step
            .rows
            .get_or_try_init(async || {
                asked = true;
                let (rows, complete) = read.await?;
                if complete {
                    return Ok(Some(Arc::from(rows)));
                }
                first_of_many = Some((rows, false));
                Ok(None)
            })
            .await?;
        if !asked && rows.is_some() {
            self.metrics.outbox_reads_shared.inc();
        }
        if step.wanted.fetch_sub(1, Ordering::Relaxed) <= 1 || rows.is_none() {
            self.outbox.steps.lock().retain(|kept| !Arc::ptr_eq(kept, step));
        }
        Ok(rows.as_ref().map(|rows| (rows.to_vec(), true)).or(first_of_many))
    }
}

impl Step {
    fn bytes(&self) -> usize {
        let rows = self.rows.get().and_then(Option::as_ref);
        rows.map_or(0, |rows| rows.iter().map(Row::bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn round(old: &str, new: &str) -> Arc<Round> {
        Arc::new(Round {
            old: old.parse().unwrap(),
            new: new.parse().unwrap(),
        })
    }

    const MARK: Mark = Mark {
        sequence_value: 1,
        next_xid: 1,
    };

    fn rows(ids: &[i64]) -> Vec<Row> {
        let row = |id: &i64| Row {
            id: *id,
            created_at: 0,
            headers: Bytes::new(),
            payload: Bytes::from(vec![b'x'; 1_000]),
            redelivery: None,
        };
        ids.iter().map(row).collect()
    }

    fn ids(taken: Option<(Vec<Row>, bool)>) -> Option<(Vec<i64>, bool)> {
        taken.map(|(rows, complete)| (rows.iter().map(|row| row.id).collect(), complete))
    }

    fn nobody_asks() -> impl Future<Output = Result<(Vec<Row>, bool), Failure>> {
        std::future::poll_fn(|_| panic!("asked the database"))
    }

    #[test]
    fn who_is_alone_keeps_nothing() {
        let outboxes = Outboxes::new(Arc::new(Metrics::new()));
        let only = outboxes.enter("t");
        let _elsewhere = outboxes.enter("u");
        assert!(only.begin(&round("1:1:", "2:2:"), MARK).is_none());
        let other = outboxes.enter("t");
        assert!(
            only.begin(&round("2:2:", "2:2:"), MARK).is_none(),
            "leads nowhere"
        );
        let step = only.begin(&round("2:2:", "3:3:"), MARK).unwrap();
        let again = other.begin(&round("2:2:", "4:4:"), MARK).unwrap();
        assert!(Arc::ptr_eq(&step, &again), "both saw a tick at once");
        drop(other);
        assert!(only.begin(&round("3:3:", "4:4:"), MARK).is_none());
    }

    #[tokio::test]
    async fn readers_that_stand_together_ask_once() {
        let outboxes = Outboxes::new(Arc::new(Metrics::new()));
        let (first, second) = (outboxes.enter("t"), outboxes.enter("t"));
        let round = round("1:1:", "2:2:");
        let step = first.begin(&round, MARK).unwrap();
        let read = async { Ok((rows(&[1, 2]), true)) };
        assert_eq!(
            ids(first.take(&step, read).await.unwrap()),
            Some((vec![1, 2], true))
        );
        assert!(
            second.step_from(&round.new).is_none(),
            "nobody went on from there"
        );
        let found = second.step_from(&round.old).unwrap();
        assert_eq!(found.round, round);
        let taken = second.take(&found, nobody_asks()).await.unwrap();
        assert_eq!(ids(taken), Some((vec![1, 2], true)));
        assert!(second.step_from(&round.old).is_none(), "all have it");
        assert_eq!(first.metrics.outbox_reads_shared.get(), 1);
    }

    #[tokio::test]
    async fn who_fails_leaves_it_to_the_next() {
        let outboxes = Outboxes::new(Arc::new(Metrics::new()));
        let (first, second) = (outboxes.enter("t"), outboxes.enter("t"));
        let step = first.begin(&round("1:1:", "2:2:"), MARK).unwrap();
        let fails = async { Err(Failure::transient("gone")) };
        assert!(first.take(&step, fails).await.is_err());
        let read = async { Ok((rows(&[1]), true)) };
        assert_eq!(
            ids(second.take(&step, read).await.unwrap()),
            Some((vec![1], true))
        );
    }

    #[tokio::test]
    async fn what_is_too_much_is_for_the_one_who_has_it() {
        let outboxes = Outboxes::new(Arc::new(Metrics::new()));
        let (first, second) = (outboxes.enter("t"), outboxes.enter("t"));
        let round = round("1:1:", "2:2:");
        let step = first.begin(&round, MARK).unwrap();
        let read = async { Ok((rows(&[1, 2]), false)) };
        assert_eq!(
            ids(first.take(&step, read).await.unwrap()),
            Some((vec![1, 2], false))
        );
        assert_eq!(ids(second.take(&step, nobody_asks()).await.unwrap()), None);
        assert!(second.step_from(&round.old).is_none());
    }

    #[tokio::test]
    async fn who_is_far_behind_finds_nothing_and_costs_little() {
        let outboxes = Outboxes::new(Arc::new(Metrics::new()));
        let (first, second) = (outboxes.enter("t"), outboxes.enter("t"));
        for xid in 1..1_000_u64 {
            let round = round(&format!("{xid}:{xid}:"), &format!("{0}:{0}:", xid + 1));
            let step = first.begin(&round, MARK).unwrap();
            let read = async { Ok((rows(&[0; 20]), true)) };
            first.take(&step, read).await.unwrap();
        }
        assert!(second.step_from(&"1:1:".parse().unwrap()).is_none());
        assert!(second.step_from(&"999:999:".parse().unwrap()).is_some());
        let steps = first.outbox.steps.lock();
        let bytes: usize = steps.iter().map(|step| step.bytes()).sum();
        assert!(steps.len() > 1 && bytes <= KEPT_BYTES + 20_000, "{bytes}");
    }
}
