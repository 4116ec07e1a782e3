//! A Service for metrics and, when relays receive webhooks, for those.

use serde_json::json;

use super::{Child, ChildKind, METRICS_PORT, Plan};

pub(super) fn build(plan: &Plan<'_>) -> Child {
    let mut ports =
        vec![json!({"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"})];
    if let Some(port) = plan.webhook_port() {
        ports.push(json!({"name": "webhook", "port": port, "targetPort": "webhook", "protocol": "TCP"}));
    }
    plan.child(
        ChildKind::Service,
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": plan.metadata(),
            "spec": {"selector": plan.selector(), "ports": ports},
        }),
    )
}
