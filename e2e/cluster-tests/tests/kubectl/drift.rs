//! What somebody changed behind the operator's back is put right, and said.

use std::time::Duration;

use serde_json::json;

use crate::scene::{HONEST, Scene, resource};

#[tokio::test(flavor = "multi_thread")]
async fn of_rows_tables_and_rights() {
    let scene = Scene::to_kafka("drift_sql").await;
    // A changed row is noticed at once, by the notice that every change gives.
    scene.db.run("SELECT tide.relay_disable('p')").await;
    scene
        .db
        .await_text(HONEST, "SELECT enabled FROM tide.pipeline WHERE name = 'p'", "t")
        .await;
    let note = scene.event("pipeline/p", "DriftRepaired").await;
    assert!(note.contains(r#"pipeline "p" was set"#), "{note}");

    scene.db.run("SELECT tide.relay_delete('p')").await;
    scene
        .db
        .await_text(HONEST, "SELECT count(*) FROM tide.pipeline WHERE name = 'p'", "1")
        .await;
    scene.ready("pipeline/p").await;

    // Tables and rights give no notice: they are compared now and then.
    let role = scene.name.clone();
    let admin = scene.db.superuser().await;
    admin.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
    scene
        .apply(&[resource(
            "Outbox",
            "granted",
            &json!({"databaseRef": {"name": "db"}, "publishers": [role]}),
        )])
        .await;
    scene.ready("outbox/granted").await;
    let may = format!("SELECT has_any_column_privilege('{role}', 'tide.granted_outbox', 'INSERT')");
    assert_eq!(scene.db.text(&may).await, "t");
    scene
        .db
        .run(&format!("SELECT tide.outbox_revoke_publish('granted', '{role}')"))
        .await;
    assert_eq!(scene.db.text(&may).await, "f");
    scene.db.run(r#"DROP TABLE tide."events_outbox""#).await;
    scene
        .db
        .await_text(
            Duration::from_secs(40),
            "SELECT to_regclass('tide.events_outbox') IS NOT NULL",
            "t",
        )
        .await;
    scene.db.await_text(HONEST, &may, "t").await;
    let note = scene.event("outbox/granted", "DriftRepaired").await;
    assert!(note.contains(&format!("role \"{role}\" may publish")), "{note}");
    let note = scene.event("outbox/events", "DriftRepaired").await;
    assert!(note.contains("repaired"), "{note}");
    scene.db.publish_number("events", 7).await;
    scene.db.await_delivered(HONEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_made_in_kubernetes() {
    let scene = Scene::to_kafka("drift_objects").await;
    scene
        .namespace
        .kubectl(&["delete", "deployment", "db-relay-default", "--wait=false"])
        .await;
    scene
        .namespace
        .await_field(HONEST, "deployment/db-relay-default", "{.spec.replicas}", "1")
        .await;
    let note = scene.event("tidedatabase/db", "DriftRepaired").await;
    assert!(note.contains("Deployment"), "{note}");
    scene.ready("pipeline/p").await;

    scene
        .namespace
        .kubectl(&["delete", "secret", "db-relay-default"])
        .await;
    scene
        .namespace
        .await_value(
            HONEST,
            "secret/db-relay-default",
            "{.data.database-url}",
            "is there",
            |v| !v.is_empty(),
        )
        .await;
    scene
        .namespace
        .kubectl(&["scale", "deployment", "db-relay-default", "--replicas=0"])
        .await;
    scene
        .namespace
        .await_field(HONEST, "deployment/db-relay-default", "{.spec.replicas}", "1")
        .await;
}
