//! What must always hold, and what must be seen at some time.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::steps::{name, position};
use super::{Action, Broker, Connection, Fault, Owner, Ownership, Phase, State};

pub(super) const ONCE: &str = "no message is in the log twice";
pub(super) const COMPLETE: &str = "the checkpoint passes nothing that is not in the log";
pub(super) const ORDER: &str = "first copies of a key are in order";
pub(super) const RECORDED: &str =
    "what is in the log beyond the checkpoint lies behind its position, and not behind a clean one";
pub(super) const ONE_OWNER: &str =
    "at most one relay's checkpoints are accepted, and a lock's holder has the highest epoch";
pub(super) const DELIVERED: &str = "when only faults are left to happen, everything is delivered";

pub(super) fn of(model: &Ownership) -> Vec<Property<Ownership>> {
    let mut all = vec![
        Property::always(ONCE, once),
        Property::always(COMPLETE, complete),
        Property::always(ORDER, order),
        Property::always(RECORDED, recorded),
        Property::always(ONE_OWNER, one_owner),
        Property::always(DELIVERED, delivered),
        Property::sometimes(
            "a tail is read while requests are on their way",
            |_, state: &State| {
                let reads = |owner: &Owner| owner.phase == Phase::ReadTail;
                state.connections.iter().any(|c| c.gone) && state.owners().any(reads)
            },
        ),
        Property::sometimes(
            "a takeover finds messages beyond the checkpoint",
            |_, state: &State| {
                let finds = |owner: &Owner| owner.phase == Phase::Send && !owner.landed.is_empty();
                state.owners().any(finds)
            },
        ),
        Property::sometimes(
            "everything is delivered after as many faults as there may be",
            |model: &Ownership, state: &State| {
                state.row.progress.last_id == model.messages && state.faults == model.most_faults
            },
        ),
    ];
    if model.most_faults > 1 {
        all.push(Property::sometimes(
            "a checkpoint comes under an old epoch",
            |_, state: &State| {
                let old = |epoch: u8| epoch < state.row.epoch;
                let writes = |owner: &Owner| owner.phase == Phase::Send && owner.moved;
                state.owners().any(|owner| writes(owner) && old(owner.epoch))
                    || state.delayed.iter().any(|row| old(row.epoch))
            },
        ));
    }
    if model.broker == Broker::Fencing {
        all.push(Property::sometimes(
            "a late request is refused",
            |_, state: &State| {
                let late = |c: &Connection| c.producer < state.logs[c.partition].fence;
                state.connections.iter().any(|c| c.gone && late(c))
            },
        ));
    }
    if model.broker == Broker::Fencing && model.faults.contains(&Fault::Session) {
        all.push(Property::sometimes(
            "an owner is shut out that does not know it",
            |_, state: &State| {
                let shut_out = |owner: &Owner| state.logs.iter().any(|log| log.fence > owner.producer);
                let sends = |owner: &Owner| owner.phase == Phase::Send;
                state.owners().any(|owner| sends(owner) && shut_out(owner))
            },
        ));
    }
    all
}

impl State {
    fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.relays.iter().flatten().map(|owner| &**owner)
    }

    fn ids(&self, partition: usize) -> impl Iterator<Item = i64> {
        self.logs[partition].entries.iter().map(|entry| entry.id)
    }
}

fn once(_: &Ownership, state: &State) -> bool {
    (0..state.logs.len()).all(|p| state.ids(p).collect::<BTreeSet<_>>().len() == state.logs[p].entries.len())
}

fn complete(model: &Ownership, state: &State) -> bool {
    (1..=state.row.progress.last_id).all(|id| state.ids(model.partition(id)).any(|other| other == id))
}

fn order(model: &Ownership, state: &State) -> bool {
    (0..model.partitions).all(|partition| {
        let mut seen = 0;
        // A message that is there twice is not counted again.
        state.ids(partition).all(|id| {
            let before = seen;
            seen = seen.max(id);
            id <= before || (before + 1..id).all(|between| model.partition(between) != partition)
        })
    })
}

fn recorded(_: &Ownership, state: &State) -> bool {
    let progress = &state.row.progress;
    state.logs.iter().zip(0u32..).all(|(log, partition)| {
        let since = progress.positions.get(&*name(partition));
        let is_behind = |at: usize| !state.row.clean && since.is_some_and(|since| position(at) >= *since);
        let mut entries = log.entries.iter().enumerate();
        entries.all(|(at, entry)| entry.id <= progress.last_id || is_behind(at))
    })
}

fn one_owner(model: &Ownership, state: &State) -> bool {
    let accepted = state.owners().filter(|owner| model.accepts(state, owner.epoch));
    let holder = state.lock.and_then(|relay| state.relays[relay].as_ref());
    accepted.count() <= 1
        && state.owners().all(|owner| owner.epoch <= state.epoch)
        && holder.is_none_or(|owner| owner.epoch == state.epoch)
}

/// Every epoch is given once and the states are finitely many, so what is no
/// fault comes to an end; there, nothing may be missing.
fn delivered(model: &Ownership, state: &State) -> bool {
    let at_work = |owner: &Owner| !matches!(owner.phase, Phase::ReadTail | Phase::Send) || owner.moved;
    // Not needed, but quick.
    if state.owners().any(at_work) {
        return true;
    }
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    let goes_on = actions.iter().any(|action| match action {
        Action::Break(..) | Action::Execute(_) => false,
        Action::Handle(n) => !state.connections[*n].gone,
        _ => true,
    });
    goes_on
        || (1..=model.messages).all(|id| state.ids(model.partition(id)).any(|other| other == id))
            && state
                .owners()
                .all(|owner| owner.window.progress().last_id == model.messages)
}
