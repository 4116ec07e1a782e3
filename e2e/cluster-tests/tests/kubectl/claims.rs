//! An object in SQL belongs to one resource.

use serde_json::json;

use crate::scene::{Scene, outbox, resource};

#[tokio::test(flavor = "multi_thread")]
async fn two_resources_for_one_outbox() {
    let scene = Scene::begun("two").await;
    scene.apply(&[outbox("events")]).await;
    scene.ready("outbox/events").await;
    scene
        .apply(&[resource(
            "Outbox",
            "other",
            &json!({"databaseRef": {"name": "db"}, "name": "events"}),
        )])
        .await;
    let message = scene.not_ready("outbox/other", "Conflict").await;
    assert!(message.contains(r#"Outbox "events""#), "{message}");
    scene.ready("outbox/events").await;
    // The first one goes: the second may have it when it may adopt.
    scene.namespace.kubectl(&["delete", "outbox", "events"]).await;
    scene
        .namespace
        .kubectl(&[
            "patch",
            "outbox",
            "other",
            "--type=merge",
            "--patch",
            r#"{"spec": {"adoptionPolicy": "Adopt"}}"#,
        ])
        .await;
    scene.ready("outbox/other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_was_made_by_hand() {
    let scene = Scene::begun("by_hand").await;
    scene.ready("tidedatabase/db").await;
    scene.db.run("SELECT tide.outbox_create('events', 12)").await;
    scene.db.publish_number("events", 1).await;
    scene.apply(&[outbox("events")]).await;
    let message = scene.not_ready("outbox/events", "AlreadyExists").await;
    assert!(message.contains("no resource manages it"), "{message}");
    let hours = "SELECT (extract(epoch FROM retention) / 3600)::int FROM tide.outbox";
    assert_eq!(scene.db.text(hours).await, "12", "left alone");
    scene
        .apply(&[resource(
            "Outbox",
            "events",
            &json!({
                "databaseRef": {"name": "db"}, "adoptionPolicy": "Adopt", "retention": "48h",
            }),
        )])
        .await;
    scene.ready("outbox/events").await;
    assert_eq!(scene.db.text(hours).await, "48");
    let note = scene.event("outbox/events", "Adopted").await;
    assert!(note.contains("48 hours"), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_come_and_go_with_the_list() {
    let scene = Scene::begun("rights").await;
    let role = scene.name.clone();
    scene.ready("tidedatabase/db").await;
    scene
        .db
        .superuser()
        .await
        .batch_execute(&format!("CREATE ROLE {role}"))
        .await
        .unwrap();
    let spec = |publishers: &[&str]| json!({"databaseRef": {"name": "db"}, "publishers": publishers});
    let may = format!("SELECT has_any_column_privilege('{role}', 'tide.events_outbox', 'INSERT')");

    scene
        .apply(&[resource("Outbox", "events", &spec(&["nobody_at_all"]))])
        .await;
    let message = scene.not_ready("outbox/events", "Refused").await;
    assert!(
        message.contains(r#"role "nobody_at_all" does not exist"#),
        "{message}"
    );

    scene
        .apply(&[resource("Outbox", "events", &spec(&[&role]))])
        .await;
    scene.ready("outbox/events").await;
    assert_eq!(scene.db.text(&may).await, "t");
    scene.apply(&[resource("Outbox", "events", &spec(&[]))]).await;
    scene.db.await_text(crate::scene::HONEST, &may, "f").await;
}
