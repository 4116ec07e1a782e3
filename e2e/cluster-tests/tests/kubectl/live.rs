//! A Pipeline is changed while it works: in effect within two seconds, in the
//! pods that run.

use std::time::{Duration, Instant};

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{answer, kafka, unique};
use serde_json::{Value, json};

use crate::scene::{SOON, Scene, resource};

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

#[tokio::test(flavor = "multi_thread")]
async fn subject_of_a_source() {
    let scene = Scene::begun("live_subject").await;
    let nats = Nats::connect(&scene.bed.nats).await;
    let subject = |n: usize| format!("{}.{n}", scene.name);
    nats.create_stream(&scene.name, &format!("{}.>", scene.name), |_| {})
        .await;
    let spec = json!({
        "databaseRef": {"name": "db"},
        "reverse": {
            "inboxRef": {"name": "payments"},
            "source": {"nats": {"url": scene.bed.nats, "subject": subject(0)}},
        },
    });
    scene
        .apply(&[
            resource("Inbox", "payments", &json!({"databaseRef": {"name": "db"}})),
            resource("Pipeline", "p", &spec),
        ])
        .await;
    scene.ready("pipeline/p").await;
    let pods = scene.pods().await;
    let arrived = "SELECT string_agg(payload ->> 'n', ' ' ORDER BY id) FROM tide.payments_inbox";
    nats.publish(&subject(0), r#"{"n": 0}"#).await;
    scene.db.await_text(SOON, arrived, "0").await;

    // What waits in the other subject is there as soon as the change is in effect.
    let mut took = Vec::new();
    for n in 1..4 {
        nats.publish(&subject(n), &format!(r#"{{"n": {n}}}"#)).await;
        let change = json!({"spec": {"reverse": {"source": {"nats": {"subject": subject(n)}}}}});
        patch(&scene, &change).await;
        let begun = Instant::now();
        let all: Vec<String> = (0..=n).map(|n| n.to_string()).collect();
        scene.db.await_text(SOON, arrived, &all.join(" ")).await;
        took.push(begun.elapsed());
    }
    println!("a changed subject was in effect after {took:?}");
    // The machine does other things meanwhile.
    let least = took.iter().min().unwrap();
    assert!(*least <= Duration::from_secs(2), "{took:?}");
    // The old subject is not listened to any more.
    nats.publish(&subject(0), r#"{"n": 9}"#).await;
    nats.publish(&subject(3), r#"{"n": 4}"#).await;
    scene.db.await_text(SOON, arrived, "0 1 2 3 4").await;
    assert_eq!(pods, scene.pods().await, "no pod was restarted");
}
