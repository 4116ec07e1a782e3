//! For the Prometheus operator, when it is there.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Child, ChildKind, Plan};

/// What the command line says of PodMonitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodMonitors {
    /// By which a Prometheus selects them.
    pub labels: BTreeMap<String, String>,
    /// Between two scrapes, such as 30s; without it Prometheus's own.
    pub interval: Option<String>,
}

pub(super) fn build(plan: &Plan<'_>, monitors: &PodMonitors) -> Child {
    let mut metadata = plan.metadata();
    if let Value::Object(labels) = &mut metadata["labels"] {
        for (name, value) in &monitors.labels {
            // What objects are known by is not for others to change.
            labels.entry(name.clone()).or_insert_with(|| value.clone().into());
        }
    }
    let mut endpoint = json!({"port": "metrics"});
    if let Some(interval) = &monitors.interval {
        endpoint["interval"] = interval.clone().into();
    }
    plan.child(
        ChildKind::PodMonitor,
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": plan.selector()},
                "podMetricsEndpoints": [endpoint],
            },
        }),
    )
}
