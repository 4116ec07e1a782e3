//! Takeovers at which the cursor, or the position in the log, could be set
//! wrong: nothing comes twice. Both were found by the models of
//! docs/design/models.md.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{Relay, assert_each_once, await_condition, kafka, numbers};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_mins(2);
const OWNERS: &str = "SELECT count(*) FROM tide.relay_pipeline_status WHERE owner IS NOT NULL";
const OWNER: &str = "SELECT m.pid FROM tide.relay_pipeline_status s JOIN tide.relay_member m ON m.name = s.owner WHERE s.pipeline = 'p'";
const TICKS: &str = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'pg-tide tick'";

/// A relay that has had a pipeline before knows a tick from then. It takes
/// another's over, and its session for ticks is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_tick_from_before_the_cursor_is_not_taken() {
    let (bed, db, topic) = scene("old_tick").await;
    for pipeline in ["p", "q"] {
        let topic = format!("{topic}_{pipeline}");
        db.to_kafka(pipeline, "events", &bed.kafka, &topic, "{}").await;
    }
    let (a, b) = (Relay::start(&db).await, Relay::start(&db).await);
    db.await_text(SOON, &OWNERS.replace("(*)", "(DISTINCT owner)"), "2")
        .await;
    db.publish_numbers("events", 1, 10, 10).await;
    db.await_delivered(SOON).await;
    db.run("SELECT tide.relay_delete('q')").await;
    db.await_text(SOON, OWNERS, "1").await;

    db.publish_numbers("events", 11, 1_000, 10).await;
    db.await_delivered(SOON).await;
    let owner: u32 = db.text(OWNER).await.parse().unwrap();
    let (mut owner, other) = if a.pid() == owner { (a, b) } else { (b, a) };
    db.run(&TICKS.replace("count(*)", "count(pg_terminate_backend(pid))"))
        .await;
    // The owner's comes back; the other one has no reason yet.
    db.await_text(SOON, TICKS, "1").await;
    assert!(owner.terminate(SOON).await.success());
    db.await_text(SOON, OWNER, &other.pid().to_string()).await;
    db.publish_numbers("events", 1_001, 1_010, 10).await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &format!("{topic}_p")).await;
    let got = numbers(records.iter().map(|r| r.value.as_str()));
    assert_each_once(&got, 1..=1_010);
}

/// Messages are in the log beyond the checkpoint; some with lower ids, which
/// are committed later, come before them. The attempt that has sent these but
/// not yet passed those ends, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_in_the_log_is_found_again_by_the_next_owner() {
    const EARLIER: i64 = 100_000;
    let (bed, db, topic) = scene("found_again").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let mut relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 10, 10).await;
    db.await_delivered(SOON).await;

    let earlier = db.session().await;
    let publish = "SELECT count(tide.outbox_publish('events', jsonb_build_object('n', -n)))";
    earlier
        .batch_execute(&format!("BEGIN; {publish} FROM generate_series(1, {EARLIER}) n"))
        .await
        .unwrap();
    let blocker = db.session().await;
    blocker
        .batch_execute("BEGIN; SELECT FROM tide.group_cursor FOR UPDATE")
        .await
        .unwrap();
    db.publish_numbers("events", 11, 20, 10).await;
    kafka::await_records(&bed.kafka, &topic, 20, SOON).await;
    relay.kill();
    // Its checkpoint waits for the row, and would be written yet.
    let writers =
        "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg-tide write'";
    db.run(&format!("SELECT pg_terminate_backend(pid) {writers}"))
        .await;
    db.await_text(SOON, &format!("SELECT count(*) {writers}"), "0")
        .await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    earlier.batch_execute("COMMIT").await.unwrap();

    let mut relay = Relay::start(&db).await;
    // Ids 1 to 10 were passed before, those of the open transaction follow.
    let passed = "SELECT last_id FROM tide.group_cursor";
    await_condition(A_WHILE, "some are passed", async || {
        (db.number(passed).await > 20).then_some(())
    })
    .await;
    relay.kill();
    let passed = db.number(passed).await;
    assert!(
        (20..EARLIER).contains(&passed),
        "{passed} are passed: too late to see anything"
    );

    let _relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    let got = numbers(records.iter().map(|r| r.value.as_str()));
    assert_each_once(&got, (1..=20).chain((1..=EARLIER).map(|n| -n)));
}
