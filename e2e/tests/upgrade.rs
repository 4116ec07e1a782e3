//! The schema is upgraded while relays run.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{
    Bed, Database, Relay, alone, answer, assert_each_once, assert_in_order, beside_others, get, kafka,
    numbers, run_pg_tide, unique,
};

const SOON: Duration = Duration::from_secs(15);

/// What release 0.1.0 installed.
const VERSION_1: &str = include_str!("../../schema/tests/fixtures/version-1.sql");

/// The same into a database of its own.
async fn version_1(bed: &Bed, stem: &str) -> Database {
    let db = Database::empty(&bed.postgres, stem).await;
    db.run(VERSION_1).await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_for_the_upgrade_and_goes_on_by_itself() {
    let _turn = beside_others().await;
    let bed = Bed::from_env();
    let db = version_1(&bed, "upgrade_waits").await;
    let topic = unique("upgrade_waits");
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"retry": {"initial_ms": 50}}"#,
    )
    .await;
    db.publish_numbers("events", 1, 20, 1).await;
    let relay = Relay::options(&db).spawn();
    let line = relay
        .await_log(SOON, &["ERROR", "schema tide has version 1"])
        .await;
    assert!(
        line.contains("(release 0.1.0), this relay works with version 2")
            && line.contains(r#"run \"pg-tide schema upgrade\""#)
            || line.contains(r#"run "pg-tide schema upgrade""#),
        "{line}"
    );
    let (status, why) = get(relay.address(), "/readyz").await.unwrap();
    assert!(
        status == 503 && why.contains("pg-tide schema upgrade"),
        "{status} {why}"
    );

    let output = run_pg_tide(&["schema", "upgrade", "--postgres-url", &db.url()]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("upgraded from version 1 to 2"), "{said}");
    let began = Instant::now();
    let records = kafka::await_records(&bed.kafka, &topic, 20, SOON).await;
    println!("delivered {:?} after the upgrade", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(
        numbers(records.iter().map(|r| r.value.as_str())),
        (1..=20).collect::<Vec<_>>()
    );
}

/// What an upgrade may do to a running relay at most: every table that it
/// uses is altered, every function replaced, and the version is newer.
async fn to_a_later_version(db: &Database) {
    let output = run_pg_tide(&["schema", "print", "--from", "2"]).await;
    assert!(output.status.success(), "{output:?}");
    let code = String::from_utf8(output.stdout).unwrap();
    let tables = [
        "pipeline",
        "outbox",
        "inbox",
        "consumer_group",
        "group_cursor",
        "relay_member",
        "pipeline_owner",
        "pipeline_status",
        "inbox_counter",
        "dead_letter",
        "config_state",
        "outbox_message",
        "calls_inbox",
    ];
    let altered = tables
        .map(|table| format!("ALTER TABLE tide.{table} ADD COLUMN later integer DEFAULT 1"))
        .join(";\n");
    let all = format!(
        "SET LOCAL lock_timeout = '300ms';\n{altered};\n{code}\n
         INSERT INTO tide.schema_version (version, release) VALUES (1000, '9.9.9')"
    );
    let mut last = String::new();
    // Tried until no lock stands in the way, as the installer does.
    let done = answer(Duration::from_secs(30), async || match db.try_text(&all).await {
        Ok(_) => Some(()),
        Err(error) => {
            assert!(
                error.contains("lock timeout")
                    || error.contains("deadlock")
                    || error.contains("tuple concurrently"),
                "{error}"
            );
            last = error;
            None
        }
    })
    .await;
    assert!(done.is_some(), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_a_working_relay_loses_and_doubles_nothing() {
    let _turn = alone().await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "upgrade_under").await;
    let topic = unique("upgrade_under");
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&topic, &topic, |_| {}).await;
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    db.from_nats("in", "calls", &bed.nats, &topic, "{}", "").await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "out", 1).await;
    relay.await_healthy(SOON, "in", 1).await;

    let upgraded = std::sync::atomic::AtomicBool::new(false);
    let mut last = 0;
    let traffic = async {
        let publisher = Database::session(&db).await;
        // Some more after the upgrade.
        let mut after = 0;
        while after < 200 {
            last += 1;
            publisher
                .batch_execute(&format!(
                    "SELECT tide.outbox_publish('events', jsonb_build_object('n', {last}))"
                ))
                .await
                .unwrap();
            nats.publish(&topic, &format!("{{\"n\": {last}}}")).await;
            after += i32::from(upgraded.load(std::sync::atomic::Ordering::Relaxed));
        }
    };
    let upgrade = async {
        kafka::await_records(&bed.kafka, &topic, 50, SOON).await;
        let began = Instant::now();
        to_a_later_version(&db).await;
        println!("altered and replaced under traffic within {:?}", began.elapsed());
        upgraded.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(traffic, upgrade);

    db.await_text(SOON, "SELECT count(*) FROM tide.calls_inbox", &last.to_string())
        .await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    let delivered = numbers(records.iter().map(|r| r.value.as_str()));
    assert_each_once(&delivered, 1..=last);
    assert_in_order(&delivered);
    println!("{last} messages each way, each once and in order");
    relay
        .await_log(SOON, &["WARN", "brought to version 1000 (release 9.9.9)"])
        .await;
    assert_eq!(get(relay.address(), "/readyz").await.unwrap().0, 200);

    // A relay that connects now is told.
    let late = Relay::options(&db).spawn();
    late.await_log(SOON, &["schema tide has version 1000", "use the newer pg-tide"])
        .await;
}
