#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use super::*;
use crate::crd::TideDatabase;
use k8s_openapi::api::apps::v1::Deployment;

fn database(spec: Value) -> TideDatabase {
    serde_json::from_value(json!({
        "apiVersion": "pgtide.dev/v1alpha1",
        "kind": "TideDatabase",
        "metadata": {"name": "shop", "namespace": "orders", "uid": "u"},
        "spec": spec,
    }))
    .unwrap()
}

fn built(spec: Value) -> Vec<Child> {
    let database = database(spec);
    children(&Plan {
        database: "shop",
        namespace: "orders",
        spec: &database.spec,
        group: &database.spec.relay_groups[0],
        address: "postgres:5432/shop".into(),
        owner: OwnerReference::default(),
        image: "pg-tide:1",
        image_pull_policy: None,
        files: BTreeMap::from([("database-url".into(), b"postgres://".to_vec())]),
        network_policy: true,
        pod_monitors: Some(&PodMonitors {
            labels: BTreeMap::from([
                ("release".into(), "prometheus".into()),
                (DATABASE_LABEL.into(), "other".into()),
            ]),
            interval: Some("5s".into()),
        }),
    })
}

fn deployment(spec: Value) -> Deployment {
    let children = built(spec);
    let body = children.iter().find(|c| c.kind == ChildKind::Deployment).unwrap();
    serde_json::from_value(body.body.clone()).unwrap()
}

#[test]
fn the_shortest_database_gets_two_restricted_relays() {
    let deployment = deployment(json!({"connection": {"secretRef": {"name": "shop-db"}}}));
    let spec = deployment.spec.unwrap();
    assert_eq!(spec.replicas, Some(2));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    let container = &pod.containers[0];
    let security = container.security_context.as_ref().unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(
        security.capabilities.as_ref().unwrap().drop,
        Some(vec!["ALL".into()])
    );
    assert_eq!(container.image.as_deref(), Some("pg-tide:1"));
    let environment = container.env.as_ref().unwrap();
    assert!(
        environment.iter().all(|e| e.name != "PG_TIDE_POSTGRES_URL"),
        "no secret in the environment"
    );
}

#[test]
fn a_group_has_its_own_say() {
    let deployment = deployment(json!({
        "connection": {"secretRef": {"name": "shop-db"}},
        "tls": {"caSecretRef": {"name": "ca"}},
        "relayGroups": [{
            "id": "eu", "replicas": 3, "image": "mirror/pg-tide:2", "podLabels": {"team": "shop", "pgtide.dev/database": "other"},
            "resources": {"limits": {"memory": "128Mi"}}, "webhook": {"port": 8443},
            "env": [{"name": "TZ", "value": "UTC"}],
        }],
    }));
    assert_eq!(deployment.metadata.name.as_deref(), Some("shop-relay-eu"));
    let template = deployment.spec.unwrap().template;
    let labels = template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels["team"], "shop");
    assert_eq!(labels[DATABASE_LABEL], "shop", "pods are found by it");
    let container = &template.spec.unwrap().containers[0];
    assert_eq!(container.image.as_deref(), Some("mirror/pg-tide:2"));
    let environment: BTreeMap<String, Option<String>> = container
        .env
        .clone()
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.value))
        .collect();
    for (name, value) in [
        ("PG_TIDE_RELAY_GROUP_ID", "eu"),
        ("PG_TIDE_POSTGRES_SSLMODE", "verify-full"),
        (
            "PG_TIDE_POSTGRES_SSLROOTCERT",
            "/etc/pg-tide/secrets/database-ca.crt",
        ),
        ("PG_TIDE_WEBHOOK_ADDR", "0.0.0.0:8443"),
        ("TZ", "UTC"),
    ] {
        assert_eq!(environment[name].as_deref(), Some(value), "{name}");
    }
}

#[test]
fn all_relays_of_a_group_have_its_id_and_all_objects_their_owner() {
    for child in built(json!({"connection": {"secretRef": {"name": "shop-db"}}})) {
        assert_eq!(
            child.body["metadata"]["ownerReferences"]
                .as_array()
                .unwrap()
                .len(),
            1,
            "{}",
            child.kind
        );
        assert_eq!(child.body["metadata"]["labels"][GROUP_LABEL], "default");
        assert_eq!(child.body["kind"], child.kind.to_string());
    }
}

#[test]
fn the_monitor_has_the_labels_that_prometheus_selects_by() {
    let children = built(json!({"connection": {"secretRef": {"name": "shop-db"}}}));
    let monitor = children.iter().find(|c| c.kind == ChildKind::PodMonitor).unwrap();
    let labels = &monitor.body["metadata"]["labels"];
    assert_eq!(labels["release"], "prometheus");
    assert_eq!(labels[DATABASE_LABEL], "shop", "it is known by it");
    let spec = &monitor.body["spec"];
    assert_eq!(spec["selector"]["matchLabels"]["release"], Value::Null);
    assert_eq!(
        spec["podMetricsEndpoints"],
        json!([{"port": "metrics", "interval": "5s"}])
    );
}

#[test]
fn names_fit_and_differ() {
    assert_eq!(name("shop", "default"), "shop-relay-default");
    let long = "a".repeat(60);
    let (one, other) = (name(&long, "eu"), name(&long, "us"));
    assert!(one.len() <= LONGEST_NAME && one != other, "{one} {other}");
    assert_ne!(name("a.b", "c"), name("a-b", "c"));
    assert!(!name("a.b", "c").contains('.'), "it is a Service's name, too");
}
