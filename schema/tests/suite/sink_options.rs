//! Options of the sinks `inbox`, `webhook` and `stdout`: what is refused, and
//! that no secret is shown.

use crate::support::Database;

#[tokio::test]
async fn wrong_options_of_the_sinks_are_named() {
    let (_database, db) = Database::installed().await;
    db.run("SELECT tide.outbox_create('o')").await;
    for (sink, config, texts) in [
        ("inbox", r"{}", &["\"inbox\" is missing"][..]),
        (
            "inbox",
            r#"{"inbox": "i", "password": "hunter2"}"#,
            &["\"password\"", "must be a reference"],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "password": "${env:P}"}"#,
            &["\"url\" is missing", "\"user\" and \"password\""],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "url": "postgres://u:hunter2@h/d"}"#,
            &["\"url\"", "contains a password"],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "url": "host=h password=hunter2"}"#,
            &["\"url\"", "contains a password"],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "url": "http://h/d"}"#,
            &["\"url\"", "no address of a PostgreSQL database"],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "delivery": "at-least-once"}"#,
            &["\"delivery\"", "exactly-once"],
        ),
        (
            "inbox",
            r#"{"inbox": "i", "topic": "t"}"#,
            &["unknown key \"topic\""],
        ),
        (
            "stdout",
            r#"{"delivery": "exactly-once"}"#,
            &["\"delivery\"", "at-least-once"],
        ),
        ("stdou", r"{}", &["Did you mean \"stdout\"?"]),
        (
            "stdout",
            r#"{"encoding": "cloudevents-binary"}"#,
            &["\"encoding\"", "headers of each message's own"],
        ),
        ("webhook", r"{}", &["\"url\" is missing"]),
        ("webhook", r#"{"url": "ftp://h/"}"#, &["must begin with https://"]),
        (
            "webhook",
            r#"{"url": "https://u:hunter2@h/"}"#,
            &["user name or password", "Authorization"],
        ),
        (
            "webhook",
            r#"{"url": "https://{host}/"}"#,
            &["placeholders after the host only"],
        ),
        ("webhook", r#"{"url": "https://h/{x"}"#, &["unbalanced braces"]),
        (
            "webhook",
            r#"{"url": "https://h/", "signing_secret": "whsec_hunter2"}"#,
            &["\"signing_secret\"", "must be a reference"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "headers": {"Authorization": "Bearer hunter2"}}"#,
            &["\"headers.Authorization\"", "must be a reference"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "headers": {"Webhook-Id": "1"}}"#,
            &["is set by pg-tide itself"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "headers": {"a b": "1"}}"#,
            &["no name of an HTTP header"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "concurrency": 4}"#,
            &["needs \"key\""],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "tls_cert": "${file:/c}"}"#,
            &["\"tls_key\" is missing"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "mode": "batch", "encoding": "cloudevents-binary"}"#,
            &["\"encoding\"", "headers of each message's own"],
        ),
        (
            "webhook",
            r#"{"url": "https://h/", "timeout": "1h"}"#,
            &["\"timeout\"", "duration"],
        ),
    ] {
        let sql = format!("SELECT tide.relay_set_outbox('p', 'o', '{sink}', '{config}')");
        let error = db.error(&sql).await;
        assert!(!format!("{} {:?}", error.message(), error.hint()).contains("hunter2"));
        db.refuses(&sql, "22023", texts).await;
    }
    for (sink, config) in [
        ("inbox", r#"{"inbox": "i"}"#),
        ("inbox", r#"{"inbox": "i", "url": "${file:/run/secrets/uri}"}"#),
        (
            "inbox",
            r#"{"inbox": "i", "url": "postgres://h1:1,h2:2/d", "user": "u", "password": "${env:P}", "origin": "a", "skip_if_passed": ["b", "c"], "message_id_header": "id"}"#,
        ),
        ("stdout", r#"{"retry": {"max": "1m"}, "encoding": "cloudevents"}"#),
        ("webhook", r#"{"url": "${env:HOOK}", "mode": "batch"}"#),
        (
            "webhook",
            r#"{"url": "https://[::1]:8443/{event_type}?id={id}", "key": "{id}", "concurrency": 4, "encoding": "cloudevents-binary",
                "headers": {"Authorization": "${file:/run/a b..}", "X-Source": "shop {1"}, "signing_secret": "${env:S}"}"#,
        ),
    ] {
        db.run(&format!(
            "SELECT tide.relay_set_outbox('p', 'o', '{sink}', '{config}')"
        ))
        .await;
    }
}

/// What is to be run by hand in the other database is left out.
#[tokio::test]
async fn the_pipelines_of_the_guides_can_be_set_as_they_stand() {
    let (_database, db) = Database::installed().await;
    db.run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_create('customers')")
        .await;
    for guide in [
        include_str!("../../../docs/guide/sink-inbox.md"),
        include_str!("../../../docs/guide/sink-stdout.md"),
        include_str!("../../../docs/guide/sink-webhook.md"),
    ] {
        let blocks = guide
            .split("```sql\n")
            .skip(1)
            .filter_map(|b| b.split("```").next());
        for sql in blocks.filter(|sql| sql.contains("relay_set_outbox")) {
            db.run(sql).await;
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM tide.pipeline").await, 5);
}
