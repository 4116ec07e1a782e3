//! Nobody connects to a relay but for metrics, probes and webhooks. Where
//! relays connect to, brokers and databases anywhere, is not restricted here.

use serde_json::json;

use super::{Child, ChildKind, METRICS_PORT, Plan};

pub(super) fn build(plan: &Plan<'_>) -> Child {
    let ports: Vec<_> = [Some(METRICS_PORT), plan.webhook_port()]
        .into_iter()
        .flatten()
        .map(|port| json!({"port": port, "protocol": "TCP"}))
        .collect();
    plan.child(
        ChildKind::NetworkPolicy,
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": plan.metadata(),
            "spec": {
                "podSelector": {"matchLabels": plan.selector()},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": ports}],
            },
        }),
    )
}
