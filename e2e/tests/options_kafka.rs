//! Options of the Kafka sink do what they say, and brokers that are not as the
//! pipeline needs them are told of.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pg_tide_e2e::kafka::{self, values};
use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{
    Bed, Database, OwnBed, Relay, Signal, assert_each_once, assert_in_order, await_condition, holds, unique,
};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_mins(1);
const PENDING: &str = "SELECT pending_count FROM tide.outbox_pending";

/// Where the shared bed keeps its data.
fn state() -> PathBuf {
    std::env::var_os("TIDE_BED_STATE").unwrap().into()
}

async fn await_error(db: &Database, texts: &[&str]) -> Duration {
    let began = Instant::now();
    let condition = texts
        .iter()
        .map(|text| format!("position('{text}' IN last_error) > 0"))
        .collect::<Vec<_>>()
        .join(" AND ");
    let query = format!(
        "SELECT CASE WHEN {condition} THEN 'told' ELSE last_error END FROM tide.relay_pipeline_status"
    );
    db.await_text(SOON, &query, "told").await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_compression_is_used_and_can_be_read() {
    let (bed, db, stem) = scene("kafka_compression").await;
    let kinds = ["none", "gzip", "snappy", "lz4", "zstd"];
    for kind in kinds {
        let options = json!({"compression": kind}).to_string();
        db.to_kafka(kind, "events", &bed.kafka, &format!("{stem}_{kind}"), &options)
            .await;
    }
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n, 'x', repeat('abc', 100)))) FROM generate_series(1, 2000) n")
        .await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    for (number, kind) in (0..).zip(kinds) {
        let topic = format!("{stem}_{kind}");
        assert_each_once(&values(&kafka::records(&bed.kafka, &topic).await), 1..=2000);
        let batches = kafka::stored_batches(&state(), &topic, 0);
        let bytes: usize = batches.iter().map(|b| b.bytes).sum();
        println!("{kind}: {bytes} bytes in {} batches", batches.len());
        assert!(
            !batches.is_empty() && batches.iter().all(|b| b.compression == number),
            "{kind}: {batches:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_as_large_and_wait_as_long_as_told() {
    let (bed, db, stem) = scene("kafka_batches").await;
    let (small, large, slow) = (format!("{stem}_s"), format!("{stem}_l"), format!("{stem}_slow"));
    db.to_kafka("small", "events", &bed.kafka, &small, r#"{"batch_bytes": 4096}"#)
        .await;
    db.to_kafka("large", "events", &bed.kafka, &large, "{}").await;
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n, 'x', repeat('y', 300)))) FROM generate_series(1, 2000) n")
        .await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let largest = |topic: &str| {
        let batches = kafka::stored_batches(&state(), topic, 0);
        batches.iter().map(|b| b.bytes).max().unwrap()
    };
    let (small, large) = (largest(&small), largest(&large));
    println!("largest batches: {small} and {large} bytes");
    assert!(small <= 4_500 && large > 20_000, "{small} {large}");

    kafka::create_topic(&bed.kafka, &slow, 1, &[]).await;
    db.create_outboxes(&["rare"]).await;
    db.to_kafka("slow", "rare", &bed.kafka, &slow, r#"{"linger_ms": 2000}"#)
        .await;
    db.await_text(
        SOON,
        "SELECT state FROM tide.relay_pipeline_status WHERE pipeline = 'slow'",
        "running",
    )
    .await;
    db.publish_number("rare", 1).await;
    holds(
        Duration::from_millis(1_500),
        "nothing is sent before linger_ms",
        async || kafka::records(&bed.kafka, &slow).await.is_empty(),
    )
    .await;
    kafka::await_records(&bed.kafka, &slow, 1, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_partition_gets_everything_and_must_be_there() {
    let (bed, db, topic) = scene("kafka_partition").await;
    kafka::create_topic(&bed.kafka, &topic, 4, &[]).await;
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"partition": 7, "key": "{payload.n}"}"#,
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 10).await;
    await_error(
        &db,
        &["has 4 partitions", "none with the number 7", "\"partition\""],
    )
    .await;
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "0");
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"partition": 2, "key": "{payload.n}"}"#,
    )
    .await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    assert_each_once(&values(&records), 1..=100);
    assert!(records.iter().all(|r| r.partition == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_of_less_than_all_give_up_idempotence() {
    let (bed, db, stem) = scene("kafka_acks").await;
    for acks in ["all", "1", "0"] {
        let options = json!({"acks": acks}).to_string();
        db.to_kafka(acks, "events", &bed.kafka, &format!("{stem}_{acks}"), &options)
            .await;
    }
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 500, 10).await;
    db.await_delivered(A_WHILE).await;
    for acks in ["all", "1", "0"] {
        let topic = format!("{stem}_{acks}");
        let got = kafka::await_records(&bed.kafka, &topic, 500, SOON).await;
        assert_each_once(&values(&got), 1..=500);
        let batches = kafka::stored_batches(&state(), &topic, 0);
        assert!(
            batches.iter().all(|b| b.idempotent == (acks == "all")),
            "{acks}: {batches:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_of_the_library_take_effect() {
    let (bed, db, topic) = scene("kafka_properties").await;
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"librdkafka": {"message.max.bytes": 2000}}"#,
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.run("SELECT tide.outbox_publish('events', jsonb_build_object('n', 1, 'x', repeat('y', 3000)))")
        .await;
    db.publish_number("events", 2).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&kafka::records(&bed.kafka, &topic).await), [2]);
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "1");
    // One that the library does not know is told by its name.
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"librdkafka": {"no.such.thing": "x"}}"#,
    )
    .await;
    await_error(&db, &["librdkafka", "\"no.such.thing\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_and_says_nothing_is_told_of() {
    let (_, db, topic) = scene("kafka_silent").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    db.to_kafka("p", "events", &address, &topic, r#"{"client_id": "shop-7"}"#)
        .await;
    let _relay = Relay::start(&db).await;
    let (mut connection, _) = silent.accept().await.unwrap();
    // Nobody answers; the connections that follow are kept open as well.
    let mut request = vec![0; 64];
    let length = connection.read(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    assert!(request.contains("shop-7"), "{request}");
    let keep = tokio::spawn(async move {
        let mut all = vec![connection];
        while let Ok((next, _)) = silent.accept().await {
            all.push(next);
        }
    });
    let took = await_error(&db, &["accepts the connection and does not answer"]).await;
    println!("told after {took:?}");
    keep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_is_told_of_and_waited_for() {
    let own = OwnBed::up("kafka-freeze", &["kafka"], &[]).await;
    let db = Database::fresh(&Bed::from_env().postgres, "kafka_freeze").await;
    let (topic, brokers) = (unique("freeze"), &own.addresses.kafka);
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", brokers, &topic, r#"{"retry": {"max": 500}}"#)
        .await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 10).await;
    db.await_delivered(SOON).await;
    own.signal("kafka", Signal::Stop);
    db.publish_numbers("events", 101, 200, 10).await;
    let said = "SELECT last_error ~ 'no acknowledgement|does not answer|do not answer|no answer|timed out' FROM tide.relay_pipeline_status";
    db.await_text(SOON, said, "t").await;
    println!(
        "{}",
        db.text("SELECT last_error FROM tide.relay_pipeline_status").await
    );
    relay.await_healthy(SOON, "p", 0).await;
    own.signal("kafka", Signal::Continue);
    db.await_text(A_WHILE, PENDING, "0").await;
    let got = values(&kafka::records(brokers, &topic).await);
    assert_each_once(&got, 1..=200);
    assert_in_order(&got);
}

/// A broker that makes no topics by itself.
async fn strict_broker(name: &str) -> OwnBed {
    let properties = std::env::temp_dir().join(unique("tide-strict"));
    std::fs::write(&properties, "auto.create.topics.enable=false\n").unwrap();
    let settings = [("TIDE_BED_KAFKA_PROPERTIES", properties.to_str().unwrap())];
    let own = OwnBed::up(name, &["kafka"], &settings).await;
    std::fs::remove_file(&properties).unwrap();
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_be_missing_deleted_and_made_anew() {
    let own = strict_broker("kafka-topics").await;
    let db = Database::fresh(&Bed::from_env().postgres, "kafka_topics").await;
    let (topic, brokers) = (unique("topics"), &own.addresses.kafka);
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", brokers, &topic, r#"{"retry": {"max": 500}}"#)
        .await;
    let mut relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 50, 10).await;
    let missing = format!("topic \"{topic}\" cannot be used");
    await_error(
        &db,
        &[
            &missing,
            "does not exist",
            "create it",
            "auto.create.topics.enable",
        ],
    )
    .await;
    kafka::create_topic(brokers, &topic, 2, &[]).await;
    db.await_text(SOON, PENDING, "0").await;
    assert_each_once(&values(&kafka::records(brokers, &topic).await), 1..=50);

    kafka::delete_topic(brokers, &topic).await;
    await_condition(SOON, "the topic is gone", async || {
        kafka::end_offsets(brokers, &topic).await.is_empty().then_some(())
    })
    .await;
    db.publish_numbers("events", 51, 100, 10).await;
    db.await_text(
        A_WHILE,
        "SELECT position('does not exist' IN last_error) > 0 AND state = 'retrying' FROM tide.relay_pipeline_status",
        "t",
    )
    .await;
    assert_eq!(db.text(PENDING).await, "50");
    kafka::create_topic(brokers, &topic, 1, &[]).await;
    db.await_text(A_WHILE, PENDING, "0").await;
    assert_each_once(&values(&kafka::records(brokers, &topic).await), 51..=100);

    // Deleted and made anew while the relay looks the other way.
    kafka::delete_topic(brokers, &topic).await;
    await_condition(SOON, "the topic is gone", async || {
        kafka::end_offsets(brokers, &topic).await.is_empty().then_some(())
    })
    .await;
    kafka::create_topic(brokers, &topic, 1, &[]).await;
    db.publish_numbers("events", 101, 150, 10).await;
    db.await_text(A_WHILE, PENDING, "0").await;
    // A takeover finds its way in the new log, too.
    relay.kill();
    db.publish_numbers("events", 151, 200, 10).await;
    let _relay = Relay::start(&db).await;
    db.await_text(A_WHILE, PENDING, "0").await;
    assert_each_once(&values(&kafka::records(brokers, &topic).await), 101..=200);
}
