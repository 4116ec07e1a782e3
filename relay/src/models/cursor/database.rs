//! PostgreSQL as far as it matters: xids, the sequence, rows, snapshots, and
//! the queries of `database::outbox`.

use crate::cursor::{Round, Snapshot};
use crate::source::outbox::Mark;

/// The first xid given.
const FIRST: u64 = 4;

/// Transactions in the order of their xids, rows in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Database {
    pub(super) transactions: Vec<Transaction>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transaction {
    Open,
    Committed,
    RolledBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) transaction: usize,
    /// Not rolled back to a savepoint.
    pub(super) kept: bool,
    /// Ids that were committed before this one was taken.
    pub(super) after: Vec<i64>,
}

impl Database {
    pub(super) fn sequence_value(&self) -> i64 {
        i64::try_from(self.rows.len()).unwrap()
    }

    pub(super) fn next_xid(&self) -> u64 {
        FIRST + self.transactions.len() as u64
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let xids = || (FIRST..).zip(&self.transactions);
        let finished = xids().filter(|(_, t)| **t != Transaction::Open);
        // One above the last that has finished.
        let xmax = finished.last().map_or(FIRST, |(xid, _)| xid + 1);
        let open = xids().filter(|(xid, t)| **t == Transaction::Open && *xid < xmax);
        let open: Vec<String> = open.map(|(xid, _)| xid.to_string()).collect();
        let xmin = open.first().cloned().unwrap_or(xmax.to_string());
        format!("{xmin}:{xmax}:{}", open.join(",")).parse().unwrap()
    }

    pub(super) fn take_id(&mut self, transaction: usize, kept: bool) {
        let after = self.committed().map(|(id, _)| id).collect();
        self.rows.push(Row {
            transaction,
            kept,
            after,
        });
    }

    pub(super) fn all_finished(&self) -> bool {
        !self.transactions.contains(&Transaction::Open)
    }

    /// Ids and xids of the rows that a query finds.
    pub(super) fn committed(&self) -> impl Iterator<Item = (i64, u64)> {
        self.rows_of(Transaction::Committed)
    }

    /// Those that may yet be.
    pub(super) fn open(&self) -> impl Iterator<Item = (i64, u64)> {
        self.rows_of(Transaction::Open)
    }

    fn rows_of(&self, state: Transaction) -> impl Iterator<Item = (i64, u64)> {
        let rows = (1i64..).zip(&self.rows);
        let found = rows.filter(move |(_, row)| row.kept && self.transactions[row.transaction] == state);
        found.map(|(id, row)| (id, FIRST + row.transaction as u64))
    }

    /// `copy_by_id`, all its pages. That later pages are read later makes no
    /// difference: what the round's new snapshot sees has ended before.
    pub(super) fn by_id(&self, round: &Round, after: i64) -> Vec<i64> {
        let rows = self.committed().filter(|(id, _)| *id > after);
        let new = rows.filter(|(_, xid)| round.new.sees(*xid) && !round.old.sees(*xid));
        new.map(|(id, _)| id).collect()
    }

    /// `read_by_xid`.
    pub(super) fn by_xid(&self, round: &Round) -> Vec<i64> {
        let finished = round.old.finished_in(&round.new);
        let between = round.old.xmax()..round.new.xmax();
        let is_new = |xid: &u64| between.contains(xid) && round.new.sees(*xid) || finished.contains(xid);
        self.committed()
            .filter(|(_, xid)| is_new(xid))
            .map(|(id, _)| id)
            .collect()
    }

    /// `lowest_overlapping`, and what the reader makes of it.
    pub(super) fn floor(&self, round: &Round, before: Mark) -> i64 {
        let finished = round.old.finished_in(&round.new);
        let between = round.old.xmax()..before.next_xid;
        let overlaps = |xid: &u64| between.contains(xid) || finished.contains(xid);
        let lowest = self
            .committed()
            .filter(|(_, xid)| overlaps(xid))
            .map(|(id, _)| id)
            .min();
        lowest.map_or(before.sequence_value, |id| before.sequence_value.min(id - 1))
    }
}
