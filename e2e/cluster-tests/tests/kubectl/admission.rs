//! What the API server takes of the four kinds, and what it refuses with a
//! word on what to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_tide_cluster_tests::Cluster;
use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// One manifest that must be refused.
struct Wrong {
    title: String,
    name: String,
    /// What is there before, when it is a change that is wrong.
    before: Option<Value>,
    manifest: Value,
    says: String,
}

fn wrong_manifests() -> Vec<Wrong> {
    let text = std::fs::read_to_string(repository("operator/tests/manifests/wrong.yaml")).unwrap();
    let cases: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let wrong = |(number, case): (usize, Value)| {
        let manifest = |spec: &Value| {
            let mut manifest = json!({
                "apiVersion": "pgtide.dev/v1alpha1",
                "kind": case["kind"],
                "metadata": {"name": format!("wrong-{number}")},
                "spec": spec,
            });
            if case["metadata"].is_object() {
                manifest["metadata"] = case["metadata"].clone();
            }
            manifest
        };
        let change = case.get("then");
        let last = manifest(change.unwrap_or(&case["spec"]));
        Wrong {
            title: case["wrong"].as_str().unwrap().to_owned(),
            name: last["metadata"]["name"].as_str().unwrap().to_owned(),
            before: change.map(|_| manifest(&case["spec"])),
            manifest: last,
            says: case["says"].as_str().unwrap().to_owned(),
        }
    };
    cases.into_iter().enumerate().map(wrong).collect()
}

/// Manifests as a stream. In a List, kubectl would check them by itself.
fn stream(items: &[&Value]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}

/// When a value is of the wrong type, the API server adds that it did not look
/// at everything.
const NOT_EVERYTHING: &str = ", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]";

/// What kubectl says of each resource, by its name.
fn complaints(said: &str) -> BTreeMap<&str, &str> {
    let complaint = |line| {
        let (head, body): (&str, &str) = str::split_once(line, "\" is invalid: ")?;
        let (_, name) = head.rsplit_once('"')?;
        let alone = body
            .strip_prefix('[')
            .and_then(|list| list.strip_suffix(NOT_EVERYTHING));
        Some((name, alone.unwrap_or(body)))
    };
    said.lines().filter_map(complaint).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_manifests_are_refused_with_a_word_on_what_to_do() {
    let cluster = Cluster::with_crds().await;
    let namespace = cluster.namespace("wrong").await;
    let (unknown, wrong): (Vec<_>, Vec<_>) = wrong_manifests()
        .into_iter()
        .partition(|wrong| wrong.says.starts_with("unknown field"));
    assert!(wrong.len() > 100, "{}", wrong.len());

    // A field that nobody knows: the message does not say in which resource.
    for wrong in unknown {
        let refusal = namespace
            .try_apply(&wrong.manifest.to_string())
            .await
            .unwrap_err();
        assert!(refusal.said.ends_with(&wrong.says), "{}: {refusal}", wrong.title);
    }

    let before: Vec<&Value> = wrong.iter().filter_map(|wrong| wrong.before.as_ref()).collect();
    namespace.apply(&stream(&before)).await;
    let all: Vec<&Value> = wrong.iter().map(|wrong| &wrong.manifest).collect();
    let refusal = namespace.try_apply(&stream(&all)).await.unwrap_err();
    let complaints = complaints(&refusal.said);
    for wrong in wrong {
        let said = complaints.get(wrong.name.as_str()).copied();
        assert_eq!(said, Some(wrong.says.as_str()), "{}\n{refusal}", wrong.title);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_taken_and_what_is_left_out_gets_its_default() {
    let cluster = Cluster::with_crds().await;
    let namespace = cluster.namespace("right").await;
    let text = std::fs::read_to_string(repository("operator/tests/manifests/right.yaml")).unwrap();
    let said = namespace.apply(&text).await;
    assert_eq!(
        said.matches(" created").count(),
        text.matches("\nkind: ").count(),
        "{said}"
    );

    let tutorial = repository("config/samples/tutorial.yaml");
    let said = namespace
        .kubectl(&["apply", "--filename", tutorial.to_str().unwrap()])
        .await;
    assert_eq!(said.matches(" created").count(), 5, "{said}");

    let outbox = namespace.get("outbox/least").await.unwrap();
    let defaults = json!({
        "databaseRef": {"name": "shop"}, "retention": "24h", "enabled": true, "reclaimPolicy": "Retain",
        "adoptionPolicy": "Never",
    });
    assert_eq!(outbox["spec"], defaults);
    let database = namespace.get("tdb/least").await.unwrap();
    let defaults = json!({
        "connection": {"secretRef": {"name": "shop-db", "key": "uri"}}, "schema": {"manage": true},
        "relayGroups": [{"id": "default", "replicas": 2, "logLevel": "info", "terminationGracePeriodSeconds": 30}],
    });
    assert_eq!(database["spec"], defaults);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_every_option() {
    let cluster = Cluster::with_crds().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    for (field, words) in [
        ("pipeline.spec.forward.sink.kafka.acks", "every in-sync replica"),
        (
            "pl.spec.reverse.source.nats.jetstream",
            "which loses what comes while no relay listens",
        ),
        (
            "obx.spec.consumerGroups.autoOffsetReset",
            "at the oldest message that is kept",
        ),
        ("tdb.spec.relayGroups.replicas", "0 stops delivery"),
    ] {
        // The API server publishes a new schema a moment later.
        loop {
            let said = cluster.kubectl(&["explain", field]).await;
            let text = said
                .as_deref()
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            if text.contains(words) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{field}: {said:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
