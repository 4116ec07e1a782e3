//! Consumers in SQL: leases, and what committing them means.

use crate::support::{Database, Session};

/// An outbox with a group and so many messages of their number.
pub(crate) async fn outbox(count: u32) -> (Database, Session) {
    let (database, session) = Database::installed().await;
    session
        .run(&format!(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders');
             SELECT tide.outbox_publish('orders', to_jsonb(n)) FROM generate_series(1, {count}) n"
        ))
        .await;
    (database, session)
}

/// The payloads of a poll and its lease.
pub(crate) async fn poll(session: &Session, arguments: &str) -> (Vec<String>, String) {
    let rows = session
        .rows(&format!(
            "SELECT payload, lease FROM tide.poll_outbox('g', 'orders', {arguments})"
        ))
        .await;
    let split: Vec<(String, String)> = rows
        .iter()
        .map(|row| row.split_once('|').unwrap())
        .map(|(payload, lease)| (payload.to_owned(), lease.to_owned()))
        .collect();
    let lease = split.first().map(|(_, lease)| lease.clone()).unwrap_or_default();
    assert!(split.iter().all(|(_, l)| *l == lease));
    (split.into_iter().map(|(payload, _)| payload).collect(), lease)
}

pub(crate) async fn run_out(session: &Session, lease: &str) {
    session
        .run(&format!(
            "UPDATE tide.consumer_lease SET leased_until = clock_timestamp() WHERE lease = '{lease}'"
        ))
        .await;
}

pub(crate) const LAG: &str = "SELECT lag FROM tide.consumer_lag WHERE group_name = 'g'";

#[tokio::test]
async fn one_lease_at_a_time_keeps_the_order_and_others_stand_by() {
    let (_database, session) = outbox(5).await;
    let (got, first) = poll(&session, "2").await;
    assert_eq!(got, ["1", "2"]);
    assert!(poll(&session, "2").await.0.is_empty(), "another one is out");
    assert_eq!(session.row(LAG).await, "5");
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', p_lease := '{first}')"
        ))
        .await;
    assert_eq!(session.row(LAG).await, "3");

    let (got, second) = poll(&session, "2").await;
    assert_eq!(got, ["3", "4"]);
    run_out(&session, &second).await;
    // Another one gets them; fewer if it wants fewer.
    let (got, third) = poll(&session, "1, p_consumer_id := 'other'").await;
    assert_eq!(got, ["3"]);
    assert_eq!(
        session
            .row("SELECT attempt FROM tide.poll_outbox('g', 'orders', 1, p_consumer_id := 'other')")
            .await,
        "3"
    );
    for late in [&second, &third] {
        session
            .refuses(
                &format!("SELECT tide.commit_offset('g', 'orders', p_lease := '{late}')"),
                "TD003",
                &[
                    "is not valid",
                    "handed out again",
                    "ROLLBACK",
                    "tide.extend_lease",
                ],
            )
            .await;
    }
    let (got, fourth) = poll(&session, "10, p_consumer_id := 'other'").await;
    assert_eq!(got, ["3"], "the consumer's own");
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', 3, '{fourth}')"
        ))
        .await;
    assert_eq!(poll(&session, "10").await.0, ["4"], "what was left of the range");
}

#[tokio::test]
async fn a_lease_that_ran_out_cannot_be_committed_extended_or_released() {
    let (_database, session) = outbox(3).await;
    let (_, lease) = poll(&session, "2, '1 hour'").await;
    assert_eq!(
        session
            .row(&format!(
                "SELECT tide.extend_lease('g', 'orders', '{lease}', '2 hours') > now() + interval '119 minutes'"
            ))
            .await,
        "t"
    );
    run_out(&session, &lease).await;
    for call in [
        "commit_offset('g', 'orders', 2, 'LEASE')",
        "commit_offset('g', 'orders', 2)",
        "extend_lease('g', 'orders', 'LEASE')",
        "release_lease('g', 'orders', 'LEASE')",
    ] {
        session
            .refuses(
                &format!("SELECT tide.{}", call.replace("LEASE", &lease)),
                "TD003",
                &["ran out at", "poll again"],
            )
            .await;
    }
    assert_eq!(session.row(LAG).await, "3");

    let (got, lease) = poll(&session, "2").await;
    assert_eq!(got, ["1", "2"]);
    session
        .run(&format!("SELECT tide.release_lease('g', 'orders', '{lease}')"))
        .await;
    assert_eq!(poll(&session, "3").await.0, ["1", "2"], "released, not lost");
}

#[tokio::test]
async fn several_leases_are_committed_in_any_order() {
    let (database, session) = outbox(6).await;
    let (one, first) = poll(&session, "2, p_max_leases := 3").await;
    let (two, second) = poll(&session, "2, p_max_leases := 3").await;
    let (three, third) = poll(&session, "2, p_max_leases := 3").await;
    assert_eq!((one.len(), two[0].as_str(), three[1].as_str()), (2, "3", "6"));
    session.run("SELECT tide.outbox_publish('orders', '7')").await;
    assert!(poll(&session, "2, p_max_leases := 3").await.0.is_empty());
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', p_lease := '{second}')"
        ))
        .await;
    // The cursor waits for the first one, and nobody gets the second again.
    assert_eq!(session.row(LAG).await, "7");
    assert_eq!(poll(&session, "2, p_max_leases := 3").await.0, ["7"]);
    assert_eq!(
        session
            .rows("SELECT from_id, to_id, state FROM tide.consumer_leases")
            .await,
        ["0|2|out", "2|4|committed", "4|6|out", "0|7|out"]
    );
    // Of a lease, its beginning.
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', 1, '{first}');
             SELECT tide.commit_offset('g', 'orders', 5, '{third}')"
        ))
        .await;
    assert_eq!(session.row(LAG).await, "6");
    session
        .refuses(
            &format!("SELECT tide.commit_offset('g', 'orders', 3, '{first}')"),
            "22023",
            &["above 1 up to 2", "leave it out"],
        )
        .await;
    // A transaction that was rolled back has committed nothing.
    let other = database.session().await;
    other
        .run(&format!(
            "BEGIN; SELECT tide.commit_offset('g', 'orders', p_lease := '{first}'); ROLLBACK"
        ))
        .await;
    assert_eq!(session.row(LAG).await, "6");
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', p_lease := '{first}')"
        ))
        .await;
    assert_eq!(session.row(LAG).await, "2");
    run_out(&session, &third).await;
    assert_eq!(poll(&session, "9, p_max_leases := 3").await.0, ["6"]);
}

#[tokio::test]
async fn a_position_by_hand_waits_for_leases_and_a_relay_takes_them() {
    let (_database, session) = outbox(4).await;
    let (_, lease) = poll(&session, "2").await;
    session
        .refuses(
            "SELECT tide.commit_offset('g', 'orders', 4)",
            "55006",
            &["offset 4 is in no lease", "leased until", "tide.consumer_leases"],
        )
        .await;
    session
        .run(&format!("SELECT tide.release_lease('g', 'orders', '{lease}')"))
        .await;
    session.run("SELECT tide.commit_offset('g', 'orders', 3)").await;
    assert_eq!(session.row(LAG).await, "1");
    assert_eq!(poll(&session, "9").await.0, ["4"]);
    session
        .run("SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}'); SELECT tide._acquire(1, 1, 'relay-1')")
        .await;
    assert_eq!(
        session.row("SELECT count(*) FROM tide.consumer_leases").await,
        "0"
    );
    assert_eq!(session.row(LAG).await, "1");
}

/// Publishes and consumes until the mark has passed message 3. Transactions of
/// other tests on this server hold it back.
async fn move_the_mark(session: &Session) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while session
        .number("SELECT coalesce(max(low_water_id), 0) FROM tide.group_cursor")
        .await
        < 3
    {
        assert!(std::time::Instant::now() < deadline, "the mark does not move");
        let (got, lease) = poll(session, "10").await;
        assert!(!got.is_empty());
        session
            .run(&format!(
                "SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}'); SELECT tide.outbox_publish('orders', '0')"
            ))
            .await;
    }
}

#[tokio::test]
async fn an_idle_poll_writes_nothing() {
    let (_database, session) = outbox(3).await;
    let (_, lease) = poll(&session, "10").await;
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}')"
        ))
        .await;
    session
        .run("DO $$ BEGIN PERFORM * FROM tide.poll_outbox('g', 'orders'); ASSERT pg_current_xact_id_if_assigned() IS NULL; END $$")
        .await;
}

#[tokio::test]
async fn in_another_cluster_a_group_goes_on_at_its_low_water_mark() {
    let (_database, session) = outbox(3).await;
    move_the_mark(&session).await;
    session.run("SELECT tide.outbox_publish('orders', '7')").await;
    let (_, lease) = poll(&session, "10").await;
    session
        .run("UPDATE tide.group_cursor SET system_identifier = system_identifier - 1")
        .await;
    let (got, _) = poll(&session, "1000").await;
    // Nothing lost; what was before the mark does not come again.
    assert!(got.ends_with(&["7".into()]), "{got:?}");
    assert!(!got.contains(&"3".into()), "{got:?}");
    session
        .refuses(
            &format!("SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}')"),
            "TD003",
            &["is not valid"],
        )
        .await;
}

#[tokio::test]
async fn messages_restored_from_a_cluster_that_was_further_ahead_are_handed_out() {
    let (_database, session) = outbox(3).await;
    let (_, lease) = poll(&session, "2").await;
    session
        .run(&format!(
            "SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}')"
        ))
        .await;
    session
        .run(
            "SELECT tide.create_consumer_group('none', 'orders');
             UPDATE tide.orders_outbox SET xid = (xid::text::bigint + 1000000)::text::xid8;
             UPDATE tide.group_cursor SET system_identifier = system_identifier - 1;
             SELECT tide.outbox_publish('orders', '4')",
        )
        .await;
    // From the low-water mark on, which was not moved yet.
    let (got, _) = poll(&session, "10").await;
    assert_eq!(got, ["1", "2", "3", "4"]);
    assert_eq!(
        session
            .row("SELECT count(*) FROM tide.poll_outbox('none', 'orders')")
            .await,
        "4"
    );
    // What a transaction has published itself is its own.
    session
        .run("BEGIN; SELECT tide.outbox_publish('orders', '5')")
        .await;
    assert_eq!(session.number("SELECT tide._adopt_messages(1)").await, 0);
    session.run("COMMIT").await;
}

#[tokio::test]
async fn a_role_consumes_the_outbox_that_it_was_granted_as_a_group_of_its_own() {
    let (database, session) = outbox(3).await;
    let role = database.role("").await;
    session
        .run(&format!(
            "SELECT tide.outbox_create('other'); SELECT tide.create_consumer_group('g', 'other');
             SELECT tide.create_consumer_group('piped', 'orders');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\", \"consumer_group\": \"piped\"}}');
             SELECT tide.outbox_grant_consume('orders', '{role}')"
        ))
        .await;
    let app = database.session_of(&role).await;
    let (got, lease) = poll(&app, "2").await;
    assert_eq!(got, ["1", "2"]);
    app.run(&format!(
        "SELECT tide.extend_lease('g', 'orders', '{lease}'); SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}')"
    ))
    .await;
    let (_, lease) = poll(&app, "2").await;
    app.run(&format!("SELECT tide.release_lease('g', 'orders', '{lease}')"))
        .await;
    app.refuses(
        "SELECT * FROM tide.poll_outbox('g', 'other')",
        "42501",
        &["may not consume outbox \"other\"", "tide.outbox_grant_consume"],
    )
    .await;
    for call in [
        "poll_outbox('piped', 'orders')",
        "commit_offset('piped', 'orders', 3)",
    ] {
        app.refuses(
            &format!("SELECT tide.{call}"),
            "42501",
            &["belongs to pipeline \"p\"", "group of your own"],
        )
        .await;
    }
    for statement in [
        "SELECT tide.outbox_publish('orders', '1')",
        "SELECT * FROM tide.other_outbox",
        "SELECT * FROM tide.consumer_lease",
        "SELECT tide._set_position(1, 0)",
        "SELECT tide.create_consumer_group('mine', 'orders')",
    ] {
        assert_eq!(app.error(statement).await.code().code(), "42501", "{statement}");
    }
    // What SET ROLE chose is who counts.
    let member = database.role("NOINHERIT").await;
    session.run(&format!("GRANT {role} TO {member}")).await;
    let member = database.session_of(&member).await;
    assert_eq!(
        member
            .error("SELECT * FROM tide.poll_outbox('g', 'orders')")
            .await
            .code()
            .code(),
        "42501"
    );
    member
        .run(&format!(
            "SET ROLE {role}; SELECT * FROM tide.poll_outbox('g', 'orders')"
        ))
        .await;
    session
        .run(&format!("SELECT tide.outbox_revoke_consume('orders', '{role}')"))
        .await;
    assert_eq!(
        app.error("SELECT * FROM tide.poll_outbox('g', 'orders')")
            .await
            .code()
            .code(),
        "42501"
    );
}
