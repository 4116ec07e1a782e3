//! The ground that all the others stand on: the image runs in a restricted
//! namespace, and reaches the bed's servers from there.

use std::time::Duration;

use pg_tide_cluster_tests::{Cluster, Namespace, restricted_pod};
use pg_tide_e2e::{Bed, Database, kafka, unique};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const PROGRAM: &str = "/usr/local/bin/pg-tide";

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_as_nobody_and_writes_nothing() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace("image").await;
    for program in ["pg-tide", "pg-tide-operator"] {
        let path = format!("/usr/local/bin/{program}");
        let pod = restricted_pod(program, cluster.image(), &path, &["--version"]);
        let said = run_in_pod(&namespace, &pod, true).await;
        assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_cluster_is_found_by_its_name() {
    let cluster = Cluster::from_env();
    let bed = Bed::from_env();
    let namespace = cluster.namespace("names").await;
    let db = Database::fresh(&bed.postgres, "cluster_names").await;
    let (host, port) = server(&db);
    namespace.service_to("postgres", &format!("{host}:{port}")).await;

    // The C library loads by itself what it looks names up with.
    for (pod, name) in [
        ("short", "postgres"),
        ("full", "postgres.NAMESPACE.svc.cluster.local"),
    ] {
        let name = name.replace("NAMESPACE", namespace.name());
        let url = db.url().replace(&format!("@{host}:"), &format!("@{name}:"));
        assert_ne!(url, db.url());
        let status = ["schema", "status", "--postgres-url", &url];
        let pod = restricted_pod(pod, cluster.image(), PROGRAM, &status);
        let said = run_in_pod(&namespace, &pod, true).await;
        assert!(said.contains("version"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_knows_the_authorities_that_everybody_trusts() {
    let cluster = Cluster::from_env();
    let bed = Bed::from_env();
    let namespace = cluster.namespace("roots").await;
    let url = format!("{}?sslmode=verify-full&sslrootcert=system", bed.postgres);
    let status = ["schema", "status", "--postgres-url", &url];

    // The bed's PostgreSQL has no TLS: so far it comes when there are roots.
    let pod = restricted_pod("with", cluster.image(), PROGRAM, &status);
    let said = run_in_pod(&namespace, &pod, false).await;
    assert!(said.contains("does not support TLS"), "{said}");

    let mut pod = restricted_pod("without", cluster.image(), PROGRAM, &status);
    pod["spec"]["containers"][0]["env"] = json!([{"name": "SSL_CERT_FILE", "value": "/etc/passwd"}]);
    let said = run_in_pod(&namespace, &pod, false).await;
    assert!(said.contains("no trusted authorities"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_in_a_pod_delivers() {
    let cluster = Cluster::from_env();
    let bed = Bed::from_env();
    let namespace = cluster.namespace("relay").await;
    let topic = unique("cluster_relay");
    let db = Database::fresh(&bed.postgres, "cluster_relay").await;
    db.create_outboxes(&["events"]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.publish_number("events", 1).await;

    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "database"},
        "stringData": {"url": db.url()},
    });
    let arguments = ["--postgres-url-file=/database/url"];
    let mut relay = restricted_pod("relay", cluster.image(), PROGRAM, &arguments);
    relay["spec"]["volumes"] = json!([{"name": "database", "secret": {"secretName": "database"}}]);
    let container = &mut relay["spec"]["containers"][0];
    container["volumeMounts"] = json!([{"name": "database", "mountPath": "/database"}]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": 9090}, "periodSeconds": 1});
    namespace.apply(&secret.to_string()).await;
    namespace.apply(&relay.to_string()).await;

    namespace
        .await_condition(SOON, "pod/relay", "Ready", "True")
        .await;
    let records = kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    assert_eq!(records[0].value, r#"{"n": 1}"#);
    db.await_delivered(SOON).await;
}

/// What a pod says that ends by itself, well or not.
async fn run_in_pod(namespace: &Namespace, pod: &Value, well: bool) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let phase = if well { "Succeeded" } else { "Failed" };
    namespace.apply(&pod.to_string()).await;
    namespace
        .await_field(SOON, &format!("pod/{name}"), "{.status.phase}", phase)
        .await;
    namespace.kubectl(&["logs", name]).await
}

/// Host and port of a database's server.
fn server(database: &Database) -> (String, u16) {
    let url = database.url();
    let (_, after) = url.rsplit_once('@').unwrap();
    let (host, port) = after.split_once('/').unwrap().0.split_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap())
}
