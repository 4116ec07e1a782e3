//! `kubectl get` tells the truth: each thing that can be wrong is shown with
//! its reason within ten seconds, and so is its repair, without anybody
//! touching a resource or restarting anything.

use pg_tide_e2e::{OwnBed, kafka};
use serde_json::json;

use crate::scene::{Scene, database, resource};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret() {
    let scene = Scene::to_kafka("missing_secret").await;
    let mut pipeline = scene.pipeline("q", "events");
    pipeline["spec"]["forward"]["sink"]["kafka"]["sasl"] =
        json!({"mechanism": "SCRAM-SHA-512", "username": "u", "secretRef": {"name": "later"}});
    scene.apply(&[pipeline.clone()]).await;
    let message = scene.not_ready("pipeline/q", "SecretNotFound").await;
    assert!(message.contains(r#"Secret "later" does not exist"#), "{message}");

    scene.secret("later", &[("other", "x")]).await;
    let message = scene.not_ready("pipeline/q", "SecretKeyNotFound").await;
    assert!(
        message.contains(r#"no key "password"; it has other"#),
        "{message}"
    );

    let before = scene.pods().await;
    scene.secret("later", &[("password", "x")]).await;
    // The bed's listener has no SASL: so far, at least, it comes now.
    scene.not_ready("pipeline/q", "DeliveryFailing").await;
    assert_eq!(before, scene.pods().await, "a Pipeline restarts no pod");
    scene.ready("pipeline/p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_no_password_at_all() {
    let scene = Scene::to_kafka("wrong_password").await;
    let good = scene.db.url();
    // A database whose Secret was never there.
    let spec = json!({"connection": {"secretRef": {"name": "never"}}, "relayGroups": [{"id": "default", "replicas": 1}]});
    scene
        .apply(&[
            resource("TideDatabase", "never", &spec),
            resource("Inbox", "never", &json!({"databaseRef": {"name": "never"}})),
        ])
        .await;
    scene.not_ready("tidedatabase/never", "SecretNotFound").await;
    let message = scene.not_ready("inbox/never", "InvalidConnection").await;
    assert_eq!(
        message,
        r#"TideDatabase "never": Secret "never" does not exist in this namespace"#
    );
    let note = scene.event("tidedatabase/never", "SecretNotFound").await;
    assert!(note.contains(r#"Secret "never" does not exist"#), "{note}");
    scene
        .secret("db", &[("uri", &good.replace("tide:tide@", "tide:wrong@"))])
        .await;
    let message = scene.not_ready("tidedatabase/db", "AuthenticationFailed").await;
    assert!(message.contains("check user name and password"), "{message}");
    assert!(!message.contains("wrong@"), "{message}");
    let note = scene.event("tidedatabase/db", "AuthenticationFailed").await;
    assert!(note.contains("check user name and password"), "{note}");
    scene.not_ready("pipeline/p", "DatabaseUnavailable").await;

    scene.secret("db", &[("uri", &good)]).await;
    scene.ready("tidedatabase/db").await;
    scene.ready("pipeline/p").await;
    scene.ready("outbox/events").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_relays() {
    let scene = Scene::to_kafka("no_relays").await;
    scene.apply(&[database(0)]).await;
    let message = scene.not_ready("pipeline/p", "ScaledToZero").await;
    assert!(message.contains("0 of 0 pods"), "{message}");
    scene.not_ready("tidedatabase/db", "ScaledToZero").await;
    scene.apply(&[database(1)]).await;
    scene.ready("tidedatabase/db").await;
    scene.ready("pipeline/p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_resource_names_and_is_not_there() {
    let scene = Scene::begun("not_there").await;
    scene.apply(&[scene.pipeline("p", "events")]).await;
    let message = scene.not_ready("pipeline/p", "OutboxNotFound").await;
    assert!(message.contains(r#"Outbox "events" does not exist"#), "{message}");
    scene
        .apply(&[resource(
            "Outbox",
            "events",
            &json!({"databaseRef": {"name": "other"}}),
        )])
        .await;
    let message = scene.not_ready("outbox/events", "TideDatabaseNotFound").await;
    assert!(
        message.contains(r#"TideDatabase "other" does not exist"#),
        "{message}"
    );
    scene.not_ready("pipeline/p", "DatabaseMismatch").await;

    scene.apply(&[crate::scene::outbox("second")]).await;
    let mut pipeline = scene.pipeline("q", "second");
    pipeline["spec"]["relayGroupId"] = json!("eu");
    scene.apply(&[pipeline.clone()]).await;
    let message = scene.not_ready("pipeline/q", "RelayGroupNotFound").await;
    assert!(
        message.contains(r#"no relay group "eu"; it has default"#),
        "{message}"
    );
    pipeline["spec"]["relayGroupId"] = json!("default");
    pipeline["spec"]["forward"]["consumerGroup"] = json!("readers");
    scene.apply(&[pipeline]).await;
    let message = scene.not_ready("pipeline/q", "ConsumerGroupNotFound").await;
    assert!(message.contains("spec.consumerGroups of Outbox"), "{message}");
    scene
        .apply(&[resource(
            "Outbox",
            "second",
            &json!({
                "databaseRef": {"name": "db"}, "consumerGroups": [{"name": "readers"}],
            }),
        )])
        .await;
    scene.ready("pipeline/q").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_broker() {
    let scene = Scene::begun("stopped_broker").await;
    let host = scene.host();
    let bed = OwnBed::up("kubectl_broker", &["kafka"], &[("TIDE_BED_HOST", &host)]).await;
    scene.apply(&[crate::scene::outbox("events")]).await;
    let mut pipeline = scene.pipeline("p", "events");
    pipeline["spec"]["forward"]["sink"]["kafka"]["brokers"] = json!([bed.addresses.kafka]);
    scene.apply(&[pipeline]).await;
    scene.ready("pipeline/p").await;

    bed.stop("kafka").await;
    let message = scene.not_ready("pipeline/p", "DeliveryFailing").await;
    assert!(message.contains(&bed.addresses.kafka), "{message}");
    let note = scene.event("pipeline/p", "DeliveryFailing").await;
    assert!(note.contains(&bed.addresses.kafka), "{note}");
    let pods = scene.pods().await;
    bed.start("kafka").await;
    scene.ready("pipeline/p").await;
    assert_eq!(pods, scene.pods().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic() {
    let scene = Scene::begun("missing_topic").await;
    let host = scene.host();
    let bed = OwnBed::up(
        "kubectl_topic",
        &["kafka"],
        &[("TIDE_BED_HOST", &host), ("TIDE_BED_KAFKA_AUTO_CREATE", "false")],
    )
    .await;
    scene.apply(&[crate::scene::outbox("events")]).await;
    let mut pipeline = scene.pipeline("p", "events");
    pipeline["spec"]["forward"]["sink"]["kafka"]["brokers"] = json!([bed.addresses.kafka]);
    scene.apply(&[pipeline]).await;
    scene
        .namespace
        .await_condition(crate::scene::SOON, "outbox/events", "Ready", "True")
        .await;
    scene.db.publish_number("events", 1).await;
    let message = scene.not_ready("pipeline/p", "DeliveryFailing").await;
    assert!(message.contains(&scene.name), "{message}");
    kafka::create_topic(&bed.addresses.kafka, &scene.name, 1, &[]).await;
    scene.ready("pipeline/p").await;
    kafka::await_records(&bed.addresses.kafka, &scene.name, 1, crate::scene::SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database() {
    let scene = Scene::begun("stopped_database").await;
    let host = scene.host();
    let bed = OwnBed::up("kubectl_database", &["postgres"], &[("TIDE_BED_HOST", &host)]).await;
    scene.secret("db", &[("uri", &bed.addresses.postgres)]).await;
    scene
        .apply(&[crate::scene::outbox("events"), scene.pipeline("p", "events")])
        .await;
    scene.ready("pipeline/p").await;
    // Another database means other relays.
    let pods = scene.only_pod().await;
    scene.ready("pipeline/p").await;

    bed.stop("postgres").await;
    let message = scene.not_ready("tidedatabase/db", "ConnectionFailed").await;
    assert!(
        message.contains(bed.addresses.postgres.rsplit_once('@').unwrap().1),
        "{message}"
    );
    scene.not_ready("pipeline/p", "DatabaseUnavailable").await;
    scene.not_ready("outbox/events", "ConnectionFailed").await;
    bed.start("postgres").await;
    scene.ready("tidedatabase/db").await;
    scene.ready("pipeline/p").await;
    scene.ready("outbox/events").await;
    assert_eq!(pods, scene.pods().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_without_jetstream() {
    let scene = Scene::begun("no_jetstream").await;
    let host = scene.host();
    let settings = [("TIDE_BED_HOST", host.as_str()), ("TIDE_BED_NATS_JETSTREAM", "0")];
    let bed = OwnBed::up("kubectl_nats", &["nats"], &settings).await;
    scene.apply(&[crate::scene::outbox("events")]).await;
    let mut pipeline = scene.pipeline("p", "events");
    pipeline["spec"]["forward"]["sink"] = json!({"nats": {"url": bed.addresses.nats, "subject": "events"}});
    scene.apply(&[pipeline]).await;
    scene.ready("outbox/events").await;
    let message = scene
        .not_ready_within(crate::scene::SOON, "pipeline/p", "DeliveryFailing")
        .await;
    assert!(message.contains("JetStream"), "{message}");
}
