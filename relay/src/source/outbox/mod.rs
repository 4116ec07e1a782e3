//! Reads an outbox: waits for a tick that may bring something, and reads the
//! messages that became visible since the last one, in pages, in id order.
//!
//! Several readers of one outbox share what they read while they are near each
//! other. Two shapes of query, chosen here: few new messages are found by xid, a
//! backlog is walked by id. Both give the same rows for the same round.

mod shared;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub(crate) use self::shared::Outboxes;
use self::shared::{Place, Step};

use crate::cursor::{Progress, Round, Snapshot};
use crate::database::{Pool, outbox};
use crate::encode::Row;
use crate::failure::Failure;
use crate::sabotage::Protection;

/// Up to so many new ids, the messages are found by xid and sorted.
const FEW: i64 = 4_000;
/// Bytes that a page should have.
const PAGE_BYTES: usize = 2 << 20;
/// Rows that a page may have.
const PAGE_ROWS: usize = 8_000;

/// What one look at the database said: see [`outbox::Look`].
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
pub(crate) struct Tick {
    pub(crate) sequence_value: i64,
    pub(crate) next_xid: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Transactions from this xid on had taken no id when `sequence_value`
    /// was read.
    pub(crate) quiet_from: u64,
}

/// A sequence value and the next xid read after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) sequence_value: i64,
    pub(crate) next_xid: u64,
}

/// Messages of a round, or a part of them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) round: Arc<Round>,
    /// Sequence value and next xid of the tick that opened the round, on its
    /// first page.
    pub(crate) starts: Option<Mark>,
    pub(crate) rows: Vec<Row>,
    pub(crate) ends: bool,
}

/// Reads one outbox for one pipeline.
pub(crate) struct Reader {
    pool: Arc<Pool>,
    table: String,
    place: Place,
    ticks: watch::Receiver<Option<Tick>>,
    pages: mpsc::Sender<Result<Page, Failure>>,
    page_rows: usize,
    /// Nothing undelivered has an id up to here.
    low_water_id: i64,
}

impl Reader {
    pub(crate) fn new(
        pool: Arc<Pool>,
        outboxes: &Outboxes,
        table: String,
        ticks: watch::Receiver<Option<Tick>>,
        pages: mpsc::Sender<Result<Page, Failure>>,
        first_page_rows: usize,
        low_water_id: i64,
    ) -> Self {
        let page_rows = first_page_rows.clamp(1, PAGE_ROWS);
        Self {
            pool,
            place: outboxes.enter(&table),
            table,
            ticks,
            pages,
            page_rows,
            low_water_id,
        }
    }

    /// Reads until the receiver of the pages is gone or a read fails; the
    /// failure is the last thing sent.
    pub(crate) async fn run(mut self, start: Progress) {
        if let Err(Some(failure)) = self.read(start).await {
            let _ = self.pages.send(Err(failure)).await;
        }
    }

    /// `Err(None)` when nobody wants the pages any more.
    async fn read(&mut self, start: Progress) -> Result<(), Option<Failure>> {
        if Protection::SnapshotCursor.is_off() {
            return self.follow_ids(start).await;
        }
        let mut base = start.round.new.clone();
        if start.round.old != start.round.new {
            let after = start.last_id.max(self.low_water_id);
            self.walk(&start.round, after, None).await?;
        }
        let mut known: Option<Mark> = None;
        loop {
            let step = self.place.step_from(&base);
            if let Some(reached) = self.join(step).await? {
                (base, known) = reached;
                continue;
            }
            let tick = self.next_tick(&base, known).await?;
            let round = Arc::new(Round {
                old: base,
                new: (*tick.snapshot).clone(),
            });
            let mark = Mark {
                sequence_value: tick.sequence_value,
                next_xid: tick.next_xid,
            };
            match known {
                Some(before) if mark.sequence_value - before.sequence_value <= FEW => {
                    let step = self.place.begin(&round, mark);
                    if let Some(reached) = self.join(step).await? {
                        (base, known) = reached;
                        continue;
                    }
                    self.look(&round, mark, None).await?;
                }
                Some(before) => {
                    let after = self.floor(&round, before).await?;
                    self.walk(&round, after, Some(mark)).await?;
                }
                None => self.walk(&round, self.low_water_id, Some(mark)).await?,
            }
            base = round.new.clone();
            known = Some(mark);
        }
    }

    /// Reads what has a higher id than anything before: wrong, see
    /// [`Protection::SnapshotCursor`].
    async fn follow_ids(&mut self, start: Progress) -> Result<(), Option<Failure>> {
        let (mut base, mut after, mut known) = (start.round.new.clone(), start.committed_offset, None);
        loop {
            let tick = self.next_tick(&base, known).await?;
            let mark = Mark {
                sequence_value: tick.sequence_value,
                next_xid: tick.next_xid,
            };
            let all = Round {
                old: Snapshot::of_nothing(),
                new: (*tick.snapshot).clone(),
            };
            let rows = outbox::copy_by_id(&self.pool, &self.table, &all, after, PAGE_ROWS).await?;
            after = rows.last().map_or(after, |row| row.id);
            let new = all.new.clone();
            let round = Arc::new(Round { old: base, new });
            self.send(Page {
                round,
                starts: Some(mark),
                rows,
                ends: true,
            })
            .await?;
            (base, known) = (all.new, Some(mark));
        }
    }

    /// Waits for a tick that may bring something.
    async fn next_tick(&mut self, base: &Snapshot, known: Option<Mark>) -> Result<Tick, Option<Failure>> {
        loop {
            {
                let tick = self.ticks.borrow_and_update();
                if let Some(tick) = tick.as_ref().filter(|t| may_be_new(base, known, t)) {
                    return Ok(tick.clone());
                }
            }
            tokio::select! {
                changed = self.ticks.changed() => changed.map_err(|_| None)?,
                () = self.pages.closed() => return Err(None),
            }
        }
    }

    /// Everything new of the round lies above this id. A transaction whose xid
    /// was given out later took its ids above the mark's sequence value; one
    /// that may have been open then can hold older ones.
    async fn floor(&self, round: &Round, before: Mark) -> Result<i64, Option<Failure>> {
        let lowest = outbox::lowest_overlapping(&self.pool, &self.table, round, before.next_xid).await?;
        Ok(lowest.map_or(before.sequence_value, |id| before.sequence_value.min(id - 1)))
    }

    /// Takes a step together with others; returns where it leads. None when
    /// there is no such step.
    async fn join(
        &mut self,
        step: Option<Arc<Step>>,
    ) -> Result<Option<(Snapshot, Option<Mark>)>, Option<Failure>> {
        let Some(step) = step else {
            return Ok(None);
        };
        let taken = self.look(&step.round, step.mark, Some(&step)).await?;
        Ok(taken.then(|| (step.round.new.clone(), Some(step.mark))))
    }

    /// Few messages: by xid. When they turn out to be many, goes on by id.
    /// False when others have found a step too large for that.
    async fn look(
        &mut self,
        round: &Arc<Round>,
        mark: Mark,
        step: Option<&Arc<Step>>,
    ) -> Result<bool, Option<Failure>> {
        let limit = self.page_rows;
        let read = Box::pin(async {
            self.place.count_read();
            let rows = outbox::read_by_xid(&self.pool, &self.table, round, limit).await?;
            let complete = rows.len() < limit;
            Ok((rows, complete))
        });
        let taken = match step {
            Some(step) => self.place.take(step, read).await?,
            None => Some(read.await?),
        };
        let Some((rows, ends)) = taken else {
            return Ok(false);
        };
        let last = rows.last().map(|row| row.id).filter(|_| !ends);
        if !ends {
            self.adapt(&rows);
        }
        self.send(Page {
            round: Arc::clone(round),
            starts: Some(mark),
            rows,
            ends,
        })
        .await?;
        if let Some(after) = last {
            self.walk(round, after, None).await?;
        }
        Ok(true)
    }

    /// Pages by id after `after`, to the end of the round.
    async fn walk(
        &mut self,
        round: &Arc<Round>,
        mut after: i64,
        starts: Option<Mark>,
    ) -> Result<(), Option<Failure>> {
        let mut starts = starts;
        loop {
            let limit = self.page_rows;
            let rows = outbox::copy_by_id(&self.pool, &self.table, round, after, limit).await?;
            let ends = rows.len() < limit;
            after = rows.last().map_or(after, |row| row.id);
            self.adapt(&rows);
            self.send(Page {
                round: Arc::clone(round),
                starts: starts.take(),
                rows,
                ends,
            })
            .await?;
            if ends {
                return Ok(());
            }
        }
    }

    async fn send(&self, page: Page) -> Result<(), Option<Failure>> {
        self.pages.send(Ok(page)).await.map_err(|_| None)
    }

    /// As many rows as fit a page of the wanted size, growing step by step so
    /// that large messages do not come by the thousand.
    fn adapt(&mut self, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        let average = rows.iter().map(Row::bytes).sum::<usize>() / rows.len() + 64;
        self.page_rows = (PAGE_BYTES / average).clamp(1, (self.page_rows * 4).min(PAGE_ROWS));
    }
}

/// Whether a round from `base` to this tick can hold anything. `known` was read
/// before `base` was taken; without it `base` is the stored cursor. That may be
/// newer than the last tick that this relay told, when it is another's: the
/// tick would set the cursor back.
pub(crate) fn may_be_new(base: &Snapshot, known: Option<Mark>, tick: &Tick) -> bool {
    let Some(known) = known else {
        return tick.snapshot.includes(base);
    };
    known.sequence_value != tick.sequence_value || base.any_finished_below(tick.quiet_from, &tick.snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(sequence_value: i64, snapshot: &str, quiet_from: u64) -> Tick {
        Tick {
            sequence_value,
            next_xid: 99,
            snapshot: Arc::new(snapshot.parse().unwrap()),
            quiet_from,
        }
    }

    fn base(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    const KNOWN: Option<Mark> = Some(Mark {
        sequence_value: 5,
        next_xid: 12,
    });

    #[test]
    fn a_taken_id_is_worth_a_look() {
        assert!(may_be_new(&base("10:10:"), KNOWN, &tick(6, "11:11:", 11)));
        assert!(may_be_new(&base("10:10:"), None, &tick(6, "10:10:", 10)));
    }

    #[test]
    fn a_tick_from_before_the_stored_cursor_is_not() {
        assert!(!may_be_new(&base("12:12:"), None, &tick(6, "10:12:10", 12)));
        assert!(!may_be_new(&base("12:12:"), None, &tick(6, "11:11:", 12)));
        assert!(may_be_new(&base("10:12:10"), None, &tick(6, "12:13:", 13)));
    }

    #[test]
    fn other_transactions_are_not() {
        assert!(!may_be_new(&base("10:10:"), KNOWN, &tick(5, "90:90:", 10)));
        // Open at the base, but begun after the last id was taken.
        assert!(!may_be_new(&base("10:20:15"), KNOWN, &tick(5, "90:90:", 10)));
    }

    #[test]
    fn the_end_of_a_transaction_that_may_hold_an_id_is() {
        assert!(may_be_new(&base("10:20:11"), KNOWN, &tick(5, "20:20:", 12)));
        assert!(!may_be_new(&base("10:20:11"), KNOWN, &tick(5, "11:20:11", 12)));
        // Open at the base without being listed: none above it had ended.
        assert!(may_be_new(&base("10:10:"), KNOWN, &tick(5, "11:11:", 11)));
    }
}
