//! Transactions that publish, ticks that look, a reader that follows by
//! snapshots, dies and resumes. What the relay decides here is decided by its
//! own code: `Snapshot`, `Window`, `LowWater`, `News`, `may_be_new`. What
//! PostgreSQL does is in [`database`].

mod database;
mod properties;
mod steps;
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

use database::Database;
use stateright::{Model, Property};

use crate::cursor::{LowWater, Positions, Progress, Round, Snapshot, Window};
use crate::source::outbox::{Mark, Tick};
use crate::supervisor::News;

/// What a run allows, and what it does without.
#[derive(Debug, Clone)]
struct Cursor {
    transactions: usize,
    ids: usize,
    /// Ids may be taken whose rows are rolled back to a savepoint.
    savepoints: bool,
    /// Each with ticks of its own; one of them has the pipeline.
    relays: usize,
    /// What a tick reads it reads in one step.
    whole_ticks: bool,
    /// Messages in flight; 0: a round is read, delivered and checkpointed in one step.
    window: usize,
    off: Option<Protection>,
    now: Instant,
}

/// What a run can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// Snapshots: without them, `id > last`.
    Snapshots,
    /// The next xid: without it, the snapshot's `xmax` is taken for it.
    NextXid,
    /// The sequence is read before the next xid and the snapshot.
    SequenceFirst,
    /// A tick from before the stored cursor is not taken.
    NoOlderTick,
    /// Positions wait for what was found in the log.
    HeldPositions,
    /// An attempt's first tick says nothing of the low-water mark.
    NoFirstSample,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct State {
    database: Database,
    tickers: Vec<Ticker>,
    attempt: Option<Arc<Attempt>>,
    stored: Arc<Stored>,
    /// Ids in the broker's log.
    log: Vec<i64>,
}

/// A relay's ticks.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Ticker {
    /// What the tick under way has read.
    sequence_value: Option<i64>,
    next_xid: Option<u64>,
    snapshot: Option<Snapshot>,
    news: News,
    /// The last that was told.
    told: Option<Tick>,
}

/// The group's cursor in PostgreSQL.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Stored {
    progress: Progress,
    low_water: (i64, Positions),
}

/// The pipeline at work.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Attempt {
    relay: usize,
    /// The reader's.
    base: Snapshot,
    known: Option<Mark>,
    /// The mark when the reader began.
    low_water_id: i64,
    /// The highest id read.
    highest: i64,
    read: VecDeque<Item>,
    window: Window,
    low_water: LowWater,
    landed: BTreeSet<i64>,
    landed_by: Option<Snapshot>,
    is_first: bool,
    /// Ids and places in the log that are not acknowledged.
    in_flight: Vec<(i64, i64)>,
    moved: bool,
}

/// What the reader hands on.
#[derive(Debug, Clone, PartialEq, Hash)]
enum Item {
    Start(Arc<Round>, Mark),
    Row(i64),
    End(Snapshot),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A transaction takes its xid.
    Begin,
    /// It takes an id, after its xid: columns are filled in their order.
    TakeId {
        transaction: usize,
        kept: bool,
    },
    Commit(usize),
    RollBack(usize),
    /// The next read of a relay's tick.
    Tick(usize),
    /// A relay takes the pipeline over.
    Start(usize),
    /// The reader reads a round.
    Read,
    /// The next row goes into the window and the log.
    Send,
    Acknowledge(usize),
    Checkpoint,
    Crash,
}

impl Model for Cursor {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let ticker = Ticker {
            sequence_value: None,
            next_xid: None,
            snapshot: None,
            news: News::default(),
            told: None,
        };
        vec![State {
            database: Database::default(),
            tickers: vec![ticker; self.relays],
            attempt: None,
            stored: Arc::new(Stored {
                progress: Progress::none(),
                low_water: (0, Positions::new()),
            }),
            log: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.enabled(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }

    /// Where something is delivered twice there is no end to it.
    fn within_boundary(&self, state: &State) -> bool {
        state.log.len() <= self.ids + 1
    }
}
