//! Retention of rows, without stopping whoever works on them, and what holds
//! partitions back.

use std::time::{Duration, Instant};

use crate::support::Database;

#[tokio::test]
async fn a_group_that_holds_retention_back_is_named_with_what_to_do() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('gone', 'orders');
             SELECT tide.create_consumer_group('good', 'orders');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\", \"consumer_group\": \"gone\"}')",
        )
        .await;
    let status =
        "SELECT held_by, held_partitions, held_bytes > 0, held_rows, hint FROM tide.retention_status";
    assert_eq!(session.row(status).await, "-|0|f|0|-");
    session
        .run(
            "INSERT INTO tide.orders_outbox (payload, created_at) SELECT '1', now() - interval '3 days' FROM generate_series(1, 500);
             SELECT m.* FROM tide.outbox o, tide._make_leaves_ahead(o, now() + interval '12 hours') m;
             ANALYZE tide.orders_outbox",
        )
        .await;
    session
        .run("SELECT tide.commit_offset('good', 'orders', 1000)")
        .await;
    // The first partition reaches into today; two days on it is past its time.
    let later = "SELECT r.held_by, r.held_partitions, r.held_bytes > 0, r.held_rows, r.hint
                   FROM tide.outbox o, tide._retention(o, now() + interval '2 days') r";
    let disabled = session.run("SELECT tide.relay_disable('p')");
    disabled.await;
    let row = session.row(later).await;
    assert!(
        row.starts_with("gone|1|t|500|pipeline \"p\" is disabled: enable it (SELECT tide.relay_enable('p'))"),
        "{row}"
    );
    session.run("SELECT tide.relay_enable('p')").await;
    let row = session.row(later).await;
    assert!(
        row.contains("no relay runs pipeline \"p\": start one of relay group \"default\""),
        "{row}"
    );
    session.run("SELECT tide.relay_delete('p')").await;
    let row = session.row(later).await;
    assert!(
        row.contains("nobody has ever consumed as this group")
            && row.contains("SELECT tide.drop_consumer_group('gone', 'orders')"),
        "{row}"
    );
    session.run("SELECT tide.poll_outbox('gone', 'orders', 1)").await;
    let row = session.row(later).await;
    assert!(
        row.contains("nobody has consumed as this group since 20"),
        "{row}"
    );
    session
        .run("SELECT tide.drop_consumer_group('gone', 'orders')")
        .await;
    assert!(session.row(later).await.starts_with("-|0|f|0|"));
}

#[tokio::test]
async fn inbox_messages_go_when_their_time_is_over_and_nobody_waits() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.inbox_create('payments', p_max_retries := 2, p_processed_retention_hours := 72, p_dlq_retention_hours := 240);
             SELECT tide.inbox_create('kept', p_max_retries := 2);
             INSERT INTO tide.payments_inbox (event_id, payload, received_at)
             SELECT 'e-' || n, '1', now() - interval '20 days' FROM generate_series(1, 12000) n;
             -- Of each ten, six were processed long ago, one just now; one died long ago, one lately; one is pending.
             UPDATE tide.payments_inbox SET processed_at = now() - interval '4 days' WHERE id % 10 < 6;
             UPDATE tide.payments_inbox SET processed_at = now() WHERE id % 10 = 6;
             UPDATE tide.payments_inbox SET retry_count = 2, failed_at = now() - interval '11 days' WHERE id % 10 = 7;
             UPDATE tide.payments_inbox SET retry_count = 2, failed_at = now() - interval '9 days' WHERE id % 10 = 8;
             INSERT INTO tide.kept_inbox (event_id, payload, received_at, retry_count, failed_at)
             VALUES ('dead', '1', now() - interval '20 years', 2, now() - interval '20 years')",
        )
        .await;
    // Somebody holds two of them: they are left, not waited for.
    let other = database.session().await;
    other
        .run("BEGIN; SELECT * FROM tide.payments_inbox WHERE id IN (1, 7) FOR UPDATE")
        .await;
    // A worker goes on meanwhile.
    let began = Instant::now();
    assert_eq!(
        session.row("SELECT * FROM tide._purge_inbox(1, 0, 5000)").await,
        "5000|2999|499"
    );
    assert_eq!(
        session
            .row("SELECT * FROM tide._purge_inbox(1, 5000, 5000)")
            .await,
        "10000|3000|500"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    other.run("ROLLBACK").await;
    assert_eq!(
        session
            .row("SELECT * FROM tide.maintain_inbox('payments', 100000)")
            .await,
        "1201|201"
    );
    assert_eq!(
        session
            .row(
                "SELECT count(*), count(*) FILTER (WHERE processed_at > now() - interval '1 hour'),
                        count(*) FILTER (WHERE retry_count = 2), count(*) FILTER (WHERE processed_at IS NULL AND retry_count = 0)
                   FROM tide.payments_inbox"
            )
            .await,
        "3600|1200|1200|1200"
    );
    assert_eq!(
        session.row("SELECT * FROM tide.maintain_inbox('kept')").await,
        "0|0"
    );
    // The walk ends where nothing is old enough.
    session
        .run("UPDATE tide.payments_inbox SET received_at = now() WHERE id > 5000")
        .await;
    assert_eq!(
        session.row("SELECT * FROM tide._purge_inbox(1, 6000, 100)").await,
        "-|0|0"
    );
    session
        .refuses(
            "SELECT tide.maintain_inbox('payments', 0)",
            "22023",
            &["at least 1"],
        )
        .await;
    // The message that is gone is not known any more.
    session
        .run("INSERT INTO tide.payments_inbox (event_id, payload) VALUES ('e-1', '1')")
        .await;
}

#[tokio::test]
async fn claims_and_marks_go_on_while_a_purge_is_open() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.inbox_create('payments', p_processed_retention_hours := 0);
             INSERT INTO tide.payments_inbox (event_id, payload, received_at, processed_at)
             SELECT 'old-' || n, '1', now() - interval '1 day', now() - interval '1 day' FROM generate_series(1, 100) n;
             INSERT INTO tide.payments_inbox (event_id, payload) SELECT 'new-' || n, '1' FROM generate_series(1, 5) n",
        )
        .await;
    let purger = database.session().await;
    purger.run("BEGIN; SELECT tide.maintain_inbox('payments')").await;
    let others = async {
        assert_eq!(
            session
                .rows("SELECT event_id FROM tide.inbox_claim('payments', 2)")
                .await,
            ["new-1", "new-2"]
        );
        session
            .run("SELECT tide.inbox_mark_processed('payments', 'new-1'); INSERT INTO tide.payments_inbox (event_id, payload) VALUES ('new-6', '1')")
            .await;
    };
    tokio::time::timeout(Duration::from_secs(5), others)
        .await
        .expect("somebody waited for the purge");
    purger.run("COMMIT").await;
    assert_eq!(
        session
            .row("SELECT count(*) FROM tide.payments_inbox WHERE event_id LIKE 'old%'")
            .await,
        "0"
    );
}

#[tokio::test]
async fn dead_letters_and_relays_that_are_gone_are_forgotten_in_time() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}');
             INSERT INTO tide.dead_letter (pipeline, direction, message_id, error, created_at, resolved_at)
             VALUES ('p', 'forward', 1, 'e', now() - interval '30 days', now() - interval '8 days'),
                    ('p', 'forward', 2, 'e', now() - interval '30 days', now() - interval '6 days'),
                    ('p', 'forward', 3, 'e', now() - interval '30 days', NULL),
                    ('p', 'forward', 4, 'e', now() - interval '30 days', NULL);
             SELECT tide.relay_dlq_retry(4)",
        )
        .await;
    let purge = "SELECT * FROM tide._purge_dead_letters(100)";
    assert_eq!(session.row(purge).await, "1|0", "a week after they were resolved");
    session.run("SELECT tide.set_dead_letter_retention(1, 720)").await;
    assert_eq!(
        session.row(purge).await,
        "1|1",
        "all after thirty days; what waits for its redelivery stays"
    );
    session.run("SELECT tide.set_dead_letter_retention(0, 0)").await;
    assert_eq!(session.row(purge).await, "0|0");
    session
        .refuses(
            "SELECT tide.set_dead_letter_retention(-1)",
            "22023",
            &["or 0 to keep"],
        )
        .await;

    let alive = database.session().await;
    session
        .run(
            "INSERT INTO tide.relay_member (relay_group, name, backend_pid, heartbeat_at)
             SELECT 'default', 'relay-' || n, 1, now() - interval '2 hours' FROM generate_series(1, 3) n;
             SELECT tide._acquire(1, 2, 'relay-2')",
        )
        .await;
    alive.run("SELECT pg_advisory_lock(1953064045, 1)").await;
    assert_eq!(session.number("SELECT tide._purge_members()").await, 1);
    assert_eq!(
        session
            .rows("SELECT name FROM tide.relay_member ORDER BY 1")
            .await,
        ["relay-1", "relay-2"],
        "one lives, one is named as an owner"
    );
}
