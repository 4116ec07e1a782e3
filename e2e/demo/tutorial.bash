# What is the same wherever the relays run: the application's side of the tutorial, by psql and the brokers' own
# clients. Sourced after lib.bash; every function is called within a step.

nothing_pending='SELECT * FROM tide.outbox_pending;'
inbox_counts='SELECT
    count(*) FILTER (WHERE processed_at IS NULL AND retry_count < 5) as pending,
    count(*) FILTER (WHERE processed_at IS NOT NULL) as processed,
    count(*) FILTER (WHERE processed_at IS NULL AND retry_count >= 5) as dead_letter
  FROM tide."payments_inbox";'
pay_001='{"payment_id": "pay-001", "order_id": 1, "amount": 149.99, "status": "completed", "processor": "stripe"}'

make_orders_table() {
  show_sql "CREATE TABLE orders (
    id SERIAL PRIMARY KEY,
    customer_id TEXT NOT NULL,
    total NUMERIC(10,2) NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending',
    created_at TIMESTAMPTZ DEFAULT now()
);"
}

# publish_order ID CUSTOMER TOTAL: the order and its event, in one transaction.
publish_order() {
  show_sql "BEGIN;
INSERT INTO orders (id, customer_id, total, status) VALUES ($1, '$2', $3, 'confirmed');
SELECT tide.outbox_publish('orders',
    '{\"order_id\": $1, \"customer_id\": \"$2\", \"total\": $3, \"status\": \"confirmed\"}'::jsonb,
    '{\"event_type\": \"order.confirmed\", \"schema_version\": \"1.0\"}'::jsonb);
COMMIT;"
}

publish_three_orders() {
  show_sql "BEGIN;
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
COMMIT;"
  publish_order 2 bob 42.00
  publish_order 3 charlie 299.95
  expect "three orders in the table" "3" "$(value 'SELECT count(*) FROM orders')"
}

# orders_in_kafka WHAT: the payloads as PostgreSQL prints them, in the order of the commits, each once and no more.
orders_in_kafka() {
  local orders count got
  orders=$(value "SELECT payload FROM tide.orders_outbox ORDER BY id")
  count=$(wc -l <<<"$orders")
  show_command "kafka-console-consumer --bootstrap-server $TIDE_KAFKA --topic order-events --from-beginning --max-messages $count"
  got=$(consume "$count")
  if [ "$count" -le 10 ]; then indented <<<"$got"; else { head -n 2 <<<"$got"; echo "..."; tail -n 2 <<<"$got"; } | indented; fi
  expect "$1" "$orders" "$got"
  expect "and no more than $count messages" "$count" "$(kafka_count)"
}

nothing_is_pending() {
  await_sql 30 "nothing is pending" "orders|0||" "$nothing_pending"
  await_sql 10 "no lag for the group kafka-relay" "kafka-relay|orders|0" \
    "SELECT group_name, outbox_name, lag FROM tide.consumer_lag;"
}

keys_and_headers() {
  show_command "kafka-console-consumer ... --formatter-property print.key=true --formatter-property print.headers=true"
  consume 3 --formatter-property print.key=true --formatter-property print.headers=true \
    --formatter-property print.value=false >"$work/keys"
  indented <"$work/keys"
  expect "three messages with the key order.confirmed" "3" "$(grep -c $'\torder.confirmed$' "$work/keys" || true)"
  expect "the publisher's headers are Kafka headers" "3" "$(grep -c 'schema_version:1.0' "$work/keys" || true)"
  expect "each carries its outbox and its id" "3" \
    "$(grep 'tide-outbox:orders' "$work/keys" | grep -c 'tide-id:orders:' || true)"
}

confirm_three_payments() {
  nats_pub "$pay_001"
  nats_pub '{"payment_id": "pay-002", "order_id": 2, "amount": 42.00, "status": "completed", "processor": "stripe"}'
  nats_pub '{"payment_id": "pay-003", "order_id": 3, "amount": 299.95, "status": "completed", "processor": "stripe"}'
}

payments_in_the_inbox() {
  await_sql 10 "three messages, numbered 1 to 3" "payments:nats:seq-1|pay-001|1
payments:nats:seq-2|pay-002|2
payments:nats:seq-3|pay-003|3" "SELECT event_id, payload->>'payment_id' as payment_id, payload->>'order_id' as order_id
  FROM tide.\"payments_inbox\" ORDER BY id;"
  show_sql "SELECT event_id, received_at, processed_at FROM tide.\"payments_inbox\" ORDER BY id;"
  expect "received and not yet processed" "3" \
    "$(value 'SELECT count(*) FROM tide."payments_inbox" WHERE received_at IS NOT NULL AND processed_at IS NULL')"
}

process_payments() {
  local n
  show_sql "SELECT id, event_id, payload
  FROM tide.\"payments_inbox\"
 WHERE processed_at IS NULL AND retry_count < 5
 ORDER BY id LIMIT 10;"
  for n in 1 2 3; do
    show_sql "UPDATE orders SET status = 'paid' WHERE id = $n;
SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-$n');"
  done
  expect_sql "all three orders are paid" "1|paid
2|paid
3|paid" "SELECT id, status FROM orders ORDER BY id;"
}

repeat_a_payment() {
  nats_pub "$pay_001"
  await_sql 10 "the relay saw it and knew it" "1" "SELECT duplicates FROM tide.inbox_summary WHERE inbox_name = 'payments';"
  expect_sql "still one row for pay-001" "1" \
    "SELECT count(*) FROM tide.\"payments_inbox\" WHERE payload->>'payment_id' = 'pay-001';"
}

both_directions() {
  expect_sql "nothing is pending" "orders|0||" "$nothing_pending"
  expect_sql "no lag" "kafka-relay|0" "SELECT group_name, lag FROM tide.consumer_lag;"
  expect_sql "three processed payments" "0|3|0" "$inbox_counts"
}

dead_letters='SELECT event_id, retry_count, last_error
  FROM tide."payments_inbox"
 WHERE processed_at IS NULL AND retry_count >= 5;'

processing_fails() {
  local n
  nats_pub '{"payment_id": "pay-004", "order_id": 4, "amount": 75.50, "status": "completed", "processor": "stripe"}'
  await_sql 10 "it is number 4: the repeated pay-001 took no number" "payments:nats:seq-4|pay-004" \
    "SELECT event_id, payload->>'payment_id' as payment_id FROM tide.\"payments_inbox\" WHERE processed_at IS NULL;"
  for n in 1 2 3 4 5; do
    show_sql "SELECT tide.inbox_mark_failed('payments', 'payments:nats:seq-4',
    'External API timeout: Stripe returned 504');"
    expect "failure $n is counted" "$n" \
      "$(value "SELECT retry_count FROM tide.\"payments_inbox\" WHERE event_id = 'payments:nats:seq-4'")"
  done
  expect_sql "it is in the dead-letter queue" \
    "payments:nats:seq-4|5|External API timeout: Stripe returned 504" "$dead_letters"
}

replay() {
  show_sql "SELECT tide.replay_inbox_messages('payments', ARRAY['payments:nats:seq-4']);"
  expect_sql "the dead-letter queue is empty" "" "$dead_letters"
  expect_sql "the message is pending again" "1|3|0" "$inbox_counts"
}
