//! `pg-tide status`: what it shows, its exit codes, and watching.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::{Background, Bed, Database, Relay, Signal, answer, run_pg_tide, unique};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

async fn with_pipeline(stem: &str) -> Database {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("orders-to-kafka", "events", &bed.kafka, &unique(stem), "{}")
        .await;
    db
}

async fn status(db: &Database, more: &[&str]) -> (Option<i32>, String) {
    let url = db.url();
    let mut arguments = vec!["status", "--postgres-url", &url];
    arguments.extend(more);
    let output = run_pg_tide(&arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_a_pipeline_with_its_owner_state_and_lag() {
    let db = with_pipeline("status_json").await;
    db.publish_numbers("events", 1, 7, 7).await;
    let (code, text) = status(&db, &["-o", "json"]).await;
    assert_eq!(code, Some(0));
    let shown: Value = serde_json::from_str(&text).unwrap();
    let pipeline = &shown["pipelines"][0];
    assert_eq!(
        (&pipeline["lag"], &pipeline["state"]),
        (&7.into(), &"no live relay".into())
    );
    assert!(pipeline["owner"].is_null() && pipeline["epoch"].is_null());

    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    let running = answer(SOON, async || {
        let (_, text) = status(&db, &["-o", "json", "--pipeline", "orders-to-kafka"]).await;
        let shown: Value = serde_json::from_str(&text).unwrap();
        let pipeline = shown["pipelines"][0].clone();
        (pipeline["state"] == "running" && pipeline["messages"] == 7).then_some(pipeline)
    });
    let pipeline = running.await.unwrap();
    for name in [
        "pipeline",
        "direction",
        "outbox",
        "inbox",
        "sink",
        "source",
        "relay_group",
        "enabled",
        "owner",
        "epoch",
        "state",
        "state_since",
        "lag",
        "messages",
        "lag_seconds",
        "rate",
        "position",
        "retries",
        "duplicates",
        "dead_letters",
        "note",
        "last_error",
        "last_error_at",
        "reported_at",
    ] {
        assert!(pipeline.get(name).is_some(), "no {name} in {pipeline:#}");
    }
    assert_eq!(
        (&pipeline["lag"], &pipeline["sink"]),
        (&0.into(), &"kafka".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_ends_with_3_while_something_is_not_well() {
    let db = with_pipeline("status_check").await;
    assert_eq!(status(&db, &[]).await.0, Some(0));
    assert_eq!(status(&db, &["--check"]).await.0, Some(3));
    db.run("SELECT tide.relay_disable('orders-to-kafka')").await;
    assert_eq!(status(&db, &["--check"]).await.0, Some(0));
    db.run("SELECT tide.relay_enable('orders-to-kafka')").await;
    let _relay = Relay::start(&db).await;
    let well = answer(SOON, async || {
        (status(&db, &["--check"]).await.0 == Some(0)).then_some(())
    });
    assert!(well.await.is_some());

    let (code, text) = status(&db, &["--pipeline", "orders-to-kafa"]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("orders-to-kafka"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_schema_it_says_how_to_install_one() {
    let db = Database::empty(&Bed::from_env().postgres, "status_empty").await;
    let (code, text) = status(&db, &[]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("pg-tide schema install"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_last_error_stands_below_the_table() {
    let db = with_pipeline("status_error").await;
    db.to_kafka("away", "events", "127.0.0.1:1", "t", "{}").await;
    let _relay = Relay::start(&db).await;
    let shown = answer(SOON, async || {
        let (_, text) = status(&db, &[]).await;
        text.contains("Last errors").then_some(text)
    });
    let text = shown.await.unwrap();
    let (table, below) = text.split_once("Last errors").unwrap();
    assert!(
        table
            .lines()
            .any(|l| l.starts_with("away ") && l.contains("retrying")),
        "{text}"
    );
    assert!(
        below.contains("away, ") && below.contains("127.0.0.1:1"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_without_a_terminal_appends_and_ends_at_ctrl_c() {
    let db = with_pipeline("status_watch").await;
    let url = db.url();
    let mut watch = Background::pg_tide(&["status", "--watch", "--postgres-url", &url]);
    let two_tables = |text: &str| text.matches("PIPELINE").count() >= 2;
    let text = watch.await_output(SOON, "two tables", two_tables).await;
    assert!(!text.contains('\x1b'), "{text:?}");
    // A session that is lost is opened anew.
    db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg-tide'")
        .await;
    let before = watch.output().matches("PIPELINE").count();
    watch
        .await_output(SOON, "further tables", |t| {
            t.matches("PIPELINE").count() > before + 1
        })
        .await;
    watch.signal(Signal::Interrupt);
    assert_eq!(watch.await_end(SOON).await.code(), Some(0));

    let mut watch = Background::pg_tide(&["status", "--watch", "-o", "json", "--postgres-url", &url]);
    let text = watch
        .await_output(SOON, "two lines", |t| t.lines().count() >= 2)
        .await;
    for line in text.lines().take(2) {
        let shown: Value = serde_json::from_str(line).unwrap();
        assert_eq!(shown["pipelines"][0]["pipeline"], "orders-to-kafka");
    }
    watch.signal(Signal::Term);
    assert_eq!(watch.await_end(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_on_a_terminal_draws_over_what_stood_there() {
    let db = with_pipeline("status_terminal").await;
    let url = db.url();
    let mut watch = Background::pg_tide_on_a_terminal(&["status", "--watch", "--postgres-url", &url]);
    // Two lines: up by two, and each line's rest is erased.
    let text = watch
        .await_output(SOON, "a second frame", |t| t.contains("\x1b[2A\rPIPELINE"))
        .await;
    assert!(text.contains("\x1b[K"), "{text:?}");
    for line in text.split(['\n', '\r']) {
        let plain = line
            .replace("\x1b[K", "")
            .replace("\x1b[J", "")
            .replace("\x1b[2A", "");
        assert!(plain.chars().count() <= 80, "{plain:?}");
    }
    // A pipeline more is a line more.
    db.run("SELECT tide.outbox_create('more'); SELECT tide.relay_set_outbox('more', 'more', 'kafka', '{\"brokers\": \"b\", \"topic\": \"t\"}')")
        .await;
    watch
        .await_output(SOON, "a higher frame", |t| t.contains("\x1b[3A\r"))
        .await;
    watch.type_keys(b"\x03");
    assert_eq!(watch.await_end(SOON).await.code(), Some(0));
}
