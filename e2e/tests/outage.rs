//! Servers that go away and come back: nothing is lost or doubled, nobody has
//! to touch the relay, and it says the truth meanwhile. On beds of their own.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{
    Bed, Database, OwnBed, Relay, RelayOptions, assert_each_once, assert_in_order, await_condition, kafka,
    numbers, unique,
};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_secs(40);
const PENDING: &str = "SELECT pending_count FROM tide.outbox_pending";

#[tokio::test(flavor = "multi_thread")]
async fn kafka_may_go_and_come_back() {
    let own = OwnBed::up("kafka", &["kafka"], &[]).await;
    let db = Database::fresh(&Bed::from_env().postgres, "outage_kafka").await;
    let topic = unique("outage");
    let brokers = &own.addresses.kafka;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", brokers, &topic, r#"{"retry": {"max": 1000}}"#)
        .await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 10).await;
    db.await_delivered(SOON).await;

    // Seen also while there is nothing to send.
    own.kill("kafka").await;
    relay.await_healthy(SOON, "p", 0).await;
    db.publish_number("events", 101).await;
    assert_eq!(db.text(PENDING).await, "1");
    relay.await_log(SOON, &["WARN", "delivery failed", brokers]).await;
    assert_eq!(db.text(PENDING).await, "1");

    own.start("kafka").await;
    db.await_text(A_WHILE, PENDING, "0").await;
    relay.await_healthy(SOON, "p", 1).await;

    // Again, and this time in the middle of much.
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(102, 20000) n")
        .await;
    kafka::await_records(brokers, &topic, 110, SOON).await;
    own.kill("kafka").await;
    relay.await_healthy(SOON, "p", 0).await;
    own.start("kafka").await;
    db.await_text(A_WHILE, PENDING, "0").await;
    let got = numbers(
        kafka::records(brokers, &topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    );
    assert_each_once(&got, 1..=20_000);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_are_used_when_leaders_are_asked_for() {
    let own = OwnBed::up("partitions", &["kafka"], &[]).await;
    let db = Database::fresh(&Bed::from_env().postgres, "partitions_added").await;
    let topic = unique("partitions_added");
    let brokers = &own.addresses.kafka;
    kafka::create_topic(brokers, &topic, 1, &[]).await;
    db.create_outboxes(&["events"]).await;
    let options = r#"{"key": "{id}", "retry": {"max": 1000}}"#;
    db.to_kafka("p", "events", brokers, &topic, options).await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 10, 10).await;
    db.await_delivered(SOON).await;
    kafka::add_partitions(brokers, &topic, 4).await;
    own.kill("kafka").await;
    own.start("kafka").await;
    let mut sent = 10;
    await_condition(A_WHILE, "messages in the new partitions", async || {
        db.publish_numbers("events", sent + 1, sent + 10, 10).await;
        sent += 10;
        db.await_delivered(SOON).await;
        let ends = kafka::end_offsets(brokers, &topic).await;
        (ends.len() == 4 && ends[1..].iter().all(|end| *end > 0)).then_some(())
    })
    .await;
    let got = numbers(
        kafka::records(brokers, &topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    );
    assert_each_once(&got, 1..=sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_go_and_come_back() {
    let own = OwnBed::up("nats", &["nats"], &[("TIDE_BED_NATS_SYNC", "always")]).await;
    let db = Database::fresh(&Bed::from_env().postgres, "outage_nats").await;
    let url = &own.addresses.nats;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let nats = Nats::connect(url).await;
    // Out and in again: what the outbox publishes is what the inbox gets.
    nats.create_stream("loop", "loop", |config| {
        config.duplicate_window = Duration::from_millis(100);
    })
    .await;
    db.to_nats("out", "events", url, "loop", r#"{"retry": {"max": 1000}}"#)
        .await;
    db.from_nats(
        "in",
        "calls",
        url,
        "loop",
        r#"{"retry": {"max": 1000}, "message_id_header": "tide-id"}"#,
        "",
    )
    .await;
    let relay = Relay::start(&db).await;
    let count = "SELECT count(*) FROM tide.calls_inbox";
    db.publish_numbers("events", 1, 100, 10).await;
    db.await_text(SOON, count, "100").await;
    db.await_text(SOON, PENDING, "0").await;

    own.kill("nats").await;
    db.publish_number("events", 101).await;
    for pipeline in ["out", "in"] {
        relay.await_healthy(SOON, pipeline, 0).await;
        relay
            .await_log(SOON, &["WARN", "backing off", &format!("\"{pipeline}\"")])
            .await;
    }
    assert_eq!(db.text(PENDING).await, "1");
    own.start("nats").await;
    db.await_text(A_WHILE, count, "101").await;

    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(102, 5000) n")
        .await;
    await_condition(SOON, "some are in", async || {
        (db.number(count).await > 110).then_some(())
    })
    .await;
    own.kill("nats").await;
    own.start("nats").await;
    db.await_text(A_WHILE, count, "5000").await;
    db.await_text(SOON, PENDING, "0").await;
    for pipeline in ["out", "in"] {
        relay.await_healthy(SOON, pipeline, 1).await;
    }
    let messages = Nats::connect(url).await.messages("loop").await;
    let got = numbers(messages.iter().map(|m| m.payload.as_str()));
    assert_each_once(&got, 1..=5000);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_may_be_killed_and_come_back() {
    let own = OwnBed::up("postgres", &["postgres"], &[]).await;
    let bed = Bed::from_env();
    let db = Database::fresh(&own.addresses.postgres, "outage_pg").await;
    let (topic, stream) = (unique("outage_pg"), unique("outage_pg"));
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&stream, &stream, |_| {}).await;
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    db.from_nats("in", "calls", &bed.nats, &stream, "{}", ", p_idempotent := false")
        .await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 5000, 10).await;
    for n in 1..=1000 {
        nats.client
            .publish(stream.clone(), format!("{{\"n\": {n}}}").into())
            .await
            .unwrap();
    }
    nats.client.flush().await.unwrap();
    kafka::await_records(&bed.kafka, &topic, 500, SOON).await;

    own.kill("postgres").await;
    await_condition(SOON, "no longer ready", async || {
        (relay.page("/readyz").await.0 == 503).then_some(())
    })
    .await;
    assert_eq!(relay.page("/livez").await.0, 200, "the relay itself is well");
    own.start("postgres").await;
    await_condition(A_WHILE, "ready again", async || {
        (relay.page("/readyz").await.0 == 200).then_some(())
    })
    .await;
    db.publish_numbers("events", 5001, 5200, 10).await;
    db.await_delivered(A_WHILE).await;
    let count = "SELECT count(*), count(DISTINCT payload->>'n') FROM tide.calls_inbox";
    db.await_text(A_WHILE, count, "1000|1000").await;
    let got = numbers(
        kafka::records(&bed.kafka, &topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    );
    assert_each_once(&got, 1..=5200);
    assert_in_order(&got);
    for pipeline in ["out", "in"] {
        relay.await_healthy(SOON, pipeline, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_may_be_restarted_under_load() {
    let own = OwnBed::up("restart", &["postgres"], &[]).await;
    let bed = Bed::from_env();
    let db = Arc::new(Database::fresh(&own.addresses.postgres, "restart").await);
    let topic = unique("restart");
    db.create_outboxes(&["events"]).await;
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    let relay = Relay::start(&db).await;

    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let (db, stop) = (Arc::clone(&db), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut n = publisher * 1_000_000;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let publish = format!("SELECT tide.outbox_publish('events', '{{\"n\": {n}}}')");
                    if db.try_text(&publish).await.is_err() {
                        // An application, too, lets the server breathe.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    let mut delivered = 0;
    for _ in 0..2 {
        delivered += 500;
        kafka::await_records(&bed.kafka, &topic, delivered, A_WHILE).await;
        own.stop("postgres").await;
        await_condition(SOON, "no longer ready", async || {
            (relay.page("/readyz").await.0 == 503).then_some(())
        })
        .await;
        own.start("postgres").await;
        await_condition(A_WHILE, "ready again", async || {
            (relay.page("/readyz").await.0 == 200).then_some(())
        })
        .await;
        delivered = kafka::records(&bed.kafka, &topic).await.len();
    }
    kafka::await_records(&bed.kafka, &topic, delivered + 500, A_WHILE).await;
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    db.await_delivered(A_WHILE).await;
    // What was committed, whatever its publisher came to know of it.
    let committed = db.text("SELECT payload->>'n' FROM tide.outbox_message").await;
    let committed = committed.lines().map(|n| n.parse().unwrap());
    let got = numbers(
        kafka::records(&bed.kafka, &topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    );
    assert_each_once(&got, committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_may_be_started_before_postgresql() {
    let own = OwnBed::up("late-postgres", &["postgres"], &[]).await;
    let bed = Bed::from_env();
    let db = Database::fresh(&own.addresses.postgres, "outage_late").await;
    let topic = unique("outage_late");
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.publish_number("events", 1).await;
    own.stop("postgres").await;

    let relay = RelayOptions::for_url(&db.url()).spawn();
    let line = relay
        .await_log(SOON, &["cannot connect to PostgreSQL at 127.0.0.1:"])
        .await;
    assert!(!line.contains("tide:tide@"), "the password is in the log: {line}");
    assert_eq!(relay.page("/livez").await.0, 200);
    assert_eq!(relay.page("/readyz").await.0, 503);
    own.start("postgres").await;
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    assert_eq!(relay.page("/readyz").await.0, 200);
}
