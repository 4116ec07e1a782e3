//! A Pipeline is changed while it works: in effect within two seconds, in the
//! pods that run.

use std::time::{Duration, Instant};

use pg_tide_e2e::{kafka, unique};
use serde_json::json;

use crate::scene::{SOON, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn topic_batch_size_and_switch() {
    let scene = Scene::to_kafka("live").await;
    let pods = scene.pods().await;
    let other = unique("live_other");
    let begun = Instant::now();
    let patch = json!({"spec": {"forward": {"batchSize": 7, "sink": {"kafka": {"topic": other}}}}});
    scene
        .namespace
        .kubectl(&[
            "patch",
            "pipeline",
            "p",
            "--type=merge",
            "--patch",
            &patch.to_string(),
        ])
        .await;
    scene
        .db
        .await_text(
            Duration::from_secs(2),
            "SELECT batch_size FROM tide.pipeline WHERE name = 'p'",
            "7",
        )
        .await;
    println!("in SQL after {:?}, kubectl's own time included", begun.elapsed());
    scene.db.publish_number("events", 1).await;
    kafka::await_records(&scene.bed.kafka, &other, 1, SOON).await;

    scene
        .namespace
        .kubectl(&[
            "patch",
            "pipeline",
            "p",
            "--type=merge",
            "--patch",
            r#"{"spec": {"enabled": false}}"#,
        ])
        .await;
    scene.not_ready("pipeline/p", "Paused").await;
    scene.db.publish_number("events", 2).await;
    scene
        .namespace
        .kubectl(&[
            "patch",
            "pipeline",
            "p",
            "--type=merge",
            "--patch",
            r#"{"spec": {"enabled": true}}"#,
        ])
        .await;
    scene.ready("pipeline/p").await;
    let records = kafka::await_records(&scene.bed.kafka, &other, 2, SOON).await;
    assert_eq!(kafka::values(&records), [1, 2]);
    assert_eq!(pods, scene.pods().await, "no pod was restarted");
}
