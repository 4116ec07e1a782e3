use tokio::time::Instant;

use super::properties::{ANCHOR, DELIVERED, LOW_WATER, ONCE, PASSED};
use super::{Cursor, Protection};
use crate::models::{holds, violates};

/// A round is delivered in one step; ticks read one after another.
fn ticks() -> Cursor {
    Cursor {
        transactions: 2,
        ids: 2,
        savepoints: false,
        relays: 1,
        whole_ticks: false,
        window: 0,
        off: None,
        now: Instant::now(),
    }
}

/// Messages are sent and acknowledged one by one.
fn deaths() -> Cursor {
    Cursor {
        whole_ticks: true,
        window: 2,
        ..ticks()
    }
}

/// Of two relays that tick, one or the other has the pipeline.
fn takeovers() -> Cursor {
    Cursor {
        ids: 1,
        relays: 2,
        whole_ticks: true,
        ..ticks()
    }
}

#[test]
fn ticks_may_be_cut_in_by_any_transaction() {
    holds("ticks", ticks());
}

#[test]
fn three_transactions_end_in_any_order() {
    let model = Cursor {
        transactions: 3,
        whole_ticks: true,
        ..ticks()
    };
    holds("3 transactions", model);
}

#[test]
fn readers_that_die_at_any_time_lose_and_double_nothing() {
    holds("deaths", deaths());
}

#[test]
fn gaps_of_savepoints_harm_nothing() {
    let model = Cursor {
        savepoints: true,
        whole_ticks: true,
        ..ticks()
    };
    holds("savepoints", model);
}

#[test]
fn the_low_water_mark_waits_for_open_transactions() {
    let model = Cursor {
        ids: 3,
        whole_ticks: true,
        ..ticks()
    };
    holds("3 ids", model);
}

#[test]
fn takeovers_by_relays_with_ticks_of_their_own_lose_and_double_nothing() {
    holds("takeovers", takeovers());
}

#[test]
fn without_snapshots_what_commits_late_is_lost() {
    let model = Cursor {
        whole_ticks: true,
        off: Some(Protection::Snapshots),
        ..ticks()
    };
    violates("id > last", model, &[PASSED, DELIVERED]);
}

#[test]
fn xmax_is_not_the_next_xid() {
    let off = Some(Protection::NextXid);
    violates("xmax for the next xid", Cursor { off, ..ticks() }, &[LOW_WATER]);
}

#[test]
fn the_sequence_must_be_read_first() {
    let off = Some(Protection::SequenceFirst);
    violates("sequence read last", Cursor { off, ..ticks() }, &[LOW_WATER]);
}

#[test]
fn a_tick_older_than_the_stored_cursor_doubles() {
    let off = Some(Protection::NoOlderTick);
    violates("an older tick", Cursor { off, ..takeovers() }, &[ONCE]);
}

#[test]
fn positions_that_pass_what_was_found_in_the_log_double() {
    let off = Some(Protection::HeldPositions);
    violates("positions not held", Cursor { off, ..deaths() }, &[ONCE]);
}

#[test]
fn a_low_water_mark_of_the_first_tick_doubles_after_a_failover() {
    let off = Some(Protection::NoFirstSample);
    violates("mark of the first tick", Cursor { off, ..ticks() }, &[ANCHOR]);
}
