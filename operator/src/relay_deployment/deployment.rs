//! The relays themselves. Nothing in here depends on a Pipeline: a Pipeline
//! never restarts a pod.

use serde_json::{Value, json};

use super::{Child, ChildKind, METRICS_PORT, Plan};
use crate::crd::SECRETS_FOLDER;
use crate::database::link::{CA_FILE, CERT_FILE, KEY_FILE, URL_FILE, ssl_mode};

/// On the pods: which database they were made for.
const ADDRESS_ANNOTATION: &str = "pgtide.dev/database-address";

/// User and group of the image.
const USER: i64 = 65532;

pub(super) fn build(plan: &Plan<'_>) -> Child {
    let group = plan.group;
    let mut labels = json!(group.pod_labels);
    // Ours stand above: pods are found by them.
    merge(&mut labels, plan.labels());
    // A relay takes a new password when it connects, but stays connected to the
    // database that it has: another one means other pods.
    let mut annotations = json!(group.pod_annotations);
    merge(&mut annotations, json!({ADDRESS_ANNOTATION: plan.address}));
    let mut pod = json!({
        "serviceAccountName": plan.name(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": group.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(plan)],
        "volumes": [{"name": "secrets", "secret": {"secretName": plan.name(), "defaultMode": 0o440}}],
        "topologySpreadConstraints": spread(plan),
    });
    for (key, value) in [
        ("nodeSelector", json!(group.node_selector)),
        ("tolerations", json!(group.tolerations)),
        ("affinity", json!(group.affinity)),
        ("priorityClassName", json!(group.priority_class_name)),
        ("imagePullSecrets", json!(group.image_pull_secrets)),
    ] {
        if !is_empty(&value) {
            pod[key] = value;
        }
    }
    plan.child(
        ChildKind::Deployment,
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": plan.metadata(),
            "spec": {
                "replicas": group.replicas,
                "selector": {"matchLabels": plan.selector()},
                // A new relay takes over before an old one goes.
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "revisionHistoryLimit": 3,
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": pod,
                },
            },
        }),
    )
}

fn container(plan: &Plan<'_>) -> Value {
    let group = plan.group;
    let mut ports = vec![json!({"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"})];
    if let Some(port) = plan.webhook_port() {
        ports.push(json!({"name": "webhook", "containerPort": port, "protocol": "TCP"}));
    }
    let mut container = json!({
        "name": "relay",
        "image": group.image.as_deref().unwrap_or(plan.image),
        "command": ["pg-tide"],
        "env": environment(plan),
        "ports": ports,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": true}],
        "startupProbe": probe("/livez", 1, 60),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 3),
    });
    if let Some(resources) = &group.resources {
        container["resources"] = json!(resources);
    }
    if let Some(policy) = plan.image_pull_policy {
        container["imagePullPolicy"] = policy.into();
    }
    container
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "metrics"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

fn environment(plan: &Plan<'_>) -> Value {
    let file = |name: &str| format!("{SECRETS_FOLDER}/{name}");
    let mut environment = vec![
        ("PG_TIDE_POSTGRES_URL_FILE", file(URL_FILE)),
        ("PG_TIDE_RELAY_GROUP_ID", plan.group.id.clone()),
        ("PG_TIDE_METRICS_ADDR", format!("0.0.0.0:{METRICS_PORT}")),
        ("PG_TIDE_LOG_FORMAT", "json".into()),
        ("PG_TIDE_LOG_LEVEL", plan.group.log_level.clone()),
    ];
    if let Some(mode) = ssl_mode(plan.spec) {
        environment.push(("PG_TIDE_POSTGRES_SSLMODE", mode.into()));
    }
    if let Some(tls) = &plan.spec.tls {
        if tls.ca_secret_ref.is_some() {
            environment.push(("PG_TIDE_POSTGRES_SSLROOTCERT", file(CA_FILE)));
        }
        if tls.client_cert_secret_ref.is_some() {
            environment.push(("PG_TIDE_POSTGRES_SSLCERT", file(CERT_FILE)));
            environment.push(("PG_TIDE_POSTGRES_SSLKEY", file(KEY_FILE)));
        }
    }
    if let Some(port) = plan.webhook_port() {
        environment.push(("PG_TIDE_WEBHOOK_ADDR", format!("0.0.0.0:{port}")));
    }
    let ours = environment
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}));
    // As owner of pipelines the pod is shown.
    let name =
        json!({"name": "PG_TIDE_RELAY_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    ours.chain([name])
        .chain(plan.group.env.iter().map(|variable| json!(variable)))
        .collect()
}

/// As far as possible on different nodes, unless the group says otherwise.
fn spread(plan: &Plan<'_>) -> Value {
    if plan.group.topology_spread_constraints.is_empty() {
        json!([{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": plan.selector()},
        }])
    } else {
        json!(plan.group.topology_spread_constraints)
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
