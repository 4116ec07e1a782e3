//! What must always hold, and what must be seen at some time.

use std::collections::BTreeSet;

use stateright::Property;

use super::steps::STREAM;
use super::{Cursor, State};
use crate::cursor::{Positions, Progress, Round};
use crate::database::outbox::Look;

pub(super) const ONCE: &str = "no message is delivered twice";
pub(super) const COMMITTED: &str = "nothing is delivered that was not committed";
pub(super) const PASSED: &str = "the cursor passes nothing that is not delivered";
pub(super) const ORDER: &str = "what was published after a commit is delivered after it";
pub(super) const LOW_WATER: &str = "nothing undelivered lies at or below the low-water mark";
pub(super) const ANCHOR: &str = "what is delivered above the low-water mark lies behind its position";
pub(super) const SHAPES: &str = "all ways to read a round find the same";
pub(super) const DELIVERED: &str = "when ticks bring no news, everything is delivered";

pub(super) fn of(model: &Cursor) -> Vec<Property<Cursor>> {
    let mut all = vec![
        Property::always(ONCE, once),
        Property::always(COMMITTED, committed),
        Property::always(PASSED, passed),
        Property::always(ORDER, order),
        Property::always(LOW_WATER, low_water),
        Property::always(ANCHOR, anchor),
        Property::always(SHAPES, shapes),
        Property::always(DELIVERED, delivered),
        Property::sometimes(
            "a snapshot does not list an open transaction with an id",
            |_, state: &State| {
                let xmax = state.database.snapshot().xmax();
                state.database.open().any(|(_, xid)| xid >= xmax)
            },
        ),
        Property::sometimes(
            "all that can be is committed and delivered, and the mark has moved",
            |model: &Cursor, state: &State| state.log.len() == model.ids && state.stored.low_water.0 > 0,
        ),
    ];
    if model.ids > 1 {
        all.push(Property::sometimes(
            "a lower id is delivered after a higher one",
            |_, state: &State| !state.log.is_sorted(),
        ));
    }
    if model.ids > 2 {
        all.push(Property::sometimes(
            "the low-water mark waits for an open transaction",
            |_, state: &State| {
                let mark = state.stored.low_water.0;
                let waits = state.log.iter().any(|id| *id > mark) && mark > 0;
                waits && state.database.open().next().is_some()
            },
        ));
    }
    if model.window > 0 {
        all.push(Property::sometimes(
            "a round is resumed and some of it skipped",
            |_, state: &State| {
                state.attempt.as_ref().is_some_and(|attempt| {
                    let round = &attempt.window.progress().round;
                    attempt.known.is_none() && round.old != round.new && !attempt.landed.is_empty()
                })
            },
        ));
    }
    all
}

fn once(_: &Cursor, state: &State) -> bool {
    state.log.iter().collect::<BTreeSet<_>>().len() == state.log.len()
}

fn committed(_: &Cursor, state: &State) -> bool {
    state
        .log
        .iter()
        .all(|id| state.database.committed().any(|(other, _)| other == *id))
}

/// Not only of what is committed: what may yet be would be lost, too.
fn passed(_: &Cursor, state: &State) -> bool {
    let is_behind = |progress: &Progress| {
        let Round { old, new } = &*progress.round;
        let passes = |(id, xid): (i64, u64)| old.sees(xid) || new.sees(xid) && id <= progress.last_id;
        let mut missing = state
            .database
            .committed()
            .filter(|(id, _)| !state.log.contains(id));
        !missing.any(passes) && !state.database.open().any(passes)
    };
    is_behind(&state.stored.progress)
        && state
            .attempt
            .as_ref()
            .is_none_or(|attempt| is_behind(attempt.window.progress()))
}

fn order(_: &Cursor, state: &State) -> bool {
    let place = |id: &i64| state.log.iter().position(|other| other == id);
    (1i64..).zip(&state.database.rows).all(|(id, row)| {
        let of = place(&id);
        of.is_none()
            || row
                .after
                .iter()
                .all(|before| place(before).is_some_and(|at| Some(at) < of))
    })
}

fn low_water(_: &Cursor, state: &State) -> bool {
    let holds = |mark: i64| {
        let missing = state
            .database
            .committed()
            .filter(|(id, _)| !state.log.contains(id));
        missing.chain(state.database.open()).all(|(id, _)| id > mark)
    };
    holds(state.stored.low_water.0)
        && state
            .attempt
            .as_ref()
            .is_none_or(|attempt| holds(attempt.low_water.mark().0))
}

/// Whoever has to begin at the mark (another cluster) finds what is delivered.
fn anchor(_: &Cursor, state: &State) -> bool {
    let holds = |mark: i64, positions: &Positions| {
        let since = positions.get(STREAM).copied().unwrap_or(0);
        (0i64..)
            .zip(&state.log)
            .all(|(at, id)| *id <= mark || at >= since)
    };
    let (mark, positions) = &state.stored.low_water;
    holds(*mark, positions)
        && state.attempt.as_ref().is_none_or(|attempt| {
            let (mark, positions) = attempt.low_water.mark();
            holds(mark, positions)
        })
}

fn shapes(model: &Cursor, state: &State) -> bool {
    let Some(attempt) = &state.attempt else {
        return true;
    };
    let Some(tick) = model.next_tick(state, attempt) else {
        return true;
    };
    let round = Round {
        old: attempt.base.clone(),
        new: (*tick.snapshot).clone(),
    };
    let (database, after) = (&state.database, attempt.low_water_id);
    let all = database.by_id(&round, 0);
    match attempt.known {
        Some(before) => {
            database.by_xid(&round) == all && database.by_id(&round, database.floor(&round, before)) == all
        }
        None => database.by_id(&round, after) == all,
    }
}

/// Every relay that looks now would find no reason to read on.
fn delivered(model: &Cursor, state: &State) -> bool {
    let (Some(attempt), database) = (&state.attempt, &state.database) else {
        return true;
    };
    let idle = attempt.read.is_empty() && attempt.in_flight.is_empty();
    if !database.all_finished() || !idle || model.next_tick(state, attempt).is_some() {
        return true;
    }
    let look = Look {
        sequence_value: database.sequence_value(),
        next_xid: database.next_xid(),
        snapshot: database.snapshot(),
    };
    let ticker = &state.tickers[attempt.relay];
    let quiet = ticker.sequence_value.is_none() && ticker.next_xid.is_none();
    if !quiet || ticker.news.clone().take(look, model.now).is_some() {
        return true;
    }
    database.committed().all(|(id, _)| state.log.contains(&id))
}
