//! Several pipelines on one outbox: each gets everything at its own pace, and
//! those that are near each other read once.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::{
    Bed, Database, Relay, assert_each_once, assert_in_order, await_condition, kafka, numbers, unique,
};

const SOON: Duration = Duration::from_secs(20);
const PIPELINES: usize = 6;
const MESSAGES: i64 = 500;

/// Queries for new messages: how many were made, how many spared.
async fn reads(relay: &Relay) -> (u64, u64) {
    let value = async |name: &str| -> u64 {
        let lines = relay.metric_lines(&format!("pg_tide_relay_{name} ")).await;
        lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    (
        value("outbox_reads_total").await,
        value("outbox_reads_shared_total").await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_gets_everything_and_who_reads_alike_reads_once() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "fan_out").await;
    db.create_outboxes(&["events"]).await;
    let topics: Vec<String> = (0..PIPELINES).map(|_| unique("fan_out")).collect();
    for (n, topic) in topics.iter().enumerate() {
        // One of them is held up by a window of a single message.
        let options = if n == 0 { r#"{"max_in_flight": 1}"# } else { "{}" };
        db.to_kafka(&format!("p{n}"), "events", &bed.kafka, topic, options)
            .await;
    }
    let relay = Relay::start(&db).await;
    let running =
        format!("SELECT count(*) = {PIPELINES} FROM tide.relay_pipeline_status WHERE state = 'running'");
    db.await_text(SOON, &running, "t").await;
    for n in 1..=MESSAGES {
        db.publish_number("events", n).await;
    }
    db.await_delivered(SOON).await;
    for topic in &topics {
        let records = kafka::records(&bed.kafka, topic).await;
        let got = numbers(records.iter().map(|r| r.value.as_str()));
        assert_each_once(&got, 1..=MESSAGES);
        assert_in_order(&got);
    }
    let (asked, spared) = reads(&relay).await;
    assert!(spared > asked, "{asked} queries, {spared} spared");

    // Who comes later reads what is kept, alone, and then joins the others.
    db.to_kafka("late", "events", &bed.kafka, &unique("fan_out_late"), "{}")
        .await;
    await_condition(SOON, "the late one has joined", async || {
        let before = reads(&relay).await;
        db.publish_number("events", 0).await;
        db.await_delivered(SOON).await;
        let now = reads(&relay).await;
        let (asked, spared) = (now.0 - before.0, now.1 - before.1);
        (spared >= PIPELINES as u64 && asked > 0).then_some(())
    })
    .await;
}
