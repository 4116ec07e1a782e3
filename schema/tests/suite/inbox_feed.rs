//! Feeds: what the relay of another database writes into an inbox.

use crate::support::Database;

const OPEN: &str = "SELECT feed_id, session, last_seq FROM tide._inbox_feed_open('i', 7, 'shop', 'p', ";

fn write(session: i64, after: i64, ids: &[&str]) -> String {
    let texts: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let column = |value: &dyn Fn(usize) -> String| (0..ids.len()).map(value).collect::<Vec<_>>().join(",");
    format!(
        "SELECT tide._inbox_feed_write(1, {session}, {after}, {after}, 'shop/o', ARRAY[{}], ARRAY[{}], ARRAY[{}],
                                       ARRAY[{}]::bigint[], ARRAY[{}]::bigint[], NULL)",
        texts.join(","),
        column(&|n| format!("'{{\"n\": {n}}}'")),
        column(&|_| "'{}'".into()),
        column(&|n| (100 + n).to_string()),
        column(&|n| (200 + n).to_string()),
    )
}

#[tokio::test]
async fn batches_are_stored_in_turn_each_event_once() {
    let (_database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i')").await;
    assert_eq!(db.row(&format!("{OPEN}1, 5)")).await, "1|1|0");
    assert_eq!(db.row(&write(1, 0, &["a", "b"])).await, "{}");
    assert_eq!(db.row(&write(1, 2, &["b", "c", "c", "d"])).await, "{1,3}");
    let rows = "SELECT string_agg(event_id, ',' ORDER BY id), min(source) FROM tide.i_inbox";
    assert_eq!(db.row(rows).await, "a,b,c,d|shop/o");
    assert_eq!(
        db.row("SELECT accepted, duplicates FROM tide.inbox_status('i')")
            .await,
        "4|2"
    );
    // Out of turn: the one before it was refused.
    let error = db.error(&write(1, 9, &["e"])).await;
    assert_eq!(error.code().code(), "TD005");
    // An id like those that the inbox gives itself is kept apart.
    assert_eq!(db.row(&write(1, 6, &["i:nats:seq-1", "i:x"])).await, "{}");
    let ids = "SELECT string_agg(event_id, ',' ORDER BY id) FROM tide.i_inbox WHERE event_id LIKE '%i:%'";
    assert_eq!(db.row(ids).await, "id:i:nats:seq-1,i:x");
    // What came from number 2 on; notes before number 6 are gone.
    let landed = "SELECT message_id, created_us, redelivery FROM tide._inbox_feed_landed(1, 6) ORDER BY 1, 2";
    assert_eq!(db.rows(landed).await, ["100|200|-", "101|201|-", "103|203|-"]);
}

#[tokio::test]
async fn only_who_opened_it_last_and_under_the_latest_epoch_may_write() {
    let (_database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i')").await;
    assert_eq!(db.row(&format!("{OPEN}1, 5)")).await, "1|1|0");
    assert_eq!(db.row(&format!("{OPEN}1, 5)")).await, "1|2|0");
    assert_eq!(db.error(&write(1, 0, &["a"])).await.code().code(), "TD001");
    db.refuses(
        &format!("{OPEN}1, 4)"),
        "TD001",
        &["a later owner of pipeline \"p\"", "tide.inbox_feed"],
    )
    .await;
    // Epochs may come again after a promotion.
    assert_eq!(db.row(&format!("{OPEN}2, 1)")).await, "1|3|0");
    assert_eq!(db.row(&write(3, 0, &["a"])).await, "{}");
    db.run("SELECT tide.inbox_drop('i')").await;
    assert_eq!(db.number("SELECT count(*) FROM tide.inbox_feed_batch").await, 0);
}

#[tokio::test]
async fn a_role_may_deliver_into_the_inbox_that_it_was_granted_and_read_nothing() {
    let (database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i'); SELECT tide.inbox_create('other')")
        .await;
    let role = database.role("").await;
    let feeder = database.session_of(&role).await;
    let open = format!("{OPEN}1, 5)");
    assert_eq!(feeder.error(&open).await.code().code(), "42501");
    db.run(&format!("SELECT tide.inbox_grant_feed('i', '{role}')"))
        .await;
    feeder.run("SELECT tide._inbox_feed_check('i')").await;
    let other = feeder.error("SELECT tide._inbox_feed_check('other')").await;
    assert_eq!(other.code().code(), "42501");
    assert_eq!(feeder.row(&open).await, "1|1|0");
    assert_eq!(feeder.row(&write(1, 0, &["a"])).await, "{}");
    feeder
        .refuses(
            &open.replace("'i'", "'other'"),
            "42501",
            &[
                "may not deliver into inbox \"other\"",
                &format!("tide.inbox_grant_feed('other', '{role}')"),
            ],
        )
        .await;
    for refused in [
        "SELECT * FROM tide.i_inbox",
        "SELECT * FROM tide.inbox_feed",
        "DELETE FROM tide.i_inbox",
        "SELECT tide.inbox_create('mine')",
        "INSERT INTO tide.other_inbox (event_id) VALUES ('x')",
    ] {
        assert_eq!(feeder.error(refused).await.code().code(), "42501", "{refused}");
    }
    db.run(&format!("SELECT tide.inbox_revoke_feed('i', '{role}')"))
        .await;
    assert_eq!(feeder.error(&write(1, 1, &["b"])).await.code().code(), "42501");
}

/// For inboxes of the pipeline's own database.
#[tokio::test]
async fn a_relays_role_may_deliver_into_every_inbox_and_no_other_role_of_the_four() {
    let (database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i')").await;
    let open = format!("{OPEN}1, 5)");
    for role in ["tide_reader", "tide_publisher", "tide_admin"] {
        let other = database.role(&format!("IN ROLE {role}")).await;
        let session = database.session_of(&other).await;
        assert_eq!(session.error(&open).await.code().code(), "42501", "{role}");
    }
    let relay = database.role("IN ROLE tide_relay").await;
    let relay = database.session_of(&relay).await;
    relay.run("SELECT tide._inbox_feed_check('i')").await;
    assert_eq!(relay.row(&open).await, "1|1|0");
    assert_eq!(relay.row(&write(1, 0, &["a"])).await, "{}");
}
