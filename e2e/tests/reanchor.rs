//! A cursor from another cluster or timeline (a restore, a promotion): the
//! relay begins again by id, loses nothing, doubles nothing, and says so.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::scene::ToBoth;
use pg_tide_e2e::{Bed, Database, Relay, unique};

const SOON: Duration = Duration::from_secs(15);

/// Xids that are still to come, as the snapshots of a lost timeline may hold.
const FUTURE: &str =
    "old_snapshot = '900000000:900000000:', new_snapshot = '900000000:900000000:', last_id = 0";

/// Delivers 300, changes the cursor by hand, and delivers 200 more.
async fn changed_by_hand(stem: &str, change: &str, wipe_sink_position: bool) {
    let (scene, db) = ToBoth::delivered(stem).await;
    db.run(&format!("UPDATE tide.group_cursor SET {change}")).await;
    if wipe_sink_position {
        db.run("UPDATE tide.group_cursor SET sink_position = low_water_position")
            .await;
    }
    db.publish_numbers("events", 301, 500, 1).await;
    let relay = Relay::start(&db).await;
    for pipeline in ["k", "n"] {
        let line = relay
            .await_log(SOON, &["re-anchor", &format!("pipeline=\"{pipeline}\"")])
            .await;
        assert!(line.contains("WARN"), "{line}");
    }
    scene.complete(&db, 500).await;
    let current = "SELECT count(*) FROM tide.group_cursor c JOIN tide._cluster() k
                       ON c.system_identifier = k.system_identifier AND c.timeline = k.timeline";
    db.await_text(SOON, current, "2").await;

    // From here on it is an ordinary cursor again.
    drop(relay);
    db.publish_numbers("events", 501, 550, 1).await;
    let relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    assert!(!relay.log().contains("re-anchor"), "{}", relay.log());
    scene.complete(&db, 550).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_cluster_is_re_anchored() {
    changed_by_hand(
        "anchor_cluster",
        "system_identifier = system_identifier + 1",
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_timeline_is_re_anchored() {
    changed_by_hand("anchor_timeline", "timeline = timeline + 1", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_call_coming_transactions_finished_hide_nothing() {
    changed_by_hand(
        "anchor_future",
        &format!("timeline = timeline + 1, {FUTURE}"),
        true,
    )
    .await;
}

/// The views agree with what the relay will do.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_cursor_counts_by_id_in_the_views() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "anchor_views").await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("k", "events", &bed.kafka, &unique("anchor_views"), "{}")
        .await;
    let mut relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 20, 1).await;
    db.await_delivered(SOON).await;
    assert!(relay.terminate(SOON).await.success());
    db.run(&format!(
        "UPDATE tide.group_cursor SET timeline = timeline + 1, {FUTURE}"
    ))
    .await;
    db.publish_numbers("events", 21, 30, 1).await;
    let lag = "SELECT lag >= 10 FROM tide.consumer_lag";
    assert_eq!(
        db.text(lag).await,
        "t",
        "what the new timeline published must count"
    );
}
