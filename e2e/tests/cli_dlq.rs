//! Dead letters and replay from the command line.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Relay, kafka, numbers, run_pg_tide, unique};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Exit code and what was written.
async fn run(db: &Database, arguments: &[&str]) -> (Option<i32>, String) {
    let url = db.url();
    let mut all = arguments.to_vec();
    all.extend(["--postgres-url", &url]);
    let output = run_pg_tide(&all).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The answer of a command that succeeds.
async fn well(db: &Database, arguments: &[&str]) -> String {
    let (code, text) = run(db, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

async fn well_json(db: &Database, arguments: &[&str]) -> Value {
    let text = well(db, &[arguments, &["-o", "json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_sink_are_listed_shown_retried_and_discarded() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "cli_dlq").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("cli_dlq");
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    // No message names its region, so none has a topic.
    db.to_kafka("p", "events", &bed.kafka, &format!("{topic}{{region}}"), "{}")
        .await;
    assert_eq!(well(&db, &["dlq", "list"]).await, "there are no dead letters\n");
    db.run(
        "SELECT tide.outbox_publish('events', ('{\"n\": ' || n || ', \"exact\": 12345678901234567890.123}')::jsonb, '{\"a\": \"b\"}')
           FROM generate_series(1, 4) n",
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "4")
        .await;

    let listed = well_json(&db, &["dlq", "list", "--pipeline", "p"]).await;
    let letters = listed["dead_letters"].as_array().unwrap();
    let ids: Vec<String> = letters.iter().map(|l| l["dlq_id"].to_string()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(letters[0]["payload"]["n"], 1);
    let table = well(&db, &["dlq", "list"]).await;
    assert!(table.lines().nth(1).unwrap().contains("{region}"), "{table}");

    let shown = well(&db, &["dlq", "show", &ids[0]]).await;
    for part in ["pipeline    p", "a: b", "12345678901234567890.123", "{region}"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let shown = well(&db, &["dlq", "show", &ids[0], "-o", "json"]).await;
    assert!(shown.contains("12345678901234567890.123"), "{shown}");
    let (code, text) = run(&db, &["dlq", "show", "999999"]).await;
    assert!(
        code == Some(1) && text.contains("there is no dead letter 999999"),
        "{text}"
    );

    // The topic has a name now.
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let retried = well_json(&db, &["dlq", "retry", &ids[0], &ids[1]]).await;
    let queued = |id: &String| json!({"dlq_id": id.parse::<i64>().unwrap(), "result": "queued"});
    assert_eq!(retried["results"], json!([queued(&ids[0]), queued(&ids[1])]));
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "2")
        .await;
    let records = kafka::await_records(&bed.kafka, &topic, 2, SOON).await;
    assert_eq!(numbers(records.iter().map(|r| r.value.as_str())), [1, 2]);

    let discarded = well_json(&db, &["dlq", "discard", &ids[2], "--reason", "only a test"]).await;
    assert_eq!(discarded, json!({"discarded": 1}));
    let (code, text) = run(&db, &["dlq", "retry", &ids[2]]).await;
    assert!(code == Some(1) && text.contains("only a test"), "{text}");
    let all = well(&db, &["dlq", "retry", "--all", "--pipeline", "p"]).await;
    assert_eq!(all, "1 dead letters are queued for the relay\n");
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "0")
        .await;
    let resolved = well(&db, &["dlq", "list", "--resolved"]).await;
    assert!(
        resolved.contains("only a test") && resolved.contains("delivered"),
        "{resolved}"
    );

    assert_eq!(
        well_json(&db, &["dlq", "purge", "--older-than", "1 day"]).await,
        json!({"purged": 0})
    );
    assert_eq!(well(&db, &["dlq", "purge"]).await, "4 dead letters removed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_an_inbox_that_is_refused_again_ends_with_3() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "cli_dlq_in").await;
    db.run("SELECT tide.inbox_create('inbox')").await;
    let subject = unique("cli_dlq");
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&subject, &subject, |_| {}).await;
    db.from_nats("p", "inbox", &bed.nats, &subject, "{}", "").await;
    let _relay = Relay::start(&db).await;
    nats.publish(&subject, "no JSON, or is it").await;
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "1")
        .await;
    let id = db.text("SELECT dlq_id FROM tide.relay_dlq_list('p')").await;
    let shown = well(&db, &["dlq", "show", &id]).await;
    assert!(shown.contains("body (no JSON)\nno JSON, or is it"), "{shown}");
    let (code, text) = run(&db, &["dlq", "retry", &id]).await;
    assert!(
        code == Some(3) && text.contains("refused again: "),
        "{code:?} {text}"
    );
    let (code, text) = run(&db, &["dlq", "retry", "--all", "--pipeline", "p"]).await;
    assert!(
        code == Some(3) && text.contains("0 dead letters were stored in the inbox, 1 are left"),
        "{text}"
    );
    // Doctor tells of it, as of what waits.
    let (_, text) = run(&db, &["doctor"]).await;
    assert!(
        text.contains("[dead-letters]") && text.contains("pg-tide dlq list --pipeline p"),
        "{text}"
    );
    // Mended by hand.
    db.run("UPDATE tide.dead_letter SET body = '{\"mended\": true}'::text::bytea, payload = NULL")
        .await;
    let (code, text) = run(&db, &["dlq", "retry", &id]).await;
    assert!(code == Some(0) && text.contains("stored in the inbox"), "{text}");
    assert_eq!(
        db.text("SELECT payload FROM tide.inbox_inbox").await,
        "{\"mended\": true}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_or_all_of_a_pipeline_must_be_given() {
    let db = Database::fresh(&Bed::from_env().postgres, "cli_dlq_use").await;
    for arguments in [
        &["dlq", "retry"][..],
        &["dlq", "retry", "--all"],
        &["dlq", "discard", "1", "--all", "--pipeline", "p"],
        &["replay", "p"],
        &["replay", "p", "--from-id", "1", "--to-time", "now"],
    ] {
        assert_eq!(run(&db, arguments).await.0, Some(2), "{arguments:?}");
    }
    let (code, text) = run(&db, &["dlq", "discard", "--all", "--pipeline", "nobody"]).await;
    assert!(
        code == Some(1) && text.contains("pipeline \"nobody\" does not exist"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_replayed_by_ids_and_by_time() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "cli_replay").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("cli_replay");
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.publish_numbers("events", 1, 5, 1).await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    kafka::await_records(&bed.kafka, &topic, 5, SOON).await;

    let dry = well_json(
        &db,
        &["replay", "p", "--from-id", "2", "--to-id", "3", "--dry-run"],
    )
    .await;
    assert_eq!(dry, json!({"pipeline": "p", "messages": 2, "dry_run": true}));
    assert_eq!(db.text("SELECT count(*) FROM tide.redelivery").await, "0");
    let text = well(&db, &["replay", "p", "--from-id", "2", "--to-id", "3"]).await;
    assert_eq!(text, "2 messages are queued for the relay\n");
    let records = kafka::await_records(&bed.kafka, &topic, 7, SOON).await;
    assert_eq!(
        numbers(records.iter().map(|r| r.value.as_str())),
        [1, 2, 3, 4, 5, 2, 3]
    );
    assert!(records[5].header("tide-redelivery").is_some());

    let since = db
        .text("SELECT created_at FROM tide.outbox_message WHERE payload ->> 'n' = '5'")
        .await;
    well(&db, &["replay", "p", "--from-time", &since]).await;
    let records = kafka::await_records(&bed.kafka, &topic, 8, SOON).await;
    assert_eq!(numbers(records.iter().map(|r| r.value.as_str()))[7..], [5]);
    let text = well(&db, &["replay", "p", "--to-time", "2001-01-01"]).await;
    assert!(text.starts_with("no message of this range"), "{text}");
    let (code, text) = run(&db, &["replay", "p", "--from-time", "yesterdy"]).await;
    assert!(code == Some(1) && text.contains("yesterdy"), "{text}");
}
