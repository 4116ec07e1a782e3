//! Positions in an outbox: snapshots, rounds, the window of unacknowledged
//! messages, and the low-water mark. Pure: no I/O, no clock.
//!
//! In: snapshots from the tick, ids in the order they were sent, outcomes in
//! any order. Out: the position up to which everything is delivered.
//! The reasoning is in docs/design/cursor.md.

mod low_water;
mod snapshot;
mod window;

pub(crate) use low_water::LowWater;
pub(crate) use snapshot::Snapshot;
pub(crate) use window::{Progress, Settlement, Ticket, Window};

use std::collections::BTreeMap;

/// A pair of snapshots. Its messages are those visible in `new` and not in
/// `old`, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Round {
    pub(crate) old: Snapshot,
    pub(crate) new: Snapshot,
}

/// Where the next message of a sink's log would be: per topic partition or
/// stream, the broker position after the last one known to be delivered.
pub(crate) type Positions = BTreeMap<String, i64>;
