//! Passwords change while messages flow, and no pod is restarted.

use std::path::Path;
use std::time::Duration;

use pg_tide_e2e::certs::Authority;
use pg_tide_e2e::{OwnBed, kafka, nats::Nats, unique};
use serde_json::json;
use tokio::process::Command;

use crate::scene::{SOON, Scene, outbox, resource};

#[tokio::test(flavor = "multi_thread")]
async fn of_the_role_in_postgresql() {
    let scene = Scene::begun("rotate_pg").await;
    let role = unique("rotate");
    let admin = scene.db.superuser().await;
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'first' IN ROLE tide; GRANT ALL ON DATABASE {} TO {role}",
            scene.db.name()
        ))
        .await
        .unwrap();
    // The schema is that role's.
    let publish = async |n: i32| {
        let call = format!("SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}))");
        admin.batch_execute(&call).await.unwrap();
    };
    let url = |password: &str| {
        scene
            .db
            .url()
            .replace("tide:tide@", &format!("{role}:{password}@"))
    };
    scene.secret("db", &[("uri", &url("first"))]).await;
    scene
        .apply(&[outbox("events"), scene.pipeline("p", "events")])
        .await;
    scene.ready("pipeline/p").await;
    let pods = scene.pods().await;
    publish(1).await;
    kafka::await_records(&scene.bed.kafka, &scene.name, 1, SOON).await;

    admin
        .batch_execute(&format!("ALTER ROLE {role} PASSWORD 'second'"))
        .await
        .unwrap();
    scene.secret("db", &[("uri", &url("second"))]).await;
    // The relays' folder has the new one before their sessions are ended.
    scene
        .namespace
        .await_value(
            SOON,
            "secret/db-relay-default",
            "{.metadata.resourceVersion}",
            "is there",
            |v| !v.is_empty(),
        )
        .await;
    let ended = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    let began = std::time::Instant::now();
    admin.batch_execute(&ended).await.unwrap();
    publish(2).await;
    let records = kafka::await_records(&scene.bed.kafka, &scene.name, 2, SOON).await;
    println!("delivered {:?} after all sessions were ended", began.elapsed());
    assert_eq!(kafka::values(&records), [1, 2]);
    scene.ready("tidedatabase/db").await;
    scene.ready("pipeline/p").await;
    assert_eq!(pods, scene.pods().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_user_in_nats() {
    let scene = Scene::begun("rotate_nats").await;
    let host = scene.host();
    let config = |password: &str| {
        format!(
            "authorization {{ users = [{{user: relay, password: \"{password}\"}}, {{user: test, password: test}}] }}\n"
        )
    };
    let file = std::env::temp_dir().join(unique("nats-config"));
    std::fs::write(&file, config("first")).unwrap();
    let settings = [
        ("TIDE_BED_HOST", host.as_str()),
        ("TIDE_BED_NATS_CONFIG", file.to_str().unwrap()),
    ];
    let bed = pg_tide_e2e::OwnBed::up("kubectl_rotate_nats", &["nats"], &settings).await;
    let address = bed.addresses.nats.trim_start_matches("nats://").to_owned();
    let options = async_nats::ConnectOptions::with_user_and_password("test".into(), "test".into());
    let nats = Nats::connect_as(&bed.addresses.nats, options).await;
    nats.create_stream("S", "payments", |_| {}).await;
    scene
        .secret("nats", &[("username", "relay"), ("password", "first")])
        .await;
    scene
        .apply(&[
            resource("Inbox", "payments", &json!({"databaseRef": {"name": "db"}})),
            resource("Pipeline", "p", &json!({
                "databaseRef": {"name": "db"},
                "reverse": {
                    "inboxRef": {"name": "payments"},
                    "source": {"nats": {"url": format!("nats://{address}"), "subject": "payments", "login": {"secretRef": {"name": "nats"}}}},
                },
            })),
        ])
        .await;
    scene.ready("pipeline/p").await;
    let pods = scene.pods().await;
    nats.publish("payments", r#"{"n": 1}"#).await;
    scene
        .db
        .await_text(SOON, "SELECT count(*) FROM tide.payments_inbox", "1")
        .await;

    scene
        .secret("nats", &[("password", "second"), ("username", "relay")])
        .await;
    std::fs::write(&file, config("second")).unwrap();
    bed.stop("nats").await;
    bed.start_with("nats", &settings).await;
    let options = async_nats::ConnectOptions::with_user_and_password("test".into(), "test".into());
    let nats = Nats::connect_as(&bed.addresses.nats, options).await;
    nats.publish("payments", r#"{"n": 2}"#).await;
    scene
        .db
        .await_text(
            Duration::from_secs(90),
            "SELECT count(*) FROM tide.payments_inbox",
            "2",
        )
        .await;
    scene.ready("pipeline/p").await;
    assert_eq!(pods, scene.pods().await);
}

/// A broker whose port for relays wants TLS and a password by SCRAM.
struct SecuredBroker {
    bed: OwnBed,
    /// Of that port.
    address: String,
    keystore: std::path::PathBuf,
}

impl SecuredBroker {
    async fn up(host: &str, folder: &Path, authority: &Authority) -> Self {
        // Free a moment ago: Kafka is told to listen there.
        let port = std::net::TcpListener::bind((host, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let keystore = folder.join("broker.pem");
        let properties = folder.join("server.properties");
        let text = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,RELAYS:SASL_SSL
ssl.keystore.type=PEM
ssl.keystore.location={}
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.relays.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
",
            keystore.display()
        );
        std::fs::write(&properties, text).unwrap();
        certify(&keystore, host, authority);
        let settings = [
            ("TIDE_BED_HOST", host),
            ("TIDE_BED_KAFKA_LISTENERS", &format!("RELAYS://{host}:{port}")),
            ("TIDE_BED_KAFKA_PROPERTIES", properties.to_str().unwrap()),
        ];
        Self {
            bed: OwnBed::up("kubectl_rotate_kafka", &["kafka"], &settings).await,
            address: format!("{host}:{port}"),
            keystore,
        }
    }

    async fn set_password(&self, user: &str, password: &str) {
        let credentials = format!("SCRAM-SHA-512=[password={password}]");
        let output = Command::new("kafka-configs")
            .args(["--bootstrap-server", &self.bed.addresses.kafka, "--alter"])
            .args(["--entity-type", "users", "--entity-name", user])
            .args(["--add-config", &credentials])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// The broker's certificate, for its next start.
fn certify(keystore: &Path, host: &str, authority: &Authority) {
    let certificate = authority.issue("broker", &[host]);
    let both = [&certificate.key, &certificate.cert].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(keystore, both.concat()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_user_and_of_the_authority_of_kafka() {
    let scene = Scene::begun("rotate_kafka").await;
    let host = scene.host();
    let folder = std::env::temp_dir().join(&scene.name);
    let (first, second) = (
        Authority::new(&folder, "first"),
        Authority::new(&folder.join("second"), "second"),
    );
    let broker = SecuredBroker::up(&host, &folder, &first).await;
    broker.set_password("relay", "one").await;
    let ca = |authority: &Authority| std::fs::read_to_string(&authority.ca).unwrap();
    scene.secret("kafka", &[("password", "one")]).await;
    scene.secret("kafka-ca", &[("ca.crt", &ca(&first))]).await;
    let mut pipeline = scene.pipeline("p", "events");
    pipeline["spec"]["forward"]["sink"]["kafka"] = json!({
        "brokers": [broker.address], "topic": scene.name,
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": "relay", "secretRef": {"name": "kafka"}},
        "tls": {"caSecretRef": {"name": "kafka-ca"}},
    });
    scene.apply(&[outbox("events"), pipeline]).await;
    scene.ready("pipeline/p").await;
    let pods = scene.pods().await;
    scene.db.publish_number("events", 1).await;
    kafka::await_records(&broker.bed.addresses.kafka, &scene.name, 1, SOON).await;

    // Messages flow all the time. The broker changes first, so that there is a
    // while in which the relays have neither.
    broker.set_password("relay", "two").await;
    certify(&broker.keystore, &host, &second);
    broker.bed.stop("kafka").await;
    scene.db.publish_number("events", 2).await;
    broker.bed.start("kafka").await;
    scene
        .namespace
        .await_condition_as(SOON, "pipeline/p", "Ready", "is about the certificate", |c| {
            c.reason == "DeliveryFailing" && c.message.contains("broker's certificate")
        })
        .await;
    scene.db.publish_number("events", 3).await;
    scene.secret("kafka-ca", &[("ca.crt", &ca(&second))]).await;
    scene.secret("kafka", &[("password", "two")]).await;
    scene.ready("pipeline/p").await;
    scene.db.publish_number("events", 4).await;
    let records = kafka::await_records(&broker.bed.addresses.kafka, &scene.name, 4, SOON).await;
    assert_eq!(kafka::values(&records), [1, 2, 3, 4]);
    scene.db.await_delivered(SOON).await;
    assert_eq!(pods, scene.pods().await, "no pod was restarted");
    std::fs::remove_dir_all(&folder).unwrap();
}
