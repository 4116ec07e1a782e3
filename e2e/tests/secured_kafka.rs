//! Kafka brokers that want TLS, certificates, passwords, tokens and rights:
//! each way in works, and each way that does not says why.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pg_tide_e2e::doctor::doctor;
use pg_tide_e2e::kafka::{self, values};
use pg_tide_e2e::{Bed, Database, Listener, Relay, SecuredKafka, assert_each_once, reference, unique};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A database with the outbox `events`, and the secured broker.
async fn scene(stem: &str) -> (Arc<SecuredKafka>, Database) {
    let kafka = SecuredKafka::shared().await;
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    (kafka, db)
}

fn tls(kafka: &SecuredKafka) -> Value {
    json!({"security_protocol": "ssl", "tls_ca": reference(&kafka.ca)})
}

/// Options of a login by password.
fn login(kafka: &SecuredKafka, protocol: &str, mechanism: &str, user: &str, password: &str) -> Value {
    let mut options = json!({
        "security_protocol": protocol, "sasl_mechanism": mechanism,
        "sasl_username": user, "sasl_password": kafka.secret(password),
    });
    if protocol == "sasl_ssl" {
        options["tls_ca"] = reference(&kafka.ca).into();
    }
    options
}

fn oauth(kafka: &SecuredKafka, secret: &str) -> Value {
    json!({
        "security_protocol": "sasl_ssl", "tls_ca": reference(&kafka.ca), "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_url": kafka.tokens.token_url(), "sasl_oauth_client_id": "relay-client",
        "sasl_oauth_client_secret": kafka.secret(secret),
    })
}

fn with(mut options: Value, more: &Value) -> Value {
    let object = options.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_delivers() {
    let (kafka, db) = scene("kafka_ways").await;
    let password = SecuredKafka::PASSWORD;
    let alice = json!({"tls_cert": reference(&kafka.alice.cert), "tls_key": reference(&kafka.alice.key)});
    let encrypted = json!({
        "tls_cert": reference(&kafka.alice.cert), "tls_key": reference(&encrypt(&kafka, &kafka.alice.key)),
        "tls_key_password": kafka.secret(SecuredKafka::PASSWORD),
    });
    let mut ways = vec![
        (
            "encrypted key",
            Listener::MutualTls,
            with(tls(&kafka), &encrypted),
        ),
        ("tls", Listener::Tls, tls(&kafka)),
        ("mutual", Listener::MutualTls, with(tls(&kafka), &alice)),
        (
            "token",
            Listener::SaslTls,
            oauth(&kafka, SecuredKafka::CLIENT_SECRET),
        ),
    ];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (listener, protocol) in [
            (Listener::Sasl, "sasl_plaintext"),
            (Listener::SaslTls, "sasl_ssl"),
        ] {
            let options = login(&kafka, protocol, mechanism, "alice", password);
            ways.push((mechanism, listener, options));
        }
    }
    let mut topics = Vec::new();
    for (way, listener, options) in ways {
        let topic = unique("way");
        let name = format!("{way} {listener:?}");
        db.to_kafka(
            &name,
            "events",
            &kafka.address(listener),
            &topic,
            &options.to_string(),
        )
        .await;
        topics.push((name, topic));
    }
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 200, 20).await;
    for (name, topic) in &topics {
        let got = kafka::await_records(kafka.open(), topic, 200, SOON).await;
        assert_each_once(&values(&got), 1..=200);
        relay.await_healthy(SOON, name, 1).await;
    }
    assert!(kafka.tokens.granted() > 0);
    assert_no_secrets(&kafka, &db, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_receives() {
    let (kafka, db) = scene("kafka_ways_back").await;
    let alice = json!({"tls_cert": reference(&kafka.alice.cert), "tls_key": reference(&kafka.alice.key)});
    let scram = login(
        &kafka,
        "sasl_ssl",
        "SCRAM-SHA-512",
        "alice",
        SecuredKafka::PASSWORD,
    );
    let ways = [
        ("tls", Listener::Tls, tls(&kafka)),
        ("mutual", Listener::MutualTls, with(tls(&kafka), &alice)),
        (
            "token",
            Listener::SaslTls,
            oauth(&kafka, SecuredKafka::CLIENT_SECRET),
        ),
        ("scram", Listener::SaslTls, scram),
    ];
    let producer = kafka::Producer::connect(kafka.open(), &[]);
    for (way, listener, options) in &ways {
        let topic = unique("way_back");
        kafka::create_topic(kafka.open(), &topic, 2, &[]).await;
        producer.send_numbers(&topic, 1, 100, 2).await;
        db.run(&format!("SELECT tide.inbox_create('{way}')")).await;
        let (brokers, options) = (kafka.address(*listener), options.to_string());
        db.from_kafka(way, way, &brokers, &topic, &options, "").await;
    }
    let relay = Relay::start(&db).await;
    for (way, ..) in &ways {
        db.await_text(SOON, &format!("SELECT count(*) FROM tide.{way}_inbox"), "100")
            .await;
        relay.await_healthy(SOON, way, 1).await;
    }
    assert!(kafka.tokens.granted() > 0);
    assert_no_secrets(&kafka, &db, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_told_which_right_it_lacks() {
    let (kafka, db) = scene("kafka_read_rights").await;
    let bob = login(&kafka, "sasl_ssl", "PLAIN", "bob", SecuredKafka::PASSWORD).to_string();
    let brokers = kafka.address(Listener::SaslTls);
    let topic = unique("readable");
    kafka::create_topic(kafka.open(), &topic, 1, &[]).await;
    kafka::Producer::connect(kafka.open(), &[])
        .send_numbers(&topic, 1, 10, 1)
        .await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db.from_kafka("p", "calls", &brokers, &topic, &bob, "").await;
    let relay = Relay::start(&db).await;
    let says =
        |text: &str| format!("SELECT position('{text}' IN last_error) > 0 FROM tide.relay_pipeline_status");
    db.await_text(SOON, &says("allow the user DESCRIBE and READ on it"), "t")
        .await;
    kafka.allow("bob", "Read", ["--topic", &topic]).await;
    db.await_text(
        SOON,
        &says("no right to use the consumer group: allow the user READ on it"),
        "t",
    )
    .await;
    kafka.allow("bob", "Read", ["--group", "pg-tide-p"]).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.calls_inbox", "10")
        .await;
    relay.await_healthy(SOON, "p", 1).await;
}

/// A copy of a key, encrypted with the password.
fn encrypt(kafka: &SecuredKafka, key: &Path) -> PathBuf {
    let copy = kafka.folder().join(unique("encrypted"));
    let made = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in"])
        .arg(key)
        .arg("-out")
        .arg(&copy)
        .args(["-passout", &format!("pass:{}", SecuredKafka::PASSWORD)])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    copy
}

/// Neither log nor metrics nor SQL shows a secret of the broker.
async fn assert_no_secrets(kafka: &SecuredKafka, db: &Database, relay: &Relay) {
    let key = std::fs::read_to_string(&kafka.alice.key).unwrap();
    let key_line = key.lines().nth(1).unwrap();
    let seen = [
        ("log", relay.log()),
        ("metrics", relay.page("/metrics").await.1),
        (
            "status",
            db.text("SELECT s.* FROM tide.relay_pipeline_status s").await,
        ),
        ("configuration", db.text("SELECT p.* FROM tide.pipeline p").await),
    ];
    for (place, text) in seen {
        for secret in [
            SecuredKafka::PASSWORD,
            SecuredKafka::CLIENT_SECRET,
            "not-the-password",
            key_line,
        ] {
            assert!(!text.contains(secret), "{place} shows {secret}:\n{text}");
        }
    }
}

/// Name, brokers, options, and what the status must say.
type Wrong = (&'static str, String, Value, &'static [&'static str]);

/// Sets up a pipeline each, and waits until the status of each says what is
/// wrong with it.
async fn assert_told(kafka: &SecuredKafka, db: &Database, topic: &str, wrong: Vec<Wrong>) {
    for (name, brokers, options, _) in &wrong {
        db.to_kafka(name, "events", brokers, topic, &options.to_string())
            .await;
    }
    db.publish_number("events", 1).await;
    let relay = Relay::start(db).await;
    let mut missing = Vec::new();
    for (name, _, _, wanted) in &wrong {
        let condition = wanted
            .iter()
            .map(|text| format!("position('{text}' IN last_error) > 0"))
            .collect::<Vec<_>>()
            .join(" AND ");
        let told = pg_tide_e2e::answer(SOON, async || {
            let told = db
                .text(&format!(
                    "SELECT coalesce(bool_and({condition}), false) FROM tide.relay_pipeline_status WHERE pipeline = '{name}'"
                ))
                .await;
            (told == "t").then_some(())
        })
        .await;
        let said = db
            .text(&format!(
                "SELECT last_error FROM tide.relay_pipeline_status WHERE pipeline = '{name}'"
            ))
            .await;
        println!("{name}: {said}");
        if told.is_none() {
            missing.push(format!("{name} does not say {wanted:?}: {said}"));
        } else {
            relay
                .await_log(SOON, &[name, wanted[0].split('"').next().unwrap()])
                .await;
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert_no_secrets(kafka, db, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_fit_is_told_by_its_cause() {
    let (kafka, db) = scene("kafka_certificates").await;
    let strange = json!({"tls_ca": reference(&kafka.strange_ca)});
    let stranger =
        json!({"tls_cert": reference(&kafka.stranger.cert), "tls_key": reference(&kafka.stranger.key)});
    let mismatch = json!({"tls_cert": reference(&kafka.alice.cert), "tls_key": reference(&kafka.bob.key)});
    let no_key = json!({"tls_cert": reference(&kafka.alice.cert), "tls_key": kafka.secret("no key at all")});
    let no_file = json!({"tls_ca": "${file:/nonexistent/ca.crt}"});
    let (tls_port, mutual_port) = (kafka.address(Listener::Tls), kafka.address(Listener::MutualTls));
    let wrong: Vec<Wrong> = vec![
        (
            "wrong authority",
            tls_port.clone(),
            with(tls(&kafka), &strange),
            &[
                "not signed by the authority in \"tls_ca\"",
                "certificate verify failed",
            ],
        ),
        (
            "no authority",
            tls_port.clone(),
            json!({"security_protocol": "ssl"}),
            &["not signed by an authority that this system trusts", "\"tls_ca\""],
        ),
        (
            "wrong name",
            kafka.misnamed(Listener::Tls),
            tls(&kafka),
            &[
                "not valid for the host name \"127.0.0.1\"",
                "localhost",
                "advertised.listeners",
            ],
        ),
        (
            "no certificate",
            mutual_port.clone(),
            tls(&kafka),
            &["wants a client certificate", "\"tls_cert\""],
        ),
        (
            "strange certificate",
            mutual_port.clone(),
            with(tls(&kafka), &stranger),
            &["refuses our client certificate"],
        ),
        (
            "other key",
            mutual_port.clone(),
            with(tls(&kafka), &mismatch),
            &["\"tls_key\" is not the key of \"tls_cert\""],
        ),
        (
            "no key",
            mutual_port,
            with(tls(&kafka), &no_key),
            &["\"tls_key\" cannot be used"],
        ),
        (
            "no file",
            tls_port,
            with(tls(&kafka), &no_file),
            &["cannot read the secret file /nonexistent/ca.crt"],
        ),
    ];
    assert_told(&kafka, &db, &unique("certificates"), wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_protocol_is_told() {
    let (kafka, db) = scene("kafka_protocols").await;
    let password = SecuredKafka::PASSWORD;
    let wrong: Vec<Wrong> = vec![
        (
            "plaintext to TLS",
            kafka.address(Listener::Tls),
            json!({}),
            &["wants TLS on this port", "\"ssl\""],
        ),
        (
            "SASL to TLS with SASL",
            kafka.address(Listener::SaslTls),
            login(&kafka, "sasl_plaintext", "PLAIN", "alice", password),
            &["wants TLS on this port", "\"sasl_ssl\""],
        ),
        (
            "TLS to plaintext",
            kafka.open().to_owned(),
            tls(&kafka),
            &["does not speak TLS on this port", "\"plaintext\""],
        ),
        (
            "TLS with SASL to SASL",
            kafka.address(Listener::Sasl),
            login(&kafka, "sasl_ssl", "PLAIN", "alice", password),
            &["does not speak TLS on this port", "\"sasl_plaintext\""],
        ),
        (
            "plaintext to SASL",
            kafka.address(Listener::Sasl),
            json!({}),
            &["wants a login on this port", "\"sasl_plaintext\""],
        ),
        (
            "TLS to TLS with SASL",
            kafka.address(Listener::SaslTls),
            tls(&kafka),
            &["wants a login on this port", "\"sasl_ssl\""],
        ),
        (
            "SASL to plaintext",
            kafka.open().to_owned(),
            login(&kafka, "sasl_plaintext", "PLAIN", "alice", password),
            &["does not take logins on this port", "\"plaintext\""],
        ),
        (
            "nobody",
            "127.0.0.1:1".into(),
            json!({}),
            &["no broker listens there", "Connection refused"],
        ),
        (
            "no such host",
            "kafka.invalid:9092".into(),
            json!({}),
            &["host name cannot be resolved"],
        ),
    ];
    assert_told(&kafka, &db, &unique("protocols"), wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told() {
    let (kafka, db) = scene("kafka_logins").await;
    let (sasl, sasl_tls) = (kafka.address(Listener::Sasl), kafka.address(Listener::SaslTls));
    let wrong_password = "not-the-password";
    let secret = SecuredKafka::CLIENT_SECRET;
    let nobody = json!({"sasl_oauth_token_url": "http://127.0.0.1:1/token"});
    let no_page = json!({"sasl_oauth_token_url": kafka.tokens.token_url() + "/none"});
    let other_audience = json!({"sasl_oauth_scope": "other"});
    let wrong: Vec<Wrong> = vec![
        (
            "PLAIN",
            sasl.clone(),
            login(&kafka, "sasl_plaintext", "PLAIN", "alice", wrong_password),
            &[
                "refuses the login of user \"alice\" by PLAIN",
                "wrong user or password",
            ],
        ),
        (
            "SCRAM",
            sasl_tls.clone(),
            login(&kafka, "sasl_ssl", "SCRAM-SHA-256", "alice", wrong_password),
            &[
                "refuses the login of user \"alice\" by SCRAM-SHA-256",
                "wrong user or password",
            ],
        ),
        (
            "nobody of that name",
            sasl_tls.clone(),
            login(&kafka, "sasl_ssl", "SCRAM-SHA-512", "carol", wrong_password),
            &["refuses the login of user \"carol\" by SCRAM-SHA-512"],
        ),
        (
            "no such mechanism",
            sasl,
            with(
                oauth(&kafka, secret),
                &json!({"security_protocol": "sasl_plaintext", "tls_ca": null}),
            ),
            &[
                "does not offer \"sasl_mechanism\" \"OAUTHBEARER\"",
                "SCRAM-SHA-512",
            ],
        ),
        (
            "wrong client secret",
            sasl_tls.clone(),
            oauth(&kafka, wrong_password),
            &[
                "the token server answers 401",
                "invalid_client",
                "\"sasl_oauth_client_secret\"",
            ],
        ),
        (
            "no token server",
            sasl_tls.clone(),
            with(oauth(&kafka, secret), &nobody),
            &["the token server cannot be reached", "http://127.0.0.1:1/token"],
        ),
        (
            "wrong address of the token server",
            sasl_tls.clone(),
            with(oauth(&kafka, secret), &no_page),
            &["the token server answers 404", "\"sasl_oauth_token_url\""],
        ),
        (
            "token for others",
            sasl_tls,
            with(oauth(&kafka, secret), &other_audience),
            &["does not accept the token", "\"relay-client\"", "audience"],
        ),
    ];
    assert_told(&kafka, &db, &unique("logins"), wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_told() {
    let (kafka, db) = scene("kafka_rights").await;
    let topic = unique("rights");
    kafka::create_topic(kafka.open(), &topic, 1, &[]).await;
    let seen = unique("rights_seen");
    kafka::create_topic(kafka.open(), &seen, 1, &[]).await;
    kafka.allow("bob", "Describe", ["--topic", &seen]).await;
    let written = unique("rights_written");
    kafka::create_topic(kafka.open(), &written, 1, &[]).await;
    kafka.allow("bob", "All", ["--topic", &written]).await;
    let bob = login(&kafka, "sasl_plaintext", "PLAIN", "bob", SecuredKafka::PASSWORD);
    let by_certificate = with(
        tls(&kafka),
        &json!({"tls_cert": reference(&kafka.bob.cert), "tls_key": reference(&kafka.bob.key)}),
    );
    let wrong: Vec<Wrong> = vec![
        (
            "no right at all",
            kafka.address(Listener::Sasl),
            bob.clone(),
            &["no right to use the topic", "WRITE"],
        ),
        (
            "no right by certificate",
            kafka.address(Listener::MutualTls),
            by_certificate,
            &["no right to use the topic", "WRITE"],
        ),
        (
            "no right to transactions",
            kafka.address(Listener::Sasl),
            with(
                bob.clone(),
                &json!({"topic": written, "delivery": "transactional"}),
            ),
            &["no right to use the transactional id", "pg-tide-"],
        ),
        (
            "may only look",
            kafka.address(Listener::Sasl),
            with(bob.clone(), &json!({"topic": seen})),
            &["no right to use the topic", "WRITE"],
        ),
    ];
    assert_told(&kafka, &db, &topic, wrong).await;
    assert_eq!(kafka::records(kafka.open(), &seen).await.len(), 0);
    // In the default mode that right may be missing, but what it is for as well.
    db.to_kafka(
        "unfenced",
        "events",
        &kafka.address(Listener::Sasl),
        &written,
        &bob.to_string(),
    )
    .await;
    doctor(&db.url(), &["--pipeline", "unfenced"]).await.has(
        "warning",
        "kafka-late-requests",
        &["transactional id", "pg-tide-"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_picked_up_without_a_restart() {
    let (kafka, db) = scene("kafka_rotation").await;
    let topic = unique("rotation");
    // As a mounted Secret: the file is a link into ..data, which is a link
    // that is swapped.
    let mount = kafka.folder().join(unique("mount"));
    let version = |name: &str, password: &str| {
        let folder = mount.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("password"), password).unwrap();
        let new = mount.join("..data_tmp");
        std::os::unix::fs::symlink(name, &new).unwrap();
        std::fs::rename(new, mount.join("..data")).unwrap();
    };
    version("..1", "first-password-5");
    std::os::unix::fs::symlink("..data/password", mount.join("password")).unwrap();
    kafka
        .set_password("rotating", "SCRAM-SHA-256", "first-password-5")
        .await;
    kafka.allow("rotating", "All", ["--topic", &topic]).await;
    let mut options = login(&kafka, "sasl_ssl", "SCRAM-SHA-256", "rotating", "");
    options["sasl_password"] = reference(&mount.join("password")).into();
    db.to_kafka(
        "p",
        "events",
        &kafka.address(Listener::SaslTls),
        &topic,
        &options.to_string(),
    )
    .await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 10, 5).await;
    kafka::await_records(kafka.open(), &topic, 10, SOON).await;

    kafka
        .set_password("rotating", "SCRAM-SHA-256", "second-password-6")
        .await;
    version("..2", "second-password-6");
    relay.await_log(SOON, &["its secrets changed", "p"]).await;
    db.publish_numbers("events", 11, 20, 5).await;
    let got = kafka::await_records(kafka.open(), &topic, 20, SOON).await;
    assert_each_once(&values(&got), 1..=20);

    // And back: what is in the file is what counts.
    version("..3", "first-password-5");
    db.await_text(
        SOON,
        "SELECT position('refuses the login of user \"rotating\"' IN last_error) > 0 FROM tide.relay_pipeline_status",
        "t",
    )
    .await;
    version("..4", "second-password-6");
    relay.await_healthy(SOON, "p", 1).await;
    for password in ["first-password-5", "second-password-6"] {
        assert!(!relay.log().contains(password));
    }
}
