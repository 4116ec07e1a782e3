//! The two protocols as models whose every reachable state is visited: who
//! owns a pipeline and what it sends, and what a cursor of snapshots reads.
//! Bounds, invariants and figures are in docs/design/models.md.

mod cursor;
mod ownership;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Visits all states. Every `always` must hold, every `sometimes` be seen.
fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let began = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f32()
    );
    checker.assert_properties();
}

/// Searches until these properties are found violated, and tells how.
fn violates<M>(name: &str, model: M, expected: &[&'static str])
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let wanted = HasDiscoveries::AllOf(expected.iter().copied().collect());
    let checker = model.checker().finish_when(wanted).spawn_bfs().join();
    let found = checker.discoveries();
    for property in expected {
        let path = found
            .get(property)
            .unwrap_or_else(|| panic!("{name}: no violation of \"{property}\""));
        let steps: Vec<String> = path
            .clone()
            .into_actions()
            .iter()
            .map(|action| format!("{action:?}"))
            .collect();
        println!(
            "{name}: not \"{property}\", found among {} states after {} steps: {}",
            checker.unique_state_count(),
            steps.len(),
            steps.join(", ")
        );
    }
}

/// Visits all states: exactly these of the properties that must hold do not.
fn violates_only<M>(name: &str, model: M, expected: &[&'static str])
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let must_hold: BTreeSet<&'static str> = model
        .properties()
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .map(|property| property.name)
        .collect();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states", checker.unique_state_count());
    let found: BTreeSet<&'static str> = checker.discoveries().into_keys().collect();
    let violated: BTreeSet<&'static str> = found.intersection(&must_hold).copied().collect();
    assert_eq!(violated, expected.iter().copied().collect(), "{name}");
}
