//! What is published arrives in Kafka: each message once, in order, whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pg_tide_e2e::kafka::{self, values};
use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{Relay, assert_each_once, assert_in_order, await_condition, unique};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_delivered_once_in_order_with_keys_and_headers() {
    let (bed, db, topic) = scene("kafka_backlog").await;
    db.run(
        "DO $$ BEGIN
             FOR n IN 1 .. 20000 LOOP
                 PERFORM tide.outbox_publish('events', jsonb_build_object('n', n, 'price', 42.00),
                     jsonb_build_object('event_type', 'type-' || n % 7, 'correlation_id', 'c-' || n));
                 IF n % 100 = 0 THEN COMMIT; END IF;
             END LOOP;
         END $$",
    )
    .await;
    db.to_kafka(
        "backlog",
        "events",
        &bed.kafka,
        &topic,
        r#"{"key": "{event_type}", "compression": "snappy"}"#,
    )
    .await;
    let relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;

    let records = kafka::records(&bed.kafka, &topic).await;
    let got = values(&records);
    assert_each_once(&got, 1..=20_000);
    assert_in_order(&got);
    let mut ids = BTreeSet::new();
    for (record, n) in records.iter().zip(&got) {
        assert_eq!(
            record.value,
            format!("{{\"n\": {n}, \"price\": 42.00}}"),
            "the payload as PostgreSQL prints it"
        );
        assert_eq!(record.key.as_deref(), Some(format!("type-{}", n % 7).as_str()));
        assert_eq!(record.header("event_type"), record.key.as_deref());
        assert_eq!(record.header("correlation_id"), Some(format!("c-{n}").as_str()));
        assert_eq!(record.header("tide-outbox"), Some("events"));
        assert_eq!(record.header("tide-pipeline"), Some("backlog"));
        ids.insert(record.header("tide-id").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 20_000, "each message has an id of its own");
    let line = r#"pg_tide_relay_messages_published_total{pipeline="backlog",direction="forward"} 20000"#;
    relay.await_metric(SOON, line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_never_delivered() {
    let (bed, db, topic) = scene("kafka_rollback").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let _relay = Relay::start(&db).await;
    let publish = |n: i64| format!("SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}));");

    db.run(&format!("BEGIN; {} COMMIT", publish(1))).await;
    db.run(&format!("BEGIN; {} ROLLBACK", publish(2))).await;
    // A subtransaction rolled back between two that are kept, and one inside another.
    db.run(&format!(
        "BEGIN; {} SAVEPOINT a; {} ROLLBACK TO a; {} SAVEPOINT b; {} SAVEPOINT c; {} ROLLBACK TO c; RELEASE b; COMMIT",
        publish(3),
        publish(4),
        publish(5),
        publish(6),
        publish(7)
    ))
    .await;
    // An exception block in PL/pgSQL is a subtransaction as well.
    db.run(
        "DO $$ BEGIN
             PERFORM tide.outbox_publish('events', '{\"n\": 8}');
             BEGIN
                 PERFORM tide.outbox_publish('events', '{\"n\": 9}');
                 RAISE EXCEPTION 'no';
             EXCEPTION WHEN raise_exception THEN
                 NULL;
             END;
         END $$",
    )
    .await;
    // A session that dies in the middle.
    let session = db.session().await;
    session
        .batch_execute(&format!("BEGIN; {}", publish(10)))
        .await
        .unwrap();
    drop(session);
    db.publish_number("events", 11).await;

    let records = kafka::await_records(&bed.kafka, &topic, 6, SOON).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&records), [1, 3, 5, 6, 8, 11]);
    assert_eq!(kafka::records(&bed.kafka, &topic).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_hundred_thousand_publishes_arrives_whole_and_in_order() {
    let (bed, db, topic) = scene("kafka_large_transaction").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, r#"{"compression": "lz4"}"#)
        .await;
    let _relay = Relay::start(&db).await;
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(1, 100000) n")
        .await;
    db.publish_number("events", 100_001).await;
    db.await_delivered(A_WHILE).await;
    let got = values(&kafka::records(&bed.kafka, &topic).await);
    assert_each_once(&got, 1..=100_001);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_is_set_aside_whole_and_the_rest_goes_on() {
    let (bed, db, topic) = scene("kafka_large_message").await;
    // The first is refused by the broker, the second by the client library.
    kafka::create_topic(&bed.kafka, &topic, 1, &[("max.message.bytes", "20000")]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 50, 10).await;
    for (n, bytes) in [(51, 50_000), (52, 3_000_000)] {
        db.run(&format!(
            "SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}, 'x', repeat('y', {bytes})), '{{\"h\": \"v\"}}')"
        ))
        .await;
    }
    db.publish_numbers("events", 53, 100, 10).await;
    db.await_delivered(A_WHILE).await;

    let got = values(&kafka::records(&bed.kafka, &topic).await);
    assert_eq!(got, (1..=50).chain(53..=100).collect::<Vec<_>>());
    let whole = "SELECT count(*) FROM tide.dead_letter d JOIN tide.events_outbox m ON m.id = d.message_id
                  WHERE d.pipeline = 'p' AND d.direction = 'forward' AND d.payload = m.payload AND d.headers = m.headers";
    assert_eq!(db.text(whole).await, "2");
    for error in db
        .text("SELECT error FROM tide.dead_letter ORDER BY message_id")
        .await
        .lines()
    {
        assert!(
            error.to_lowercase().contains("large"),
            "the reason does not say that it is too large: {error}"
        );
    }
    relay
        .await_metric(SOON, r#"pg_tide_relay_dlq_entries_written_total{pipeline="p"} 2"#)
        .await;
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_on_one_outbox_each_deliver_everything() {
    let (bed, db, topic) = scene("kafka_two").await;
    let other = unique("kafka_two_b");
    db.to_kafka("a", "events", &bed.kafka, &topic, "{}").await;
    db.to_kafka("b", "events", &bed.kafka, &other, r#"{"acks": 1}"#)
        .await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 3000, 7).await;
    db.await_delivered(SOON).await;
    for topic in [&topic, &other] {
        let got = values(&kafka::records(&bed.kafka, topic).await);
        assert_each_once(&got, 1..=3000);
        assert_in_order(&got);
    }
    assert_eq!(
        db.text("SELECT group_name, lag FROM tide.consumer_lag ORDER BY 1")
            .await,
        "a|0\nb|0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_templated_topic_sends_each_message_to_its_own_topic() {
    let (bed, db, stem) = scene("kafka_template").await;
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &format!("{stem}-{{headers.region}}"),
        "{}",
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n),
                    jsonb_build_object('region', CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END))
           FROM generate_series(1, 400) n",
    )
    .await;
    // A message that names no region cannot be placed; it is set aside.
    db.publish_number("events", 401).await;
    db.await_delivered(SOON).await;
    for (region, rest) in [("eu", 0), ("us", 1)] {
        let got = values(&kafka::records(&bed.kafka, &format!("{stem}-{region}")).await);
        assert_eq!(
            got,
            (1..=400).filter(|n| n % 2 == rest).collect::<Vec<_>>(),
            "{region}"
        );
    }
    let aside = db
        .text("SELECT payload, error LIKE '%headers.region%' FROM tide.dead_letter")
        .await;
    assert_eq!(aside, "{\"n\": 401}|t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_trickle_arrives_without_waiting_for_a_full_batch() {
    let (bed, db, topic) = scene("kafka_trickle").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "p", 1).await;
    let mut waits = Vec::new();
    for n in 1..=20 {
        let published = Instant::now();
        db.publish_number("events", n).await;
        await_condition(SOON, "delivered", async || {
            let line =
                format!("pg_tide_relay_messages_published_total{{pipeline=\"p\",direction=\"forward\"}} {n}");
            relay.metric_lines(&line).await.first().cloned()
        })
        .await;
        waits.push(published.elapsed());
    }
    waits.sort();
    println!(
        "from publish to acknowledgement, asked every 15 ms: median {:?}, slowest {:?}",
        waits[10], waits[19]
    );
    assert!(waits[10] < Duration::from_millis(500), "{waits:?}");
}
