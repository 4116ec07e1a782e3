//! Claims on inbox messages: tokens, retries, many at once, order per key.

use crate::support::{Database, Session};

async fn inbox(count: u32) -> (Database, Session) {
    let (database, session) = Database::installed().await;
    session
        .run(&format!(
            "SELECT tide.inbox_create('payments', p_max_retries := 5);
             INSERT INTO tide.payments_inbox (event_id, payload, headers)
             SELECT 'e-' || n, jsonb_build_object('n', n, 'customer', jsonb_build_object('id', n % 2)), jsonb_build_object('k', 'x')
               FROM generate_series(1, {count}) n"
        ))
        .await;
    (database, session)
}

/// Event ids and the claim's token.
async fn claim(session: &Session, arguments: &str) -> (Vec<String>, String) {
    let rows = session
        .rows(&format!(
            "SELECT event_id, claim FROM tide.inbox_claim('payments', {arguments})"
        ))
        .await;
    let token = rows
        .first()
        .map(|row| row.split('|').nth(1).unwrap().to_owned())
        .unwrap_or_default();
    let ids = rows
        .iter()
        .map(|row| row.split('|').next().unwrap().to_owned())
        .collect();
    (ids, token)
}

async fn pass_time(session: &Session) {
    session
        .run(
            "UPDATE tide.payments_inbox SET claimed_until = claimed_until - interval '1 hour',
                                            next_attempt_at = next_attempt_at - interval '1 hour'",
        )
        .await;
}

#[tokio::test]
async fn many_are_marked_at_once_or_none() {
    let (_database, session) = inbox(4).await;
    session
        .refuses(
            "SELECT tide.inbox_mark_processed('payments', ARRAY['e-1', 'e-8', 'e-2', 'e-9'])",
            "P0002",
            &["no message with event id \"e-8\", \"e-9\""],
        )
        .await;
    assert_eq!(session.row("SELECT processed FROM tide.inbox_summary").await, "0");
    let many = "SELECT tide.inbox_mark_processed('payments', ARRAY['e-2', 'e-1', 'e-2'])";
    assert_eq!(session.number(many).await, 2);
    assert_eq!(session.number(many).await, 0, "they are marked already");
    assert_eq!(
        session
            .number("SELECT tide.inbox_mark_processed('payments', ARRAY['e-2', 'e-3'])")
            .await,
        1
    );
    assert_eq!(
        session
            .number("SELECT tide.inbox_mark_processed('payments', p_event_ids := '{}')")
            .await,
        0
    );
    for (ids, state, text) in [
        ("NULL::text[]", "22004", "event ids are null"),
        ("ARRAY['e-4', NULL]", "22004", "event id is null"),
    ] {
        session
            .refuses(
                &format!("SELECT tide.inbox_mark_processed('payments', {ids})"),
                state,
                &[text],
            )
            .await;
    }
}

#[tokio::test]
async fn a_worker_whose_claim_ran_out_marks_nothing() {
    let (_database, session) = inbox(3).await;
    let (ids, first) = claim(&session, "2").await;
    assert_eq!(ids, ["e-1", "e-2"]);
    assert_eq!(
        session
            .row(&format!(
                "SELECT tide.inbox_mark_processed('payments', 'e-1', '{first}')"
            ))
            .await,
        "t"
    );
    // Marked again by the same claim: no error.
    assert_eq!(
        session
            .row(&format!(
                "SELECT tide.inbox_mark_processed('payments', 'e-1', '{first}')"
            ))
            .await,
        "f"
    );
    assert_eq!(
        session
            .number(&format!(
                "SELECT tide.inbox_extend_claim('payments', ARRAY['e-1', 'e-2'], '{first}', '2 hours')"
            ))
            .await,
        1
    );
    pass_time(&session).await;
    assert_eq!(claim(&session, "9").await.0, ["e-3"], "the claim was extended");
    pass_time(&session).await;
    pass_time(&session).await;
    let late = [
        "inbox_mark_processed('payments', 'e-2', 'CLAIM')",
        "inbox_mark_processed('payments', ARRAY['e-2'], 'CLAIM')",
        "inbox_mark_failed('payments', 'e-2', 'no', p_claim := 'CLAIM')",
        "inbox_extend_claim('payments', ARRAY['e-2'], 'CLAIM')",
    ];
    let refused = async |why: &str| {
        for call in late {
            session
                .refuses(
                    &format!("SELECT tide.{}", call.replace("CLAIM", &first)),
                    "TD003",
                    &[&first, "\"e-2\"", "ran out", "ROLLBACK", "inbox_extend_claim"],
                )
                .await;
        }
        println!("refused {why}");
    };
    refused("when it ran out").await;
    let (ids, second) = claim(&session, "1").await;
    assert_eq!(ids, ["e-2"]);
    refused("when another has it").await;
    session
        .run(&format!(
            "SELECT tide.inbox_mark_processed('payments', ARRAY['e-2'], '{second}')"
        ))
        .await;
    refused("when another has processed it").await;
    // Without a claim, as ever.
    assert_eq!(
        session
            .row("SELECT tide.inbox_mark_processed('payments', 'e-2')")
            .await,
        "f"
    );
}

#[tokio::test]
async fn the_pause_after_a_failure_doubles_and_can_be_chosen() {
    let (_database, session) = inbox(2).await;
    session.run("UPDATE tide.inbox SET max_retries = 100").await;
    let pause = "SELECT round(extract(epoch FROM next_attempt_at - failed_at)) FROM tide.payments_inbox WHERE event_id = 'e-1'";
    for (failures, seconds) in (1..).zip([
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600,
    ]) {
        assert_eq!(
            session
                .number("SELECT tide.inbox_mark_failed('payments', 'e-1', 'no')")
                .await,
            failures
        );
        assert_eq!(session.number(pause).await, seconds);
    }
    session
        .run("SELECT tide.inbox_mark_failed('payments', 'e-1', 'no', p_retry_after := '7 days')")
        .await;
    assert_eq!(session.number(pause).await, 7 * 86_400);
    session
        .run("SELECT tide.inbox_mark_failed('payments', 'e-2', 'no', p_retry_after := '0')")
        .await;
    assert_eq!(claim(&session, "9").await.0, ["e-2"]);
    session
        .refuses(
            "SELECT tide.inbox_mark_failed('payments', 'e-1', 'no', '-1 second')",
            "22023",
            &["p_retry_after is -00:00:01", "doubles"],
        )
        .await;
}

#[tokio::test]
async fn of_a_key_only_the_oldest_is_claimed_and_nothing_behind_one_at_work() {
    let (_database, session) = inbox(6).await;
    session
        .run("INSERT INTO tide.payments_inbox (event_id, payload) VALUES ('no key 1', '{}'), ('no key 2', '[]')")
        .await;
    let key = "9, p_order_key := 'payload.customer.id'";
    assert_eq!(
        claim(&session, key).await.0,
        ["e-1", "e-2", "no key 1", "no key 2"],
        "one of each key, and all without one"
    );
    assert!(claim(&session, key).await.0.is_empty());
    session
        .run("SELECT tide.inbox_mark_processed('payments', 'e-1'); SELECT tide.inbox_mark_failed('payments', 'e-2', 'no')")
        .await;
    assert_eq!(
        claim(&session, key).await.0,
        ["e-3"],
        "e-4 waits for the retry of e-2"
    );
    pass_time(&session).await;
    assert_eq!(
        claim(&session, "1, p_order_key := 'payload.customer.id'").await.0,
        ["e-2"]
    );
    // A dead letter is out of the way.
    session
        .run("SELECT tide.inbox_mark_failed('payments', 'e-2', 'no') FROM generate_series(1, 4)")
        .await;
    assert_eq!(
        claim(&session, key).await.0,
        ["e-3", "e-4", "no key 1", "no key 2"]
    );
    // Replayed, an older one waits for the one that is at work.
    session
        .run("SELECT tide.replay_inbox_messages('payments', ARRAY['e-2'])")
        .await;
    assert!(claim(&session, key).await.0.is_empty());
    session
        .run("SELECT tide.inbox_mark_processed('payments', 'e-4')")
        .await;
    assert_eq!(claim(&session, key).await.0, ["e-2"]);

    pass_time(&session).await;
    assert_eq!(
        claim(&session, "9, p_order_key := 'headers.k'").await.0,
        ["e-2", "no key 1", "no key 2"],
        "by a header"
    );
    for wrong in ["customer", "payload", "payload..a", "headers.", ""] {
        session
            .refuses(
                &format!("SELECT tide.inbox_claim('payments', p_order_key := '{wrong}')"),
                "22023",
                &["names no place", "payload.customer.id"],
            )
            .await;
    }
    session
        .run("SELECT tide.inbox_claim('payments', p_order_key := 'headers.it''s \"quoted\" %I $1')")
        .await;
}

/// Workers that fail now and then, side by side, while messages come in.
#[tokio::test(flavor = "multi_thread")]
async fn effects_of_a_key_happen_in_its_order_with_workers_side_by_side() {
    const MESSAGES: i64 = 200;
    let (database, session) = inbox(0).await;
    session
        .run(
            "UPDATE tide.inbox SET max_retries = 1000000;
             CREATE TABLE effect (place bigint GENERATED ALWAYS AS IDENTITY, n bigint, key bigint)",
        )
        .await;
    let mut tasks = Vec::new();
    let incoming = database.session().await;
    tasks.push(tokio::spawn(async move {
        for n in 1..=MESSAGES {
            incoming
                .run(&format!(
                    "INSERT INTO tide.payments_inbox (event_id, payload, headers)
                     VALUES ('e-{n}', '{n}', jsonb_build_object('key', '{}'))",
                    n % 5
                ))
                .await;
        }
    }));
    for worker in 0..3_i64 {
        let working = database.session().await;
        tasks.push(tokio::spawn(async move {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
            let mut turn = worker;
            while working
                .number("SELECT count(*) FROM tide.payments_inbox WHERE processed_at IS NOT NULL")
                .await
                < MESSAGES
            {
                assert!(std::time::Instant::now() < deadline, "messages stay");
                let rows = working
                    .rows("SELECT event_id, payload, headers ->> 'key', claim FROM tide.inbox_claim('payments', 3, '300 ms', 'headers.key')")
                    .await;
                for row in rows {
                    turn += 1;
                    let part: Vec<&str> = row.split('|').collect();
                    let (id, n, key, claim) = (part[0], part[1], part[2], part[3]);
                    let done = if turn % 7 == 0 {
                        format!("SELECT tide.inbox_mark_failed('payments', '{id}', 'no', '20 ms', '{claim}')")
                    } else {
                        format!(
                            "BEGIN; SELECT tide.inbox_mark_processed('payments', '{id}', '{claim}');
                             INSERT INTO effect (n, key) VALUES ({n}, {key}); COMMIT"
                        )
                    };
                    // A claim may run out on a busy machine.
                    if let Err(error) = working.0.batch_execute(&done).await {
                        assert_eq!(error.code().unwrap().code(), "TD003", "{error:?}");
                        let _ = working.0.batch_execute("ROLLBACK").await;
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        session
            .row("SELECT count(*), count(DISTINCT n) FROM effect")
            .await,
        format!("{MESSAGES}|{MESSAGES}")
    );
    let swapped = session
        .rows(
            "SELECT * FROM (SELECT key, n, lag(n) OVER (PARTITION BY key ORDER BY place) AS before FROM effect) e WHERE before > n",
        )
        .await;
    assert!(swapped.is_empty(), "{swapped:?}");
}
