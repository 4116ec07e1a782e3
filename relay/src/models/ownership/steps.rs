//! Which steps can be made, and those of owners and of PostgreSQL.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use super::{Action, Broker, Fault, Owner, Ownership, Phase, Protection, Row, State};
use crate::cursor::{Positions, Window};

impl Ownership {
    /// The steps that are possible.
    pub(super) fn enabled(&self, state: &State, actions: &mut Vec<Action>) {
        // Relays without the pipeline are all alike: the first of them acts.
        if state.lock.is_none()
            && let Some(relay) = state.relays.iter().position(Option::is_none)
        {
            actions.push(Action::Take(relay));
        }
        for (relay, owner) in state.relays.iter().enumerate() {
            if let Some(owner) = owner {
                self.enabled_of(state, relay, owner, actions);
            }
        }
        for (n, connection) in state.connections.iter().enumerate() {
            if connection.requests.iter().any(|r| r.fate.is_none()) {
                actions.push(Action::Handle(n));
            }
            if connection.gone {
                if matches!(self.broker, Broker::Settling { late: false, .. }) {
                    actions.push(Action::Lose(n));
                }
                continue;
            }
            if connection.requests[0].fate.is_some() {
                actions.push(Action::Acknowledge(n));
            }
            if self.may_fail(state, Fault::Connection) {
                actions.push(Action::Break(Fault::Connection, n));
            }
        }
        actions.extend((0..state.delayed.len()).map(Action::Execute));
    }

    fn enabled_of(&self, state: &State, relay: usize, owner: &Owner, actions: &mut Vec<Action>) {
        let is_stale = state.lock != Some(relay);
        if is_stale {
            actions.push(Action::Learn(relay));
        }
        let empty = owner.window.is_empty();
        let mut writes = owner.phase == Phase::FirstCheckpoint;
        match owner.phase {
            Phase::Send => {
                if owner.ending.is_none() && owner.next <= self.messages && owner.window.len() < self.window {
                    actions.push(Action::Send(relay));
                }
                if owner.moved {
                    writes = true;
                    actions.push(Action::Checkpoint(relay));
                }
                if owner.ending.is_some() && empty {
                    writes = true;
                    actions.push(Action::Finish(relay));
                }
            }
            Phase::ReadTail if owner.scan && !self.is_settled(state, relay) => {}
            phase => actions.push(Action::Proceed(relay, phase)),
        }
        let mut fail = |fault, possible: bool| {
            if possible && self.may_fail(state, fault) {
                actions.push(Action::Break(fault, relay));
            }
        };
        fail(Fault::Crash, true);
        fail(Fault::Session, !is_stale);
        fail(Fault::Writer, writes);
        let may_end = owner.phase == Phase::Send && owner.ending.is_none();
        fail(Fault::Stop, may_end);
        fail(Fault::Restart, may_end);
    }

    fn may_fail(&self, state: &State, fault: Fault) -> bool {
        state.faults < self.most_faults && self.faults.contains(&fault)
    }

    /// Whether nothing of others comes any more, as far as a settle time can
    /// tell: what is on its way has come or is lost, and owners whose session
    /// has ended know it.
    fn is_settled(&self, state: &State, relay: usize) -> bool {
        let Broker::Settling { late: false, .. } = self.broker else {
            return true;
        };
        let mut others = state.relays.iter().enumerate().filter(|(n, _)| *n != relay);
        state.connections.iter().all(|c| !c.gone)
            && others.all(|(n, owner)| owner.is_none() || state.lock == Some(n))
    }

    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Take(relay) => {
                state.lock = Some(relay);
                state.epoch += 1;
                Arc::make_mut(&mut state.row).epoch = state.epoch;
                state.relays[relay] = Some(self.attempt(state, state.epoch).into());
            }
            Action::Proceed(relay, phase) => self.proceed(state, relay, phase),
            Action::Send(relay) => self.send(state, relay),
            Action::Handle(n) => self.handle(state, n),
            Action::Acknowledge(n) => self.acknowledge(state, n),
            Action::Checkpoint(relay) => {
                if self.write(state, relay, false) {
                    state.owner(relay).moved = false;
                }
            }
            Action::Finish(relay) => self.finish(state, relay),
            Action::Learn(relay) => state.end(relay),
            Action::Lose(n) => {
                state.connections.remove(n);
            }
            Action::Execute(n) => {
                let row = state.delayed.remove(n);
                self.execute(state, row);
            }
            Action::Break(fault, n) => {
                state.faults += 1;
                self.fail(state, fault, n);
            }
        }
    }

    fn attempt(&self, state: &State, epoch: u8) -> Owner {
        let mut nothing = state.row.progress.clone();
        (nothing.last_id, nothing.committed_offset) = (0, 0);
        nothing.positions = Positions::new();
        Owner {
            epoch,
            phase: Phase::ReadCursor,
            producer: 0,
            scan: false,
            landed: BTreeSet::new(),
            window: Window::new(nothing),
            next: 0,
            sent: vec![0; self.partitions],
            moved: false,
            ending: None,
        }
    }

    /// From the cursor to the first checkpoint.
    fn proceed(&self, state: &mut State, relay: usize, phase: Phase) {
        let next = match phase {
            Phase::ReadCursor => {
                let Row { progress, clean, .. } = Row::clone(&state.row);
                let owner = state.owner(relay);
                owner.scan = !clean;
                owner.next = progress.last_id + 1;
                let mut progress = progress;
                if clean {
                    progress.positions = Positions::new();
                }
                owner.window = Window::new(progress);
                Phase::InitProducer
            }
            Phase::InitProducer | Phase::InitAgain => {
                state.producer += 1;
                state.owner(relay).producer = state.producer;
                match self.broker {
                    Broker::Fencing if phase == Phase::InitProducer => Phase::Mark,
                    _ => Phase::ReadTail,
                }
            }
            Phase::Mark => {
                let producer = state.owner(relay).producer;
                if producer < state.producer {
                    // Somebody else began meanwhile.
                    return state.end(relay);
                }
                for log in &mut state.logs {
                    log.fence = producer;
                }
                Phase::InitAgain
            }
            Phase::ReadTail => {
                self.read_tail(state, relay);
                Phase::FirstCheckpoint
            }
            Phase::FirstCheckpoint => {
                let skipped = self.off == Some(Protection::FirstCheckpoint);
                if !skipped && !self.write(state, relay, false) {
                    return;
                }
                Phase::Send
            }
            Phase::Send => return,
        };
        state.owner(relay).phase = next;
    }

    fn read_tail(&self, state: &mut State, relay: usize) {
        let ends: Positions = (0u32..)
            .zip(&state.logs)
            .map(|(partition, log)| (name(partition).to_string(), position(log.entries.len())))
            .collect();
        let known = &state.owner(relay).window.progress().positions;
        let new: Positions = ends
            .into_iter()
            .filter(|(name, _)| !known.contains_key(name))
            .collect();
        let owner = state.owner(relay);
        owner.window.add_positions(&new);
        owner.window.take_moved();
        let scan = std::mem::take(&mut owner.scan);
        if !scan || self.off == Some(Protection::TailScan) {
            return;
        }
        let since = owner.window.progress().positions.clone();
        let mut landed = BTreeSet::new();
        for (partition, log) in (0u32..).zip(&state.logs) {
            let start = usize::try_from(since[&*name(partition)]).unwrap();
            landed.extend(log.entries.iter().skip(start).map(|entry| entry.id));
        }
        state.owner(relay).landed = landed;
    }

    /// Writes a checkpoint; false when it was refused, which ends the owner.
    fn write(&self, state: &mut State, relay: usize, clean: bool) -> bool {
        let owner = state.owner(relay);
        let row = Row {
            epoch: owner.epoch,
            progress: owner.window.progress().clone(),
            clean,
        };
        let written = self.execute(state, row);
        if !written {
            state.end(relay);
        }
        written
    }

    fn execute(&self, state: &mut State, row: Row) -> bool {
        let accepted = self.accepts(state, row.epoch);
        if accepted {
            let epoch = state.row.epoch;
            state.row = Row { epoch, ..row }.into();
        }
        accepted
    }

    /// Whether the row takes a checkpoint of this epoch.
    pub(super) fn accepts(&self, state: &State, epoch: u8) -> bool {
        epoch == state.row.epoch || self.off == Some(Protection::EpochFence)
    }

    fn finish(&self, state: &mut State, relay: usize) {
        let owner = state.owner(relay);
        let (clean, ending) = (owner.landed.is_empty(), owner.ending);
        if !self.write(state, relay, clean) {
            return;
        }
        match ending {
            Some(Fault::Restart) => self.again(state, relay),
            _ => state.end(relay),
        }
    }

    /// Begins another attempt under the same lock and epoch.
    pub(super) fn again(&self, state: &mut State, relay: usize) {
        let epoch = state.owner(relay).epoch;
        state.hang_up(relay);
        state.relays[relay] = Some(self.attempt(state, epoch).into());
    }

    fn fail(&self, state: &mut State, fault: Fault, n: usize) {
        match fault {
            Fault::Crash => state.end(n),
            Fault::Session => state.lock = None,
            Fault::Connection => self.break_connection(state, n),
            Fault::Writer => {
                let owner = state.owner(n);
                let row = Row {
                    epoch: owner.epoch,
                    progress: owner.window.progress().clone(),
                    clean: owner.ending.is_some() && owner.window.is_empty() && owner.landed.is_empty(),
                };
                let new_epoch = row.clean && self.off != Some(Protection::NewEpochAfterClean);
                let ends = new_epoch || owner.ending == Some(Fault::Stop);
                state.delayed.push(row);
                if ends {
                    state.end(n);
                } else {
                    self.again(state, n);
                }
            }
            Fault::Stop | Fault::Restart => state.owner(n).ending = Some(fault),
        }
    }
}

impl State {
    pub(super) fn owner(&mut self, relay: usize) -> &mut Owner {
        Arc::make_mut(self.relays[relay].as_mut().unwrap())
    }

    /// The relay owns nothing any more, and knows it.
    pub(super) fn end(&mut self, relay: usize) {
        self.hang_up(relay);
        self.relays[relay] = None;
        if self.lock == Some(relay) {
            self.lock = None;
        }
    }

    /// Gives the connections up: nobody waits for answers any more.
    fn hang_up(&mut self, relay: usize) {
        let producer = self.relays[relay].as_ref().unwrap().producer;
        for connection in self.connections.iter_mut().filter(|c| c.producer == producer) {
            connection.give_up();
        }
    }
}

/// Of a partition, as positions are named.
pub(super) fn name(partition: u32) -> Arc<str> {
    static NAMES: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| ["t/0".into(), "t/1".into()]);
    NAMES[partition as usize].clone()
}

pub(super) fn position(index: usize) -> i64 {
    i64::try_from(index).unwrap()
}
