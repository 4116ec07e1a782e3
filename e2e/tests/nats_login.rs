//! Every way of logging in to NATS, and TLS, carried end to end: from an
//! outbox to a subject, and from that subject to an inbox.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use nkeys::KeyPair;
use pg_tide_e2e::certs::Authority;
use pg_tide_e2e::nats_auth::Operator;
use pg_tide_e2e::{Bed, Database, OwnBed, Relay, SecretFiles, unique};

const SOON: Duration = Duration::from_secs(15);

/// Messages go out and come back with these options of the connection.
async fn goes_there_and_back(stem: &str, url: &str, options: &str) {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    let subject = unique(stem);
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db.to_nats("out", "events", url, &subject, options).await;
    db.from_nats("back", "calls", url, &subject, options, "").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 20, 1).await;
    db.await_text(
        SOON,
        "SELECT accepted, duplicates FROM tide.inbox_summary",
        "20|0",
    )
    .await;
    relay.await_healthy(SOON, "out", 1).await;
    relay.await_healthy(SOON, "back", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password() {
    let own = OwnBed::nats(
        "nats-user",
        "authorization { users = [ {user: shop, password: 'pass word $1'} ] }",
    )
    .await;
    let secrets = SecretFiles::mount(&[("password", "pass word $1\n"), ("user", "shop")]);
    let options = format!(
        r#"{{"user": "{}", "password": "{}"}}"#,
        secrets.reference("user"),
        secrets.reference("password")
    );
    goes_there_and_back("nats_user", &own.addresses.nats, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token() {
    let own = OwnBed::nats("nats-token", "authorization { token: 's3cr3t' }").await;
    let secrets = SecretFiles::mount(&[("token", "s3cr3t")]);
    let options = format!(r#"{{"token": "{}"}}"#, secrets.reference("token"));
    goes_there_and_back("nats_token", &own.addresses.nats, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey() {
    let key = KeyPair::new_user();
    let config = format!("authorization {{ users = [ {{nkey: {}}} ] }}", key.public_key());
    let own = OwnBed::nats("nats-nkey", &config).await;
    let secrets = SecretFiles::mount(&[("seed", &key.seed().unwrap())]);
    let options = format!(r#"{{"nkey": "{}"}}"#, secrets.reference("seed"));
    goes_there_and_back("nats_nkey", &own.addresses.nats, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials() {
    let operator = Operator::new();
    let own = OwnBed::nats("nats-creds", &operator.server_config()).await;
    let secrets = SecretFiles::mount(&[("user.creds", &operator.credentials("relay", None).0)]);
    let options = format!(r#"{{"credentials": "{}"}}"#, secrets.reference("user.creds"));
    goes_there_and_back("nats_creds", &own.addresses.nats, &options).await;
}

/// A folder of certificates: an authority and a server for localhost.
fn certificates(stem: &str) -> (Authority, std::path::PathBuf) {
    let folder = std::env::temp_dir().join(unique(stem));
    (Authority::new(&folder, "ca"), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_ones_own() {
    let (authority, folder) = certificates("nats_tls");
    let certificate = authority.issue("server", &["localhost"]);
    let tls = format!(
        "cert_file: '{}', key_file: '{}'",
        certificate.cert.display(),
        certificate.key.display()
    );
    let own = OwnBed::nats("nats-tls", &format!("tls {{ {tls} }}")).await;
    let port = own.addresses.nats.rsplit_once(':').unwrap().1;
    let options = format!(r#"{{"tls_ca": "${{file:{}}}"}}"#, authority.ca.display());
    for url in [
        // A server that wants TLS gets it, whatever the address says.
        format!("nats://localhost:{port}"),
        format!("tls://localhost:{port}"),
        // The first of several that answers.
        format!("nats://127.0.0.1:1,nats://localhost:{port}"),
    ] {
        goes_there_and_back("nats_tls", &url, &options).await;
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_before_the_greeting() {
    let (authority, folder) = certificates("nats_tls_first");
    let certificate = authority.issue("server", &["127.0.0.1"]);
    let tls = format!(
        "cert_file: '{}', key_file: '{}', handshake_first: true",
        certificate.cert.display(),
        certificate.key.display()
    );
    let own = OwnBed::nats("nats-tls-first", &format!("tls {{ {tls} }}")).await;
    // The certificate itself stands in the configuration.
    let ca = std::fs::read_to_string(&authority.ca).unwrap();
    let options = format!(
        r#"{{"tls_ca": "{}", "tls_first": true}}"#,
        ca.replace('\n', "\\n")
    );
    goes_there_and_back("nats_tls_first", &own.addresses.nats, &options).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_with_the_certificates_name_as_the_user() {
    let (authority, folder) = certificates("nats_mtls");
    let certificate = authority.issue("server", &["localhost"]);
    let client = authority.issue("shop", &[]);
    let config = format!(
        "tls {{ cert_file: '{}', key_file: '{}', ca_file: '{}', verify_and_map: true }}\n\
         authorization {{ users = [ {{user: 'CN=shop'}} ] }}",
        certificate.cert.display(),
        certificate.key.display(),
        authority.ca.display()
    );
    let own = OwnBed::nats("nats-mtls", &config).await;
    let url = own.addresses.nats.replace("127.0.0.1", "localhost");
    let options = format!(
        r#"{{"tls_ca": "${{file:{}}}", "tls_cert": "${{file:{}}}", "tls_key": "${{file:{}}}"}}"#,
        authority.ca.display(),
        client.cert.display(),
        client.key.display()
    );
    goes_there_and_back("nats_mtls", &url, &options).await;
    std::fs::remove_dir_all(folder).unwrap();
}
