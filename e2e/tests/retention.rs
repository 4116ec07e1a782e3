//! A relay keeps what it serves in order by itself.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, beside_others};

const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_retention_goes_and_who_holds_it_back_is_named() {
    let _turn = beside_others().await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "retention").await;
    db.create_outboxes(&["orders"]).await;
    db.run(
        "SELECT tide.create_consumer_group('forgotten', 'orders');
         SELECT tide.inbox_create('payments', p_max_retries := 1, p_processed_retention_hours := 0, p_dlq_retention_hours := 1);
         INSERT INTO tide.payments_inbox (event_id, payload, received_at, processed_at)
         SELECT 'done-' || n, '1', now() - interval '1 day', now() - interval '1 minute' FROM generate_series(1, 12000) n;
         INSERT INTO tide.payments_inbox (event_id, payload, received_at, retry_count, failed_at)
         VALUES ('dead', '1', now() - interval '1 day', 1, now() - interval '2 hours');
         INSERT INTO tide.payments_inbox (event_id, payload) VALUES ('pending', '1');
         INSERT INTO tide.dead_letter (pipeline, direction, message_id, error, resolved_at)
         VALUES ('p', 'forward', 1, 'e', now() - interval '8 days');
         INSERT INTO tide.relay_member (relay_group, name, backend_pid, heartbeat_at)
         VALUES ('default', 'gone', 1, now() - interval '2 hours')",
    )
    .await;
    // As after ten days without a relay: old partitions, one with a message that nobody has read.
    db.run(
        "DO $$
         DECLARE v_leaf record; v_outbox tide.outbox;
         BEGIN
             SELECT * INTO v_outbox FROM tide.outbox WHERE name = 'orders';
             FOR v_leaf IN SELECT * FROM tide._leaves(v_outbox) LOOP
                 EXECUTE format('DROP TABLE tide.%I', v_leaf.leaf);
             END LOOP;
             FOR v_leaf IN SELECT * FROM tide._wanted_leaves(v_outbox, '-infinity', now() - interval '10 days') LOOP
                 PERFORM tide._create_leaf(v_leaf.leaf);
                 PERFORM tide._attach_leaf(v_outbox, v_leaf.leaf, v_leaf.lower_bound, v_leaf.upper_bound);
             END LOOP;
             INSERT INTO tide.orders_outbox (payload, created_at) VALUES ('1', now() - interval '10 days');
             PERFORM tide.outbox_publish('orders', '2');
         END $$",
    )
    .await;

    let relay = Relay::start(&db).await;
    let second = Relay::start(&db).await;
    db.await_text(SOON, "SELECT event_id FROM tide.payments_inbox", "pending")
        .await;
    db.await_text(SOON, "SELECT count(*) FROM tide.dead_letter", "0")
        .await;
    db.await_text(
        SOON,
        "SELECT count(*) FROM tide.relay_member WHERE name = 'gone'",
        "0",
    )
    .await;
    // The rest became a partition; what a group holds stays, and what lies behind it.
    let partitions = "SELECT count(*) FILTER (WHERE l.upper_bound < now() - interval '2 days') >= 5,
                             count(*) FILTER (WHERE l.lower_bound > now()) >= 4, max(r.partitions) = count(*),
                             max(r.held_partitions)
                        FROM tide.outbox o, tide._leaves(o) l, tide.retention_status r";
    db.await_text(SOON, partitions, "t|t|t|1").await;
    assert_eq!(db.text("SELECT count(*) FROM tide.orders_outbox").await, "2");
    let both = || [relay.log(), second.log()].concat();
    pg_tide_e2e::await_condition(SOON, "a warning", async || {
        both()
            .lines()
            .any(|l| {
                l.contains("WARN")
                    && l.contains(
                        "a consumer group holds retention back; nobody has ever consumed as this group",
                    )
                    && l.contains("drop_consumer_group('forgotten', 'orders')")
            })
            .then_some(())
    })
    .await;
    db.run("SELECT tide.drop_consumer_group('forgotten', 'orders')")
        .await;
    // The next run of the others is two minutes ahead.
    let _third = Relay::start(&db).await;
    db.await_text(SOON, "SELECT payload FROM tide.orders_outbox", "2")
        .await;
    db.await_text(
        SOON,
        "SELECT l.leaf FROM tide.outbox o, tide._leaves(o) l WHERE l.upper_bound < now() - o.retention",
        "outbox_1_past",
    )
    .await;
}
