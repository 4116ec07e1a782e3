//! The checker against a plain model, and by hand.

use proptest::prelude::*;

use crate::check::{Committed, Id, Outcome, Read, Verdict, check, ledger_agrees};

/// `count` transactions of one message each, all of one key.
fn committed(count: i64) -> Vec<Committed> {
    (1..=count)
        .map(|n| Committed {
            transaction: n,
            part: 0,
            key: 5,
            first_n: n,
            count: 1,
        })
        .collect()
}

fn read(n: i64) -> Read {
    Read {
        id: Id {
            transaction: n,
            part: 0,
            index: 0,
        },
        key: 5,
        n,
        at: 0,
        lane: 0,
    }
}

fn verdict(numbers: &[i64]) -> Verdict {
    let reads: Vec<Read> = numbers.iter().map(|n| read(*n)).collect();
    check(committed(4), &reads)
}

#[test]
fn all_once_and_in_order_is_clean() {
    let found = verdict(&[1, 2, 3, 4]);
    assert!(found.is_clean(), "{found:?}");
    assert_eq!(found.messages, 4);
}

#[test]
fn a_missing_one_is_lost() {
    let found = verdict(&[1, 2, 4]);
    assert_eq!(found.lost, [read(3)]);
    assert!(found.out_of_order.is_empty());
}

#[test]
fn a_lost_one_is_dated_by_the_next_of_its_key() {
    let mut reads = vec![read(1), read(4)];
    reads[1].at = 700;
    let found = check(committed(4), &reads);
    assert_eq!(
        found.lost.iter().map(|lost| lost.at).collect::<Vec<_>>(),
        [700, 700]
    );
}

#[test]
fn a_second_time_is_doubled_and_not_out_of_order() {
    let found = verdict(&[1, 2, 3, 4, 2, 3]);
    assert_eq!(found.doubled, [(read(2).id, 0), (read(3).id, 0)]);
    assert!(found.lost.is_empty() && found.out_of_order.is_empty());
}

#[test]
fn an_overtaken_one_is_out_of_order() {
    let found = verdict(&[1, 3, 2, 4]);
    assert_eq!(found.out_of_order, [read(2)]);
}

#[test]
fn a_key_that_changes_its_lane_is_out_of_order() {
    let mut reads: Vec<Read> = (1..=4).map(read).collect();
    reads[2].lane = 1;
    assert_eq!(check(committed(4), &reads).out_of_order.len(), 1);
}

#[test]
fn what_nobody_committed_or_was_changed_on_the_way_is_foreign() {
    assert_eq!(verdict(&[1, 2, 3, 4, 9]).foreign, [read(9)]);
    let mut reads: Vec<Read> = (1..=4).map(read).collect();
    reads[1].n = 7;
    let found = check(committed(4), &reads);
    assert_eq!((found.foreign.len(), found.lost.len()), (1, 1));
    reads[1] = read(2);
    reads[1].id.index = 3;
    assert_eq!(check(committed(4), &reads).foreign.len(), 1);
}

#[test]
fn messages_of_a_part_are_told_apart() {
    let part = Committed {
        transaction: 1,
        part: 2,
        key: 5,
        first_n: 10,
        count: 3,
    };
    let reads: Vec<Read> = [10, 12]
        .map(|n| Read {
            id: Id {
                transaction: 1,
                part: 2,
                index: u16::try_from(n - 10).unwrap(),
            },
            n,
            ..read(1)
        })
        .to_vec();
    let found = check([part], &reads);
    assert_eq!(
        found.lost.iter().map(|lost| lost.id.index).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn the_ledger_must_agree_with_what_publishers_were_told() {
    assert!(ledger_agrees(Outcome::Committed, &[0, 1], &[0, 1]));
    assert!(!ledger_agrees(Outcome::Committed, &[0, 1], &[]));
    assert!(ledger_agrees(Outcome::RolledBack, &[0], &[]));
    assert!(!ledger_agrees(Outcome::RolledBack, &[0], &[0]));
    assert!(ledger_agrees(Outcome::Unknown, &[0, 1], &[]));
    assert!(ledger_agrees(Outcome::Unknown, &[0, 1], &[0, 1]));
    assert!(!ledger_agrees(Outcome::Unknown, &[0, 1], &[1]));
}

proptest! {
    // Whatever is taken out, repeated or put in, each is counted as what it is.
    #[test]
    fn counts_equal_what_was_done(
        count in 1i64..60,
        taken in proptest::collection::btree_set(1i64..60, 0..10),
        again in proptest::collection::vec(1i64..60, 0..10),
        foreign in 0i64..5,
    ) {
        let taken: Vec<i64> = taken.into_iter().filter(|n| *n <= count).collect();
        let there: Vec<i64> = (1..=count).filter(|n| !taken.contains(n)).collect();
        let again: Vec<i64> = again.into_iter().filter(|n| there.contains(n)).collect();
        let all = there.iter().chain(&again).copied().chain((0..foreign).map(|n| 1_000 + n));
        let reads: Vec<Read> = all.map(read).collect();
        let found = check(committed(count), &reads);
        prop_assert_eq!(found.lost.len(), taken.len());
        prop_assert_eq!(found.doubled.len(), again.len());
        prop_assert_eq!(i64::try_from(found.foreign.len()), Ok(foreign));
        prop_assert!(found.out_of_order.is_empty());
    }

    // The plain model: a first read is in order if nothing later was read before.
    #[test]
    fn order_equals_the_model(order in Just((1i64..=30).collect::<Vec<_>>()).prop_shuffle()) {
        let reads: Vec<Read> = order.iter().map(|n| read(*n)).collect();
        let model = (0..order.len()).filter(|at| order[..*at].iter().any(|before| *before > order[*at])).count();
        prop_assert_eq!(check(committed(30), &reads).out_of_order.len(), model);
    }
}
