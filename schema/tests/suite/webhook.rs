//! Webhook pipelines: their options, and how requests are stored.

use crate::support::{Database, Session};

/// An inbox `i`, and the webhook pipeline `p` into it.
async fn webhook() -> (Database, Session) {
    let (database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i')").await;
    db.run("SELECT tide.relay_set_inbox('p', 'i', '{\"signature\": \"none\"}', p_source := 'webhook')")
        .await;
    (database, db)
}

const VERSION: &str = "SELECT xmin::text::bigint FROM tide.pipeline WHERE name = 'p'";

/// Stores requests with these ids; null where there is none.
fn write(version: i64, ids: &[&str]) -> String {
    let column = |value: &dyn Fn(usize) -> String| (0..ids.len()).map(value).collect::<Vec<_>>().join(",");
    format!(
        "SELECT inserted, duplicates FROM tide._webhook_write(1, {version}, ARRAY[{}]::text[], ARRAY[{}]::bytea[],
                ARRAY[{}], ARRAY[{}], ARRAY[{}])",
        ids.join(","),
        column(&|n| if ids[n] == "NULL" { format!("'\\x0{n}'") } else { "NULL".into() }),
        column(&|_| "'webhook:p'".into()),
        column(&|n| format!("'{{\"n\": {n}}}'")),
        column(&|_| "'{}'".into()),
    )
}

fn set_aside(version: i64, id: &str) -> String {
    format!(
        "SELECT tide._webhook_dead_letter(1, {version}, {id}, 'webhook:p', '\\x00ff', '{{\"h\": \"1\"}}', 'no JSON')"
    )
}

#[tokio::test]
async fn wrong_options_are_named_and_no_secret_is_shown() {
    let (_database, db) = Database::installed().await;
    db.run("SELECT tide.inbox_create('i')").await;
    let set =
        |config: &str| format!("SELECT tide.relay_set_inbox('p', 'i', '{config}', p_source := 'webhook')");
    for (config, texts) in [
        (
            r"{}",
            &[
                "\"signing_secret\" is missing",
                "\"signature\": \"none\"",
                "${file:/absolute/path}",
            ][..],
        ),
        (
            r#"{"signing_secret": "whsec_hunter2"}"#,
            &["\"signing_secret\"", "must be a reference"],
        ),
        (
            r#"{"signing_secret": ["${file:/k}", "hunter2"]}"#,
            &["\"signing_secret\"", "must be a reference"],
        ),
        (
            r#"{"signing_secret": [{"hunter2": 1}]}"#,
            &["\"signing_secret\"", "must be a reference"],
        ),
        (r#"{"signing_secret": []}"#, &["\"signing_secret\"", "empty list"]),
        (
            r#"{"signing_secret": "${file:/k}", "signature": "none"}"#,
            &["\"signing_secret\"", "no meaning"],
        ),
        (
            r#"{"signature": "none", "tolerance": "1m"}"#,
            &["\"tolerance\"", "no meaning"],
        ),
        (
            r#"{"signature": "hmac"}"#,
            &["\"signature\"", "\"standard\", \"none\""],
        ),
        (
            r#"{"signing_secret": "${env:K}", "message_id_header": "X-Id"}"#,
            &["\"message_id_header\"", "signed requests", "webhook-id"],
        ),
        (
            r#"{"signing_secret": "${env:K}", "dedup_key": "a.b"}"#,
            &["\"dedup_key\"", "signed requests"],
        ),
        (
            r#"{"signature": "none", "max_body_bytes": 0}"#,
            &["\"max_body_bytes\"", "whole number from 1"],
        ),
        (
            r#"{"signature": "none", "max_body_byte": 5}"#,
            &["Did you mean \"max_body_bytes\"?"],
        ),
        (r#"{"signature": "none", "url": "x"}"#, &["unknown key \"url\""]),
    ] {
        let error = db.error(&set(config)).await;
        assert!(!format!("{} {:?}", error.message(), error.hint()).contains("hunter2"));
        db.refuses(&set(config), "22023", texts).await;
    }
    for config in [
        r#"{"signing_secret": "${file:/run/secrets/key}"}"#,
        r#"{"signing_secret": ["${file:/a}", "${env:OLD}"], "signature": "standard", "tolerance": "30s",
            "max_body_bytes": 65536, "max_in_flight": 10, "timeout": "5s", "filter": {"payload.type": "paid"}}"#,
        r#"{"signature": "none", "message_id_header": "X-Id", "dedup_key": "payload.id", "retry": {"max": "1s"}}"#,
    ] {
        db.run(&set(config)).await;
    }
}

#[tokio::test]
async fn requests_are_stored_once_and_counted() {
    let (_database, db) = webhook().await;
    let version = db.number(VERSION).await;
    assert_eq!(db.row(&write(version, &["'a'", "NULL", "'a'"])).await, "2|1");
    assert_eq!(db.row(&write(version, &["'b'", "'a'"])).await, "1|1");
    let rows = "SELECT string_agg(event_id, ',' ORDER BY id), min(source) FROM tide.i_inbox";
    assert_eq!(db.row(rows).await, "a,i:webhook:seq-1,b|webhook:p");

    assert_eq!(db.row(&set_aside(version, "'c'")).await, "t");
    assert_eq!(db.row(&set_aside(version, "'c'")).await, "f");
    assert_eq!(db.row(&set_aside(version, "NULL")).await, "t");
    db.run("SELECT tide.relay_dlq_resolve(1)").await;
    assert_eq!(db.row(&set_aside(version, "'c'")).await, "t");
    let counts = "SELECT messages, duplicates, dead_letters FROM tide.webhook_counter";
    assert_eq!(db.row(counts).await, "3|3|3");
    let letter = "SELECT pipeline, direction, event_id, source, encode(body, 'hex'), headers, error FROM tide.relay_dlq_list('p') LIMIT 1";
    assert_eq!(
        db.row(letter).await,
        "p|reverse|-|webhook:p|00ff|{\"h\": \"1\"}|no JSON"
    );
    // The counts go with the pipeline.
    db.run("SELECT tide.relay_delete('p')").await;
    assert_eq!(db.number("SELECT count(*) FROM tide.webhook_counter").await, 0);
}

#[tokio::test]
async fn a_pipeline_that_is_not_what_it_was_takes_nothing() {
    let (_database, db) = webhook().await;
    let mut version = db.number(VERSION).await;
    db.row(&write(version, &["'a'"])).await;
    for change in [
        "SELECT tide.relay_disable('p')",
        "SELECT tide.relay_enable('p')",
        "UPDATE tide.pipeline SET name = 'q'",
        "UPDATE tide.pipeline SET name = 'p'",
        "SELECT tide.relay_set_inbox('p', 'i', '{\"signature\": \"none\", \"timeout\": \"1s\"}', p_source := 'webhook')",
    ] {
        db.run(change).await;
        for sql in [write(version, &["'b'"]), set_aside(version, "'b'")] {
            assert_eq!(db.error(&sql).await.code().code(), "TD006", "{change}");
        }
        version = db.number("SELECT xmin::text::bigint FROM tide.pipeline").await;
    }
    db.row(&write(version, &["'c'"])).await;
    db.run("SELECT tide.relay_disable('p')").await;
    version = db.number(VERSION).await;
    assert_eq!(
        db.error(&write(version, &["'d'"])).await.code().code(),
        "TD006",
        "disabled, whatever the version"
    );
    db.run("SELECT tide.relay_delete('p')").await;
    assert_eq!(db.error(&write(version, &["'d'"])).await.code().code(), "TD006");
    let ids = "SELECT string_agg(event_id, ',' ORDER BY id) FROM tide.i_inbox";
    assert_eq!(db.row(ids).await, "a,c");
}

/// Both ways: who changes waits for who stores, and who stores sees the change.
#[tokio::test]
async fn changing_and_storing_wait_for_each_other() {
    let (database, db) = webhook().await;
    let version = db.number(VERSION).await;
    let other = database.session().await;
    other.run("SET lock_timeout = '200ms'").await;

    db.run("BEGIN").await;
    db.row(&write(version, &["'a'"])).await;
    let error = other.error("SELECT tide.relay_disable('p')").await;
    assert_eq!(error.code().code(), "55P03", "it waits for the lock");
    db.run("COMMIT").await;

    other.run("BEGIN; SELECT tide.relay_disable('p')").await;
    let storing = async {
        let error = db.error(&write(version, &["'b'"])).await;
        assert_eq!(error.code().code(), "TD006");
    };
    let committing = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'";
        let mut looks = 0;
        while other.number(waits).await == 0 {
            looks += 1;
            assert!(looks < 20_000, "nobody waits for the row");
        }
        other.run("COMMIT").await;
    };
    tokio::join!(storing, committing);
    assert_eq!(db.number("SELECT count(*) FROM tide.i_inbox").await, 1);
}

/// What a relay may do, it may do with the rights of its role alone.
#[tokio::test]
async fn the_relays_role_may_store_and_no_other() {
    let (database, db) = webhook().await;
    let version = db.number(VERSION).await;
    let relay = database.role("IN ROLE tide_relay").await;
    let session = database.session_of(&relay).await;
    assert_eq!(session.row(&write(version, &["'a'"])).await, "1|0");
    assert_eq!(session.row(&set_aside(version, "'b'")).await, "t");
    let forbidden = async |session: &Session, sql: &str| {
        assert_eq!(session.error(sql).await.code().code(), "42501", "{sql}");
    };
    forbidden(&session, "UPDATE tide.pipeline SET enabled = false").await;
    let reader = database.role("IN ROLE tide_reader").await;
    let session = database.session_of(&reader).await;
    forbidden(&session, &write(version, &["'c'"])).await;
    forbidden(&session, &format!("SELECT tide._webhook_fence(1, {version})")).await;
}
