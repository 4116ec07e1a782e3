//! A ServiceAccount of its own, without rights and without a token in the pod.

use serde_json::json;

use super::{Child, ChildKind, Plan};

pub(super) fn build(plan: &Plan<'_>) -> Child {
    plan.child(
        ChildKind::ServiceAccount,
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": plan.metadata(),
            "automountServiceAccountToken": false,
        }),
    )
}
