//! Which steps can be made, and those of ticks and of the pipeline.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::database::Transaction;
use super::{Action, Attempt, Cursor, Item, Protection, State, Stored, Ticker};
use crate::cursor::{LowWater, Positions, Round, Settlement, Ticket, Window};
use crate::database::outbox::Look;
use crate::source::outbox::{Mark, Tick, may_be_new};

pub(super) const STREAM: &str = "t/0";

impl Cursor {
    pub(super) fn enabled(&self, state: &State, actions: &mut Vec<Action>) {
        let database = &state.database;
        if database.transactions.len() < self.transactions {
            actions.push(Action::Begin);
        }
        for (transaction, status) in database.transactions.iter().enumerate() {
            if *status != Transaction::Open {
                continue;
            }
            actions.push(Action::Commit(transaction));
            // Without a row it is the same.
            if database
                .rows
                .iter()
                .any(|row| row.transaction == transaction && row.kept)
            {
                actions.push(Action::RollBack(transaction));
            }
            if database.rows.len() < self.ids {
                actions.push(Action::TakeId {
                    transaction,
                    kept: true,
                });
                if self.savepoints {
                    actions.push(Action::TakeId {
                        transaction,
                        kept: false,
                    });
                }
            }
        }
        actions.extend((0..self.relays).map(Action::Tick));
        let Some(attempt) = &state.attempt else {
            return actions.extend((0..self.relays).map(Action::Start));
        };
        actions.push(Action::Crash);
        if attempt.read.is_empty() && self.next_tick(state, attempt).is_some() {
            actions.push(Action::Read);
        }
        match attempt.read.front() {
            _ if self.window == 0 => {}
            Some(Item::Row(_)) if attempt.window.len() >= self.window => {}
            Some(_) => actions.push(Action::Send),
            None => {}
        }
        actions.extend((0..attempt.in_flight.len()).map(Action::Acknowledge));
        if attempt.moved {
            actions.push(Action::Checkpoint);
        }
    }

    /// The tick that the reader would go on with.
    pub(super) fn next_tick<'a>(&self, state: &'a State, attempt: &Attempt) -> Option<&'a Tick> {
        let tick = state.tickers[attempt.relay].told.as_ref()?;
        let any = self.off == Some(Protection::NoOlderTick) && attempt.known.is_none();
        (any || may_be_new(&attempt.base, attempt.known, tick)).then_some(tick)
    }

    pub(super) fn step(&self, state: &mut State, action: Action) {
        let database = &mut state.database;
        match action {
            Action::Begin => database.transactions.push(Transaction::Open),
            Action::TakeId { transaction, kept } => database.take_id(transaction, kept),
            Action::Commit(n) => database.transactions[n] = Transaction::Committed,
            Action::RollBack(n) => database.transactions[n] = Transaction::RolledBack,
            Action::Tick(relay) => self.tick(state, relay),
            Action::Start(relay) => {
                self.start(state, relay);
                self.at_once(state);
            }
            Action::Crash => state.attempt = None,
            Action::Read => {
                self.read(state);
                self.at_once(state);
            }
            Action::Send => self.send(state),
            Action::Acknowledge(n) => state.attempt().acknowledge(n),
            Action::Checkpoint => state.checkpoint(),
        }
    }

    /// `tide._tick()`.
    fn tick(&self, state: &mut State, relay: usize) {
        let (database, ticker) = (&state.database, &mut state.tickers[relay]);
        let backwards = self.off == Some(Protection::SequenceFirst);
        loop {
            let sequence = ticker.sequence_value.is_none();
            if sequence && !backwards {
                ticker.sequence_value = Some(database.sequence_value());
            } else if ticker.next_xid.is_none() {
                ticker.next_xid = Some(database.next_xid());
            } else if ticker.snapshot.is_none() {
                ticker.snapshot = Some(database.snapshot());
            } else {
                ticker.sequence_value = Some(database.sequence_value());
            }
            let all = ticker.sequence_value.is_some() && ticker.snapshot.is_some();
            if all {
                break self.look(ticker);
            }
            if !self.whole_ticks {
                break;
            }
        }
    }

    fn look(&self, ticker: &mut Ticker) {
        let reads = (
            ticker.sequence_value.take(),
            ticker.next_xid.take(),
            ticker.snapshot.take(),
        );
        let (Some(sequence_value), Some(mut next_xid), Some(snapshot)) = reads else {
            return;
        };
        if self.off == Some(Protection::NextXid) {
            next_xid = snapshot.xmax();
        }
        let look = Look {
            sequence_value,
            next_xid,
            snapshot,
        };
        if let Some(tick) = ticker.news.take(look, self.now) {
            ticker.told = Some(tick);
        }
    }

    /// As `forward::attempt` begins after a death.
    fn start(&self, state: &mut State, relay: usize) {
        let Stored {
            mut progress,
            low_water,
        } = Stored::clone(&state.stored);
        let (low_water_id, positions) = low_water;
        let mut low_water = LowWater::new(low_water_id, positions);
        let end = i64::try_from(state.log.len()).unwrap();
        let since = *progress.positions.entry(STREAM.into()).or_insert(end);
        low_water.add_positions(&Positions::from([(STREAM.into(), end)]));
        let round = Arc::clone(&progress.round);
        let follows_ids = self.off == Some(Protection::Snapshots);
        let highest = if follows_ids { progress.committed_offset } else { 0 };
        let mut read = VecDeque::new();
        if round.old != round.new && !follows_ids {
            let after = progress.last_id.max(low_water_id);
            read.extend(state.database.by_id(&round, after).into_iter().map(Item::Row));
            read.push_back(Item::End(round.new.clone()));
        }
        let landed: BTreeSet<i64> = state.log[usize::try_from(since).unwrap()..]
            .iter()
            .copied()
            .collect();
        let landed_by = (!landed.is_empty()).then(|| state.database.snapshot());
        let mut window = Window::new(progress);
        if !landed.is_empty() && self.off != Some(Protection::HeldPositions) {
            window.hold_positions();
        }
        let mut attempt = Attempt {
            relay,
            base: round.new.clone(),
            known: None,
            low_water_id,
            highest,
            read,
            window,
            low_water,
            landed,
            landed_by,
            is_first: true,
            in_flight: Vec::new(),
            moved: false,
        };
        attempt.end_round();
        state.attempt = Some(Arc::new(attempt));
        state.checkpoint();
    }

    /// As the reader does: `Reader::read`.
    fn read(&self, state: &mut State) {
        let attempt = state.attempt.clone().unwrap();
        let Some(tick) = self.next_tick(state, &attempt) else {
            return;
        };
        let round = Arc::new(Round {
            old: attempt.base.clone(),
            new: (*tick.snapshot).clone(),
        });
        let mark = Mark {
            sequence_value: tick.sequence_value,
            next_xid: tick.next_xid,
        };
        let ids = if self.off == Some(Protection::Snapshots) {
            let seen = state.database.committed().filter(|(_, xid)| round.new.sees(*xid));
            seen.map(|(id, _)| id)
                .filter(|id| *id > attempt.highest)
                .collect()
        } else if attempt.known.is_some() {
            // That a walk by id finds the same is a property.
            state.database.by_xid(&round)
        } else {
            state.database.by_id(&round, attempt.low_water_id)
        };
        let attempt = state.attempt();
        attempt.base = round.new.clone();
        attempt.known = Some(mark);
        if self.off == Some(Protection::Snapshots) {
            attempt.highest = ids.last().copied().unwrap_or(attempt.highest);
        }
        let end = Item::End(round.new.clone());
        attempt.read.push_back(Item::Start(round, mark));
        attempt.read.extend(ids.into_iter().map(Item::Row));
        attempt.read.push_back(end);
    }

    fn at_once(&self, state: &mut State) {
        if self.window > 0 {
            return;
        }
        while !state.attempt().read.is_empty() {
            self.send(state);
            if !state.attempt().in_flight.is_empty() {
                state.attempt().acknowledge(0);
            }
        }
        state.checkpoint();
    }

    /// As `forward::deliver` takes pages, and `send_some` rows.
    fn send(&self, state: &mut State) {
        let position = i64::try_from(state.log.len()).unwrap();
        let attempt = state.attempt();
        match attempt.read.pop_front() {
            Some(Item::Start(round, mark)) => {
                attempt.window.start_round(round);
                let reached = &attempt.window.progress().positions;
                let is_first = std::mem::take(&mut attempt.is_first);
                if !is_first || self.off == Some(Protection::NoFirstSample) {
                    attempt
                        .low_water
                        .sample(mark.sequence_value, mark.next_xid, reached);
                }
            }
            Some(Item::Row(id)) => {
                attempt.window.push(id, 0, 1);
                if attempt.landed.remove(&id) {
                    attempt.settle(id, Settlement::Done);
                    if attempt.landed.is_empty() {
                        attempt.landed_by = None;
                        attempt.window.release_positions();
                    }
                } else {
                    attempt.in_flight.push((id, position));
                    state.log.push(id);
                }
            }
            Some(Item::End(_)) | None => {}
        }
        state.attempt().end_round();
    }
}

impl State {
    pub(super) fn attempt(&mut self) -> &mut Attempt {
        Arc::make_mut(self.attempt.as_mut().unwrap())
    }

    fn checkpoint(&mut self) {
        let attempt = self.attempt();
        attempt.moved = false;
        let (id, positions) = attempt.low_water.mark();
        self.stored = Arc::new(Stored {
            progress: attempt.window.progress().clone(),
            low_water: (id, positions.clone()),
        });
    }
}

impl Attempt {
    /// After the last row of a round.
    fn end_round(&mut self) {
        if let Some(Item::End(delivered)) = self.read.front() {
            self.window.end_round();
            if self.landed_by.take_if(|by| delivered.includes(by)).is_some() {
                self.landed.clear();
                self.window.release_positions();
            }
            self.read.pop_front();
        }
        self.advance();
    }

    fn acknowledge(&mut self, n: usize) {
        let (id, position) = self.in_flight.remove(n);
        self.settle(id, Settlement::Placed { stream: 0, position });
        self.advance();
    }

    fn settle(&mut self, id: i64, settlement: Settlement) {
        let mut tickets = 0..Ticket::from(u16::MAX);
        let ticket = tickets.find(|ticket| self.window.id_of(*ticket) == Some(id));
        self.window.settle(ticket.unwrap(), settlement);
    }

    fn advance(&mut self) {
        self.window.advance(|_| STREAM.into(), |_| ());
        if self.window.take_moved() {
            self.moved = true;
            self.low_water.advance(&self.window.progress().round.old);
        }
    }
}
