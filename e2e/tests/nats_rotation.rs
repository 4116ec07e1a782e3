//! Changed secrets of a NATS connection are picked up without a restart, by
//! the swap of links with which Kubernetes changes a mounted Secret.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::certs::Authority;
use pg_tide_e2e::nats_auth::Operator;
use pg_tide_e2e::{Bed, Database, OwnBed, Relay, SecretFiles, await_condition, get, unique};

const SOON: Duration = Duration::from_secs(15);

async fn scene(stem: &str) -> (Database, String) {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    (db, unique(stem))
}

/// Waits until the server's clients are these users and no others.
async fn await_users(own: &OwnBed, users: &[&str]) {
    let monitor = own.addresses.nats_monitor.trim_start_matches("http://");
    let monitor = monitor.parse().unwrap();
    await_condition(SOON, &format!("connections of {users:?}"), async || {
        let (_, body) = get(monitor, "/connz?auth=1").await.ok()?;
        let connections: serde_json::Value = serde_json::from_str(&body).ok()?;
        let mut of: Vec<&str> = connections["connections"]
            .as_array()?
            .iter()
            .filter_map(|c| c["authorized_user"].as_str())
            .collect();
        of.sort_unstable();
        (of == users).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_used_while_messages_flow() {
    let own = OwnBed::nats(
        "rotate-password",
        "authorization { users = [ {user: one, password: first}, {user: two, password: second} ] }",
    )
    .await;
    let (db, subject) = scene("nats_rotate").await;
    let secrets = SecretFiles::mount(&[("user", "one"), ("password", "first")]);
    let options = format!(
        r#"{{"user": "{}", "password": "{}"}}"#,
        secrets.reference("user"),
        secrets.reference("password")
    );
    let url = &own.addresses.nats;
    db.to_nats("out", "events", url, &subject, &options).await;
    db.from_nats("back", "calls", url, &subject, &options, "").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 50, 1).await;
    await_users(&own, &["one", "one"]).await;
    let busy = db.publish_numbers("events", 51, 2_000, 1);
    let rotate = async {
        secrets.replace(&[("user", "two"), ("password", "second")]);
        await_users(&own, &["two", "two"]).await;
    };
    tokio::join!(busy, rotate);
    db.await_text(
        SOON,
        "SELECT accepted, duplicates FROM tide.inbox_summary",
        "2000|0",
    )
    .await;
    relay.await_log(SOON, &["secrets changed", "out"]).await;
    let retries = "SELECT sum(retries) FROM tide.pipeline_status";
    assert_eq!(db.text(retries).await, "0", "no attempt failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_password_ends_even_a_long_pause() {
    let own = OwnBed::nats(
        "rotate-pause",
        "authorization { users = [ {user: shop, password: right} ] }",
    )
    .await;
    let (db, subject) = scene("nats_pause").await;
    let secrets = SecretFiles::mount(&[("password", "wrong")]);
    let options = format!(
        r#"{{"user": "shop", "password": "{}", "retry": {{"initial": "60s", "max": "1h"}}}}"#,
        secrets.reference("password")
    );
    db.to_nats("out", "events", &own.addresses.nats, &subject, &options)
        .await;
    let _relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    db.await_error(SOON, "out", &["refuses the user \"shop\""]).await;
    secrets.replace(&[("password", "right")]);
    db.await_delivered(SOON).await;
    db.await_running(SOON, "out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_credentials_are_used() {
    let operator = Operator::new();
    let own = OwnBed::nats("rotate-creds", &operator.server_config()).await;
    let (first, first_user) = operator.credentials("first", None);
    let (second, second_user) = operator.credentials("second", None);
    let (db, subject) = scene("nats_creds").await;
    let secrets = SecretFiles::mount(&[("user.creds", &first)]);
    let options = format!(r#"{{"credentials": "{}"}}"#, secrets.reference("user.creds"));
    db.to_nats("out", "events", &own.addresses.nats, &subject, &options)
        .await;
    let _relay = Relay::start(&db).await;
    await_users(&own, &[&first_user]).await;
    secrets.replace(&[("user.creds", &second)]);
    await_users(&own, &[&second_user]).await;
    db.publish_number("events", 1).await;
    db.await_delivered(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_authority_is_trusted() {
    let folder = std::env::temp_dir().join(unique("rotate_ca"));
    let (old, new) = (Authority::new(&folder, "old"), Authority::new(&folder, "new"));
    let config = |authority: &Authority, name: &str| {
        let certificate = authority.issue(name, &["localhost"]);
        format!(
            "tls {{ cert_file: '{}', key_file: '{}' }}",
            certificate.cert.display(),
            certificate.key.display()
        )
    };
    let text = |authority: &Authority| std::fs::read_to_string(&authority.ca).unwrap();
    let own = OwnBed::nats("rotate-ca", &config(&old, "before")).await;
    let url = own.addresses.nats.replace("127.0.0.1", "localhost");
    let (db, subject) = scene("nats_ca").await;
    let secrets = SecretFiles::mount(&[("ca.crt", &text(&old))]);
    let options = format!(r#"{{"tls_ca": "{}"}}"#, secrets.reference("ca.crt"));
    db.to_nats("out", "events", &url, &subject, &options).await;
    let _relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    db.await_delivered(SOON).await;
    own.restart_nats(&config(&new, "after")).await;
    db.await_error(SOON, "out", &["wrong CA"]).await;
    secrets.replace(&[("ca.crt", &text(&new))]);
    db.publish_number("events", 2).await;
    db.await_delivered(SOON).await;
    db.await_running(SOON, "out").await;
    std::fs::remove_dir_all(folder).unwrap();
}
