//! The command line knows pipelines of every sink: it lists them, checks them in
//! files, and looks at their other side without sending anything.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::webhooks::{scene, to_webhook};
use pg_tide_e2e::{Bed, Database, Relay, SecretFiles, answer, run_pg_tide, unique};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

async fn json(arguments: &[&str]) -> Value {
    let output = run_pg_tide(arguments).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The findings about a pipeline that are not ok: code, message, hint.
async fn complaints(url: &str, pipeline: &str) -> Vec<String> {
    let report = json(&[
        "doctor",
        "--postgres-url",
        url,
        "--output",
        "json",
        "--pipeline",
        pipeline,
    ])
    .await;
    let subject = format!("pipeline {pipeline}");
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["subject"] == subject.as_str() && f["severity"] != "ok")
        .map(|f| format!("{}: {} {}", f["code"], f["message"], f["hint"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_doctor_know_pipelines_of_every_sink() {
    let (db, receiver) = scene("cli_sinks").await;
    let target = Database::fresh(&Bed::from_env().postgres, "cli_sinks_target").await;
    target.run("SELECT tide.inbox_create('events')").await;
    let secrets = SecretFiles::mount(&[("url", &target.url())]);
    let url = secrets.reference("url");
    to_webhook(&db, &receiver, "/", "{}").await;
    db.run(&format!(
        "SELECT tide.inbox_create('events');
         SELECT tide.relay_set_outbox('look', 'events', 'stdout', '{{}}');
         SELECT tide.relay_set_outbox('near', 'events', 'inbox', '{{\"inbox\": \"events\"}}');
         SELECT tide.relay_set_outbox('far', 'events', 'inbox', '{{\"inbox\": \"events\", \"url\": \"{url}\"}}')"
    ))
    .await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 3, 3).await;
    db.await_delivered(SOON).await;
    let url = db.url();
    let sinks = answer(SOON, async || {
        let shown = json(&["status", "--postgres-url", &url, "--output", "json"]).await;
        let pipelines = shown["pipelines"].as_array().unwrap().clone();
        let of = |p: &Value| format!("{} {} {}", p["pipeline"], p["sink"], p["state"]).replace('"', "");
        let mut lines: Vec<String> = pipelines.iter().map(of).collect();
        lines.sort();
        let want = [
            "far inbox running",
            "look stdout running",
            "near inbox running",
            "p webhook running",
        ];
        (lines == want).then_some(())
    });
    assert!(sinks.await.is_some());
    for pipeline in ["far", "look", "near", "p"] {
        assert_eq!(complaints(&url, pipeline).await, [""; 0], "{pipeline}");
    }
    assert_eq!(receiver.count(), 3, "nothing is sent");

    // What is wrong with the other side is found without a relay.
    target.run("SELECT tide.inbox_drop('events')").await;
    drop(receiver);
    let said = complaints(&url, "far").await.join("\n");
    assert!(
        said.contains("inbox-refused") && said.contains("inbox \\\"events\\\" does not exist"),
        "{said}"
    );
    let said = complaints(&url, "p").await.join("\n");
    assert!(
        said.contains("webhook-unreachable") && said.contains("cannot connect to 127.0.0.1"),
        "{said}"
    );
    db.run("UPDATE tide.pipeline SET config = '{\"inbox\": \"evens\"}' WHERE name = 'near'")
        .await;
    let said = complaints(&url, "near").await.join("\n");
    assert!(said.contains("does not exist in this database"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_pipelines_of_every_sink_are_checked() {
    let file = std::env::temp_dir().join(unique("sinks.json"));
    let with = |url: &str| {
        format!(
            r#"[{{"name": "a", "outbox": "o", "sink": "webhook", "config": {{"url": "{url}"}}}},
                {{"name": "b", "outbox": "o", "sink": "inbox", "config": {{"inbox": "i"}}}},
                {{"name": "c", "outbox": "o", "sink": "stdout"}}]"#
        )
    };
    std::fs::write(&file, with("https://h.example/{id}")).unwrap();
    let path = file.display().to_string();
    let good = run_pg_tide(&["config", "validate", &path]).await;
    assert!(good.status.success(), "{good:?}");
    std::fs::write(&file, with("https://u:hunter2@h.example/")).unwrap();
    let bad = run_pg_tide(&["config", "validate", &path]).await;
    let said = String::from_utf8([bad.stdout, bad.stderr].concat()).unwrap();
    assert!(
        !bad.status.success() && said.contains("user name or password") && !said.contains("hunter2"),
        "{said}"
    );
    std::fs::remove_file(file).unwrap();
}
