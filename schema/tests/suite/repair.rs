//! What was changed by hand on outboxes is found and put right. Inboxes:
//! `repair_inbox`.

use std::time::{Duration, Instant};

use crate::catalogue::{catalogue, difference};
use crate::support::{Database, Session};

const OUTBOX_FAULTS: &str = "SELECT outbox_name, fault FROM tide.outbox_faults()";
pub(crate) const INBOX_FAULTS: &str = "SELECT inbox_name, fault FROM tide.inbox_faults()";

async fn repair_outbox(session: &Session) -> Vec<String> {
    session
        .rows("SELECT unnest(tide.outbox_repair('orders', 24))")
        .await
}

pub(crate) async fn repair_inbox(session: &Session) -> Vec<String> {
    session
        .rows("SELECT unnest(tide.inbox_repair('payments', 3, 72, 0))")
        .await
}

/// An outbox with two messages, another, and an inbox with three.
pub(crate) async fn used() -> (Database, Session) {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'), tide.outbox_create('other'), tide.inbox_create('payments');
             SELECT tide.outbox_publish('orders', '1'); SELECT tide.outbox_publish('orders', '2');
             INSERT INTO tide.payments_inbox (event_id) VALUES ('payments:nats:seq-7'), ('payments:nats:seq-41'), ('own');
             UPDATE tide.inbox_counter SET last_seq = 41, accepted = 42;
             SELECT tide.object_claim('outbox', 'orders', 'c', 'n', 'r', 'u', 'Retain', true);
             SELECT tide.object_claim('inbox', 'payments', 'c', 'n', 'r', 'u', 'Retain', true)",
        )
        .await;
    (database, session)
}

/// All that is done by hand and how the repair begins to say it; afterwards
/// everything is as before, but for what is said, and publishing works.
#[tokio::test]
async fn every_fault_of_an_outbox_is_found_and_repaired() {
    let (_database, session) = used().await;
    let before = catalogue(&session).await;
    assert!(session.rows(OUTBOX_FAULTS).await.is_empty());
    assert!(repair_outbox(&session).await.is_empty(), "all is well");
    for (by_hand, fault, kept) in [
        (
            "DELETE FROM tide.outbox WHERE name = 'orders'",
            "the row in tide.outbox is missing",
            2,
        ),
        (
            "ALTER TABLE tide.outbox_message DETACH PARTITION tide.orders_outbox; DELETE FROM tide.outbox WHERE name = 'orders'",
            "the row in tide.outbox is missing",
            2,
        ),
        ("DROP TABLE tide.orders_outbox", "table tide.orders_outbox is missing", 0),
        (
            "ALTER TABLE tide.outbox_message DETACH PARTITION tide.orders_outbox",
            "table tide.orders_outbox is not attached to tide.outbox_message",
            2,
        ),
        (
            "ALTER TABLE tide.orders_outbox RENAME TO mine",
            "its table is called tide.mine",
            2,
        ),
        (
            "ALTER TABLE tide.orders_outbox SET SCHEMA public",
            "its table is called public.orders_outbox",
            2,
        ),
        (
            "DROP INDEX tide.orders_outbox_id_idx",
            "the index on id is missing",
            2,
        ),
        (
            "DROP INDEX tide.orders_outbox_xid_idx",
            "the index on xid is missing",
            2,
        ),
        (
            "REVOKE ALL ON tide.orders_outbox FROM tide_relay",
            "tide_relay has no right on its table",
            2,
        ),
        (
            "REVOKE ALL ON tide.orders_outbox FROM tide_admin, tide_publisher; REVOKE INSERT (payload) ON tide.orders_outbox FROM tide_publisher",
            "tide_admin, tide_publisher have no right on its table",
            2,
        ),
        (
            "UPDATE tide.outbox SET enabled = false WHERE name = 'orders'",
            "its table accepts messages, though it is disabled",
            2,
        ),
        (
            "SELECT tide.outbox_disable('orders'); UPDATE tide.outbox SET enabled = true WHERE name = 'orders'",
            "its table refuses messages, though it is enabled",
            2,
        ),
        (
            "DROP TABLE tide.outbox_1_rest",
            "no partition holds messages of some times",
            2,
        ),
        (
            "DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', l.relid::regclass) FROM tide.outbox o, tide._leaves(o) l
                                   WHERE o.name = 'orders' ORDER BY l.lower_bound LIMIT 1); END $$",
            "no partition holds messages of some times",
            0,
        ),
        (
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE tide.orders_outbox DETACH PARTITION %s', l.relid::regclass) FROM tide.outbox o, tide._leaves(o) l
                                   WHERE o.name = 'orders' ORDER BY l.lower_bound OFFSET 2 LIMIT 1); END $$",
            "no partition holds messages of some times",
            2,
        ),
        (
            "DO $$ DECLARE t text; BEGIN FOR t IN SELECT l.relid::regclass FROM tide.outbox o, tide._leaves(o) l WHERE o.name = 'orders' LOOP
                 EXECUTE format('ALTER TABLE tide.orders_outbox DETACH PARTITION %s', t); END LOOP; END $$",
            "no partition holds messages of some times",
            2,
        ),
    ] {
        session.run("BEGIN").await;
        session.run(by_hand).await;
        let found = session.rows(OUTBOX_FAULTS).await;
        assert!(
            found == [format!("orders|{fault}")],
            "{by_hand}: {found:?}"
        );
        let done = repair_outbox(&session).await;
        assert!(done[0].starts_with(&format!("{fault}: ")), "{by_hand}: {done:?}");
        assert!(session.rows(OUTBOX_FAULTS).await.is_empty(), "{by_hand}");
        assert!(repair_outbox(&session).await.is_empty(), "{by_hand}");

        // The first partition, when that was dropped, is another; the trigger is
        // what a disabled outbox has.
        let differs: Vec<String> = difference(&before, &catalogue(&session).await)
            .into_iter()
            .filter(|line| !line.contains("outbox_1_past") && !line.contains("outbox_1_HOUR"))
            .filter(|line| !line.starts_with("+ trigger: CREATE TRIGGER disabled"))
            .collect();
        assert!(differs.is_empty(), "{by_hand}\n{}", differs.join("\n"));
        assert_eq!(
            session.number("SELECT count(*) FROM tide.orders_outbox").await,
            kept,
            "{by_hand}"
        );
        assert_eq!(
            session
                .row("SELECT outbox_id FROM tide.outbox WHERE name = 'orders'")
                .await,
            "1"
        );
        if fault.ends_with("disabled") {
            session
                .refuses(
                    "SELECT tide.outbox_publish('orders', '3')",
                    "55000",
                    &["disabled"],
                )
                .await;
        } else {
            session
                .run(
                    "SELECT tide.outbox_publish('orders', '3');
                     INSERT INTO tide.orders_outbox (created_at, payload)
                     SELECT now() + make_interval(hours => n), '1' FROM generate_series(-200, 200) n",
                )
                .await;
        }
        session.run("ROLLBACK").await;
    }
}

#[tokio::test]
async fn several_faults_at_once_and_weird_names_are_repaired() {
    let (_database, session) = Database::installed().await;
    for name in ["Weird \"Name\"", "o''clock", "back\\slash", &"x".repeat(63)] {
        session
            .run(&format!(
                "SELECT tide.outbox_create('{name}'), tide.outbox_disable('{name}')"
            ))
            .await;
        let table = session
            .row("SELECT format('tide.%I', table_name) FROM tide.outbox ORDER BY outbox_id DESC LIMIT 1")
            .await;
        session
            .run(&format!(
                "ALTER TABLE {table} RENAME TO t; REVOKE ALL ON tide.t FROM tide_relay; DROP INDEX tide.\"{}\";
                 DELETE FROM tide.outbox WHERE name = '{name}'",
                session.row(&format!("SELECT min(indexrelid::regclass::text) FROM pg_index WHERE indrelid = '{}'::regclass", table.replace('\'', "''"))).await
                    .trim_start_matches("tide.").trim_matches('"').replace("\"\"", "\"").replace('"', "\"\"")
            ))
            .await;
        let done = session
            .rows(&format!("SELECT unnest(tide.outbox_repair('{name}', 72))"))
            .await;
        assert_eq!(done.len(), 4, "{done:?}");
        assert!(session.rows(OUTBOX_FAULTS).await.is_empty());
        assert_eq!(
            session
                .row(&format!("SELECT enabled, retention, format('tide.%I', table_name) FROM tide.outbox WHERE name = '{name}'"))
                .await,
            format!("f|72:00:00|{table}")
        );
    }
}

#[tokio::test]
async fn what_is_no_outbox_is_not_made_one() {
    let (_database, session) = Database::installed().await;
    let repair = "SELECT tide.outbox_repair('orders', 24)";
    session
        .refuses(repair, "42704", &["outbox_create('orders')"])
        .await;
    session.run("CREATE TABLE tide.orders_outbox (a int)").await;
    session.refuses(repair, "42809", &["Rename it"]).await;
    session
        .run("DROP TABLE tide.orders_outbox; SELECT tide.outbox_create('orders'); DROP TABLE tide.orders_outbox; CREATE VIEW tide.orders_outbox AS SELECT 1")
        .await;
    session.refuses(repair, "42809", &["Rename it"]).await;
    session
        .refuses(
            "SELECT tide.outbox_publish('orders', '1')",
            "55000",
            &["outbox_repair"],
        )
        .await;
    session.run("DROP VIEW tide.orders_outbox").await;
    session.run(repair).await;
    session.run("SELECT tide.outbox_publish('orders', '1')").await;

    let repair = "SELECT tide.inbox_repair('payments', 3, 72, 0)";
    session
        .refuses(repair, "42704", &["inbox_create('payments')"])
        .await;
    session.run("CREATE TABLE tide.payments_inbox (a int)").await;
    session.refuses(repair, "42809", &["Rename it"]).await;
}

#[tokio::test]
async fn what_lost_its_table_can_be_dropped() {
    let (_database, session) = used().await;
    session
        .run(
            "DROP TABLE tide.orders_outbox, tide.payments_inbox;
             SELECT tide.outbox_drop('orders'), tide.inbox_drop('payments');
             SELECT tide.outbox_create('orders'), tide.inbox_create('payments')",
        )
        .await;
}

#[tokio::test]
async fn an_upgrade_shows_nobody_what_lost_its_row() {
    let (_database, session) = used().await;
    session
        .run("DELETE FROM tide.outbox WHERE name = 'orders'; DELETE FROM tide.inbox")
        .await;
    session
        .run(&pg_tide_schema::print_upgrade(pg_tide_schema::VERSION).unwrap())
        .await;
    assert_eq!(
        session
            .rows(
                "SELECT c.relname FROM pg_class c
                  WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'p')
                    AND (c.relname ~ '^(orders|payments|outbox_1_)') AND has_any_column_privilege('tide_reader', c.oid, 'SELECT')"
            )
            .await,
        Vec::<String>::new()
    );
    repair_outbox(&session).await;
    repair_inbox(&session).await;
    assert_eq!(
        session
            .row("SELECT has_table_privilege('tide_relay', 'tide.orders_outbox', 'SELECT'), has_table_privilege('tide_relay', 'tide.payments_inbox', 'INSERT')")
            .await,
        "t|t"
    );
}

#[tokio::test]
async fn publishers_to_other_outboxes_go_on_during_a_repair() {
    for by_hand in [
        "DROP TABLE tide.orders_outbox",
        "ALTER TABLE tide.outbox_message DETACH PARTITION tide.orders_outbox; DROP INDEX tide.orders_outbox_id_idx",
        "DROP TABLE tide.outbox_1_rest; DELETE FROM tide.outbox WHERE name = 'orders'",
    ] {
        let (database, session) = used().await;
        let (before, during) = (database.session().await, database.session().await);
        session.run(by_hand).await;
        before
            .run("BEGIN; SELECT tide.outbox_publish('other', '1')")
            .await;
        session.run("BEGIN").await;
        assert!(!repair_outbox(&session).await.is_empty());
        during
            .run("SET lock_timeout = '1s'; SELECT tide.outbox_publish('other', '2')")
            .await;
        before
            .run("SET lock_timeout = '1s'; SELECT tide.outbox_publish('other', '3'); COMMIT")
            .await;
        session.run("COMMIT").await;
        assert_eq!(session.row("SELECT count(*) FROM tide.other_outbox").await, "3");
    }
}

#[tokio::test]
async fn a_repair_gives_way_to_a_transaction_that_stays_open() {
    let (database, session) = used().await;
    session.run("DROP INDEX tide.orders_outbox_id_idx").await;
    let other = database.session().await;
    other
        .run("BEGIN; SELECT tide.outbox_publish('orders', '3')")
        .await;
    session
        .refuses(
            "SELECT tide.outbox_repair('orders', 24)",
            "55P03",
            &["could not be repaired", "Try again"],
        )
        .await;
    other.run("COMMIT").await;
    assert_eq!(repair_outbox(&session).await.len(), 1);
}

#[tokio::test]
async fn to_see_that_all_is_well_takes_little() {
    let (_database, session) = Database::installed().await;
    for n in 0..100 {
        session
            .run(&format!(
                "SELECT tide.outbox_create('outbox{n}'), tide.inbox_create('inbox{n}')"
            ))
            .await;
    }
    // As autovacuum does sooner or later.
    session
        .run("ANALYZE pg_class; ANALYZE pg_attribute; ANALYZE pg_index; ANALYZE pg_inherits; ANALYZE tide.outbox; ANALYZE tide.inbox")
        .await;
    for sql in [
        OUTBOX_FAULTS,
        INBOX_FAULTS,
        "SELECT kind FROM tide.granted_roles()",
        "SELECT unnest(tide.outbox_repair('outbox7', 24))",
        "SELECT unnest(tide.inbox_repair('inbox7', 3, 72, 0))",
    ] {
        // Other tests run beside this one: one undisturbed run is enough.
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut least = Duration::MAX;
        for run in 0.. {
            let began = Instant::now();
            assert!(session.rows(sql).await.is_empty());
            least = least.min(began.elapsed());
            if run >= 10 && least < Duration::from_millis(100) {
                break;
            }
            assert!(Instant::now() < deadline, "{least:?}: {sql}");
        }
        eprintln!("{least:?}: {sql}");
    }
}
