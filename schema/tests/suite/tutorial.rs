//! The tutorial's SQL, word for word. What a relay does in between is done by
//! the functions that a relay calls.

use crate::support::Database;

const STEP_1: &str = r"
CREATE TABLE orders (
id SERIAL PRIMARY KEY,
customer_id TEXT NOT NULL,
total NUMERIC(10,2) NOT NULL,
status TEXT NOT NULL DEFAULT 'pending',
created_at TIMESTAMPTZ DEFAULT now()
);
-- Create an outbox for order events with 72-hour retention
-- (longer retention gives us time to investigate if something goes wrong)
SELECT tide.outbox_create('orders', p_retention_hours := 72);
-- Create a consumer group for the Kafka relay
-- Using 'earliest' so it processes all existing messages on startup
SELECT tide.create_consumer_group('kafka-relay', 'orders',
p_auto_offset_reset := 'earliest'
);
";

const STEP_2: &str = r"
SELECT tide.relay_set_outbox('orders-to-kafka', 'orders', 'kafka',
jsonb_build_object(
'brokers', 'localhost:9092',
'topic', 'order-events',
'acks', 'all', -- wait for all replicas to acknowledge
'compression', 'snappy', -- good balance of speed and compression ratio
'key', '{event_type}' -- partition by event type for ordering
),
p_batch_size := 200 -- Kafka benefits from larger batches
);
";

const STEP_4: &str = r#"
BEGIN;
INSERT INTO orders (id, customer_id, total, status)
VALUES (1, 'alice', 149.99, 'confirmed');
-- Publish the event atomically with the business data
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
COMMIT;
BEGIN;
INSERT INTO orders (id, customer_id, total, status) VALUES (2, 'bob', 42.00, 'confirmed');
SELECT tide.outbox_publish('orders',
'{"order_id": 2, "customer_id": "bob", "total": 42.00, "status": "confirmed"}'::jsonb,
'{"event_type": "order.confirmed", "schema_version": "1.0"}'::jsonb);
COMMIT;
BEGIN;
INSERT INTO orders (id, customer_id, total, status) VALUES (3, 'charlie', 299.95, 'confirmed');
SELECT tide.outbox_publish('orders',
'{"order_id": 3, "customer_id": "charlie", "total": 299.95, "status": "confirmed"}'::jsonb,
'{"event_type": "order.confirmed", "schema_version": "1.0"}'::jsonb);
COMMIT;
"#;

const STEP_6: &str = r"
SELECT tide.inbox_create('payments',
p_max_retries := 5,
p_processed_retention_hours := 72,
p_dlq_retention_hours := 0
);
";

const STEP_7: &str = r"
SELECT tide.relay_set_inbox('nats-to-payments', 'payments',
jsonb_build_object(
'url', 'nats://localhost:4222',
'subject', 'payments.confirmed',
'queue_group', 'pg-tide-payments'
),
p_source := 'nats',
p_batch_size := 50,
p_idempotent := true
);
";

const STEP_9: &str = r#"
SELECT event_id, payload->>'payment_id' as payment_id,
payload->>'order_id' as order_id,
received_at, processed_at
FROM tide."payments_inbox"
ORDER BY id;
"#;

const STEP_10: &str = r#"
-- Read pending payments
SELECT id, event_id, payload
FROM tide."payments_inbox"
WHERE processed_at IS NULL
AND retry_count < 5
ORDER BY id
LIMIT 10;
-- After successfully updating the order status
UPDATE orders SET status = 'paid' WHERE id = 1;
SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-1');
-- Process the rest
UPDATE orders SET status = 'paid' WHERE id = 2;
SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-2');
UPDATE orders SET status = 'paid' WHERE id = 3;
SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-3');
"#;

const PART_3: &str = r#"
SELECT
count(*) FILTER (WHERE processed_at IS NULL AND retry_count < 5) as pending,
count(*) FILTER (WHERE processed_at IS NOT NULL) as processed,
count(*) FILTER (WHERE processed_at IS NULL AND retry_count >= 5) as dead_letter
FROM tide."payments_inbox";
"#;

const PART_4_PUBLISH: &str = r#"
BEGIN;
INSERT INTO orders (id, customer_id, total, status) VALUES (4, 'diana', 75.50, 'confirmed');
SELECT tide.outbox_publish('orders',
'{"order_id": 4, "customer_id": "diana", "total": 75.50}'::jsonb,
'{"event_type": "order.confirmed"}'::jsonb);
COMMIT;
"#;

const PART_4_FAIL: &str = r"
SELECT tide.inbox_mark_failed('payments', 'payments:nats:seq-4',
'External API timeout: Stripe returned 504');
";

const PART_4_DLQ: &str = r#"
SELECT event_id, retry_count, last_error
FROM tide."payments_inbox"
WHERE processed_at IS NULL AND retry_count >= 5;
"#;

const PART_4_REPLAY: &str = r"
SELECT tide.replay_inbox_messages('payments', ARRAY['payments:nats:seq-4']);
";

fn payment(n: u32) -> String {
    format!(
        r#"{{"payment_id": "pay-00{n}", "order_id": {n}, "amount": 149.99, "status": "completed", "processor": "stripe"}}"#
    )
}

#[tokio::test]
async fn the_tutorials_sql_works_word_for_word() {
    let (_database, session) = Database::installed().await;
    session.run(STEP_1).await;
    session.run(STEP_2).await;
    session.run(STEP_4).await;
    assert_eq!(
        session
            .row("SELECT outbox_name, pending_count, max_id FROM tide.outbox_pending")
            .await,
        "orders|3|3"
    );
    assert_eq!(
        session
            .row("SELECT group_name, outbox_name, lag FROM tide.consumer_lag")
            .await,
        "kafka-relay|orders|3"
    );

    // A relay delivers them.
    let deliver = "UPDATE tide.group_cursor SET old_snapshot = pg_current_snapshot(), new_snapshot = pg_current_snapshot(), \
                   committed_offset = (SELECT last_value FROM tide.message_id_seq)";
    let pipeline = session
        .number("SELECT pipeline_id FROM tide.pipeline WHERE name = 'orders-to-kafka'")
        .await;
    session
        .run(&format!("SELECT tide._acquire({pipeline}, 1, 'relay-1')"))
        .await;
    session.run(deliver).await;
    assert_eq!(
        session.row("SELECT * FROM tide.outbox_pending").await,
        "orders|0|-|-"
    );
    assert_eq!(
        session
            .row("SELECT lag, committed_offset, consumer_id FROM tide.consumer_lag")
            .await,
        "0|3|relay-1"
    );

    session.run(STEP_6).await;
    session.run(STEP_7).await;
    let pipeline = session
        .number("SELECT pipeline_id FROM tide.pipeline WHERE name = 'nats-to-payments'")
        .await;
    let epoch = session
        .number(&format!("SELECT tide._acquire({pipeline}, 1, 'relay-1')"))
        .await;
    let receive = async |payload: String| {
        session
            .row(&format!(
                "SELECT * FROM tide._inbox_write({pipeline}, {epoch}, ARRAY[NULL]::text[], ARRAY[sha256('{payload}')], \
                 ARRAY[NULL]::int[], ARRAY[NULL]::bigint[], ARRAY['payments.confirmed'], ARRAY['{payload}'], ARRAY['{{}}'])"
            ))
            .await
    };
    for n in 1..=3 {
        assert_eq!(receive(payment(n)).await, "1|0");
    }
    let arrived = session.rows(STEP_9).await;
    assert!(
        arrived[0].starts_with("payments:nats:seq-1|pay-001|1|"),
        "{arrived:?}"
    );
    assert!(
        arrived[2].starts_with("payments:nats:seq-3|pay-003|3|"),
        "{arrived:?}"
    );
    session.run(STEP_10).await;
    assert_eq!(
        session
            .number("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        3
    );

    // Step 11: the repeated message takes no number.
    assert_eq!(receive(payment(1)).await, "0|1");
    assert_eq!(
        session
            .number("SELECT count(*) FROM tide.\"payments_inbox\"\nWHERE payload->>'payment_id' = 'pay-001';")
            .await,
        1
    );
    assert_eq!(receive(payment(4)).await, "1|0");
    assert_eq!(session.row(PART_3).await, "1|3|0");

    session.run(PART_4_PUBLISH).await;
    assert_eq!(
        session
            .row("SELECT outbox_name, pending_count FROM tide.outbox_pending")
            .await,
        "orders|1"
    );
    session.run(deliver).await;
    assert_eq!(
        session
            .row("SELECT outbox_name, pending_count FROM tide.outbox_pending")
            .await,
        "orders|0"
    );

    for failures in 1..=5 {
        assert_eq!(session.rows(PART_4_DLQ).await.len(), 0);
        assert_eq!(session.number(PART_4_FAIL).await, failures);
    }
    assert_eq!(
        session.row(PART_4_DLQ).await,
        "payments:nats:seq-4|5|External API timeout: Stripe returned 504"
    );
    assert_eq!(session.number(PART_4_REPLAY).await, 1);
    assert_eq!(session.row(PART_3).await, "1|3|0");
}
