//! What a person or a scraper meets: pages, logs, the command line, and
//! errors that say what to do.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::Output;
use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, RelayOptions, run_pg_tide, unique};

const SOON: Duration = Duration::from_secs(15);

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_answer() {
    let db = Database::fresh(&Bed::from_env().postgres, "pages").await;
    let relay = Relay::start(&db).await;
    assert_eq!(relay.page("/livez").await.0, 200);
    assert_eq!(relay.page("/readyz").await.0, 200);
    let (status, metrics) = relay.page("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.lines().any(|l| l == "pg_tide_relay_owned_pipelines 0"),
        "{metrics}"
    );
    assert!(
        metrics
            .lines()
            .any(|l| l == "# TYPE pg_tide_relay_owned_pipelines gauge"),
        "{metrics}"
    );
    assert!(
        metrics.contains("pg_tide_relay_build_info{version=\""),
        "{metrics}"
    );
    assert_eq!(relay.page("/other").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_logs_are_a_json_object_per_line() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "json").await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", &bed.kafka, &unique("json"), "{}")
        .await;
    db.to_kafka("broken", "events", "127.0.0.1:1", &unique("json"), "{}")
        .await;
    let mut relay = Relay::options(&db).json().start().await;
    relay.await_healthy(SOON, "p", 1).await;
    relay.await_log(SOON, &["\"broken\"", "backing off"]).await;
    assert!(relay.terminate(SOON).await.success());
    let log = relay.log();
    let mut of_pipeline = 0;
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        for key in ["timestamp", "level", "message"] {
            assert!(entry[key].is_string(), "no {key} in {line}");
        }
        of_pipeline += usize::from(entry["pipeline"] == "p");
    }
    assert!(of_pipeline > 0, "no line names the pipeline:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_a_line_for_each_change_of_state_and_none_per_message() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "quiet").await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", &bed.kafka, &unique("quiet"), "{}")
        .await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "p", 1).await;
    let before = relay.log().lines().count();
    db.publish_numbers("events", 1, 1000, 10).await;
    db.await_delivered(SOON).await;
    assert_eq!(relay.log().lines().count(), before, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_url_may_come_from_a_file_or_the_environment() {
    let db = Database::fresh(&Bed::from_env().postgres, "url").await;
    let file = std::env::temp_dir().join(unique("url"));
    std::fs::write(&file, format!("{}\n", db.url())).unwrap();
    let output = run_pg_tide(&["schema", "status", "--postgres-url-file", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = run_pg_tide(&["schema", "status"]).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("--postgres-url"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_telling_the_right_one() {
    let db = Database::empty(&Bed::from_env().postgres, "password").await;
    let url = db.url().replacen(":tide@", ":hunter2@", 1);
    assert!(url.contains("hunter2"));
    let output = run_pg_tide(&["schema", "install", "--postgres-url", &url]).await;
    assert!(!output.status.success());
    assert!(
        said(&output).contains("password authentication failed for user \"tide\""),
        "{}",
        said(&output)
    );
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));

    let relay = RelayOptions::for_url(&url).spawn();
    relay.await_log(SOON, &["password authentication failed"]).await;
    assert!(!relay.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_is_named() {
    let url = "postgres://tide:hunter2@127.0.0.1:1/shop";
    let output = run_pg_tide(&["schema", "status", "--postgres-url", url]).await;
    assert!(!output.status.success());
    assert!(
        said(&output).contains("cannot connect to PostgreSQL at 127.0.0.1:1/shop"),
        "{}",
        said(&output)
    );
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));

    // The relay keeps trying: the database may come up later.
    let relay = RelayOptions::for_url(url).spawn();
    let line = relay
        .await_log(SOON, &["cannot connect to PostgreSQL at 127.0.0.1:1/shop"])
        .await;
    assert!(
        line.contains("retry"),
        "it does not say that it tries again: {line}"
    );
    assert!(!relay.log().contains("hunter2"));
    let output = run_pg_tide(&["schema", "status", "--postgres-url", "mysql://x"]).await;
    assert!(
        said(&output).contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_is_told_with_the_command_that_makes_it() {
    let db = Database::empty(&Bed::from_env().postgres, "missing").await;
    let output = run_pg_tide(&["schema", "status", "--postgres-url", &db.url()]).await;
    assert!(!output.status.success());
    assert!(
        said(&output).contains("pg-tide schema install"),
        "{}",
        said(&output)
    );
    let mut relay = RelayOptions::for_url(&db.url()).spawn();
    relay.await_log(SOON, &["schema install"]).await;
    // And it waits for it.
    let output = run_pg_tide(&["schema", "install", "--postgres-url", &db.url()]).await;
    assert!(output.status.success(), "{}", said(&output));
    relay.await_ready(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn installing_twice_changes_nothing() {
    let db = Database::empty(&Bed::from_env().postgres, "twice").await;
    let install = ["schema", "install", "--postgres-url", &db.url()];
    let catalogue = "SELECT md5(string_agg(c, E'\\n' ORDER BY c)) FROM (
                         SELECT pg_get_functiondef(p.oid) FROM pg_proc p
                          WHERE p.pronamespace = 'tide'::regnamespace AND p.prokind = 'f'
                         UNION ALL
                         SELECT c.oid || ' ' || c.relname || ' ' || coalesce(c.relacl::text, '') FROM pg_class c
                          WHERE c.relnamespace = 'tide'::regnamespace) AS all_of_it(c)";
    // Two at the same time: one waits for the other.
    let (first, second) = tokio::join!(run_pg_tide(&install), run_pg_tide(&install));
    assert!(
        first.status.success() && second.status.success(),
        "{}\n{}",
        said(&first),
        said(&second)
    );
    let before = db.text(catalogue).await;
    db.run("SELECT tide.outbox_create('events'); SELECT tide.outbox_publish('events', '{}')")
        .await;
    db.run("SELECT tide.outbox_drop('events')").await;
    let third = run_pg_tide(&install).await;
    assert!(
        third.status.success() && said(&third).contains("already"),
        "{}",
        said(&third)
    );
    assert_eq!(db.text(catalogue).await, before);
    let status = run_pg_tide(&["schema", "status", "--postgres-url", &db.url()]).await;
    assert!(
        status.status.success() && said(&status).contains("version"),
        "{}",
        said(&status)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extensions_schema_is_left_to_the_extension() {
    let db = Database::with_extension(&Bed::from_env().postgres, "extension").await;
    let status = run_pg_tide(&["schema", "status", "--postgres-url", &db.url()]).await;
    assert!(
        status.status.success() && said(&status).contains("extension"),
        "{}",
        said(&status)
    );
    let install = run_pg_tide(&["schema", "install", "--postgres-url", &db.url()]).await;
    assert!(install.status.success(), "{}", said(&install));
    let loose = "SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'tide'::regnamespace
                    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')";
    assert_eq!(db.text(loose).await, "0");
    Relay::start(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_schema_is_the_installed_one() {
    let output = run_pg_tide(&["schema", "print"]).await;
    assert!(output.status.success());
    let db = Database::empty(&Bed::from_env().postgres, "print").await;
    db.run(&String::from_utf8(output.stdout).unwrap()).await;
    db.create_outboxes(&["events"]).await;
    Relay::start(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_command_shows_the_pipelines() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "status").await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("orders-to-kafka", "events", &bed.kafka, &unique("status"), "{}")
        .await;
    let output = run_pg_tide(&["status", "--postgres-url", &db.url()]).await;
    assert!(output.status.success(), "{}", said(&output));
    let line = said(&output)
        .lines()
        .find(|l| l.starts_with("orders-to-kafka"))
        .unwrap_or_default()
        .to_owned();
    assert!(line.contains("no live relay"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_refused_with_the_nearest_right_one() {
    let output = run_pg_tide(&["--postgres-urI", "x"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--postgres-url"), "{}", said(&output));
    let output = run_pg_tide(&["schema", "instal"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("install"), "{}", said(&output));
    let version = run_pg_tide(&["--version"]).await;
    assert!(
        version.status.success() && said(&version).starts_with("pg-tide "),
        "{}",
        said(&version)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_metrics_address_is_told() {
    let db = Database::fresh(&Bed::from_env().postgres, "taken").await;
    let relay = Relay::start(&db).await;
    let address = relay.address().to_string();
    let output = run_pg_tide(&["--postgres-url", &db.url(), "--metrics-addr", &address]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("--metrics-addr") && said(&output).contains(&address),
        "{}",
        said(&output)
    );
}
