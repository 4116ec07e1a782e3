//! For the Prometheus operator, when it is there.

use serde_json::json;

use super::{Child, ChildKind, Plan};

pub(super) fn build(plan: &Plan<'_>) -> Child {
    plan.child(
        ChildKind::PodMonitor,
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": plan.metadata(),
            "spec": {
                "selector": {"matchLabels": plan.selector()},
                "podMetricsEndpoints": [{"port": "metrics"}],
            },
        }),
    )
}
