//! Several databases, relay groups and namespaces, each for itself.

use pg_tide_e2e::{Database, kafka, unique};
use serde_json::json;

use crate::scene::{SOON, Scene, resource};

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_and_two_groups_in_one_namespace() {
    let scene = Scene::begun("side").await;
    let second = Database::empty(&scene.bed.postgres, "side_second").await;
    scene.secret("second", &[("uri", &second.url())]).await;
    let groups = json!([{"id": "eu", "replicas": 1}, {"id": "us", "replicas": 1}]);
    scene
        .apply(&[
            resource(
                "TideDatabase",
                "second",
                &json!({
                    "connection": {"secretRef": {"name": "second"}}, "relayGroups": groups,
                }),
            ),
            crate::scene::outbox("first"),
            resource("Outbox", "second", &json!({"databaseRef": {"name": "second"}})),
        ])
        .await;
    let topics = [unique("side_first"), unique("side_eu"), unique("side_us")];
    let pipeline = |name: &str, database: &str, outbox: &str, group: &str, topic: &str| {
        resource(
            "Pipeline",
            name,
            &json!({
                "databaseRef": {"name": database}, "relayGroupId": group,
                "forward": {
                    "outboxRef": {"name": outbox},
                    "sink": {"kafka": {"brokers": [scene.bed.kafka], "topic": topic}},
                },
            }),
        )
    };
    scene
        .apply(&[
            pipeline("p", "db", "first", "default", &topics[0]),
            pipeline("eu", "second", "second", "eu", &topics[1]),
            pipeline("us", "second", "second", "us", &topics[2]),
        ])
        .await;
    for (name, owner) in [
        ("p", "db-relay-default-"),
        ("eu", "second-relay-eu-"),
        ("us", "second-relay-us-"),
    ] {
        scene.ready(&format!("pipeline/{name}")).await;
        let owns = scene
            .namespace
            .field(&format!("pipeline/{name}"), "{.status.owner}")
            .await;
        assert!(owns.starts_with(owner), "{name}: {owns}");
    }
    scene.db.publish_number("first", 1).await;
    second.publish_number("second", 2).await;
    for (topic, value) in topics.iter().zip([1, 2, 2]) {
        let records = kafka::await_records(&scene.bed.kafka, topic, 1, SOON).await;
        assert_eq!(kafka::values(&records), [value], "{topic}");
    }

    // A group that is not declared any more takes its relays along.
    scene
        .namespace
        .kubectl(&[
            "patch",
            "tdb",
            "second",
            "--type=merge",
            "--patch",
            r#"{"spec": {"relayGroups": [{"id": "eu", "replicas": 1}]}}"#,
        ])
        .await;
    scene
        .namespace
        .kubectl(&[
            "wait",
            "--for=delete",
            "deployment/second-relay-us",
            "--timeout=30s",
        ])
        .await;
    scene.not_ready("pipeline/us", "RelayGroupNotFound").await;
    scene.ready("pipeline/eu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_outbox_from_another_namespace() {
    let scene = Scene::to_kafka("across").await;
    let other = Scene::begun("across_other").await;
    // The other namespace knows the same database.
    other.secret("db", &[("uri", &scene.db.url())]).await;
    other.apply(&[crate::scene::outbox("events")]).await;
    let message = other.not_ready("outbox/events", "Conflict").await;
    assert!(message.contains(scene.namespace.name()), "{message}");
    scene.ready("outbox/events").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_anywhere() {
    let scene = Scene::begun("shown").await;
    let hidden = unique("hidden_word");
    let role = unique("shown_role");
    let admin = scene.db.superuser().await;
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{hidden}' IN ROLE tide; GRANT ALL ON DATABASE {} TO {role}",
            scene.db.name()
        ))
        .await
        .unwrap();
    let url = scene.db.url().replace("tide:tide@", &format!("{role}:{hidden}@"));
    scene.secret("db", &[("uri", &url)]).await;
    scene
        .secret("kafka", &[("username", "u"), ("password", &hidden)])
        .await;
    let mut pipeline = scene.pipeline("p", "events");
    pipeline["spec"]["forward"]["sink"]["kafka"]["sasl"] =
        json!({"mechanism": "PLAIN", "secretRef": {"name": "kafka"}});
    scene.apply(&[crate::scene::outbox("events"), pipeline]).await;
    // The bed has no SASL: the relay tries, and says so.
    scene
        .not_ready_within(SOON, "pipeline/p", "DeliveryFailing")
        .await;

    let system = pg_tide_cluster_tests::OPERATOR_NAMESPACE;
    let shown = [
        scene.namespace.kubectl(&["get", "pgtide,events,deployments,pods,services,configmaps", "--output=yaml"]).await,
        scene.namespace.kubectl(&["describe", "pgtide"]).await,
        scene.namespace.kubectl(&["logs", "deployment/db-relay-default", "--tail=-1"]).await,
        scene
            .namespace
            .cluster()
            .kubectl(&["logs", "deployment/pg-tide-operator", "--tail=-1", "--namespace", system])
            .await
            .unwrap(),
        scene.db.superuser().await.query_one(
            "SELECT string_agg(p::text, ' ') || (SELECT string_agg(s::text, ' ') FROM tide.pipeline_status s) FROM tide.pipeline p",
            &[],
        ).await.unwrap().get::<_, String>(0),
    ];
    for text in shown {
        assert!(text.len() > 50, "nothing was looked at: {text}");
        assert!(!text.contains(&hidden), "{text}");
    }
}
