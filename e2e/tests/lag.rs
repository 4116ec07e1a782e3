//! Pending counts and lags are exact, and a group begins where it was told to.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, kafka, numbers, unique};

const SOON: Duration = Duration::from_secs(15);
const PENDING: &str = "SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = 'events'";
const LAGS: &str = "SELECT group_name, lag FROM tide.consumer_lag ORDER BY 1";

async fn scene(stem: &str) -> (Bed, Database, String) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["events", "others"]).await;
    (bed, db, unique(stem))
}

async fn values(bed: &Bed, topic: &str) -> Vec<i64> {
    numbers(
        kafka::records(&bed.kafka, topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_and_lag_are_exact_while_the_relay_is_stopped() {
    let (bed, db, topic) = scene("lag_stopped").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.publish_numbers("events", 1, 10, 3).await;
    db.publish_numbers("others", 1, 4, 1).await;
    db.run("BEGIN; SELECT tide.outbox_publish('events', '{}'); ROLLBACK")
        .await;
    assert_eq!(db.text(PENDING).await, "10");
    assert_eq!(
        db.text(LAGS).await,
        "p|10",
        "a group that never committed lacks the whole backlog"
    );

    let mut relay = Relay::start(&db).await;
    db.await_text(SOON, PENDING, "0").await;
    db.await_text(SOON, LAGS, "p|0").await;
    assert!(relay.terminate(SOON).await.success());

    let open = db.session().await;
    open.batch_execute("BEGIN; SELECT tide.outbox_publish('events', '{\"n\": 18}')")
        .await
        .unwrap();
    db.publish_numbers("events", 11, 17, 2).await;
    assert_eq!(db.text(PENDING).await, "7");
    assert_eq!(db.text(LAGS).await, "p|7");
    open.batch_execute("COMMIT").await.unwrap();
    assert_eq!(db.text(PENDING).await, "8");
    assert_eq!(db.text(LAGS).await, "p|8");

    let _relay = Relay::start(&db).await;
    db.await_text(SOON, PENDING, "0").await;
    assert_eq!(db.text(LAGS).await, "p|0");
    let mut got = values(&bed, &topic).await;
    got.sort_unstable();
    assert_eq!(got, (1..=18).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_counts_what_any_group_lacks() {
    let (bed, db, topic) = scene("lag_groups").await;
    db.run("SELECT tide.create_consumer_group('a', 'events'); SELECT tide.create_consumer_group('idle', 'events')").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, r#"{"consumer_group": "a"}"#)
        .await;
    db.publish_numbers("events", 1, 20, 20).await;
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, LAGS, "a|0\nidle|20").await;
    assert_eq!(db.text(PENDING).await, "20");
    db.run("SELECT tide.drop_consumer_group('idle', 'events')").await;
    assert_eq!(db.text(PENDING).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latest_group_begins_with_what_commits_after_it_was_made() {
    let (bed, db, topic) = scene("lag_latest").await;
    db.publish_numbers("events", 1, 5, 1).await;
    let open = db.session().await;
    open.batch_execute("BEGIN; SELECT tide.outbox_publish('events', '{\"n\": 6}')")
        .await
        .unwrap();
    db.run("SELECT tide.create_consumer_group('g', 'events', 'latest')")
        .await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    assert_eq!(db.text(LAGS).await, "g|0");
    // Its id was taken before the group was made, but it commits afterwards.
    open.batch_execute("COMMIT").await.unwrap();
    db.publish_numbers("events", 7, 9, 1).await;
    assert_eq!(db.text(LAGS).await, "g|4");
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, LAGS, "g|0").await;
    assert_eq!(values(&bed, &topic).await, [6, 7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_reset_none_waits_for_a_committed_offset() {
    let (bed, db, topic) = scene("lag_none").await;
    db.publish_numbers("events", 1, 5, 1).await;
    db.run("SELECT tide.create_consumer_group('g', 'events', 'none')")
        .await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    // Another pipeline of the same relay shows that it works meanwhile.
    let other = unique("lag_none_b");
    db.run("SELECT tide.create_consumer_group('h', 'events')").await;
    db.to_kafka("q", "events", &bed.kafka, &other, r#"{"consumer_group": "h"}"#)
        .await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, LAGS, "g|5\nh|0").await;
    relay.await_log(SOON, &["auto_offset_reset", "\"g\""]).await;
    relay.await_healthy(SOON, "p", 0).await;
    let second = db
        .number("SELECT id FROM tide.events_outbox ORDER BY id OFFSET 1 LIMIT 1")
        .await;
    db.run(&format!("SELECT tide.commit_offset('g', 'events', {second})"))
        .await;
    db.await_text(SOON, LAGS, "g|0\nh|0").await;
    assert_eq!(values(&bed, &topic).await, [3, 4, 5]);
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_bound_to_the_named_the_only_free_or_a_group_of_its_own_name() {
    let (bed, db, topic) = scene("lag_bind").await;
    let bound = "SELECT name, consumer_group FROM tide.relay_list_configs() ORDER BY 1";
    db.to_kafka("implicit", "events", &bed.kafka, &topic, "{}").await;
    db.run("SELECT tide.create_consumer_group('free', 'events')")
        .await;
    db.to_kafka("only", "events", &bed.kafka, &topic, "{}").await;
    db.run(
        "SELECT tide.create_consumer_group('x', 'events'); SELECT tide.create_consumer_group('y', 'events')",
    )
    .await;
    db.to_kafka(
        "named",
        "events",
        &bed.kafka,
        &topic,
        r#"{"consumer_group": "y"}"#,
    )
    .await;
    assert_eq!(db.text(bound).await, "implicit|implicit\nnamed|y\nonly|free");
    let refusal = db
        .refusal(&format!(
            "SELECT tide.relay_set_outbox('late', 'events', 'kafka',
                '{{\"brokers\": \"{}\", \"topic\": \"t\", \"consumer_group\": \"free\"}}')",
            bed.kafka
        ))
        .await;
    assert!(refusal.contains("taken by pipeline \"only\""), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pipeline_on_a_kept_group_goes_on_where_the_old_one_stopped() {
    let (bed, db, topic) = scene("lag_kept").await;
    db.run("SELECT tide.create_consumer_group('g', 'events')").await;
    db.to_kafka("old", "events", &bed.kafka, &topic, "{}").await;
    db.publish_numbers("events", 1, 10, 1).await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, LAGS, "g|0").await;
    db.run("SELECT tide.relay_delete('old')").await;
    relay.await_metric(SOON, "pg_tide_relay_owned_pipelines 0").await;
    db.publish_numbers("events", 11, 15, 1).await;
    assert_eq!(db.text(LAGS).await, "g|5");
    let other = unique("lag_kept_b");
    db.to_kafka("new", "events", &bed.kafka, &other, r#"{"consumer_group": "g"}"#)
        .await;
    db.await_text(SOON, LAGS, "g|0").await;
    assert_eq!(values(&bed, &topic).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(values(&bed, &other).await, (11..=15).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_position_rate_and_lag_in_messages_and_seconds() {
    let (bed, db, topic) = scene("lag_status").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.to_kafka("q", "others", "127.0.0.1:1", &topic, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("others", 1, 7, 7).await;
    db.publish_numbers("events", 1, 2_000, 500).await;
    db.await_text(
        SOON,
        "SELECT lag, lag_seconds, position = (SELECT max(id) FROM tide.events_outbox)::text, rate > 0, messages, retries, dead_letters
           FROM tide.relay_pipeline_status WHERE pipeline = 'p'",
        "0|0|t|t|2000|0|0",
    )
    .await;
    // The one that cannot deliver says how far it is behind, and since when.
    db.await_text(
        SOON,
        "SELECT lag, lag_seconds > 1, rate, retries > 0, last_error IS NOT NULL, last_error_at IS NOT NULL
           FROM tide.relay_pipeline_status WHERE pipeline = 'q'",
        "7|t|0.0|t|t|t",
    )
    .await;
    relay
        .await_metric(SOON, "pg_tide_relay_consumer_lag{pipeline=\"p\"} 0")
        .await;
    relay
        .await_metric(SOON, "pg_tide_relay_consumer_lag{pipeline=\"q\"} 7")
        .await;
    let seconds = relay
        .metric_lines("pg_tide_relay_consumer_lag_seconds{pipeline=\"q\"}")
        .await;
    assert!(seconds.iter().all(|line| !line.ends_with(" 0.0")), "{seconds:?}");
    db.await_text(
        Duration::from_secs(40),
        "SELECT rate FROM tide.relay_pipeline_status WHERE pipeline = 'p'",
        "0.0",
    )
    .await;
}
