//! The tutorial by its own SQL, both ways, on the extension where there can be one. (`make demo` walks
//! it with psql, kafka-console-consumer and nats, and stops Kafka; here are
//! the details that are easy to get wrong.)

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Relay, kafka, unique};

const SOON: Duration = Duration::from_secs(15);
const INBOX: &str = "SELECT event_id, payload->>'payment_id' as payment_id, payload->>'order_id' as order_id
                       FROM tide.\"payments_inbox\" ORDER BY id";

struct Scene {
    bed: Bed,
    db: Database,
    nats: Nats,
    topic: String,
    /// `<unique>.confirmed`; the stream takes `<unique>.>`.
    subject: String,
}

async fn scene(stem: &str) -> Scene {
    let bed = Bed::from_env();
    let db = Database::with_extension_if_possible(&bed.postgres, stem).await;
    let nats = Nats::connect(&bed.nats).await;
    let (topic, subject) = (unique("order-events"), unique("payments"));
    // A stream that is in use already: its sequences are not the inbox's.
    nats.create_stream(&subject, &format!("{subject}.>"), |_| {})
        .await;
    for n in 0..7 {
        nats.publish(&format!("{subject}.refused"), &format!("{{\"n\": {n}}}"))
            .await;
    }
    Scene {
        bed,
        db,
        nats,
        topic,
        subject: format!("{subject}.confirmed"),
    }
}

impl Scene {
    /// Steps 1 and 2.
    async fn set_up_orders(&self) {
        self.db
            .run(
                "CREATE TABLE orders (
                     id SERIAL PRIMARY KEY,
                     customer_id TEXT NOT NULL,
                     total NUMERIC(10,2) NOT NULL,
                     status TEXT NOT NULL DEFAULT 'pending',
                     created_at TIMESTAMPTZ DEFAULT now()
                 );
                 SELECT tide.outbox_create('orders', p_retention_hours := 72);
                 SELECT tide.create_consumer_group('kafka-relay', 'orders',
                     p_auto_offset_reset := 'earliest'
                 );",
            )
            .await;
        self.db
            .run(&format!(
                "SELECT tide.relay_set_outbox('orders-to-kafka', 'orders', 'kafka',
                     jsonb_build_object(
                         'brokers', '{}',
                         'topic', '{}',
                         'acks', 'all',              -- wait for all replicas to acknowledge
                         'compression', 'snappy',    -- good balance of speed and compression ratio
                         'key', '{{event_type}}'     -- partition by event type for ordering
                     ),
                     p_batch_size := 200             -- Kafka benefits from larger batches
                 );",
                self.bed.kafka, self.topic
            ))
            .await;
    }

    /// Step 4.
    async fn publish_orders(&self) {
        self.db
            .run(
                "BEGIN;
                 INSERT INTO orders (id, customer_id, total, status)
                 VALUES (1, 'alice', 149.99, 'confirmed');
                 SELECT tide.outbox_publish('orders',
                     jsonb_build_object(
                         'order_id', 1,
                         'customer_id', 'alice',
                         'total', 149.99,
                         'status', 'confirmed',
                         'items', jsonb_build_array(
                             jsonb_build_object('sku', 'WIDGET-01', 'qty', 2, 'price', 49.99),
                             jsonb_build_object('sku', 'GADGET-03', 'qty', 1, 'price', 50.01)
                         )
                     ),
                     jsonb_build_object(
                         'event_type', 'order.confirmed',
                         'schema_version', '1.0',
                         'correlation_id', 'req-abc-123'
                     )
                 );
                 COMMIT;",
            )
            .await;
        for (id, customer, total) in [(2, "bob", "42.00"), (3, "charlie", "299.95")] {
            self.db
                .run(&format!(
                    "BEGIN;
                     INSERT INTO orders (id, customer_id, total, status) VALUES ({id}, '{customer}', {total}, 'confirmed');
                     SELECT tide.outbox_publish('orders',
                     '{{\"order_id\": {id}, \"customer_id\": \"{customer}\", \"total\": {total}, \"status\": \"confirmed\"}}'::jsonb,
                     '{{\"event_type\": \"order.confirmed\", \"schema_version\": \"1.0\"}}'::jsonb);
                     COMMIT;"
                ))
                .await;
        }
    }

    /// Steps 6 and 7.
    async fn set_up_payments(&self) {
        self.db
            .run(
                "SELECT tide.inbox_create('payments',
                     p_max_retries := 5,
                     p_processed_retention_hours := 72,
                     p_dlq_retention_hours := 0
                 );",
            )
            .await;
        self.db
            .run(&format!(
                "SELECT tide.relay_set_inbox('nats-to-payments', 'payments',
                     jsonb_build_object(
                         'url', '{}',
                         'subject', '{}',
                         'queue_group', 'pg-tide-payments'
                     ),
                     p_source := 'nats',
                     p_batch_size := 50,
                     p_idempotent := true
                 );",
                self.bed.nats, self.subject
            ))
            .await;
    }

    async fn pay(&self, n: i64, order: i64, amount: &str) {
        let payload = format!(
            "{{\"payment_id\": \"pay-00{n}\", \"order_id\": {order}, \"amount\": {amount}, \"status\": \"completed\", \"processor\": \"stripe\"}}"
        );
        self.nats.publish(&self.subject, &payload).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_run_as_the_tutorial_says() {
    let s = scene("tutorial").await;
    s.set_up_orders().await;
    let relay = Relay::start(&s.db).await;
    s.publish_orders().await;

    // Step 5: payloads as published, the key from the headers, the views at zero.
    let records = kafka::await_records(&s.bed.kafka, &s.topic, 3, SOON).await;
    let values: Vec<&str> = records.iter().map(|r| r.value.as_str()).collect();
    assert_eq!(
        values,
        [
            r#"{"items": [{"qty": 2, "sku": "WIDGET-01", "price": 49.99}, {"qty": 1, "sku": "GADGET-03", "price": 50.01}], "total": 149.99, "status": "confirmed", "order_id": 1, "customer_id": "alice"}"#,
            r#"{"total": 42.00, "status": "confirmed", "order_id": 2, "customer_id": "bob"}"#,
            r#"{"total": 299.95, "status": "confirmed", "order_id": 3, "customer_id": "charlie"}"#,
        ]
    );
    for record in &records {
        assert_eq!(record.key.as_deref(), Some("order.confirmed"));
        assert_eq!(record.header("schema_version"), Some("1.0"));
        assert_eq!(record.header("tide-outbox"), Some("orders"));
    }
    assert_eq!(records[0].header("correlation_id"), Some("req-abc-123"));
    s.db.await_text(SOON, "SELECT * FROM tide.outbox_pending", "orders|0||")
        .await;
    let lag = "SELECT group_name, outbox_name, committed_offset, lag FROM tide.consumer_lag";
    let last = s.db.text("SELECT max(id) FROM tide.orders_outbox").await;
    s.db.await_text(SOON, lag, &format!("kafka-relay|orders|{last}|0"))
        .await;

    // Steps 6 to 9: numbered from 1, whatever the stream's sequences are.
    s.set_up_payments().await;
    relay.await_healthy(SOON, "nats-to-payments", 1).await;
    s.pay(1, 1, "149.99").await;
    s.pay(2, 2, "42.00").await;
    s.pay(3, 3, "299.95").await;
    let three = "payments:nats:seq-1|pay-001|1\npayments:nats:seq-2|pay-002|2\npayments:nats:seq-3|pay-003|3";
    s.db.await_text(SOON, INBOX, three).await;

    // Step 10.
    let read = "SELECT id, event_id, payload FROM tide.\"payments_inbox\"
                 WHERE processed_at IS NULL AND retry_count < 5 ORDER BY id LIMIT 10";
    assert_eq!(s.db.text(read).await.lines().count(), 3);
    for n in 1..=3 {
        s.db.run(&format!("UPDATE orders SET status = 'paid' WHERE id = {n}"))
            .await;
        s.db.run(&format!(
            "SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-{n}')"
        ))
        .await;
    }

    // Step 11: seen, known, refused; and no number taken.
    s.pay(1, 1, "149.99").await;
    s.db.await_text(SOON, "SELECT duplicates FROM tide.inbox_summary", "1")
        .await;
    let count = "SELECT count(*) FROM tide.\"payments_inbox\" WHERE payload->>'payment_id' = 'pay-001'";
    assert_eq!(s.db.text(count).await, "1");

    // Part 3.
    assert_eq!(
        s.db.text("SELECT pending_count FROM tide.outbox_pending").await,
        "0"
    );
    let inbox = "SELECT
                     count(*) FILTER (WHERE processed_at IS NULL AND retry_count < 5) as pending,
                     count(*) FILTER (WHERE processed_at IS NOT NULL) as processed,
                     count(*) FILTER (WHERE processed_at IS NULL AND retry_count >= 5) as dead_letter
                   FROM tide.\"payments_inbox\"";
    assert_eq!(s.db.text(inbox).await, "0|3|0");
    for (line, pipeline) in [
        (
            r#"pg_tide_relay_messages_published_total{pipeline="orders-to-kafka",direction="forward"} 3"#,
            "orders-to-kafka",
        ),
        (
            r#"pg_tide_relay_messages_consumed_total{pipeline="nats-to-payments",direction="reverse"} 3"#,
            "nats-to-payments",
        ),
        (
            r#"pg_tide_relay_pipeline_healthy{pipeline="orders-to-kafka"} 1"#,
            "orders-to-kafka",
        ),
        (
            r#"pg_tide_relay_pipeline_healthy{pipeline="nats-to-payments"} 1"#,
            "nats-to-payments",
        ),
    ] {
        relay.await_metric(SOON, line).await;
        let name = line.split_once('{').unwrap().0;
        let mut same = relay.metric_lines(&format!("{name}{{")).await;
        same.retain(|l| l.contains(pipeline));
        assert_eq!(same, [line], "no other line of that name for the pipeline");
    }

    // Part 4: the next new payment is number 4.
    s.pay(4, 4, "75.50").await;
    s.db.await_text(SOON, INBOX, &format!("{three}\npayments:nats:seq-4|pay-004|4"))
        .await;
    for n in 1..=5 {
        let failed =
            s.db.text(
                "SELECT tide.inbox_mark_failed('payments', 'payments:nats:seq-4',
                     'External API timeout: Stripe returned 504')",
            )
            .await;
        assert_eq!(failed, n.to_string(), "the new retry_count");
    }
    let dlq = "SELECT event_id, retry_count, last_error FROM tide.\"payments_inbox\"
                WHERE processed_at IS NULL AND retry_count >= 5";
    assert_eq!(
        s.db.text(dlq).await,
        "payments:nats:seq-4|5|External API timeout: Stripe returned 504"
    );
    assert_eq!(s.db.text(inbox).await, "0|3|1");
    let again = "SELECT tide.replay_inbox_messages('payments', ARRAY['payments:nats:seq-4'])";
    assert_eq!(s.db.text(again).await, "1");
    assert_eq!(s.db.text(dlq).await, "");
    assert_eq!(s.db.text(inbox).await, "1|3|0");
}

#[tokio::test(flavor = "multi_thread")]
async fn marking_an_unknown_message_is_an_error_that_says_what_to_do() {
    let s = scene("tutorial_mark").await;
    s.db.run("SELECT tide.inbox_create('payments')").await;
    for call in [
        "SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-99')",
        "SELECT tide.inbox_mark_failed('payments', 'payments:nats:seq-99', 'why')",
    ] {
        let refusal = s.db.refusal(call).await;
        assert!(
            refusal.contains("no message with event id \"payments:nats:seq-99\""),
            "{refusal}"
        );
        assert!(refusal.contains("HINT"), "{refusal}");
    }
    let refusal =
        s.db.refusal("SELECT tide.inbox_mark_processed('payment', 'x')")
            .await;
    assert!(refusal.contains("Did you mean \"payments\"?"), "{refusal}");
    let again = "SELECT tide.replay_inbox_messages('payments', ARRAY['payments:nats:seq-99'])";
    assert_eq!(s.db.text(again).await, "0", "replay says how many it replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_names_are_refused_with_the_nearest_right_one() {
    let s = scene("tutorial_wrong").await;
    s.db.run("SELECT tide.outbox_create('orders')").await;
    for (sql, wanted) in [
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:9092\", \"topik\": \"t\"}')",
            "Did you mean \"topic\"?",
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:9092\"}')",
            "\"topic\" is missing",
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafca', '{}')",
            "Did you mean \"kafka\"?",
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'order', 'kafka', '{}')",
            "Did you mean \"orders\"?",
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'nats', '{\"url\": \"nats://user:secret@h:1\", \"subject\": \"s\"}')",
            "user name or password",
        ),
        (
            "SELECT tide.outbox_publish('order', '{}')",
            "Did you mean \"orders\"?",
        ),
        ("SELECT tide.outbox_publish('orders', NULL)", "NULL"),
        ("SELECT tide.outbox_publish('orders', '{}', '[]')", "array"),
    ] {
        let refusal = s.db.refusal(sql).await;
        assert!(
            refusal.contains(wanted),
            "{sql}\nwanted: {wanted}\ngot: {refusal}"
        );
        assert!(!refusal.contains("secret"), "{refusal}");
    }
}
