//! Messages as lines on the relay's standard output.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, assert_in_order, await_condition, unique};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

async fn scene(stem: &str) -> Database {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    db
}

async fn to_stdout(db: &Database, pipeline: &str) {
    db.run(&format!(
        "SELECT tide.relay_set_outbox('{pipeline}', 'events', 'stdout', '{{}}')"
    ))
    .await;
}

fn path(stem: &str) -> PathBuf {
    std::env::temp_dir().join(unique(stem))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_one_line_of_json_and_logs_are_elsewhere() {
    let db = scene("stdout_lines").await;
    to_stdout(&db, "p").await;
    let file = path("stdout-lines");
    let relay = Relay::options(&db).stdout(&file).start().await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n, 'text', E'two\\nlines'), '{\"a\": 1.50}')
           FROM generate_series(1, 3000) n",
    )
    .await;
    db.run("INSERT INTO tide.events_outbox (payload) VALUES (NULL)")
        .await;
    db.await_delivered(SOON).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3_001);
    let numbers: Vec<i64> = lines.iter().filter_map(|l| l["payload"]["n"].as_i64()).collect();
    assert_eq!(numbers.len(), 3_000);
    assert_in_order(&numbers);
    let first = &lines[0];
    let micros = db
        .text("SELECT id || '|' || to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM tide.events_outbox ORDER BY id LIMIT 1")
        .await;
    assert_eq!(
        micros,
        format!("{}|{}", first["id"], first["created_at"].as_str().unwrap())
    );
    assert!(first["tide-id"].as_str().unwrap().starts_with("events:1:"));
    assert_eq!(
        (&first["outbox"], &first["pipeline"]),
        (&"events".into(), &"p".into())
    );
    assert!(text.contains(r#""headers": {"a": 1.50}"#), "as published");
    assert!(relay.log().contains("running"));
    std::fs::remove_file(file).unwrap();
}

/// A pipe that is full blocks whoever writes to it: that must be one pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_holds_up_no_other_pipeline() {
    let db = scene("stdout_blocked").await;
    db.run("SELECT tide.inbox_create('events')").await;
    to_stdout(&db, "p").await;
    db.run("SELECT tide.relay_set_outbox('other', 'events', 'inbox', '{\"inbox\": \"events\"}')")
        .await;
    let fifo = path("stdout-fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Held open for both, so that nobody waits at opening it.
    let mut reader = File::options().read(true).write(true).open(&fifo).unwrap();
    let relay = Relay::options(&db).stdout(&fifo).start().await;
    // More than a pipe holds (64 KiB).
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n, 'x', repeat('x', 1000)))
           FROM generate_series(1, 2000) n",
    )
    .await;
    db.await_text(SOON, "SELECT count(*) FROM tide.events_inbox", "2000")
        .await;
    relay
        .await_log(SOON, &["no acknowledgement", "pipeline=\"p\""])
        .await;
    relay.await_healthy(SOON, "p", 0).await;
    relay.await_healthy(SOON, "other", 1).await;
    db.publish_number("events", 2_001).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.events_inbox", "2001")
        .await;

    // Somebody reads: it goes on, and nothing is missing.
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while !text.ends_with(b"\n") || !String::from_utf8_lossy(&text).contains("\"n\": 2001}") {
            let read = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(text).unwrap()
    });
    await_condition(Duration::from_mins(1), "everything is read", async || {
        reading.is_finished().then_some(())
    })
    .await;
    let text = reading.join().unwrap();
    let mut numbers: Vec<i64> = text
        .lines()
        .map(|l| {
            serde_json::from_str::<Value>(l).unwrap()["payload"]["n"]
                .as_i64()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=2_001).collect::<Vec<_>>());
    db.await_delivered(SOON).await;
    relay.await_healthy(SOON, "p", 1).await;
    std::fs::remove_file(fifo).unwrap();
}
