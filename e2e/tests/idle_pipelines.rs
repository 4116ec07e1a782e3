//! A relay with many idle pipelines: it gives threads and connections back, and
//! is there at once when there is something to send.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, assert_each_once, await_condition, kafka, unique};

const A_WHILE: Duration = Duration::from_mins(1);
const PIPELINES: i64 = 70;
/// Those of librdkafka that stay connected, and a few about to sleep.
const CONNECTED: usize = 60;

/// A database with outboxes `events` and `rare`, a pipeline from `rare` to the
/// topic that is returned, and many others from `events`.
async fn scene(bed: &Bed, stem: &str, options: &str) -> (Database, String) {
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["events", "rare"]).await;
    let topic = unique(stem);
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    let config = |topic: &str| {
        format!(
            "jsonb_build_object('brokers', '{}', 'topic', '{topic}') || '{options}'",
            bed.kafka
        )
    };
    db.run(&format!(
        "SELECT tide.relay_set_outbox('p' || n, 'events', 'kafka', {}) FROM generate_series(2, {PIPELINES}) n",
        config(&unique(&format!("{stem}_others")))
    ))
    .await;
    db.run(&format!(
        "SELECT tide.relay_set_outbox('p1', 'rare', 'kafka', {})",
        config(&topic)
    ))
    .await;
    (db, topic)
}

async fn await_sleeping(db: &Database) {
    let sql = format!(
        "SELECT count(*) >= {} FROM tide.relay_pipeline_status WHERE state = 'running' AND note LIKE '%connection is closed%'",
        PIPELINES - 60
    );
    db.await_text(A_WHILE, &sql, "t").await;
}

/// How many clients of librdkafka the process has: each has a thread that
/// polls.
fn clients(relay: &Relay) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", relay.pid()))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim() == "kafka-reports")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_pipelines_keep_no_threads_and_few_sessions() {
    let bed = Bed::from_env();
    let (db, topic) = scene(&bed, "idle_light", "{}").await;
    let relay = Relay::start(&db).await;
    let running = format!(
        "SELECT count(*) = {PIPELINES} FROM tide.relay_pipeline_status WHERE state = 'running' AND note IS NULL"
    );
    db.await_text(A_WHILE, &running, "t").await;
    await_condition(A_WHILE, "no client of the library", async || {
        (clients(&relay) == 0).then_some(())
    })
    .await;
    db.publish_numbers("rare", 1, 5, 5).await;
    kafka::await_records(&bed.kafka, &topic, 5, A_WHILE).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name ^@ 'pg-tide'";
    db.await_text(A_WHILE, sessions, "4").await;
    assert_eq!(clients(&relay), 0, "it needs none to send");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_pipelines_of_the_library_give_their_connections_back_and_lose_and_double_nothing() {
    let bed = Bed::from_env();
    let (db, topic) = scene(
        &bed,
        "idle",
        r#"{"librdkafka": {"socket.keepalive.enable": "true"}}"#,
    )
    .await;
    let mut relay = Relay::start(&db).await;
    await_sleeping(&db).await;
    await_condition(A_WHILE, "few clients", async || {
        (clients(&relay) <= CONNECTED).then_some(())
    })
    .await;

    // Whether it sleeps or not: a message is delivered, and nothing counts as
    // undelivered afterwards.
    db.publish_numbers("rare", 1, 1, 1).await;
    db.publish_numbers("events", 1, 1, 1).await;
    db.await_delivered(A_WHILE).await;
    await_sleeping(&db).await;
    // A killed relay leaves sleeping pipelines as it leaves others.
    relay.kill();
    db.publish_numbers("rare", 2, 50, 5).await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let got: Vec<i64> = kafka::values(&kafka::records(&bed.kafka, &topic).await);
    assert_each_once(&got, 1..=50);
}
