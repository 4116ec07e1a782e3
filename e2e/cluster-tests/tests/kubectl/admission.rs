//! What the API server takes of the four kinds, and what it refuses with a
//! word on what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pg_tide_cluster_tests::{Cluster, Namespace};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// As many kubectl at the same time.
const AT_ONCE: usize = 4;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// One manifest that must be refused.
struct Wrong {
    title: String,
    /// What is there before, when it is a change that is wrong.
    before: Option<String>,
    manifest: String,
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
            manifest.to_string()
        };
        let change = case.get("then");
        Wrong {
            title: case["wrong"].as_str().unwrap().to_owned(),
            before: change.map(|_| manifest(&case["spec"])),
            manifest: manifest(change.unwrap_or(&case["spec"])),
            says: case["says"].as_str().unwrap().to_owned(),
        }
    };
    cases.into_iter().enumerate().map(wrong).collect()
}

/// The complaints in what kubectl says, without its frame. When a value is of
/// the wrong type, kubectl adds that not everything was looked at.
fn complaints(said: &str) -> Vec<&str> {
    let frame = [" is invalid:", "strict decoding error:"];
    let body = frame
        .iter()
        .find_map(|f| said.split_once(f))
        .map_or(said, |(_, body)| body);
    body.lines()
        .map(|line| line.trim_start_matches("* ").trim())
        .filter(|line| !line.is_empty() && !line.contains("some validation rules were not checked"))
        .collect()
}

/// What is not as it should be, if anything.
async fn attempt(namespace: &Namespace, wrong: &Wrong) -> Option<String> {
    if let Some(before) = &wrong.before {
        namespace.apply(before).await;
    }
    match namespace.try_apply(&wrong.manifest).await {
        Ok(said) => Some(format!("{}: not refused: {said}", wrong.title)),
        Err(refusal) if complaints(&refusal.said) == [wrong.says.as_str()] => None,
        Err(refusal) => Some(format!(
            "{}: {}\n  should be {}",
            wrong.title, refusal.said, wrong.says
        )),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_manifests_are_refused_with_a_word_on_what_to_do() {
    let cluster = Cluster::with_crds().await;
    let namespace = Arc::new(cluster.namespace("wrong").await);
    let cases = wrong_manifests();
    assert!(cases.len() >= 100, "{}", cases.len());

    let mut queue = cases.into_iter();
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(wrong) = queue.next()
        {
            let namespace = Arc::clone(&namespace);
            running.spawn(async move { attempt(&namespace, &wrong).await });
        }
        let Some(ended) = running.join_next().await else {
            break;
        };
        failed.extend(ended.unwrap());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
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
