//! Pipelines from files, options, outboxes and inboxes by the command line.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::process::Command;

use pg_tide_e2e::{Bed, Database, run_pg_tide, unique};
use serde_json::{Value, json};

/// A file of its own with this text.
struct Temporary(PathBuf);

impl Temporary {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(unique("cli_config"));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_pg_tide(arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

async fn on(db: &Database, arguments: &[&str]) -> (Option<i32>, String) {
    let url = db.url();
    run(&[arguments, &["--postgres-url", &url]].concat()).await
}

const PIPELINES: &str = r#"[
    {"name": "a", "outbox": "events", "sink": "kafka", "batch_size": 7, "config": {"brokers": "b:1", "topic": "t"}},
    {"name": "b", "inbox": "inbox", "source": "nats", "idempotent": false, "relay_group": "eu",
     "config": {"url": "nats://h", "subject": "s"}}]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_checked_as_the_relay_would_read_it() {
    let good = Temporary::new(PIPELINES);
    assert_eq!(
        run(&["config", "validate", good.path()]).await,
        (Some(0), "a: valid\nb: valid\n".into())
    );
    let bad = Temporary::new(&PIPELINES.replace("\"topic\"", "\"topik\""));
    let (code, text) = run(&["config", "validate", bad.path()]).await;
    assert_eq!(code, Some(3));
    assert!(
        text.starts_with("a: config: \"topic\" is missing\nb: valid"),
        "{text}"
    );
    let (code, text) = run(&["config", "validate", bad.path(), "-o", "json"]).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["pipelines"][0]["valid"]), (Some(3), &json!(false)));
    assert_eq!(
        report["pipelines"][1],
        json!({"name": "b", "valid": true, "error": null})
    );
    let (code, text) = run(&["config", "validate", "/no/such/file"]).await;
    assert!(
        code == Some(1) && text.contains("cannot read /no/such/file"),
        "{text}"
    );
    let broken = Temporary::new("{");
    assert_eq!(run(&["config", "validate", broken.path()]).await.0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_go_from_one_database_to_another_by_a_file() {
    let bed = Bed::from_env();
    let (here, there) = tokio::join!(
        Database::fresh(&bed.postgres, "apply_a"),
        Database::fresh(&bed.postgres, "apply_b")
    );
    for db in [&here, &there] {
        db.run("SELECT tide.outbox_create('events'); SELECT tide.inbox_create('inbox')")
            .await;
    }
    let file = Temporary::new(PIPELINES);
    let (code, text) = on(&here, &["pipeline", "apply", file.path(), "--dry-run"]).await;
    assert!(
        code == Some(0) && text.contains("pipeline \"a\" could be set"),
        "{text}"
    );
    assert_eq!(here.text("SELECT count(*) FROM tide.pipeline").await, "0");
    let (code, text) = on(&here, &["pipeline", "apply", file.path()]).await;
    assert!(
        code == Some(0) && text.contains("pipeline \"b\" is set"),
        "{text}"
    );
    let listing = on(&here, &["pipeline", "list", "-o", "json"]).await;
    let file = Temporary::new(&listing.1);
    assert_eq!(on(&there, &["pipeline", "apply", file.path()]).await.0, Some(0));
    let settings =
        "SELECT name, direction, connector, config, batch_size, enabled, relay_group, max_retries, idempotent
                      FROM tide.relay_list_configs()";
    assert_eq!(here.text(settings).await, there.text(settings).await);
    assert!(here.text(settings).await.contains("|7|t|default|"));
    // One that is refused takes the others with it.
    let mixed = Temporary::new(
        &PIPELINES
            .replace("\"inbox\": \"inbox\"", "\"inbox\": \"inbxo\"")
            .replace("\"a\"", "\"c\""),
    );
    let (code, text) = on(&here, &["pipeline", "apply", mixed.path()]).await;
    assert!(
        code == Some(1) && text.contains("b: ") && text.contains("Did you mean"),
        "{text}"
    );
    assert_eq!(
        here.text("SELECT count(*) FROM tide.pipeline WHERE name = 'c'")
            .await,
        "0"
    );

    let (_, shown) = on(&here, &["pipeline", "show", "a"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["config"]["topic"], "t");
    for (command, word, enabled) in [("disable", "disabled", "f"), ("enable", "enabled", "t")] {
        let (code, text) = on(&here, &["pipeline", command, "a"]).await;
        assert_eq!((code, text), (Some(0), format!("pipeline \"a\" is {word}\n")));
        assert_eq!(
            here.text("SELECT enabled FROM tide.pipeline WHERE name = 'a'")
                .await,
            enabled
        );
    }
    let (code, text) = on(&here, &["pipeline", "rename", "a", "c"]).await;
    let renamed = "pipeline \"a\" is \"c\" from now on\n".to_owned();
    assert_eq!((code, text), (Some(0), renamed));
    assert_eq!(on(&here, &["pipeline", "delete", "c"]).await.0, Some(0));
    let (code, text) = on(&here, &["pipeline", "delete", "a"]).await;
    assert!(
        code == Some(1) && text.contains("pipeline \"a\" does not exist"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_options_are_those_of_the_database() {
    let db = Database::fresh(&Bed::from_env().postgres, "options").await;
    let (code, text) = run(&["config", "options", "-o", "json"]).await;
    assert_eq!(code, Some(0));
    let listed: Value = serde_json::from_str(&text).unwrap();
    let there = db
        .text(
            "SELECT jsonb_agg(jsonb_build_object('direction', direction, 'connector', connector, 'key', key, 'kind', kind,
                    'required', required, 'allowed', allowed, 'minimum', minimum, 'maximum', maximum,
                    'description', description) ORDER BY direction, connector COLLATE \"C\", key COLLATE \"C\")
               FROM tide.connector_option",
        )
        .await;
    let mut options = listed["options"].as_array().unwrap().clone();
    options.sort_by_key(|o| {
        [&o["direction"], &o["connector"], &o["key"]].map(|v| v.as_str().unwrap().to_owned())
    });
    let there: Value = serde_json::from_str(&there).unwrap();
    assert_eq!(Value::Array(options), there);
    let (_, text) = run(&["config", "options", "kafka"]).await;
    assert!(
        text.contains("brokers") && !text.contains("create_stream"),
        "{text}"
    );
    let (code, text) = run(&["config", "options", "rabbit"]).await;
    assert!(code == Some(1) && text.contains("kafka, nats"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outboxes_and_inboxes_by_hand() {
    let db = Database::fresh(&Bed::from_env().postgres, "by_hand").await;
    assert_eq!(
        on(&db, &["outbox", "create", "orders", "--retention-hours", "48"]).await,
        (Some(0), "outbox \"orders\" is made\n".into())
    );
    assert_eq!(on(&db, &["outbox", "create", "orders"]).await.0, Some(1));
    let (code, text) = on(&db, &["outbox", "create", "orders", "--if-not-exists"]).await;
    assert!(code == Some(0) && text.contains("was there already"), "{text}");

    let payload = Temporary::new("{\"exact\": 12345678901234567890.123}\n");
    let arguments = [
        "outbox",
        "publish",
        "orders",
        "--file",
        payload.path(),
        "--header",
        "event_type=a=b",
    ];
    assert_eq!(on(&db, &arguments).await, (Some(0), "1\n".into()));
    assert_eq!(
        db.text("SELECT payload, headers FROM tide.outbox_message").await,
        "{\"exact\": 12345678901234567890.123}|{\"event_type\": \"a=b\"}"
    );
    let lines = Temporary::new("{\"n\": 1}\n\n{\"n\": 2}\n");
    let (code, text) = on(
        &db,
        &[
            "outbox",
            "publish",
            "orders",
            "--lines",
            "-f",
            lines.path(),
            "-o",
            "json",
        ],
    )
    .await;
    let ids: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, ids), (Some(0), json!({"ids": [2, 3]})));
    let half = Temporary::new("{\"n\": 1}\n{\"n\":\n");
    assert_eq!(
        on(
            &db,
            &["outbox", "publish", "orders", "--lines", "-f", half.path()]
        )
        .await
        .0,
        Some(1)
    );
    let (code, text) = on(&db, &["outbox", "publish", "order", "-f", payload.path()]).await;
    assert!(code == Some(1) && text.contains("orders"), "{text}");
    assert_eq!(db.text("SELECT count(*) FROM tide.outbox_message").await, "3");

    let (_, text) = on(&db, &["outbox", "status", "orders", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["outboxes"][0]["pending_count"], 3);
    assert_eq!(status["outboxes"][0]["retention"], "48:00:00");
    let (_, text) = on(&db, &["outbox", "list"]).await;
    assert!(text.contains("orders_outbox"), "{text}");
    db.run("SELECT tide.inbox_create('payments')").await;
    let (_, text) = on(&db, &["inbox", "list"]).await;
    assert!(text.contains("payments_inbox"), "{text}");
    let (_, text) = on(&db, &["inbox", "status", "payments", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["inboxes"][0]["pending"], 0);
    let (_, text) = on(&db, &["schema", "status", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["current"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_failure() {
    let program = std::env::var("PG_TIDE").unwrap_or_else(|_| "pg-tide".into());
    let script = format!("set -o pipefail; '{program}' schema print | head -n 1");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
