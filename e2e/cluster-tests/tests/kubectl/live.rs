//! A Pipeline is changed while it works: in effect within two seconds, in the
//! pods that run.

use std::time::{Duration, Instant};

use pg_tide_e2e::{answer, kafka, unique};
use serde_json::{Value, json};

use crate::scene::{SOON, Scene};

async fn patch(scene: &Scene, patch: &Value) {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_batch_size_and_switch() {
    let scene = Scene::to_kafka("live").await;
    let pods = scene.pods().await;
    let other = unique("live_other");
    kafka::create_topic(&scene.bed.kafka, &other, 1, &[]).await;

    // Messages flow all the time; the first one in the other topic shows that
    // the change is in effect.
    let begun = Instant::now();
    patch(
        &scene,
        &json!({"spec": {"forward": {"batchSize": 7, "sink": {"kafka": {"topic": other}}}}}),
    )
    .await;
    let mut published = 0;
    let arrived = answer(SOON, async || {
        published += 1;
        scene.db.publish_number("events", published).await;
        let ends = kafka::end_offsets(&scene.bed.kafka, &other).await;
        (ends.iter().sum::<i64>() > 0).then(|| begun.elapsed())
    })
    .await
    .expect("nothing came into the other topic");
    println!("a changed topic was in effect after {arrived:?}");
    assert!(arrived <= Duration::from_secs(4), "{arrived:?}");
    assert_eq!(scene.db.text("SELECT batch_size FROM tide.pipeline").await, "7");

    patch(&scene, &json!({"spec": {"enabled": false}})).await;
    scene.not_ready("pipeline/p", "Paused").await;
    published += 1;
    scene.db.publish_number("events", published).await;
    patch(&scene, &json!({"spec": {"enabled": true}})).await;
    scene.ready("pipeline/p").await;
    scene.db.await_delivered(SOON).await;
    let mut values = kafka::values(&kafka::records(&scene.bed.kafka, &scene.name).await);
    values.extend(kafka::values(&kafka::records(&scene.bed.kafka, &other).await));
    assert_eq!(
        values,
        (1..=published).collect::<Vec<i64>>(),
        "each once and in order"
    );
    assert_eq!(pods, scene.pods().await, "no pod was restarted");
}
