//! Dividing pipelines among members: rendezvous hashing with bounded load.
//!
//! Every member computes the same division from the same view. Each pipeline
//! goes to the member with the highest score that still has room; the room is
//! the even share, rounded up. A member that comes or goes moves few others.
//! (Rendezvous hashing: Thaler and Ravishankar, 1998; bounded loads: Mirrokni,
//! Thorup and Zadimoghaddam, 2016.)

use std::collections::BTreeMap;

/// A well-mixed score (the finalizer of SplitMix64).
fn score(member: i32, pipeline: i32) -> u64 {
    let mut z = (u64::from(member.cast_unsigned()) << 32 | u64::from(pipeline.cast_unsigned()))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The member of each pipeline. Empty when there are no members.
pub(crate) fn assign(members: &[i32], pipelines: &[i32]) -> BTreeMap<i32, i32> {
    let mut division = BTreeMap::new();
    if members.is_empty() {
        return division;
    }
    let mut members = members.to_vec();
    members.sort_unstable();
    members.dedup();
    let share = pipelines.len().div_ceil(members.len());
    // The last members fill the shares that are one smaller.
    let full = pipelines.len() - (share.saturating_sub(1)) * members.len();
    let mut pipelines = pipelines.to_vec();
    pipelines.sort_unstable_by_key(|p| (score(0, *p), *p));
    let mut load: BTreeMap<i32, usize> = members.iter().map(|m| (*m, 0)).collect();
    let mut at_share = 0;
    for pipeline in pipelines {
        let mut ranked = members.clone();
        ranked.sort_unstable_by_key(|m| (std::cmp::Reverse(score(*m, pipeline)), *m));
        let chosen = ranked.into_iter().find(|m| {
            let n = load[m];
            n + 1 < share || (n + 1 == share && at_share < full)
        });
        if let Some(member) = chosen {
            if let Some(n) = load.get_mut(&member) {
                *n += 1;
                at_share += usize::from(*n == share);
            }
            division.insert(pipeline, member);
        }
    }
    division
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loads(division: &BTreeMap<i32, i32>, members: &[i32]) -> Vec<usize> {
        members
            .iter()
            .map(|m| division.values().filter(|v| *v == m).count())
            .collect()
    }

    #[test]
    fn nobody_gets_nothing() {
        assert!(assign(&[], &[1, 2]).is_empty());
        assert_eq!(assign(&[7], &[1, 2]).len(), 2);
    }

    proptest! {
        #[test]
        fn every_pipeline_has_one_member_and_loads_differ_by_one(
            members in proptest::collection::btree_set(1i32..1000, 1..8),
            pipelines in proptest::collection::btree_set(1i32..10_000, 0..120),
        ) {
            let members: Vec<i32> = members.into_iter().collect();
            let pipelines: Vec<i32> = pipelines.into_iter().collect();
            let division = assign(&members, &pipelines);
            prop_assert_eq!(division.len(), pipelines.len());
            let loads = loads(&division, &members);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }

        #[test]
        fn the_order_of_members_does_not_matter(mut members in proptest::collection::vec(1i32..1000, 1..8)) {
            let pipelines: Vec<i32> = (1..60).collect();
            let before = assign(&members, &pipelines);
            members.reverse();
            prop_assert_eq!(assign(&members, &pipelines), before);
        }

        #[test]
        fn a_newcomer_moves_not_much_more_than_its_share(
            members in proptest::collection::btree_set(1i32..1000, 2..6), newcomer in 1000i32..2000,
        ) {
            let mut members: Vec<i32> = members.into_iter().collect();
            let pipelines: Vec<i32> = (1..=100).collect();
            let before = assign(&members, &pipelines);
            members.push(newcomer);
            let after = assign(&members, &pipelines);
            let moved = before.iter().filter(|(p, m)| after[p] != **m).count();
            // Its share, and the overflow that bounded loads shift between the others.
            prop_assert!(moved <= 100 / members.len() + 1 + 30, "{} moved", moved);
        }
    }
}
