//! A relay that cannot work with its database yet: it says why in log and
//! /readyz, tries again, and goes on by itself once it can.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::net::TcpListener;
use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, OwnBed, Pooler, Relay, RelayOptions, answer, get, run_pg_tide, unique};

const SOON: Duration = Duration::from_secs(15);

/// `/readyz` is 503 with all of these texts.
async fn await_unready(relay: &Relay, texts: &[&str]) {
    let mut last = String::new();
    let come = answer(SOON, async || {
        let (status, body) = get(relay.address(), "/readyz").await.ok()?;
        last = format!("{status}: {body}");
        (status == 503 && texts.iter().all(|t| body.contains(t))).then_some(())
    })
    .await;
    assert!(come.is_some(), "wanted 503 with {texts:?}, got {last}");
    assert_eq!(relay.page("/livez").await.0, 200);
}

async fn refusal(url: &str) -> String {
    let output = run_pg_tide(&["schema", "status", "--postgres-url", url]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn assert_has(refusal: &str, texts: &[&str]) {
    for text in texts {
        assert!(refusal.contains(text), "no \"{text}\" in: {refusal}");
    }
    assert!(!refusal.contains("hunter2"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_where_no_postgresql_is() {
    let said = refusal("postgres://u:hunter2@127.0.0.1:1/d").await;
    assert_has(
        &said,
        &["refused", "nobody listens there", "whether PostgreSQL runs"],
    );
    let said = refusal("postgres://u:hunter2@no-such-host.invalid/d").await;
    assert_has(
        &said,
        &[
            "the host \"no-such-host.invalid\" is not known",
            "check the host's name and the DNS",
        ],
    );
    // Of several, the one that came furthest.
    let said = refusal("postgres://u:hunter2@no-such-host.invalid,127.0.0.1:1/d").await;
    assert_has(&said, &["no-such-host.invalid:5432,127.0.0.1:1/d", "refused"]);

    // One that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let said = refusal(&format!(
        "postgres://u:hunter2@127.0.0.1:{port}/d?connect_timeout=1"
    ))
    .await;
    assert_has(
        &said,
        &[
            "no answer within 1 s",
            "the port takes connections, but nothing answers",
        ],
    );

    let bed = Bed::from_env();
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    for mode in ["prefer", "require"] {
        let url =
            |port: &str| format!("postgres://u:hunter2@127.0.0.1:{port}/d?connect_timeout=2&sslmode={mode}");
        // NATS greets, Kafka waits for the rest of what it takes for a request.
        let said = refusal(&url(&port(&bed.nats))).await;
        assert_has(
            &said,
            &[
                "does not speak PostgreSQL's protocol",
                "something that is not PostgreSQL",
            ],
        );
        let said = refusal(&url(&port(&bed.kafka))).await;
        assert_has(&said, &["no answer within 2 s", "check the port"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls() {
    let db = Database::fresh(&Bed::from_env().postgres, "no_tls").await;
    for mode in ["allow", "prefer", "disable"] {
        let url = format!("{}?sslmode={mode}", db.url());
        let output = run_pg_tide(&["schema", "status", "--postgres-url", &url]).await;
        assert!(output.status.success(), "{output:?}");
    }
    for mode in ["require", "verify-full"] {
        let url = format!("{}?sslmode={mode}", db.url());
        assert_has(
            &refusal(&url).await,
            &[
                &format!("the server does not support TLS, which sslmode={mode} requires"),
                "ssl = on",
            ],
        );
    }
    let relay = RelayOptions::for_url(&format!("{}?sslmode=require", db.url())).spawn();
    await_unready(&relay, &["does not support TLS", "sslmode=prefer"]).await;
    relay
        .await_log(SOON, &["does not support TLS", "retry_in_ms"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_be_right_ends_the_relay_at_once() {
    for (url, texts) in [
        (
            "postgres://u:hunter2@h/d?sslmod=require",
            &["did you mean sslmode?"][..],
        ),
        (
            "postgres://u:hunter2@h/d?sslmode=verify-ca",
            &["needs sslrootcert"],
        ),
        ("postgres://u:hunter2/x@h/d", &["%2F"]),
        ("host=h user=u password=my hunter2", &["single quotes"]),
    ] {
        let output = run_pg_tide(&["--postgres-url", url]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_has(&said, texts);
        assert_has(&said, &["PostgreSQL URL"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_keeps_the_relay_waiting_until_it_is_right() {
    let db = Database::fresh(&Bed::from_env().postgres, "later_right").await;
    let role = unique("late");
    db.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'other'; GRANT tide_relay TO {role}"
    ))
    .await;
    let url = db.url().replacen("tide:tide@", &format!("{role}:hunter2@"), 1);
    let mut relay = RelayOptions::for_url(&url).spawn();
    await_unready(
        &relay,
        &[
            "password authentication failed",
            &role,
            "check user name and password",
        ],
    )
    .await;
    db.run(&format!("ALTER ROLE {role} PASSWORD 'hunter2'")).await;
    relay.await_ready(SOON).await;
    assert!(!relay.log().contains("hunter2"));
    drop(relay);
    drop_role(&db, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_which_to_grant() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "rights").await;
    let (role, subject) = (unique("bare"), unique("rights"));
    db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'bare'")).await;
    db.create_outboxes(&["events"]).await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&subject, &subject, |_| {}).await;
    db.to_nats("out", "events", &bed.nats, &subject, "{}").await;
    db.publish_number("events", 1).await;

    let url = db.url().replacen("tide:tide@", &format!("{role}:bare@"), 1);
    let mut relay = RelayOptions::for_url(&url).spawn();
    await_unready(
        &relay,
        &[
            "may not use schema \"tide\"",
            &format!("GRANT tide_relay TO {role}"),
        ],
    )
    .await;
    // The first right alone, as somebody might who reads only half.
    db.run(&format!("GRANT USAGE ON SCHEMA tide TO {role}")).await;
    await_unready(
        &relay,
        &[
            "permission denied for table schema_version",
            "GRANT tide_relay TO",
        ],
    )
    .await;
    db.run(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA tide TO {role}"))
        .await;
    await_unready(
        &relay,
        &["permission denied for table relay_member", "GRANT tide_relay TO"],
    )
    .await;
    db.run(&format!("GRANT tide_relay TO {role}")).await;
    relay.await_ready(SOON).await;
    db.await_delivered(SOON).await;

    // A right that is taken away while it works.
    db.run("REVOKE UPDATE ON tide.group_cursor FROM tide_relay").await;
    db.publish_number("events", 2).await;
    relay
        .await_log(
            SOON,
            &["permission denied for table group_cursor", "GRANT tide_relay TO"],
        )
        .await;
    db.run("GRANT UPDATE ON tide.group_cursor TO tide_relay").await;
    db.await_delivered(SOON).await;
    drop(relay);
    db.run(&format!(
        "REVOKE ALL ON SCHEMA tide FROM {role}; REVOKE ALL ON ALL TABLES IN SCHEMA tide FROM {role}"
    ))
    .await;
    drop_role(&db, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused_until_it_is_the_primary() {
    let own = OwnBed::up("standby", &["postgres"], &[]).await;
    let db = Database::fresh(&own.addresses.postgres, "standby").await;
    own.stop("postgres").await;
    let signal = own.state.join("postgres/data/standby.signal");
    std::fs::write(&signal, "").unwrap();
    own.start("postgres").await;
    let mut relay = RelayOptions::for_url(&db.url()).spawn();
    await_unready(
        &relay,
        &[
            "this server is a standby, which takes no writes",
            "name the primary",
        ],
    )
    .await;
    let wanted = format!("{}?target_session_attrs=read-write", db.url());
    assert_has(&refusal(&wanted).await, &["takes no writes"]);
    own.stop("postgres").await;
    std::fs::remove_file(&signal).unwrap();
    own.start("postgres").await;
    relay.await_ready(SOON).await;
    // Of several servers the first that will do.
    let several = wanted.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1");
    let output = run_pg_tide(&["schema", "status", "--postgres-url", &several]).await;
    assert!(output.status.success(), "{output:?}");
}

async fn drop_role(db: &Database, role: &str) {
    db.run(&format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_will_do() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "pooler").await;
    let subject = unique("pooler");
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&subject, &subject, |_| {}).await;
    db.create_outboxes(&["events"]).await;
    db.to_nats("out", "events", &bed.nats, &subject, "{}").await;
    db.publish_numbers("events", 1, 20, 5).await;

    for (mode, text) in [
        ("transaction", "a pooler in transaction mode is in between"),
        (
            "statement",
            "transaction blocks not allowed in statement pooling mode",
        ),
    ] {
        let pooler = Pooler::start(&db, mode).await;
        let relay = RelayOptions::for_url(pooler.url()).spawn();
        await_unready(&relay, &[text, "pool_mode=session"]).await;
        relay.await_log(SOON, &[text, "retry_in_ms"]).await;
        assert_eq!(
            db.text("SELECT count(*) FROM tide.relay_member").await,
            "0",
            "it has joined"
        );
    }
    let pooler = Pooler::start(&db, "session").await;
    let mut relay = RelayOptions::for_url(pooler.url()).spawn();
    relay.await_ready(SOON).await;
    db.await_delivered(SOON).await;
    assert_eq!(nats.messages(&subject).await.len(), 20);
}
