//! What NATS refuses becomes the pipeline's error within seconds, in words
//! that say which cause it is and what to do, and never the secret.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use nkeys::KeyPair;
use pg_tide_e2e::certs::{Authority, Certificate};
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::nats_auth::Operator;
use pg_tide_e2e::{Bed, Database, OwnBed, Relay, SecretFiles, await_condition, unique};

const SOON: Duration = Duration::from_secs(15);
/// A refusal is known by then.
const WITHIN: Duration = Duration::from_secs(8);

/// A database with an outbox and an inbox.
async fn database(stem: &str) -> Database {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db
}

/// Both directions with these options fail with these words, in the status as
/// in the log, and `secret` is in neither.
async fn both_fail(url: &str, options: &str, words: &[&str], secret: &str) {
    let db = database("nats_refused").await;
    let subject = unique("refused");
    db.to_nats("out", "events", url, &subject, options).await;
    db.from_nats("back", "calls", url, &subject, options, "").await;
    let relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    for pipeline in ["out", "back"] {
        let error = db.await_error(WITHIN, pipeline, words).await;
        println!("{error}");
        assert!(!error.contains(secret), "{error}");
        relay.await_log(SOON, words).await;
    }
    assert!(!relay.log().contains(secret), "the log has the secret");
}

fn referring(options: &[(&str, String)]) -> String {
    let map: serde_json::Map<String, serde_json::Value> = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone().into()))
        .collect();
    serde_json::Value::from(map).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_token_or_none_at_all() {
    let own = OwnBed::nats(
        "refused-user",
        "authorization { users = [ {user: shop, password: right} ] }",
    )
    .await;
    let url = &own.addresses.nats;
    let secrets = SecretFiles::mount(&[("wrong", "wr0ng-secret"), ("empty", "\n")]);
    let wrong = secrets.reference("wrong");
    let options = referring(&[("user", "shop".into()), ("password", wrong.clone())]);
    let words = ["refuses the user \"shop\" or its password"];
    both_fail(url, &options, &words, "wr0ng-secret").await;
    let options = referring(&[("token", wrong.clone())]);
    both_fail(url, &options, &["refuses the token"], "wr0ng-secret").await;
    let words = ["wants a login", "set \"user\" and \"password\""];
    both_fail(url, "{}", &words, "wr0ng-secret").await;
    let options = referring(&[("user", "shop".into()), ("password", secrets.reference("absent"))]);
    let words = ["\"password\"", "cannot read the secret file", "absent"];
    both_fail(url, &options, &words, "wr0ng-secret").await;
    let options = referring(&[("nkey", wrong)]);
    let words = ["\"nkey\"", "holds no seed of a user's key"];
    both_fail(url, &options, &words, "wr0ng-secret").await;
    let options = referring(&[("token", secrets.reference("empty"))]);
    both_fail(url, &options, &["\"token\"", "is empty"], "wr0ng-secret").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_nkey() {
    let known = KeyPair::new_user();
    let config = format!("authorization {{ users = [ {{nkey: {}}} ] }}", known.public_key());
    let own = OwnBed::nats("refused-nkey", &config).await;
    let other = KeyPair::new_user();
    let seed = other.seed().unwrap();
    let secrets = SecretFiles::mount(&[("seed", &seed)]);
    let options = referring(&[("nkey", secrets.reference("seed"))]);
    let public = other.public_key();
    let words = ["does not know the nkey", public.as_str()];
    both_fail(&own.addresses.nats, &options, &words, &seed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_another_operator_or_expired_or_none() {
    let operator = Operator::new();
    let own = OwnBed::nats("refused-creds", &operator.server_config()).await;
    let url = &own.addresses.nats;
    let (foreign, public) = Operator::new().credentials("stranger", None);
    let (expired, _) = operator.credentials("late", Some(Duration::ZERO));
    let secrets = SecretFiles::mount(&[
        ("foreign", &foreign),
        ("expired", &expired),
        ("torn", &expired[..200]),
    ]);
    let seed = |creds: &str| creds.lines().find(|l| l.starts_with("SU")).unwrap().to_owned();
    for (name, words, secret) in [
        (
            "foreign",
            vec!["refuses the credentials of user \"stranger\"", public.as_str()],
            seed(&foreign),
        ),
        (
            "expired",
            vec!["refuses the credentials of user \"late\"", "they expired"],
            seed(&expired),
        ),
        (
            "torn",
            vec!["\"credentials\"", "is not the content of a .creds file"],
            expired[50..150].to_owned(),
        ),
    ] {
        let options = referring(&[("credentials", secrets.reference(name))]);
        both_fail(url, &options, &words, &secret).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_while_in_use() {
    let operator = Operator::new();
    let own = OwnBed::nats("refused-expiry", &operator.server_config()).await;
    let lifetime = Duration::from_secs(6);
    let secrets = SecretFiles::mount(&[("creds", &operator.credentials("brief", Some(lifetime)).0)]);
    let db = database("nats_expiry").await;
    let subject = unique("expiry");
    let options = referring(&[("credentials", secrets.reference("creds"))]);
    db.to_nats("out", "events", &own.addresses.nats, &subject, &options)
        .await;
    let relay = Relay::start(&db).await;
    db.await_running(SOON, "out").await;
    relay.await_log(SOON, &["the credentials have expired"]).await;
    db.await_error(SOON, "out", &["refuses the credentials", "they expired"])
        .await;
    secrets.replace(&[("creds", &operator.credentials("brief", None).0)]);
    db.publish_number("events", 1).await;
    db.await_delivered(SOON).await;
}

/// A server with TLS for this host, and the files of its authority.
async fn tls_server(stem: &str, host: &str, more: &str) -> (OwnBed, Authority, Certificate, PathBuf) {
    let folder = std::env::temp_dir().join(unique("refused_tls"));
    let authority = Authority::new(&folder, "ca");
    let certificate = authority.issue("server", &[host]);
    let config = format!(
        "tls {{ cert_file: '{}', key_file: '{}', ca_file: '{}' {more} }}",
        certificate.cert.display(),
        certificate.key.display(),
        authority.ca.display(),
    );
    (OwnBed::nats(stem, &config).await, authority, certificate, folder)
}

fn file(path: &std::path::Path) -> String {
    format!("${{file:{}}}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_the_wrong_authority_or_host_name_or_none() {
    let (own, authority, _, folder) = tls_server("refused-tls", "nats.example", "").await;
    let url = own.addresses.nats.replace("127.0.0.1", "localhost");
    let other = Authority::new(&folder, "other");
    let wrong = referring(&[("tls_ca", file(&other.ca))]);
    let words = ["not signed by the authority in \"tls_ca\" (wrong CA)"];
    both_fail(&url, &wrong, &words, "PRIVATE").await;
    let words = ["no authority that the system trusts", "set \"tls_ca\""];
    both_fail(&url, "{}", &words, "PRIVATE").await;
    let right = referring(&[("tls_ca", file(&authority.ca))]);
    let words = [
        "not for the host name \"localhost\" (wrong host name)",
        "nats.example",
    ];
    both_fail(&url, &right, &words, "PRIVATE").await;
    let shared = &Bed::from_env().nats;
    let words = ["the server does not speak TLS"];
    both_fail(shared, r#"{"tls_required": true}"#, &words, "PRIVATE").await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_foreign_client_certificate() {
    let (own, authority, certificate, folder) =
        tls_server("refused-mtls", "localhost", ", verify: true").await;
    let url = own.addresses.nats.replace("127.0.0.1", "localhost");
    let ca = ("tls_ca", file(&authority.ca));
    let words = ["demands a client certificate", "\"tls_cert\" and \"tls_key\""];
    both_fail(&url, &referring(std::slice::from_ref(&ca)), &words, "PRIVATE").await;

    let foreign = Authority::new(&folder, "foreign").issue("stranger", &[]);
    let options = referring(&[
        ca.clone(),
        ("tls_cert", file(&foreign.cert)),
        ("tls_key", file(&foreign.key)),
    ]);
    let words = ["does not accept the client certificate in \"tls_cert\""];
    both_fail(&url, &options, &words, "PRIVATE").await;

    let options = referring(&[
        ca,
        ("tls_cert", file(&certificate.cert)),
        ("tls_key", file(&foreign.key)),
    ]);
    let words = ["\"tls_key\"", "is not the key of the certificate"];
    both_fail(&url, &options, &words, "PRIVATE").await;
    std::fs::remove_dir_all(folder).unwrap();
}

const RIGHTS: &str = "
accounts {
  APP { jetstream: enabled
    users = [
      { user: admin, password: pw }
      { user: nopub, password: pw, permissions { publish { deny: ['closed.>'] } } }
      { user: nosub, password: pw, permissions { subscribe { deny: ['closed.>'] } } }
      { user: noapi, password: pw, permissions { publish { deny: ['$JS.API.>'] } } }
      { user: noack, password: pw, permissions { publish { deny: ['$JS.ACK.>'] } } }
      { user: noinbox, password: pw, permissions { subscribe { deny: ['_INBOX.>'] } } }
      { user: noconsume, password: pw, permissions { publish { deny: ['$JS.API.CONSUMER.>'] } } }
      { user: sink, password: pw, permissions {
          publish: ['open.a', '$JS.API.STREAM.INFO.OPEN', '$JS.API.CONSUMER.CREATE.OPEN', '$JS.API.CONSUMER.MSG.NEXT.OPEN.*']
          subscribe: ['_INBOX_least.>'] } }
      { user: source, password: pw, permissions {
          publish: ['$JS.API.STREAM.INFO.OPEN', '$JS.API.CONSUMER.INFO.OPEN.reader',
                    '$JS.API.CONSUMER.CREATE.OPEN.reader.>', '$JS.API.CONSUMER.MSG.NEXT.OPEN.reader',
                    '$JS.ACK.OPEN.reader.>']
          subscribe: ['_INBOX_least.>'] } }
    ] }
  BARE { users = [ { user: bare, password: pw } ] }
}";

#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named() {
    let own = OwnBed::nats("refused-rights", RIGHTS).await;
    let url = &own.addresses.nats;
    let secrets = SecretFiles::mount(&[("password", "pw")]);
    let options_of =
        |user: &str| referring(&[("user", user.into()), ("password", secrets.reference("password"))]);
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "pw".into());
    let admin = Nats::connect_as(url, admin).await;
    admin.create_stream("CLOSED", "closed.>", |_| {}).await;
    admin.create_stream("OPEN", "open.>", |_| {}).await;

    let db = database("nats_rights").await;
    let _relay = Relay::start(&db).await;
    // Each alone: the outbox's message, or one in the stream, meets the barrier.
    let out = |name: &'static str| (name, true);
    let back = |name: &'static str| (name, false);
    for ((user, forward), words) in [
        (
            out("nopub"),
            "no permission to publish to \"closed.a\": add it to the user's permissions (publish)",
        ),
        (out("noapi"), "no permission to publish to \"$JS.API.INFO\""),
        (out("noinbox"), "no permission to subscribe to \"_INBOX."),
        (back("noapi"), "no permission to publish to \"$JS.API.INFO\""),
        (back("noinbox"), "allow the user to subscribe to \"_INBOX.>\""),
        (
            back("noconsume"),
            "no permission to publish to \"$JS.API.CONSUMER.INFO.CLOSED.",
        ),
        (back("noack"), "no permission to publish to \"$JS.ACK.CLOSED."),
    ] {
        let name = format!("{}_{user}", if forward { "out" } else { "back" });
        if forward {
            db.to_nats(&name, "events", url, "closed.a", &options_of(user))
                .await;
            db.publish_number("events", 1).await;
        } else {
            db.from_nats(&name, "calls", url, "closed.a", &options_of(user), "")
                .await;
            admin.publish("closed.a", r#"{"n": 1}"#).await;
        }
        let error = db.await_error(WITHIN, &name, &[words]).await;
        println!("{error}");
        db.run(&format!("SELECT tide.relay_delete('{name}')")).await;
    }
    // Plain subscriptions need another right.
    let options = options_of("nosub").replacen('{', r#"{"jetstream": false, "#, 1);
    db.from_nats("plain", "calls", url, "closed.a", &options, "")
        .await;
    let words = "no permission to subscribe to \"closed.a\": add it to the user's permissions (subscribe)";
    db.await_error(WITHIN, "plain", &[words]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_least_permissions_suffice() {
    let own = OwnBed::nats("refused-least", RIGHTS).await;
    let url = &own.addresses.nats;
    let secrets = SecretFiles::mount(&[("password", "pw")]);
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "pw".into());
    let admin = Nats::connect_as(url, admin).await;
    admin.create_stream("OPEN", "open.>", |_| {}).await;
    let db = database("nats_least").await;
    let mut relay = Relay::start(&db).await;
    let options = |user: &str| {
        vec![
            ("user", user.to_owned()),
            ("password", secrets.reference("password")),
            ("stream", "OPEN".into()),
            ("inbox_prefix", "_INBOX_least".into()),
        ]
    };
    db.to_nats("out", "events", url, "open.a", &referring(&options("sink")))
        .await;
    let mut reading = options("source");
    reading.push(("durable", "reader".into()));
    db.from_nats("back", "calls", url, "open.a", &referring(&reading), "")
        .await;
    db.publish_numbers("events", 1, 10, 1).await;
    db.await_text(
        SOON,
        "SELECT accepted, duplicates FROM tide.inbox_summary",
        "10|0",
    )
    .await;
    // After a crash in the middle the stream's end is read as well.
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(11, 4000) n")
        .await;
    await_condition(SOON, "some more messages", async || {
        (admin.count("OPEN").await > 300).then_some(())
    })
    .await;
    relay.kill();
    let relay = Relay::start(&db).await;
    db.await_text(SOON, "SELECT accepted FROM tide.inbox_summary", "4000")
        .await;
    assert_eq!(admin.count("OPEN").await, 4_000);
    relay
        .await_log(SOON, &["found messages in the log beyond the checkpoint"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_jetstream() {
    let own = OwnBed::nats("refused-bare", RIGHTS).await;
    let url = &own.addresses.nats;
    let secrets = SecretFiles::mount(&[("password", "pw")]);
    let options = referring(&[
        ("user", "bare".into()),
        ("password", secrets.reference("password")),
    ]);
    let db = database("nats_bare").await;
    db.to_nats("out", "events", url, "a.b", &options).await;
    db.from_nats("plain", "calls", url, "a.b", &options, "").await;
    let strict = options.replacen('{', r#"{"stream": "S", "#, 1);
    db.from_nats("strict", "calls", url, "a.b", &strict, "").await;
    let _relay = Relay::start(&db).await;
    for pipeline in ["out", "strict"] {
        let error = db.await_error(WITHIN, pipeline, &["JetStream", "account"]).await;
        println!("{error}");
    }
    // A source makes do with a plain subscription, and says so.
    let note = "SELECT coalesce(note LIKE '%at most once%', false) FROM tide.pipeline_status
                  JOIN tide.pipeline USING (pipeline_id) WHERE name = 'plain'";
    db.await_text(SOON, note, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictions_are_refused_in_sql() {
    let db = database("nats_contradictions").await;
    let set = |options: &str| {
        format!(
            "SELECT tide.relay_set_outbox('p', 'events', 'nats', '{{\"url\": \"nats://h\", \"subject\": \"s\"}}'::jsonb || '{options}')"
        )
    };
    for (options, words) in [
        (
            r#"{"token": "${env:T}", "user": "bob"}"#,
            "keys \"token\" and \"user\" in the config of pipeline \"p\" exclude each other",
        ),
        (
            r#"{"user": "bob", "password": "${env:P}", "nkey": "${env:N}"}"#,
            "keys \"user\" and \"nkey\"",
        ),
        (r#"{"user": "bob"}"#, "key \"password\" is missing"),
        (r#"{"password": "${env:P}"}"#, "key \"user\" is missing"),
        (r#"{"tls_cert": "PEM"}"#, "key \"tls_key\" is missing"),
        (
            r#"{"url": "tls://h", "tls_required": false}"#,
            "is false, but \"url\" asks for TLS",
        ),
        (r#"{"url": "wss://h"}"#, "does not begin with nats:// or tls://"),
        (
            r#"{"url": "nats://bob:pw@h"}"#,
            "contains a user name or password",
        ),
        (r#"{"token": "t0ken"}"#, "must be a reference"),
        (r#"{"nkey": "SUxyz"}"#, "secrets are never kept in SQL"),
    ] {
        let refusal = db.refusal(&set(options)).await;
        assert!(refusal.contains(words), "{options}: {refusal}");
        assert!(
            !refusal.contains("t0ken") && !refusal.contains("SUxyz"),
            "{refusal}"
        );
        println!("{refusal}");
    }
    db.run(&set(r#"{"user": "bob", "password": "${env:P}", "token": null}"#))
        .await;
}
