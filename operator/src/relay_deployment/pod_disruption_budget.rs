//! A drained node takes relays one at a time.

use serde_json::json;

use super::{Child, ChildKind, Plan};

pub(super) fn build(plan: &Plan<'_>) -> Child {
    plan.child(
        ChildKind::PodDisruptionBudget,
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": plan.metadata(),
            // Of a number that may be unavailable, not of one that must be
            // there: a single relay must not keep a node from being drained.
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": plan.selector()}},
        }),
    )
}
