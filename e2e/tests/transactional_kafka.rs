//! `delivery: transactional`: a reader of committed messages sees each once,
//! whatever becomes of the relays.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::kafka::{self, values};
use pg_tide_e2e::{Bed, Database, Load, Relay, assert_each_once, assert_in_order, unique};
use rdkafka::producer::{BaseRecord, Producer as _};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_mins(1);
const TRANSACTIONAL: &str = r#"{"delivery": "transactional"}"#;

/// A database with the outbox `events` and the pipeline `p` to a topic of its
/// own.
async fn scene(stem: &str) -> (Bed, Database, String) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    let topic = unique(stem);
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, TRANSACTIONAL)
        .await;
    (bed, db, topic)
}

/// What a reader of committed messages sees is each number once, in order.
async fn assert_all(bed: &Bed, db: &Database, topic: &str, last: i64) {
    db.await_delivered(A_WHILE).await;
    let got = values(&kafka::records(&bed.kafka, topic).await);
    assert_each_once(&got, 1..=last);
    assert_in_order(&got);
}

/// The transactional id of `p`, as documented.
async fn transactional_id(db: &Database) -> String {
    let query =
        "SELECT 'pg-tide-' || system_identifier || '-' || current_database() || '-p' FROM tide._cluster()";
    db.text(query).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_delivered_in_few_transactions() {
    let (bed, db, topic) = scene("tx_backlog").await;
    db.publish_numbers("events", 1, 20_000, 100).await;
    let relay = Relay::start(&db).await;
    assert_all(&bed, &db, &topic, 20_000).await;
    // Each transaction ends with a marker in the log.
    let transactions = kafka::end_offsets(&bed.kafka, &topic).await[0] - 20_000;
    println!("20000 messages in {transactions} transactions");
    assert!((1..=2_000).contains(&transactions), "{transactions}");
    relay.await_healthy(SOON, "p", 1).await;

    // A single message does not wait for others.
    db.publish_number("events", 20_001).await;
    assert_all(&bed, &db, &topic, 20_001).await;
    let after = kafka::end_offsets(&bed.kafka, &topic).await[0];
    assert_eq!(after, 20_000 + transactions + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_owners_leave_nothing_doubled() {
    let (bed, db, topic) = scene("tx_kill").await;
    let load = Load::start(&db).await;
    for _ in 0..4 {
        let mut relay = Relay::start(&db).await;
        relay.await_healthy(SOON, "p", 1).await;
        load.await_more(300).await;
        relay.kill();
    }
    let _relay = Relay::start(&db).await;
    load.await_more(300).await;
    let last = load.end().await;
    assert_all(&bed, &db, &topic, last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_owners_is_fenced() {
    let (bed, db, topic) = scene("tx_fence").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 10).await;
    assert_all(&bed, &db, &topic, 100).await;
    // Somebody else takes the transactional id over and sends.
    let rival = kafka::transactional(&bed.kafka, &transactional_id(&db).await).await;
    rival.begin_transaction().unwrap();
    let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).payload(r#"{"n": 101}"#);
    rival.send(record).map_err(|(e, _)| e).unwrap();
    rival.flush(SOON).unwrap();
    // The relay can send nothing more as it is. It says so, begins anew as the
    // owner that PostgreSQL says it is, and now it is the rival who is fenced.
    db.publish_numbers("events", 102, 200, 10).await;
    relay
        .await_log(SOON, &["p", "ownership lost", "another owner of the pipeline"])
        .await;
    db.await_delivered(SOON).await;
    let end = tokio::task::spawn_blocking(move || rival.commit_transaction(SOON));
    let refused = end.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("fenced"), "{refused}");
    let got = values(&kafka::records(&bed.kafka, &topic).await);
    assert_each_once(&got, (1..=100).chain(102..=200));
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_open_transaction_is_waited_for() {
    let (bed, db, topic) = scene("tx_foreign").await;
    let mut relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 10).await;
    assert_all(&bed, &db, &topic, 100).await;
    let stranger = kafka::transactional(&bed.kafka, &unique("stranger")).await;
    stranger.begin_transaction().unwrap();
    let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).payload(r#"{"n": 0}"#);
    stranger.send(record).map_err(|(e, _)| e).unwrap();
    stranger.flush(SOON).unwrap();
    // Committed behind it, where nobody can read it yet.
    db.publish_numbers("events", 101, 200, 10).await;
    db.await_delivered(SOON).await;
    relay.kill();
    db.publish_numbers("events", 201, 300, 10).await;
    let _relay = Relay::start(&db).await;
    db.await_text(
        A_WHILE,
        "SELECT position('a transaction of another producer has been open' IN last_error) > 0 FROM tide.relay_pipeline_status",
        "t",
    )
    .await;
    let end = tokio::task::spawn_blocking(move || stranger.abort_transaction(SOON));
    end.await.unwrap().unwrap();
    assert_all(&bed, &db, &topic, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_is_set_aside_and_the_rest_is_committed() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "tx_large").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("tx_large");
    kafka::create_topic(&bed.kafka, &topic, 1, &[("max.message.bytes", "20000")]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, TRANSACTIONAL)
        .await;
    db.publish_numbers("events", 1, 50, 50).await;
    for (n, bytes) in [(51, 50_000), (52, 3_000_000)] {
        db.run(&format!(
            "SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}, 'x', repeat('y', {bytes})))"
        ))
        .await;
    }
    db.publish_numbers("events", 53, 100, 50).await;
    let relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let got = values(&kafka::records(&bed.kafka, &topic).await);
    assert_eq!(got, (1..=50).chain(53..=100).collect::<Vec<_>>());
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "2");
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_templated_topic_is_committed_in_its_own() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "tx_template").await;
    db.create_outboxes(&["events"]).await;
    let stem = unique("tx_template");
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &format!("{stem}-{{region}}"),
        TRANSACTIONAL,
    )
    .await;
    let mut relay = Relay::start(&db).await;
    for first in [1, 201] {
        db.run(&format!(
            "SELECT tide.outbox_publish('events', jsonb_build_object('n', n),
                        jsonb_build_object('region', CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END))
               FROM generate_series({first}, {first} + 199) n"
        ))
        .await;
        db.await_delivered(SOON).await;
        relay.kill();
        relay = Relay::start(&db).await;
    }
    for (region, rest) in [("eu", 0), ("us", 1)] {
        let got = values(&kafka::records(&bed.kafka, &format!("{stem}-{region}")).await);
        assert_eq!(
            got,
            (1..=400).filter(|n| n % 2 == rest).collect::<Vec<_>>(),
            "{region}"
        );
    }
}
