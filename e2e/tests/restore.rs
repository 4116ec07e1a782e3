//! A database that was dumped and restored: the relays go on where they were.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use pg_tide_e2e::scene::ToBoth;
use pg_tide_e2e::{Database, Relay};

/// With 300 messages delivered, twenty published since, and no relay.
async fn scene(stem: &str) -> (ToBoth, Database) {
    let (scene, db) = ToBoth::delivered(stem).await;
    db.publish_numbers("events", 301, 320, 1).await;
    (scene, db)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_another_database_is_delivered_from_where_it_was() {
    let (scene, db) = scene("restore").await;
    let copy = Database::empty(&scene.bed.postgres, "restored").await;
    let restored = std::process::Command::new("bash")
        .args([
            "-o",
            "pipefail",
            "-c",
            // pg_dump is of the newest version and sets what servers before 17 do not know.
            "pg_dump \"$1\" | grep -v '^SET transaction_timeout = 0;$' | psql -X -q -v ON_ERROR_STOP=1 \"$2\"",
        ])
        .args(["bash", &db.url(), &copy.url()])
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    copy.publish_numbers("events", 321, 400, 1).await;
    let _relay = Relay::start(&copy).await;
    scene.complete(&copy, 400).await;
}

/// Its messages carry xids that the new cluster gives out only later.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_cluster_that_was_further_ahead_are_delivered_and_do_not_come_again() {
    let (scene, db) = scene("restore_ahead").await;
    let ahead = 2000;
    db.run(&format!(
        "UPDATE tide.events_outbox SET xid = (xid::text::bigint + {ahead})::text::xid8;
         UPDATE tide.group_cursor SET system_identifier = system_identifier + 1"
    ))
    .await;
    db.publish_numbers("events", 321, 400, 1).await;
    let relay = Relay::start(&db).await;
    scene.complete(&db, 400).await;
    // The new cluster gives out the same xids.
    db.run("CREATE TABLE other (n int)").await;
    db.run("SET synchronous_commit = off").await;
    db.run("DO $$ BEGIN FOR n IN 1 .. 4000 LOOP INSERT INTO other VALUES (n); COMMIT; END LOOP; END $$")
        .await;
    db.publish_numbers("events", 401, 420, 1).await;
    scene.complete(&db, 420).await;
    let said = relay.log();
    assert!(said.contains("restored from another cluster"), "{said}");
}
