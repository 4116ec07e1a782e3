//! `pg-tide doctor` finds what is really wrong, says it under its code, and
//! changes nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::doctor::doctor;
use pg_tide_e2e::{Bed, Database, Pooler, Relay, run_pg_tide, unique};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_let_us_in_is_told_by_its_reason() {
    let db = Database::empty(&Bed::from_env().postgres, "doctor_in").await;
    let wrong = db.url().replacen(":tide@", ":hunter2@", 1);
    let said = doctor(&wrong, &[]).await;
    said.has(
        "problem",
        "database-password",
        &["password authentication failed"],
    );
    assert!(!format!("{said:?}").contains("hunter2"));
    doctor("postgres://tide@127.0.0.1:1/shop", &[]).await.has(
        "problem",
        "database-unreachable",
        &["127.0.0.1:1/shop"],
    );
    let (server, _) = db
        .url()
        .rsplit_once('/')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    doctor(&format!("{server}/no_such_database"), &[]).await.has(
        "problem",
        "database-missing",
        &["no_such_database"],
    );
    let output = run_pg_tide(&["doctor", "--postgres-url", "postgres://tide@127.0.0.1:1/shop"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("PROBLEM") && text.contains("[database-unreachable]"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_missing_older_newer_or_right() {
    let db = Database::empty(&Bed::from_env().postgres, "doctor_schema").await;
    doctor(&db.url(), &[])
        .await
        .has("problem", "schema-missing", &["pg-tide schema install"])
        .has_not("grant-missing");
    let installed = run_pg_tide(&["schema", "install", "--postgres-url", &db.url()]).await;
    assert!(installed.status.success());
    assert_eq!(doctor(&db.url(), &[]).await.complaints(), [""; 0]);
    db.run("UPDATE tide.schema_version SET version = 0").await;
    doctor(&db.url(), &[])
        .await
        .has("problem", "schema-older", &["pg-tide schema upgrade"]);
    db.run("UPDATE tide.schema_version SET version = 1000, release = '9.9.9'")
        .await;
    doctor(&db.url(), &[])
        .await
        .has("problem", "schema-newer", &["9.9.9"]);
    db.run("ALTER TABLE tide.schema_version RENAME TO other").await;
    doctor(&db.url(), &[])
        .await
        .has("problem", "schema-unusable", &["is not pg-tide's"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_what_to_grant() {
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_role").await;
    db.create_outboxes(&["events"]).await;
    let role = unique("doctor");
    db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let url = db.url().replacen("tide:tide@", &format!("{role}:x@"), 1);
    let grant = format!("GRANT tide_relay TO \\\"{role}\\\"");
    doctor(&url, &[])
        .await
        .has("problem", "schema-unusable", &["may not use schema"])
        .has("problem", "grant-missing", &["USAGE on schema tide", &grant]);
    db.run(&format!(
        "GRANT USAGE ON SCHEMA tide TO {role}; GRANT SELECT ON tide.schema_version TO {role}"
    ))
    .await;
    doctor(&url, &[])
        .await
        .has("problem", "grant-missing", &["more", &grant])
        .has("warning", "not-checked", &["permission denied"]);
    db.run(&format!("GRANT tide_relay TO {role}")).await;
    let said = doctor(&url, &[]).await;
    said.has_not("grant-missing")
        .has_not("not-checked")
        .has("ok", "grants", &[]);
    db.run(&format!("GRANT {role} TO CURRENT_USER")).await;
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_transactions_that_hurt_are_found() {
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_settings").await;
    db.create_outboxes(&["events"]).await;
    let name = db.text("SELECT current_database()").await;
    for setting in ["synchronous_commit = off", "statement_timeout = '20s'"] {
        db.run(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let mut busy = db.session().await;
    busy.batch_execute("SET application_name = 'billing'")
        .await
        .unwrap();
    let open = busy.transaction().await.unwrap();
    open.execute("SELECT tide.outbox_publish('events', '{}')", &[])
        .await
        .unwrap();
    let pid: i32 = open
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);

    let said = doctor(&db.url(), &["--long-transaction", "0"]).await;
    said.has("problem", "setting-synchronous-commit", &["ALTER ROLE"])
        .has("warning", "setting-statement-timeout", &["20s"]);
    let finding = said
        .findings
        .iter()
        .find(|f| f["code"] == "long-transaction" && f["message"].as_str().unwrap().contains("billing"))
        .unwrap_or_else(|| panic!("{said:#?}"));
    let text = finding.to_string();
    for word in [
        &format!("pid {pid}"),
        "idle in transaction",
        "not delivered before it ends",
    ] {
        assert!(text.contains(word), "{text}");
    }
    // Ten minutes are the usual measure.
    let said = doctor(&db.url(), &[]).await;
    assert!(!format!("{said:?}").contains("billing"), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_run_short_are_told() {
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_limit").await;
    let name = db.text("SELECT current_database()").await;
    db.run(&format!("ALTER DATABASE {name} CONNECTION LIMIT 6")).await;
    doctor(&db.url(), &[])
        .await
        .has("warning", "database-connections", &["a relay needs up to"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_found() {
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_pooler").await;
    let pooler = Pooler::start(&db, "transaction").await;
    let said = doctor(pooler.url(), &[]).await;
    said.has("problem", "pooler-transaction-mode", &["pool_mode=session"]);
    drop(pooler);
    let pooler = Pooler::start(&db, "session").await;
    doctor(pooler.url(), &[])
        .await
        .has_not("pooler-transaction-mode")
        .has("ok", "schema", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outboxes_that_nobody_reads_and_groups_that_hold_retention_are_told() {
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_outbox").await;
    db.create_outboxes(&["lonely", "kept", "rest"]).await;
    db.run("SELECT tide.create_consumer_group('forgotten', 'kept'), tide.create_consumer_group('g', 'rest')")
        .await;
    db.publish_numbers("kept", 1, 10, 10).await;
    // As if its partitions were older than the retention.
    db.run("UPDATE tide.outbox SET retention = '-30 days' WHERE name = 'kept'")
        .await;
    db.run("INSERT INTO tide.rest_outbox (created_at, payload) VALUES (now() + interval '30 days', '1')")
        .await;
    db.run("SELECT tide.outbox_disable('lonely')").await;
    let said = doctor(&db.url(), &[]).await;
    said.has("warning", "outbox-without-reader", &["tide.relay_set_outbox"])
        .has("warning", "outbox-disabled", &["tide.outbox_enable('lonely')"])
        .has(
            "warning",
            "retention-held",
            &[
                "\\\"forgotten\\\" (10 messages behind",
                "kB",
                "tide.drop_consumer_group('forgotten', 'kept')",
            ],
        )
        .has(
            "warning",
            "partition-rest-used",
            &["tide.maintain_outbox('rest')"],
        );
    // Two hours of silence: by its making, as it never committed.
    db.run("UPDATE tide.outbox SET retention = '1 day'; UPDATE tide.consumer_group SET created_at = now() - interval '2 hours'")
        .await;
    doctor(&db.url(), &[])
        .await
        .has("warning", "group-forgotten", &["made 2h ago", "10 messages"])
        .has_not("retention-held");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_tell_why_they_do_not_run() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "doctor_pipeline").await;
    db.create_outboxes(&["events"]).await;
    let subject = unique("doctor");
    for (pipeline, more) in [
        ("broken", "{}"),
        ("off", "{}"),
        ("retrying", "{\"create_stream\": false}"),
    ] {
        db.to_nats(pipeline, "events", &bed.nats, &subject, more).await;
    }
    doctor(&db.url(), &["--pipeline", "retrying"]).await.has(
        "problem",
        "pipeline-no-relay",
        &["pg-tide --relay-group-id default"],
    );
    // As somebody might write it by hand, past the checks of relay_set_outbox.
    db.run("UPDATE tide.pipeline SET config = config || '{\"subjekt\": 1}' WHERE name = 'broken'")
        .await;
    db.run("SELECT tide.relay_disable('off')").await;
    let _relay = Relay::start(&db).await;
    db.await_text(
        SOON,
        "SELECT state FROM tide.relay_pipeline_status WHERE pipeline = 'retrying'",
        "retrying",
    )
    .await;
    let said = doctor(&db.url(), &[]).await;
    said.has(
        "problem",
        "pipeline-misconfigured",
        &["unknown key", "subjekt", "subject"],
    )
    .has("warning", "pipeline-disabled", &["tide.relay_enable('off')"])
    .has(
        "problem",
        "pipeline-retrying",
        &["no stream takes the subject", &subject],
    );
    doctor(&db.url(), &["--pipeline", "retrying"]).await.has(
        "problem",
        "nats-stream-missing",
        &["nats stream add"],
    );
    let output = run_pg_tide(&["doctor", "--postgres-url", &db.url(), "--pipeline", "nobody"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no pipeline \"nobody\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_here_is_a_warning() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "doctor_secret").await;
    db.create_outboxes(&["events"]).await;
    let more = "{\"security_protocol\": \"ssl\", \"tls_ca\": \"${file:/run/no-such-secret}\"}";
    db.to_kafka("p", "events", &bed.kafka, "t", more).await;
    doctor(&db.url(), &["--pipeline", "p"]).await.has(
        "warning",
        "secret-unreadable",
        &["/run/no-such-secret", "where a relay runs"],
    );
}
