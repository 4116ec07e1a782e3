//! Dead letters go through their pipeline again; what was delivered is replayed.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{
    Bed, Database, Relay, assert_each_once, assert_in_order, beside_others, kafka, numbers, unique,
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_dead_letter_is_delivered_once_its_cause_is_mended() {
    let _others = beside_others().await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "dlq").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("dlq");
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    // The region is missing in every second message.
    db.to_kafka("p", "events", &bed.kafka, &format!("{topic}{{region}}"), "{}")
        .await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n),
                CASE WHEN n % 2 = 0 THEN '{\"a\": \"b\"}' ELSE '{\"region\": \"\"}' END::jsonb)
           FROM generate_series(1, 6) n",
    )
    .await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "3")
        .await;
    db.await_delivered(SOON).await;
    let error = db
        .text("SELECT error FROM tide.relay_dlq_list('p') LIMIT 1")
        .await;
    assert!(error.contains("{region}"), "{error}");

    // Without a change the retry fails again, and says so.
    db.run("SELECT tide.relay_dlq_retry_all('p')").await;
    db.await_text(SOON, "SELECT min(attempts) FROM tide.relay_dlq_list('p')", "2")
        .await;

    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.run("SELECT tide.relay_dlq_retry_all('p')").await;
    db.await_text(
        SOON,
        "SELECT string_agg(message_id || ' ' || resolution, ', ' ORDER BY dlq_id) FROM tide.relay_dlq_list('p', true)",
        "2 delivered, 4 delivered, 6 delivered",
    )
    .await;
    let records = kafka::await_records(&bed.kafka, &topic, 6, SOON).await;
    let got = numbers(records.iter().map(|r| r.value.as_str()));
    assert_each_once(&got, 1..=6);
    let again = records
        .iter()
        .filter(|r| r.header("tide-redelivery").is_some())
        .count();
    assert_eq!(again, 3);
    // Deliveries go on as before.
    db.publish_number("events", 7).await;
    kafka::await_records(&bed.kafka, &topic, 7, SOON).await;
    relay
        .await_metric(SOON, "pg_tide_relay_pipeline_healthy{pipeline=\"p\"} 1")
        .await;
}

/// Replays everything and kills the relay in the midst of it.
async fn replay_through_a_crash(db: &Database, count: i64) -> Relay {
    let mut relay = Relay::start(db).await;
    db.await_delivered(SOON).await;
    assert_eq!(db.number("SELECT tide.relay_replay('p', 1, NULL)").await, count);
    db.await_text(
        SOON,
        "SELECT coalesce(max(done_id), 0) > 0 FROM tide.redelivery",
        "t",
    )
    .await;
    relay.kill();
    assert_ne!(
        db.number("SELECT count(*) FROM tide.redelivery").await,
        0,
        "the replay was over too soon"
    );
    let relay = Relay::start(db).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.redelivery", "0")
        .await;
    relay
}

#[tokio::test]
async fn a_replay_to_kafka_survives_a_killed_relay_and_doubles_nothing() {
    let _others = beside_others().await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "replay").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("replay");
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.publish_numbers("events", 1, 20_000, 1_000).await;
    let _relay = replay_through_a_crash(&db, 20_000).await;
    let records = kafka::await_records(&bed.kafka, &topic, 40_000, SOON).await;
    let (again, first): (Vec<_>, Vec<_>) = records
        .iter()
        .partition(|r| r.header("tide-redelivery").is_some());
    for part in [first, again] {
        let got = numbers(part.iter().map(|r| r.value.as_str()));
        assert_each_once(&got, 1..=20_000);
        assert_in_order(&got);
    }
}

#[tokio::test]
async fn a_replay_to_nats_is_no_duplicate_to_the_stream() {
    let _others = beside_others().await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "replay").await;
    db.create_outboxes(&["events"]).await;
    let subject = unique("replay");
    db.to_nats("p", "events", &bed.nats, &subject, "{}").await;
    db.publish_numbers("events", 1, 5_000, 1_000).await;
    let _relay = replay_through_a_crash(&db, 5_000).await;
    let nats = Nats::connect(&bed.nats).await;
    let stream = nats.await_stream_of(&subject, SOON).await;
    let stored = nats.messages(&stream).await;
    let (again, first): (Vec<_>, Vec<_>) = stored.iter().partition(|m| m.header("tide-redelivery").is_some());
    for part in [first, again] {
        let got = numbers(part.iter().map(|m| m.payload.as_str()));
        assert_each_once(&got, 1..=5_000);
        assert_in_order(&got);
    }
}
