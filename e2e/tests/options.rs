//! Options that every sink has: encodings, added headers, filters, order.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Relay, beside_others, kafka, numbers, unique};

const SOON: Duration = Duration::from_secs(20);

async fn scene(stem: &str) -> (Bed, Database, String) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["orders"]).await;
    (bed, db, unique(stem))
}

#[tokio::test]
async fn cloud_events_are_an_envelope_or_headers() {
    let _others = beside_others().await;
    let (bed, db, name) = scene("ce").await;
    kafka::create_topic(&bed.kafka, &name, 1, &[]).await;
    let kafka = r#"{"encoding": "cloudevents-binary", "headers": {"tenant": "{payload.tenant}"}}"#;
    db.to_kafka("k", "orders", &bed.kafka, &name, kafka).await;
    let nats = r#"{"encoding": "cloudevents", "cloudevents": {"source": "urn:shop", "subject": "{payload.tenant}"}}"#;
    db.to_nats("n", "orders", &bed.nats, &name, nats).await;
    let _relay = Relay::start(&db).await;
    db.run(r#"SELECT tide.outbox_publish('orders', '{"tenant": "t\"1"}', '{"event_type": "order.made"}')"#)
        .await;

    let record = kafka::await_records(&bed.kafka, &name, 1, SOON).await.remove(0);
    assert_eq!(record.value, r#"{"tenant": "t\"1"}"#);
    let id = record.header("tide-id").unwrap();
    for (header, want) in [
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", "/pg-tide/orders"),
        ("ce_type", "order.made"),
        ("content-type", "application/json"),
        ("tenant", "t\"1"),
    ] {
        assert_eq!(record.header(header), Some(want), "{header}");
    }
    let time = record.header("ce_time").unwrap();
    let published = format!("SELECT created_at = '{time}' FROM tide.outbox_message");
    assert_eq!(db.text(&published).await, "t", "{time}");

    db.await_delivered(SOON).await;
    let connection = Nats::connect(&bed.nats).await;
    let stream = connection.await_stream_of(&name, SOON).await;
    let stored = connection.messages(&stream).await.remove(0);
    assert_eq!(
        stored.header("content-type"),
        Some("application/cloudevents+json; charset=UTF-8")
    );
    let envelope: serde_json::Value = serde_json::from_str(&stored.payload).unwrap();
    let want = serde_json::json!({
        "specversion": "1.0", "id": id, "source": "urn:shop", "type": "order.made", "time": time,
        "subject": "t\"1", "datacontenttype": "application/json", "data": {"tenant": "t\"1"}
    });
    assert_eq!(envelope, want);
}

#[tokio::test]
async fn a_filter_takes_some_messages_and_the_rest_counts_as_delivered() {
    let _others = beside_others().await;
    let (bed, db, topic) = scene("filter").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    let filter = r#"{"filter": {"headers.region": ["eu", "uk"], "payload.n": {"not": [4]}}}"#;
    db.to_kafka("p", "orders", &bed.kafka, &topic, filter).await;
    let relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('orders', jsonb_build_object('n', n),
                    jsonb_build_object('region', (ARRAY['us', 'eu', 'uk'])[n % 3 + 1]))
           FROM generate_series(1, 6) n",
    )
    .await;
    db.await_delivered(SOON).await;
    let records = kafka::await_records(&bed.kafka, &topic, 3, SOON).await;
    assert_eq!(numbers(records.iter().map(|r| r.value.as_str())), [1, 2, 5]);
    relay
        .await_metric(SOON, "pg_tide_relay_messages_filtered_total{pipeline=\"p\"} 3")
        .await;
}

#[tokio::test]
async fn with_strict_order_later_messages_of_the_key_wait_behind_a_dead_letter() {
    let _others = beside_others().await;
    let (bed, db, name) = scene("strict").await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&name, &name, |c| c.max_message_size = 600)
        .await;
    kafka::create_topic(&bed.kafka, &name, 1, &[("max.message.bytes", "2000")]).await;
    db.to_kafka(
        "k",
        "orders",
        &bed.kafka,
        &name,
        r#"{"ordering": "strict", "key": "{key}"}"#,
    )
    .await;
    let _relay = Relay::start(&db).await;
    let publish = |n: i64, key: &str, size: i64| {
        format!(
            "SELECT tide.outbox_publish('orders', jsonb_build_object('n', {n}, 'filling', repeat('x', {size})),
                                        '{{\"key\": \"{key}\"}}')"
        )
    };
    for sql in [
        publish(1, "a", 1),
        publish(2, "a", 3_000),
        publish(3, "a", 1),
        publish(4, "b", 1),
    ] {
        db.run(&sql).await;
    }
    db.await_delivered(SOON).await;
    db.await_text(
        SOON,
        "SELECT string_agg(message_id || message_key, ' ' ORDER BY dlq_id) FROM tide.dead_letter",
        "2a 3a",
    )
    .await;
    let records = kafka::await_records(&bed.kafka, &name, 2, SOON).await;
    assert_eq!(numbers(records.iter().map(|r| r.value.as_str())), [1, 4]);
    let behind = db
        .refusal("SELECT tide.relay_dlq_retry(max(dlq_id)) FROM tide.dead_letter")
        .await;
    assert!(behind.contains("waits behind an earlier one"), "{behind}");
    // The culprit is dealt with by hand; the one behind it may go.
    db.run("SELECT tide.relay_dlq_resolve(min(dlq_id)) FROM tide.dead_letter; SELECT tide.relay_dlq_retry_all('k')")
        .await;
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list()", "0")
        .await;
    db.run(&publish(5, "a", 1)).await;
    let records = kafka::await_records(&bed.kafka, &name, 4, SOON).await;
    assert_eq!(numbers(records.iter().map(|r| r.value.as_str())), [1, 4, 3, 5]);
}

#[tokio::test]
async fn without_dead_letters_the_pipeline_waits_until_the_cause_is_mended() {
    let _others = beside_others().await;
    let (bed, db, topic) = scene("waits").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    let options = |topic: &str| {
        format!(r#"{{"topic": "{topic}", "dead_letter": {{"enabled": false}}, "retry": {{"max": "300ms"}}}}"#)
    };
    db.to_kafka(
        "p",
        "orders",
        &bed.kafka,
        "",
        &options(&format!("{topic}{{region}}")),
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.publish_number("orders", 1).await;
    db.await_text(
        SOON,
        "SELECT last_error ~ 'refused and the pipeline waits' FROM tide.relay_pipeline_status",
        "t",
    )
    .await;
    assert_eq!(db.number("SELECT count(*) FROM tide.dead_letter").await, 0);
    db.to_kafka("p", "orders", &bed.kafka, "", &options(&topic)).await;
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    db.await_delivered(SOON).await;
}
