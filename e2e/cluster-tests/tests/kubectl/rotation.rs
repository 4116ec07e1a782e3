//! Passwords change while messages flow, and no pod is restarted.

use std::time::Duration;

use pg_tide_e2e::{kafka, nats::Nats, unique};
use serde_json::json;

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
