//! Dead letters and replay, without a relay: its calls are made by hand.

use crate::support::{Database, Session};

/// A forward pipeline `p` of outbox `orders` with `count` messages, of which
/// those up to id `delivered` are delivered; and the epoch it is owned under.
async fn forward(count: i64, delivered: i64) -> (Database, Session, i64) {
    let (database, session) = Database::installed().await;
    session
        .run(&format!(
            "SELECT tide.outbox_create('orders');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\"}}');
             SELECT tide.outbox_publish('orders', to_jsonb(n), jsonb_build_object('n', n)) FROM generate_series(1, {count}) n"
        ))
        .await;
    let epoch = session.number("SELECT tide._acquire(1, 1, 'relay-1')").await;
    session
        .run(&format!(
            "UPDATE tide.group_cursor SET new_snapshot = pg_current_snapshot(), last_id = {delivered}"
        ))
        .await;
    (database, session, epoch)
}

/// Makes message `id` a dead letter, as a relay does.
async fn die(session: &Session, id: i64) -> i64 {
    session
        .number(&format!(
            "INSERT INTO tide.dead_letter (pipeline, direction, message_id, event_id, headers, payload, error)
             SELECT 'p', 'forward', m.id, 'orders:' || m.id || ':' || (extract(epoch FROM m.created_at) * 1000000)::bigint,
                    m.headers, m.payload, 'too large' FROM tide.outbox_message m WHERE m.id = {id} RETURNING dlq_id"
        ))
        .await
}

async fn page(session: &Session, limit: i64) -> Vec<String> {
    session
        .rows(&format!(
            "SELECT redelivery_id, message_id, headers, payload FROM tide._redelivery_page(1, {limit})"
        ))
        .await
}

#[tokio::test]
async fn a_dead_letter_goes_through_its_pipeline_again() {
    let (_database, session, epoch) = forward(3, 3).await;
    let first = die(&session, 1).await;
    let second = die(&session, 2).await;
    assert_eq!(
        session
            .rows("SELECT dlq_id, message_id, payload, error FROM tide.relay_dlq_list('p')")
            .await,
        [
            format!("{first}|1|1|too large"),
            format!("{second}|2|2|too large")
        ]
    );
    assert_eq!(session.number("SELECT tide.relay_dlq_retry_all('p')").await, 2);
    // Asking twice queues it once.
    assert_eq!(
        session
            .row(&format!("SELECT tide.relay_dlq_retry({first})"))
            .await,
        "t"
    );
    let queued = page(&session, 10).await;
    assert_eq!(queued, ["1|1|{\"n\": 1}|1", "2|2|{\"n\": 2}|2"]);
    session
        .run(&format!(
            "SELECT tide._redelivered(1, {epoch}, '{{1,2}}', '{{1,2}}', ARRAY[NULL, 'still too large'])"
        ))
        .await;
    assert!(page(&session, 10).await.is_empty());
    assert_eq!(
        session
            .rows("SELECT dlq_id, error, attempts, coalesce(resolution, 'open') FROM tide.relay_dlq_list(NULL, true)")
            .await,
        [
            format!("{first}|too large|2|delivered"),
            format!("{second}|still too large|2|open")
        ]
    );
    session
        .refuses(
            &format!("SELECT tide.relay_dlq_retry({first})"),
            "55000",
            &["is resolved: delivered", "relay_replay"],
        )
        .await;
    assert_eq!(
        session
            .row(&format!(
                "SELECT tide.relay_dlq_resolve({second}, 'sent by hand')"
            ))
            .await,
        "t"
    );
    assert_eq!(
        session
            .row(&format!("SELECT tide.relay_dlq_resolve({second})"))
            .await,
        "f"
    );
    assert!(
        session
            .rows("SELECT * FROM tide.relay_dlq_list()")
            .await
            .is_empty()
    );
    assert_eq!(
        session.number("SELECT tide.relay_dlq_purge('p', '1 day')").await,
        0
    );
    assert_eq!(session.number("SELECT tide.relay_dlq_purge()").await, 2);
}

#[tokio::test]
async fn a_lost_owner_records_nothing() {
    let (_database, session, epoch) = forward(1, 1).await;
    let id = die(&session, 1).await;
    session.run(&format!("SELECT tide.relay_dlq_retry({id})")).await;
    session.run("SELECT tide._acquire(1, 2, 'relay-2')").await;
    let late = format!("SELECT tide._redelivered(1, {epoch}, '{{1}}', '{{1}}', ARRAY[NULL::text])");
    assert_eq!(session.error(&late).await.code().code(), "TD001");
    assert_eq!(page(&session, 10).await.len(), 1);
}

#[tokio::test]
async fn a_replay_sends_what_was_delivered_and_no_more() {
    let (_database, session, epoch) = forward(6, 4).await;
    assert_eq!(session.number("SELECT tide.relay_replay('p', 2, NULL)").await, 3);
    assert_eq!(page(&session, 2).await, ["1|2|{\"n\": 2}|2", "1|3|{\"n\": 3}|3"]);
    session
        .run(&format!(
            "SELECT tide._redelivered(1, {epoch}, '{{1,1}}', '{{2,3}}', ARRAY[NULL, 'refused'])"
        ))
        .await;
    assert_eq!(page(&session, 2).await, ["1|4|{\"n\": 4}|4"]);
    session
        .run(&format!(
            "SELECT tide._redelivered(1, {epoch}, '{{1}}', '{{4}}', ARRAY[NULL::text])"
        ))
        .await;
    assert!(page(&session, 2).await.is_empty());
    assert_eq!(session.number("SELECT count(*) FROM tide.redelivery").await, 0);
    assert_eq!(
        session
            .rows("SELECT message_id, payload, error FROM tide.relay_dlq_list('p')")
            .await,
        ["3|3|refused"]
    );
    let by_time = "SELECT tide.relay_replay('p', (SELECT created_at FROM tide.outbox_message WHERE id = 2),
                                            (SELECT created_at FROM tide.outbox_message WHERE id = 3))";
    assert_eq!(session.number(by_time).await, 2);
    assert_eq!(session.number("SELECT tide.relay_replay('p', 5, 6)").await, 0);
    session
        .refuses(
            "SELECT tide.relay_replay('p', 3, 2)",
            "22023",
            &["range is empty"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.relay_replay('q', 1, 2)",
            "42704",
            &["pipeline \"q\"", "does not exist"],
        )
        .await;
}

#[tokio::test]
async fn a_dead_letter_of_an_inbox_is_stored_when_it_can_be() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.inbox_create('payments');
             SELECT tide.relay_set_inbox('r', 'payments', '{\"url\": \"b:1\", \"subject\": \"t\"}');
             SELECT tide._acquire(1, 1, 'relay-1');
             INSERT INTO tide.dead_letter (pipeline, direction, event_id, source, body, headers, error)
             VALUES ('r', 'reverse', 'e-1', 'nats:t', '{\"a\": 1}', '{}', 'a trigger refused it'),
                    ('r', 'reverse', NULL, 'nats:t', '\\xff', '{}', 'the payload is not JSON');",
        )
        .await;
    assert_eq!(session.number("SELECT tide.relay_dlq_retry_all('r')").await, 1);
    assert_eq!(
        session
            .rows("SELECT event_id, payload FROM tide.payments_inbox")
            .await,
        ["e-1|{\"a\": 1}"]
    );
    assert_eq!(
        session
            .rows("SELECT dlq_id, attempts, coalesce(resolution, 'open') FROM tide.relay_dlq_list('r', true)")
            .await,
        ["1|2|stored", "2|2|open"]
    );
    session
        .refuses(
            "SELECT tide.relay_dlq_retry(99)",
            "P0002",
            &["no dead letter 99", "relay_dlq_list"],
        )
        .await;
}
