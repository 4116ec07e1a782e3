//! Argo CD's health checks: resources in each state, and what Argo CD shows.

use pg_tide_chart_tests::{Health, Objects, health, read, sources};
use serde_json::{Value, json};

const KINDS: [&str; 4] = ["TideDatabase", "Outbox", "Inbox", "Pipeline"];

/// The check as Argo CD gets it, from its ConfigMap.
fn script(kind: &str) -> String {
    let patch = Objects::parse(&read("config/argocd/argocd-cm.yaml"));
    let key = format!("resource.customizations.health.pgtide.dev_{kind}");
    patch.all()[0]["data"][&key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key}"))
        .to_owned()
}

fn resource(status: Value) -> Value {
    let mut resource = json!({
        "apiVersion": "pgtide.dev/v1alpha1", "kind": "Pipeline",
        "metadata": {"name": "orders-to-kafka", "namespace": "shop", "generation": 3},
        "spec": {},
    });
    if !status.is_null() {
        resource["status"] = status;
    }
    resource
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 3})
}

/// The status of a resource, and what Argo CD shows.
fn cases() -> Vec<(Value, &'static str, &'static str)> {
    let ready = || condition("Ready", "True", "Running", "owner relay-0");
    vec![
        (Value::Null, "Progressing", "The operator has not seen it yet"),
        (json!({}), "Progressing", "The operator has not seen it yet"),
        (
            json!({"observedGeneration": 3}),
            "Progressing",
            "The operator has not seen it yet",
        ),
        (
            json!({"conditions": []}),
            "Progressing",
            "The operator has not judged it yet",
        ),
        (
            json!({"conditions": [condition("DatabaseReachable", "True", "Connected", "")]}),
            "Progressing",
            "The operator has not judged it yet",
        ),
        (
            json!({"conditions": [condition("Ready", "Unknown", "Starting", "no report yet")]}),
            "Progressing",
            "Starting: no report yet",
        ),
        (
            json!({"conditions": [condition("SchemaApplied", "True", "UpToDate", ""), ready()]}),
            "Healthy",
            "Running: owner relay-0",
        ),
        (
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            "Healthy",
            "",
        ),
        (
            json!({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}),
            "Progressing",
            "The operator has not seen the last change yet",
        ),
        (
            json!({"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True"}]}),
            "Progressing",
            "The operator has not seen the last change yet",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "DeliveryFailing", "topic \"order-events\" does not exist on kafka:9092")]}),
            "Degraded",
            "DeliveryFailing: topic \"order-events\" does not exist on kafka:9092",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "Conflict", "")]}),
            "Degraded",
            "Conflict",
        ),
        (
            json!({"conditions": [{"type": "Ready", "status": "False", "message": "words alone"}]}),
            "Degraded",
            "words alone",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "OutboxNotReady", "outbox orders is not ready")]}),
            "Progressing",
            "OutboxNotReady: outbox orders is not ready",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "ScaledToZero", "relay groups without relays")]}),
            "Suspended",
            "ScaledToZero: relay groups without relays",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "Disabled", "")]}),
            "Suspended",
            "Disabled",
        ),
        (
            json!({"conditions": [ready(), condition("Paused", "True", "Disabled", "enabled is false")]}),
            "Suspended",
            "Disabled: enabled is false",
        ),
        (
            json!({"conditions": [condition("Ready", "False", "Paused", ""), condition("Paused", "True", "Disabled", "enabled is false")]}),
            "Suspended",
            "Disabled: enabled is false",
        ),
        (
            json!({"conditions": [ready(), condition("Paused", "False", "Enabled", "")]}),
            "Healthy",
            "Running: owner relay-0",
        ),
    ]
}

#[test]
fn each_state_is_shown_for_what_it_is() {
    for kind in KINDS {
        let script = script(kind);
        for (status, expected, message) in cases() {
            let mut resource = resource(status);
            resource["kind"] = kind.into();
            assert_eq!(
                health(&script, &resource),
                Health {
                    status: expected.into(),
                    message: message.into()
                },
                "{resource}"
            );
        }
    }
}

/// The reasons that the check knows are the operator's.
#[test]
fn reasons_of_the_check_exist() {
    let operator = sources("operator/src");
    let mut seen = 0;
    for line in read("config/argocd/health.lua").lines() {
        if let Some(reason) = line.trim().strip_suffix(" = true,") {
            assert!(
                operator.contains(&format!("\"{reason}\"")),
                "the operator has no reason {reason}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
}

/// The test's own sandbox: a script that uses what Argo CD does not open fails.
#[test]
#[should_panic(expected = "attempt to index a non-table object")]
fn a_check_that_needs_more_libraries_fails() {
    health(
        "return {status = string.format('%s', 'Healthy')}",
        &resource(json!({})),
    );
}
