//! Relays that take one pipeline from each other, its row in PostgreSQL, and a
//! broker at the end of a network that delays, loses and reorders.
//!
//! A freeze is no step of its own: it is a pause in the interleaving. What
//! makes it dangerous is that the server ends the session meanwhile
//! ([`Fault::Session`]) and the relay goes on with what it had.

mod properties;
mod sending;
mod steps;
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use stateright::{Model, Property};

use crate::cursor::{Positions, Progress, Round, Snapshot, Window};

/// What a run allows, and what it does without.
#[derive(Debug, Clone)]
struct Ownership {
    relays: usize,
    /// All published at the beginning; their keys alternate between partitions.
    messages: i64,
    partitions: usize,
    /// Messages in flight.
    window: usize,
    broker: Broker,
    /// Answers reach the owner in a step of their own. Without this they come
    /// at once; that one is lost is then told by a connection that breaks
    /// before the broker takes the request.
    slow_answers: bool,
    faults: &'static [Fault],
    /// Of all kinds together.
    most_faults: u8,
    off: Option<Protection>,
}

/// How the broker helps against requests of earlier owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broker {
    /// Kafka by the relay's own producer: epochs and sequence numbers.
    Fencing,
    /// Not at all: the reader of the tail waits.
    Settling {
        /// A request may arrive, or be sent by a frozen owner that wakes,
        /// when the settle time is over.
        late: bool,
        /// The stream refuses ids that it knows (`Nats-Msg-Id`).
        window: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// A relay dies: lock and connections go, requests may be on their way.
    Crash,
    /// The server ends the session of an owner that does not know it yet.
    Session,
    /// A connection to the broker breaks: what was not handled yet may arrive
    /// late or never, what was is not acknowledged.
    Connection,
    /// The connection breaks on which a checkpoint is written: it may be
    /// executed much later or never, and the attempt begins anew.
    Writer,
    /// Told to hand over in good order.
    Stop,
    /// Told to begin anew under the same lock and epoch (configuration, sleep).
    Restart,
}

/// What a run can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    EpochFence,
    TailScan,
    BrokerFence,
    ContiguousPrefix,
    /// The checkpoint before the first message.
    FirstCheckpoint,
    /// Whoever has no answer to a clean checkpoint takes a new epoch.
    NewEpochAfterClean,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct State {
    /// Who holds the advisory lock, as the server sees it.
    lock: Option<usize>,
    /// The last epoch given.
    epoch: u8,
    row: Arc<Row>,
    /// Checkpoints whose senders have given up.
    delayed: Vec<Row>,
    relays: Vec<Option<Arc<Owner>>>,
    /// The last producer epoch that the coordinator gave; without a fence, the
    /// number of attempts.
    producer: u8,
    logs: Vec<Log>,
    connections: Vec<Connection>,
    faults: u8,
}

/// The pipeline's cursor, or a checkpoint for it.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Row {
    epoch: u8,
    progress: Progress,
    clean: bool,
}

/// A relay that takes itself for the owner.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Owner {
    epoch: u8,
    phase: Phase,
    /// Under which it sends.
    producer: u8,
    scan: bool,
    landed: BTreeSet<i64>,
    window: Window,
    /// The message to look at next.
    next: i64,
    /// Messages sent, per partition.
    sent: Vec<u8>,
    /// The cursor moved since it was written.
    moved: bool,
    ending: Option<Fault>,
}

/// What it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    ReadCursor,
    /// `InitProducerId`, or the connection without a fence.
    InitProducer,
    /// The markers in the partitions.
    Mark,
    InitAgain,
    ReadTail,
    FirstCheckpoint,
    Send,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Log {
    entries: Vec<Entry>,
    /// The highest producer epoch that the partition's leader has seen.
    fence: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Entry {
    id: i64,
    producer: u8,
    sequence: u8,
}

/// From one attempt to one partition, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Connection {
    producer: u8,
    partition: usize,
    /// Its owner has given it up; the broker may still get what is in it.
    gone: bool,
    requests: VecDeque<Request>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Request {
    id: i64,
    sequence: u8,
    /// What the broker answered.
    fate: Option<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fate {
    Placed(i64),
    Duplicate,
    Fenced,
}

/// Numbers are those of relays, connections or delayed checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Takes the lock and raises the epoch: nothing but the holder of the lock
    /// does that, so one step shows what two would.
    Take(usize),
    /// The next phase up to the first checkpoint.
    Proceed(usize, Phase),
    Send(usize),
    /// The broker takes a request.
    Handle(usize),
    Acknowledge(usize),
    Checkpoint(usize),
    /// The clean checkpoint, and what follows.
    Finish(usize),
    /// Sees that the session is gone.
    Learn(usize),
    /// A connection that was given up is over: nothing more arrives by it.
    Lose(usize),
    Execute(usize),
    Break(Fault, usize),
}

impl State {
    /// Makes states equal that differ in nothing that matters any more: the
    /// producers of messages nobody can repeat, and gaps between epochs.
    fn simplify(&mut self) {
        self.connections.retain(|c| !c.requests.is_empty());
        let owners = self.relays.iter().flatten().map(|owner| owner.producer);
        let senders: BTreeSet<u8> = owners
            .chain(self.connections.iter().map(|c| c.producer))
            .collect();
        let fences = self.logs.iter().map(|log| log.fence);
        let mut all: BTreeSet<u8> = senders.iter().copied().chain(fences).collect();
        all.extend([0, self.producer]);
        let rank = |producer: &mut u8| *producer = u8::try_from(all.range(..*producer).count()).unwrap();
        for log in &mut self.logs {
            rank(&mut log.fence);
            for entry in &mut log.entries {
                if senders.contains(&entry.producer) {
                    rank(&mut entry.producer);
                } else {
                    (entry.producer, entry.sequence) = (0, 0);
                }
            }
        }
        for owner in self.relays.iter_mut().flatten() {
            let mut producer = owner.producer;
            rank(&mut producer);
            if producer != owner.producer {
                Arc::make_mut(owner).producer = producer;
            }
        }
        self.connections.iter_mut().for_each(|c| rank(&mut c.producer));
        rank(&mut self.producer);
        self.connections.sort();
    }
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let round = Round {
            old: Snapshot::of_nothing(),
            new: "9:9:".parse().unwrap(),
        };
        let progress = Progress {
            round: Arc::new(round),
            last_id: 0,
            committed_offset: 0,
            positions: Positions::new(),
        };
        vec![State {
            lock: None,
            epoch: 0,
            row: Arc::new(Row {
                epoch: 0,
                progress,
                clean: false,
            }),
            delayed: Vec::new(),
            relays: vec![None; self.relays],
            producer: 0,
            logs: vec![
                Log {
                    entries: Vec::new(),
                    fence: 0
                };
                self.partitions
            ],
            connections: Vec::new(),
            faults: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.enabled(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        next.simplify();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
