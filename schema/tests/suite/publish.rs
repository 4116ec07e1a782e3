//! Publishing: what is refused, who may, who waits for whom.

use std::time::Duration;

use crate::support::Database;

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_a_hint() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    session
        .refuses(
            "SELECT tide.outbox_publish(NULL, '1')",
            "22004",
            &["name is null"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish('odrers', '1')",
            "42704",
            &["does not exist", "Did you mean \"orders\"?"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish('orders', NULL)",
            "22004",
            &["payload", "'null'::jsonb"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish('orders', '1', '[]')",
            "22023",
            &["headers", "array", "not an object"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish_batch('orders', NULL)",
            "22004",
            &["payload"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish_batch('orders', ARRAY['1', NULL]::jsonb[])",
            "22004",
            &["payload"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish_batch('orders', ARRAY['1']::jsonb[], ARRAY['{}', '{}']::jsonb[])",
            "22023",
            &["1 payloads, but 2 headers"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish_batch('orders', ARRAY['1']::jsonb[], ARRAY['3']::jsonb[])",
            "22023",
            &["number"],
        )
        .await;
    session.run("SELECT tide.outbox_disable('orders')").await;
    session
        .refuses(
            "SELECT tide.outbox_publish('orders', '1')",
            "55000",
            &["disabled", "tide.outbox_enable('orders')"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_publish_batch('orders', ARRAY['1']::jsonb[])",
            "55000",
            &["disabled"],
        )
        .await;
    session
        .refuses(
            "INSERT INTO tide.orders_outbox (payload) VALUES ('1')",
            "55000",
            &["disabled"],
        )
        .await;
    session
        .refuses(
            "INSERT INTO tide.outbox_message (outbox, payload) VALUES ('ordrs', '1')",
            "42704",
            &["orders"],
        )
        .await;
    session.run("SELECT tide.outbox_enable('orders')").await;
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "0");
}

#[tokio::test]
async fn a_publish_stores_what_was_given_and_returns_its_id() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    let id = session
        .number("SELECT tide.outbox_publish('orders', '{\"a\": 1}', '{\"k\": \"v\"}')")
        .await;
    let null = session
        .number("SELECT tide.outbox_publish('orders', 'null', NULL)")
        .await;
    let batch = session
        .rows("SELECT tide.outbox_publish_batch('orders', ARRAY['10', '20']::jsonb[], ARRAY['{\"n\": 1}', NULL]::jsonb[])")
        .await;
    session
        .run("INSERT INTO tide.\"orders_outbox\" (payload, headers) VALUES ('30', '{}')")
        .await;
    assert_eq!(
        session
            .rows("SELECT id, payload, headers, body IS NULL, pg_visible_in_snapshot(xid, pg_current_snapshot()) FROM tide.orders_outbox ORDER BY id")
            .await,
        [
            format!("{id}|{{\"a\": 1}}|{{\"k\": \"v\"}}|t|t"),
            format!("{null}|null|{{}}|t|t"),
            format!("{}|10|{{\"n\": 1}}|t|t", batch[0]),
            format!("{}|20|{{}}|t|t", batch[1]),
            format!("{}|30|{{}}|t|t", batch[1].parse::<i64>().unwrap() + 1),
        ]
    );
    let error = session
        .error("INSERT INTO tide.orders_outbox (payload, headers) VALUES ('1', '[]')")
        .await;
    assert_eq!(error.code().code(), "23514");
    // A publish that is undone leaves nothing, a savepoint included.
    session
        .run("BEGIN; SELECT tide.outbox_publish('orders', '40'); SAVEPOINT s; SELECT tide.outbox_publish('orders', '50'); ROLLBACK TO s; COMMIT")
        .await;
    session
        .run("BEGIN; SELECT tide.outbox_publish('orders', '60'); ROLLBACK")
        .await;
    assert_eq!(
        session
            .rows("SELECT payload FROM tide.orders_outbox ORDER BY id OFFSET 5")
            .await,
        ["40"]
    );
}

#[tokio::test]
async fn one_grant_rules_both_ways_of_publishing_to_that_outbox_only() {
    let (database, session) = Database::installed().await;
    let (role, stranger) = (database.role("").await, database.role("").await);
    session
        .run(&format!(
            "SELECT tide.outbox_create('mine'); SELECT tide.outbox_create('other'); SELECT tide.outbox_grant_publish('mine', '{role}')"
        ))
        .await;
    let app = database.session_of(&role).await;
    app.run("SELECT tide.outbox_publish('mine', '1')").await;
    app.run("SELECT tide.outbox_publish_batch('mine', ARRAY['2', '3']::jsonb[])")
        .await;
    app.run("INSERT INTO tide.mine_outbox (payload, headers) VALUES ('4', '{}')")
        .await;
    app.refuses(
        "SELECT tide.outbox_publish('mien', '1')",
        "42704",
        &["Did you mean \"mine\"?"],
    )
    .await;

    for (statement, why) in [
        ("SELECT tide.outbox_publish('other', '1')", "row-level security"),
        (
            "SELECT tide.outbox_publish_batch('other', ARRAY['1']::jsonb[])",
            "row-level security",
        ),
        (
            "INSERT INTO tide.other_outbox (payload, headers) VALUES ('1', '{}')",
            "permission denied",
        ),
        (
            "INSERT INTO tide.mine_outbox (outbox, payload) VALUES ('other', '1')",
            "permission denied",
        ),
        // Nobody chooses an id, a transaction or a time.
        (
            "INSERT INTO tide.mine_outbox (id, payload) VALUES (1, '1')",
            "permission denied",
        ),
        (
            "INSERT INTO tide.mine_outbox (xid, payload) VALUES ('5', '1')",
            "permission denied",
        ),
        (
            "INSERT INTO tide.outbox_message (outbox, created_at, payload) VALUES ('mine', now(), '1')",
            "permission denied",
        ),
        ("SELECT * FROM tide.mine_outbox", "permission denied"),
        ("SELECT payload FROM tide.outbox_message", "permission denied"),
        ("DELETE FROM tide.mine_outbox", "permission denied"),
        ("SELECT tide.outbox_drop('mine')", "permission denied"),
        ("SELECT tide.relay_list_configs()", "permission denied"),
    ] {
        let error = app.error(statement).await;
        assert_eq!(error.code().code(), "42501", "{statement}: {error}");
        assert!(error.message().contains(why), "{statement}: {error}");
    }
    let nobody = database.session_of(&stranger).await;
    assert_eq!(
        nobody
            .error("SELECT tide.outbox_publish('mine', '1')")
            .await
            .code()
            .code(),
        "42501"
    );

    session
        .run(&format!("SELECT tide.outbox_revoke_publish('mine', '{role}')"))
        .await;
    for statement in [
        "SELECT tide.outbox_publish('mine', '1')",
        "INSERT INTO tide.mine_outbox (payload) VALUES ('1')",
    ] {
        assert_eq!(app.error(statement).await.code().code(), "42501", "{statement}");
    }
    assert_eq!(session.row("SELECT count(*) FROM tide.outbox_message").await, "4");
    session
        .refuses(
            "SELECT tide.outbox_grant_publish('mine', 'nobody_at_all')",
            "42704",
            &["role \"nobody_at_all\" does not exist"],
        )
        .await;
    session
        .refuses(
            &format!("SELECT tide.outbox_revoke_publish('mien', '{role}')"),
            "42704",
            &["mine"],
        )
        .await;
}

#[tokio::test]
async fn members_of_the_roles_can_do_what_the_roles_are_for() {
    let (database, session) = Database::installed().await;
    let (admin, publisher, reader) = (
        database.role("").await,
        database.role("").await,
        database.role("").await,
    );
    session
        .run(&format!(
            "GRANT tide_admin TO {admin}; GRANT tide_publisher TO {publisher}; GRANT tide_reader TO {reader}"
        ))
        .await;
    let admin = database.session_of(&admin).await;
    admin
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.inbox_create('payments');
             SELECT tide.create_consumer_group('g', 'orders', 'latest');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}');
             SELECT tide.relay_disable('p'); SELECT * FROM tide.relay_list_configs(); SELECT * FROM tide.outbox_status();
             SELECT * FROM tide.maintain_outboxes(); SELECT * FROM tide.poll_outbox('g', 'orders')",
        )
        .await;
    database
        .session_of(&publisher)
        .await
        .run("SELECT tide.outbox_publish('orders', '1')")
        .await;
    let reader = database.session_of(&reader).await;
    assert_eq!(
        reader.row("SELECT pending_count FROM tide.outbox_pending").await,
        "1"
    );
    assert_eq!(reader.row("SELECT lag FROM tide.consumer_lag").await, "1");
    reader
        .run("SELECT * FROM tide.relay_pipeline_status; SELECT * FROM tide.inbox_summary; SELECT error FROM tide.dead_letter")
        .await;
    admin
        .run("SELECT * FROM tide.orders_outbox; SELECT * FROM tide.payments_inbox; SELECT * FROM tide.outbox_message")
        .await;
    for statement in [
        "SELECT * FROM tide.orders_outbox",
        "SELECT * FROM tide.outbox_message",
        "SELECT * FROM tide.payments_inbox",
        "SELECT payload FROM tide.dead_letter",
        "SELECT tide.outbox_publish('orders', '1')",
        "SELECT tide.relay_delete('p')",
        "UPDATE tide.pipeline SET enabled = true",
    ] {
        assert_eq!(
            reader.error(statement).await.code().code(),
            "42501",
            "{statement}"
        );
    }
}

#[tokio::test]
async fn an_open_publish_delays_no_other_publisher_no_reader_and_no_maintenance() {
    let (database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    let slow = database.session().await;
    slow.run("BEGIN; SELECT tide.outbox_publish('orders', '\"slow\"')")
        .await;
    let others = async {
        session
            .run("SELECT tide.outbox_publish('orders', '\"fast\"'); SELECT tide.outbox_create('another')")
            .await;
        session.run("SELECT tide.outbox_publish('another', '1')").await;
        // Needs the outbox for itself: gives up at once, and says so.
        let done = session
            .rows("SELECT m.action FROM tide.outbox o, tide._make_leaves_ahead(o, now() + interval '10 days') m WHERE o.name = 'orders'")
            .await;
        assert_eq!(done, ["skipped"]);
        session
            .run("SELECT tide.outbox_publish('orders', '\"fast\"')")
            .await;
        assert_eq!(
            session
                .row("SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = 'orders'")
                .await,
            "2"
        );
    };
    tokio::time::timeout(Duration::from_secs(5), others)
        .await
        .expect("somebody waited for the open transaction");
    slow.run("COMMIT").await;
    assert_eq!(
        session
            .row("SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = 'orders'")
            .await,
        "3"
    );
}
