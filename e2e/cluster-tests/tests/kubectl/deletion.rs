//! Resources go, and what they made goes or stays as they said.

use std::time::Duration;

use serde_json::json;

use crate::scene::{HONEST, SOON, Scene, outbox, resource};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_stops_and_its_position_stays() {
    let scene = Scene::to_kafka("delete_pipeline").await;
    scene.db.publish_number("events", 1).await;
    scene.db.await_delivered(SOON).await;
    scene.namespace.kubectl(&["delete", "pipeline", "p"]).await;
    scene
        .db
        .await_text(HONEST, "SELECT count(*) FROM tide.pipeline", "0")
        .await;
    assert_eq!(scene.db.text("SELECT name FROM tide.consumer_group").await, "p");
    scene.db.publish_number("events", 2).await;
    scene.apply(&[scene.pipeline("p", "events")]).await;
    scene.ready("pipeline/p").await;
    let records = pg_tide_e2e::kafka::await_records(&scene.bed.kafka, &scene.name, 2, SOON).await;
    assert_eq!(
        pg_tide_e2e::kafka::values(&records),
        [1, 2],
        "nothing twice, nothing left out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_data_stays_and_is_taken_back() {
    let scene = Scene::begun("retain").await;
    scene.apply(&[outbox("events")]).await;
    scene.ready("outbox/events").await;
    scene.db.publish_number("events", 1).await;
    scene.namespace.kubectl(&["delete", "outbox", "events"]).await;
    let released = "SELECT released_at IS NOT NULL FROM tide.managed_object";
    scene.db.await_text(HONEST, released, "t").await;

    // Another resource has to say that it wants it.
    let another = |adoption: &str| {
        resource(
            "Outbox",
            "another",
            &json!({"databaseRef": {"name": "db"}, "name": "events", "adoptionPolicy": adoption}),
        )
    };
    scene.apply(&[another("Never")]).await;
    let message = scene.not_ready("outbox/another", "AlreadyExists").await;
    assert!(
        message.contains("it was kept when Outbox \"events\"") && message.contains("adoptionPolicy"),
        "{message}"
    );
    scene.namespace.kubectl(&["delete", "outbox", "another"]).await;

    // The one that it was kept for need not.
    scene.apply(&[outbox("events")]).await;
    scene.ready("outbox/events").await;
    scene.event("outbox/events", "Returned").await;
    assert_eq!(
        scene.db.text("SELECT count(*) FROM tide.events_outbox").await,
        "1"
    );

    scene.namespace.kubectl(&["delete", "outbox", "events"]).await;
    scene.db.await_text(HONEST, released, "t").await;
    scene.apply(&[another("Adopt")]).await;
    scene.ready("outbox/another").await;
    scene.event("outbox/another", "Adopted").await;
    assert_eq!(
        scene.db.text("SELECT count(*) FROM tide.events_outbox").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_data_waits_until_it_is_delivered() {
    let scene = Scene::begun("drop").await;
    let spec = json!({
        "databaseRef": {"name": "db"}, "reclaimPolicy": "Delete", "consumerGroups": [{"name": "g"}],
    });
    scene.apply(&[resource("Outbox", "events", &spec)]).await;
    scene.ready("outbox/events").await;
    scene.db.publish_number("events", 1).await;
    scene
        .namespace
        .kubectl(&["delete", "outbox", "events", "--wait=false"])
        .await;
    let message = scene.not_ready("outbox/events", "DeletionBlocked").await;
    assert!(message.contains("1 messages of outbox \"events\""), "{message}");
    scene
        .namespace
        .kubectl(&["annotate", "outbox", "events", "pgtide.dev/force-delete=true"])
        .await;
    scene
        .namespace
        .kubectl(&["wait", "--for=delete", "outbox/events", "--timeout=20s"])
        .await;
    assert_eq!(
        scene
            .db
            .text("SELECT to_regclass('tide.events_outbox') IS NULL")
            .await,
        "t"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_in_one_go() {
    let scene = Scene::to_kafka("namespace").await;
    let spec = json!({"databaseRef": {"name": "db"}, "reclaimPolicy": "Delete"});
    scene.apply(&[resource("Inbox", "payments", &spec)]).await;
    scene.ready("inbox/payments").await;
    let name = scene.namespace.name();
    scene
        .namespace
        .cluster()
        .kubectl(&["delete", "namespace", name, "--wait=false"])
        .await
        .unwrap();
    scene
        .namespace
        .cluster()
        .kubectl(&[
            "wait",
            "--for=delete",
            &format!("namespace/{name}"),
            "--timeout=90s",
        ])
        .await
        .unwrap();
    scene
        .db
        .await_text(Duration::from_secs(20), "SELECT count(*) FROM tide.pipeline", "0")
        .await;
    assert_eq!(
        scene.db.text("SELECT count(*) FROM tide.outbox").await,
        "1",
        "retained"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_everything_goes() {
    let scene = Scene::to_kafka("no_database").await;
    let spec = json!({"databaseRef": {"name": "db"}, "reclaimPolicy": "Delete"});
    scene.apply(&[resource("Outbox", "second", &spec)]).await;
    scene.ready("outbox/second").await;
    scene.namespace.kubectl(&["delete", "secret", "db"]).await;
    scene.namespace.kubectl(&["delete", "tidedatabase", "db"]).await;
    for resource in ["pipeline/p", "outbox/events", "outbox/second"] {
        scene
            .namespace
            .kubectl(&["delete", resource, "--timeout=40s"])
            .await;
    }
}
