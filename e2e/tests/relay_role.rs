//! A relay whose role is a member of `tide_relay`, and of nothing else, does
//! everything a relay does; and may do nothing else.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, RelayOptions, assert_each_once, await_condition, kafka, unique};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_needs_its_role_and_no_more() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "relay_role").await;
    let (role, topic, subject) = (unique("relay"), unique("role"), unique("role"));
    db.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'relay'; GRANT tide_relay TO {role}"
    ))
    .await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db.run("SELECT tide.inbox_create('copies')").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[("max.message.bytes", "20000")]).await;
    let broker = Nats::connect(&bed.nats).await;
    broker
        .create_stream(&subject, &format!("{subject}.>"), |_| {})
        .await;
    let (out, inward) = (format!("{subject}.out"), format!("{subject}.in"));
    let once = r#"{"dead_letter": {"max_retries": 0}}"#;
    db.to_kafka("kafka", "events", &bed.kafka, &topic, once).await;
    db.to_nats("nats", "events", &bed.nats, &out, "{}").await;
    db.run("SELECT tide.relay_set_outbox('copy', 'events', 'inbox', '{\"inbox\": \"copies\"}')")
        .await;
    db.from_nats("in", "calls", &bed.nats, &inward, "{}", "").await;

    let url = db.url().replacen("tide:tide@", &format!("{role}:relay@"), 1);
    let mut relay = RelayOptions::for_url(&url).spawn();
    relay.await_ready(SOON).await;
    db.publish_numbers("events", 1, 50, 10).await;
    db.run("SELECT tide.outbox_publish('events', jsonb_build_object('n', 51, 'x', repeat('y', 50000)))")
        .await;
    for n in 1..=5 {
        broker.publish(&inward, &format!("{{\"n\": {n}}}")).await;
    }
    broker.publish(&inward, "no JSON").await;
    db.await_delivered(SOON).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.calls_inbox", "5")
        .await;
    db.await_text(
        SOON,
        "SELECT string_agg(direction, ' ' ORDER BY direction) FROM tide.dead_letter",
        "forward reverse",
    )
    .await;
    assert_eq!(db.text("SELECT count(*) FROM tide.copies_inbox").await, "51");
    db.await_text(
        SOON,
        "SELECT count(*) FROM tide.relay_pipeline_status WHERE state = 'running' AND position IS NOT NULL",
        "4",
    )
    .await;

    // A replay; a change of the configuration.
    db.run("SELECT tide.relay_replay('nats', 1, 10)").await;
    let stored = async || broker.count(&subject).await;
    let sent = 51 + 6; // ... and what came in by the same stream.
    await_condition(SOON, "the replay", async || {
        (stored().await == sent + 10).then_some(())
    })
    .await;
    db.run("SELECT tide.relay_disable('copy')").await;
    db.publish_numbers("events", 52, 60, 3).await;
    db.run("SELECT tide.relay_enable('copy')").await;
    db.await_delivered(SOON).await;
    let got: Vec<i64> = kafka::values(&kafka::records(&bed.kafka, &topic).await);
    assert_each_once(&got, (1..=50).chain(52..=60));
    assert_eq!(relay.terminate(SOON).await.code(), Some(0));
    let log = relay.log();
    assert!(!log.contains("permission denied"), "{log}");

    // What it may not do.
    let session = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let (client, connection) = session.unwrap();
    tokio::spawn(connection);
    for sql in [
        "SELECT tide.outbox_publish('events', '{}')",
        "INSERT INTO tide.events_outbox (payload) VALUES ('{}')",
        "DELETE FROM tide.outbox_message",
        "UPDATE tide.outbox_message SET payload = '{}'",
        "TRUNCATE tide.events_outbox",
        "SELECT tide.outbox_create('mine')",
        "SELECT tide.outbox_drop('events')",
        "SELECT tide.inbox_create('mine')",
        "SELECT tide.relay_set_outbox('kafka', 'events', 'stdout', '{}')",
        "UPDATE tide.pipeline SET config = '{}'",
        "SELECT tide.relay_delete('kafka')",
        "DELETE FROM tide.consumer_group",
        "CREATE TABLE tide.mine ()",
        "DROP TABLE tide.events_outbox",
    ] {
        let refused = client.batch_execute(sql).await;
        let Err(error) = refused else {
            panic!("not refused: {sql}");
        };
        let code = error.code().map(tokio_postgres::error::SqlState::code);
        assert_eq!(code, Some("42501"), "{sql}: {error:?}");
    }
    drop(client);
    db.run(&format!("DROP ROLE {role}")).await;
}
