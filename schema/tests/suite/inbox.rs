//! Inboxes: the application's functions, and the relay's batch.

use crate::support::{Database, Session};

async fn inbox() -> (Database, Session, i64) {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.inbox_create('payments', p_max_retries := 2);
             SELECT tide.relay_set_inbox('r', 'payments', '{\"url\": \"b:1\", \"subject\": \"t\"}')",
        )
        .await;
    let epoch = session.number("SELECT tide._acquire(1, 1, 'relay-1')").await;
    (database, session, epoch)
}

/// A message: event id, dedup key, position, payload.
type Message<'a> = (Option<&'a str>, Option<&'a str>, Option<i64>, &'a str);

fn write(epoch: i64, batch: &[Message<'_>]) -> String {
    let list = |values: Vec<String>, kind: &str| format!("ARRAY[{}]::{kind}[]", values.join(", "));
    let text = |value: Option<&str>| value.map_or("NULL".to_owned(), |v| format!("'{v}'"));
    format!(
        "SELECT inserted, duplicates FROM tide._inbox_write(1, {epoch}, {}, {}, {}, {}, {}, {}, {})",
        list(batch.iter().map(|m| text(m.0)).collect(), "text"),
        list(
            batch
                .iter()
                .map(|m| m.1.map_or("NULL".to_owned(), |d| format!("'\\x{d}'")))
                .collect(),
            "bytea"
        ),
        list(
            batch
                .iter()
                .map(|m| m.2.map_or("NULL".to_owned(), |_| "1".to_owned()))
                .collect(),
            "int"
        ),
        list(
            batch
                .iter()
                .map(|m| m.2.map_or("NULL".to_owned(), |p| p.to_string()))
                .collect(),
            "bigint"
        ),
        list(batch.iter().map(|_| "'subject'".to_owned()).collect(), "text"),
        list(batch.iter().map(|m| format!("'{}'", m.3)).collect(), "text"),
        list(batch.iter().map(|_| "'{}'".to_owned()).collect(), "text"),
    )
}

#[tokio::test]
async fn numbers_are_gapless_whatever_is_refused_within_and_across_batches() {
    let (_database, session, epoch) = inbox().await;
    let ids = async || {
        session
            .rows("SELECT event_id || '=' || payload FROM tide.payments_inbox ORDER BY id")
            .await
    };
    let put = async |batch: &[Message<'_>]| session.row(&write(epoch, batch)).await;

    assert_eq!(
        put(&[(None, Some("01"), Some(1), "1"), (None, Some("02"), Some(2), "2")]).await,
        "2|0"
    );
    // By content, by position, by both; and a new one between.
    assert_eq!(
        put(&[
            (None, Some("01"), Some(3), "1"),
            (None, Some("03"), Some(4), "3"),
            (None, Some("09"), Some(2), "9"),
            (None, Some("02"), Some(2), "2"),
        ])
        .await,
        "1|3"
    );
    // Within one batch: by content, by position, by id.
    assert_eq!(
        put(&[
            (None, Some("04"), Some(5), "4"),
            (None, Some("04"), Some(6), "4"),
            (None, Some("05"), Some(5), "5"),
            (Some("own"), None, Some(7), "6"),
            (Some("own"), None, Some(8), "7"),
            (None, None, Some(9), "8"),
        ])
        .await,
        "3|3"
    );
    // A message's own id takes no number, and one that looks like ours is kept apart.
    assert_eq!(
        put(&[
            (Some("own2"), None, None, "10"),
            (Some("payments:nats:seq-6"), None, None, "11"),
            (None, None, None, "12")
        ])
        .await,
        "3|0"
    );
    assert_eq!(
        put(&[
            (None, None, None, "13"),
            (Some("payments:nats:seq-6"), None, None, "14"),
            (None, None, None, "15")
        ])
        .await,
        "2|1"
    );
    assert_eq!(put(&[]).await, "0|0");
    assert_eq!(
        ids().await,
        [
            "payments:nats:seq-1=1",
            "payments:nats:seq-2=2",
            "payments:nats:seq-3=3",
            "payments:nats:seq-4=4",
            "own=6",
            "payments:nats:seq-5=8",
            "own2=10",
            "id:payments:nats:seq-6=11",
            "payments:nats:seq-6=12",
            "payments:nats:seq-7=13",
            "payments:nats:seq-8=15",
        ]
    );
    assert_eq!(
        session
            .row("SELECT accepted, duplicates, pending FROM tide.inbox_summary")
            .await,
        "11|7|11"
    );
    assert_eq!(session.row("SELECT last_seq FROM tide.inbox_counter").await, "8");
}

#[tokio::test]
async fn a_message_is_not_refused_for_one_that_was_refused_itself() {
    let (_database, session, epoch) = inbox().await;
    // b repeats a's id, and only shares its content with c.
    let batch: [Message<'_>; 3] = [
        (Some("x"), Some("01"), None, "\"a\""),
        (Some("x"), Some("02"), None, "\"b\""),
        (None, Some("02"), None, "\"c\""),
    ];
    assert_eq!(session.row(&write(epoch, &batch)).await, "2|1");
    assert_eq!(
        session
            .rows("SELECT payload FROM tide.payments_inbox ORDER BY id")
            .await,
        ["\"a\"", "\"c\""]
    );
}

#[tokio::test]
async fn two_pipelines_on_one_inbox_share_its_numbers_without_a_gap() {
    let (database, session, epoch) = inbox().await;
    let other = database.session().await;
    session
        .run(&format!(
            "BEGIN; {}",
            write(epoch, &[(None, Some("01"), None, "1")])
        ))
        .await;
    let waiting = tokio::spawn(async move {
        other
            .row(&write(
                epoch,
                &[(None, Some("01"), None, "1"), (None, Some("02"), None, "2")],
            ))
            .await
    });
    session.run("COMMIT").await;
    assert_eq!(waiting.await.unwrap(), "1|1");
    assert_eq!(
        session
            .rows("SELECT event_id FROM tide.payments_inbox ORDER BY id")
            .await,
        ["payments:nats:seq-1", "payments:nats:seq-2"]
    );
}

#[tokio::test]
async fn a_batch_of_a_former_owner_is_refused_and_stores_nothing() {
    let (_database, session, epoch) = inbox().await;
    let newer = session.number("SELECT tide._acquire(1, 2, 'relay-2')").await;
    assert!(newer > epoch);
    let error = session.error(&write(epoch, &[(None, None, None, "1")])).await;
    assert_eq!(error.code().code(), "TD001");
    assert_eq!(
        session.row(&write(newer, &[(None, None, None, "1")])).await,
        "1|0"
    );
}

#[tokio::test]
async fn a_batch_with_a_payload_that_is_not_json_stores_nothing() {
    let (_database, session, epoch) = inbox().await;
    let error = session
        .error(&write(
            epoch,
            &[(None, None, None, "1"), (None, None, None, "{not json")],
        ))
        .await;
    assert_eq!(error.code().code(), "22P02");
    assert_eq!(
        session.row(&write(epoch, &[(None, None, None, "1")])).await,
        "1|0"
    );
    assert_eq!(
        session.row("SELECT event_id FROM tide.payments_inbox").await,
        "payments:nats:seq-1"
    );
}

#[tokio::test]
async fn messages_are_marked_claimed_and_replayed() {
    let (database, session, epoch) = inbox().await;
    session
        .run(&write(
            epoch,
            &[
                (Some("a"), None, None, "1"),
                (Some("b"), None, None, "2"),
                (Some("c"), None, None, "3"),
            ],
        ))
        .await;
    let claim = "SELECT event_id FROM tide.inbox_claim('payments', 2)";
    assert_eq!(session.rows(claim).await, ["a", "b"]);
    assert_eq!(
        session.rows(claim).await,
        ["c"],
        "claimed ones are not given again"
    );
    assert_eq!(
        session
            .row("SELECT pending, claimed FROM tide.inbox_summary")
            .await,
        "3|3"
    );

    assert_eq!(
        session
            .row("SELECT tide.inbox_mark_processed('payments', 'a')")
            .await,
        "t"
    );
    assert_eq!(
        session
            .row("SELECT tide.inbox_mark_processed('payments', 'a')")
            .await,
        "f"
    );
    assert_eq!(
        session
            .row("SELECT tide.inbox_mark_failed('payments', 'b', 'no')")
            .await,
        "1"
    );
    assert_eq!(session.rows(claim).await.len(), 0, "a failed one waits");
    session
        .run("UPDATE tide.payments_inbox SET next_attempt_at = now()")
        .await;
    assert_eq!(session.rows(claim).await, ["b"], "then it is free again");
    assert_eq!(
        session
            .row("SELECT tide.inbox_mark_failed('payments', 'b', 'no')")
            .await,
        "2"
    );
    assert_eq!(session.rows(claim).await.len(), 0, "a dead letter is not claimed");
    assert_eq!(
        session
            .row("SELECT pending, processed, dead_letter FROM tide.inbox_status('payments')")
            .await,
        "1|1|1"
    );
    assert_eq!(
        session
            .row("SELECT tide.replay_inbox_messages('payments', ARRAY['a', 'b', 'unknown'])")
            .await,
        "2"
    );
    assert_eq!(
        session
            .row("SELECT retry_count, last_error, processed_at FROM tide.payments_inbox WHERE event_id = 'b'")
            .await,
        "0|-|-"
    );

    // What another transaction works on is skipped, not waited for.
    let other = database.session().await;
    other
        .run("BEGIN; SELECT * FROM tide.inbox_claim('payments', 1)")
        .await;
    assert_eq!(session.rows(claim).await, ["b"]);
    other.run("ROLLBACK").await;
    session
        .run("UPDATE tide.payments_inbox SET claimed_until = now() - interval '1 second'")
        .await;
    assert_eq!(session.rows(claim).await, ["a", "b"]);
}

#[tokio::test]
async fn wrong_arguments_are_refused_with_a_hint() {
    let (_database, session, epoch) = inbox().await;
    session.run(&write(epoch, &[(Some("a"), None, None, "1")])).await;
    session
        .refuses(
            "SELECT tide.inbox_mark_processed('payments', 'zz')",
            "P0002",
            &["no message with event id \"zz\"", "payments_inbox"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_mark_failed('payments', 'zz', 'no')",
            "P0002",
            &["no message with event id \"zz\""],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_mark_processed('payments', NULL)",
            "22004",
            &["event id is null"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_mark_processed('payment', 'a')",
            "42704",
            &["Did you mean \"payments\"?"],
        )
        .await;
    session
        .run("SELECT tide.inbox_mark_processed('payments', 'a')")
        .await;
    session
        .refuses(
            "SELECT tide.inbox_mark_failed('payments', 'a', 'no')",
            "55000",
            &["already processed", "replay_inbox_messages"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.replay_inbox_messages('payments', NULL)",
            "22004",
            &["ARRAY["],
        )
        .await;
    session
        .refuses(
            "SELECT * FROM tide.inbox_claim('payments', 0)",
            "22023",
            &["at least 1"],
        )
        .await;
    session
        .refuses(
            "SELECT * FROM tide.inbox_claim('payments', 1, '0 seconds')",
            "22023",
            &["30 seconds"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_create('payments')",
            "42710",
            &["already exists"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_create('a', p_max_retries := -1)",
            "22023",
            &["max_retries"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_create('a', p_processed_retention_hours := -1)",
            "22023",
            &["processed"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_create('a', p_dlq_retention_hours := NULL)",
            "22023",
            &["for ever"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.inbox_drop('payments')",
            "2BP01",
            &["pipeline \"r\"", "tide.relay_delete('r')"],
        )
        .await;
    session
        .refuses("SELECT tide.inbox_drop('x')", "42704", &["\"payments\""])
        .await;
    session
        .run("SELECT tide.inbox_drop('x', p_if_exists := true)")
        .await;
    assert_eq!(
        session
            .row("SELECT tide.inbox_create_if_not_exists('payments')")
            .await,
        "f"
    );
    session
        .run("SELECT tide.relay_delete('r'); SELECT tide.inbox_drop('payments')")
        .await;
    assert_eq!(session.rows("SELECT * FROM tide.inbox_list()").await.len(), 0);
}

#[tokio::test]
async fn a_role_with_the_grant_processes_this_inbox_only() {
    let (database, session, epoch) = inbox().await;
    session
        .run(&write(
            epoch,
            &[(Some("a"), None, None, "1"), (Some("b"), None, None, "2")],
        ))
        .await;
    let role = database.role("").await;
    session
        .run(&format!(
            "SELECT tide.inbox_create('other'); SELECT tide.inbox_grant_process('payments', '{role}')"
        ))
        .await;
    let app = database.session_of(&role).await;
    app.run("SELECT payload FROM tide.payments_inbox; SELECT tide.inbox_mark_processed('payments', 'a'); SELECT tide.inbox_mark_failed('payments', 'b', 'no')").await;
    assert_eq!(
        app.rows("UPDATE tide.payments_inbox SET next_attempt_at = NULL; SELECT event_id FROM tide.inbox_claim('payments')")
            .await,
        ["b"]
    );
    app.run("SELECT tide.replay_inbox_messages('payments', ARRAY['a'])")
        .await;
    app.refuses(
        "SELECT tide.inbox_mark_processed('payments', 'zz')",
        "P0002",
        &["zz"],
    )
    .await;
    for statement in [
        "SELECT * FROM tide.inbox_claim('other')",
        "DELETE FROM tide.payments_inbox",
        "UPDATE tide.payments_inbox SET payload = '1'",
    ] {
        assert_eq!(app.error(statement).await.code().code(), "42501", "{statement}");
    }
    session
        .run(&format!("SELECT tide.inbox_revoke_process('payments', '{role}')"))
        .await;
    assert_eq!(
        app.error("SELECT tide.inbox_mark_processed('payments', 'b')")
            .await
            .code()
            .code(),
        "42501"
    );
}
