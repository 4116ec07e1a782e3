//! The operator dies, twice over, and loses its API server; everything
//! converges, and nothing that flows notices. Each test alone in the cluster.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_cluster_tests::{CHARTS, Cluster, Namespace, OPERATOR_NAMESPACE};
use pg_tide_e2e::{Bed, Database, kafka, unique};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Held by the test at work: what one takes away, the others need.
static CLUSTER: Mutex<()> = Mutex::const_new(());

const SOON: Duration = Duration::from_mins(1);

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pgtide.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A database, an outbox, an inbox and a pipeline.
fn everything(db: &Database, brokers: &str, topic: &str) -> String {
    let items = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"uri": db.url()}}),
        resource(
            "TideDatabase",
            "db",
            &json!({
                "connection": {"secretRef": {"name": "db"}}, "relayGroups": [{"id": "default", "replicas": 1}],
            }),
        ),
        resource("Outbox", "events", &json!({"databaseRef": {"name": "db"}})),
        resource("Inbox", "payments", &json!({"databaseRef": {"name": "db"}})),
        resource(
            "Pipeline",
            "p",
            &json!({
                "databaseRef": {"name": "db"},
                "forward": {"outboxRef": {"name": "events"}, "sink": {"kafka": {"brokers": [brokers], "topic": topic}}},
            }),
        ),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

async fn all_ready(namespace: &Namespace) {
    for resource in ["tidedatabase/db", "outbox/events", "inbox/payments", "pipeline/p"] {
        namespace.await_condition(SOON, resource, "Ready", "True").await;
    }
}

/// Kills the operator with SIGKILL. Its pod is deleted besides, since the
/// kubelet would start the container later each time.
async fn kill_operators(cluster: &Cluster) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "pg-tide-operato")
        {
            let _ = tokio::process::Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status()
                .await;
        }
    }
    let pods = [
        "delete",
        "pods",
        "--selector=app.kubernetes.io/name=pg-tide-operator",
        "--grace-period=0",
        "--force",
    ];
    cluster
        .kubectl(&[&pods[..], &["--namespace", OPERATOR_NAMESPACE]].concat())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_at_any_moment_converges() {
    let _alone = CLUSTER.lock().await;
    let cluster = Cluster::with_operator().await;
    let bed = Bed::from_env();
    // Each time a little later in what the operator does.
    for delay in [0, 300, 1_500] {
        let namespace = cluster.namespace("killed").await;
        let db = Database::empty(&bed.postgres, "killed").await;
        let topic = unique("killed");
        namespace.apply(&everything(&db, &bed.kafka, &topic)).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        kill_operators(&cluster).await;
        all_ready(&namespace).await;
        db.publish_number("events", 1).await;
        kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
        assert_eq!(db.text("SELECT count(*) FROM tide.managed_object").await, "3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_works_and_the_other_takes_over() {
    let _alone = CLUSTER.lock().await;
    let cluster = Cluster::with_operator().await;
    cluster.install_operator(CHARTS, &["--set=replicas=2"]).await;
    let bed = Bed::from_env();
    let namespace = cluster.namespace("two-operators").await;
    let db = Database::empty(&bed.postgres, "two_operators").await;
    let topic = unique("two_operators");
    namespace.apply(&everything(&db, &bed.kafka, &topic)).await;
    all_ready(&namespace).await;

    let (operators, lease) = (cluster.operator_namespace(), "lease/pg-tide-operator");
    let holder = "{.spec.holderIdentity}";
    let first = operators.field(lease, holder).await;
    let pod = format!("pod/{first}");
    operators
        .kubectl(&["delete", &pod, "--grace-period=0", "--force"])
        .await;
    // The lease lapses after 15 s. Until the kubelet has killed the first one,
    // it is at work.
    operators
        .await_value(SOON, lease, holder, "another one leads", |now| {
            !now.is_empty() && now != first
        })
        .await;
    db.run("SELECT tide.relay_disable('p')").await;
    db.await_text(SOON, "SELECT enabled FROM tide.pipeline WHERE name = 'p'", "t")
        .await;
    cluster.install_operator(CHARTS, &["--set=replicas=1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_messages_flow_and_afterwards_all_is_well() {
    let _alone = CLUSTER.lock().await;
    let cluster = Cluster::with_operator().await;
    let bed = Bed::from_env();
    let namespace = cluster.namespace("no-api").await;
    let db = Database::empty(&bed.postgres, "no_api").await;
    let topic = unique("no_api");
    namespace.apply(&everything(&db, &bed.kafka, &topic)).await;
    all_ready(&namespace).await;

    cluster.component("kill", "apiserver").await;
    db.publish_number("events", 1).await;
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    cluster.component("start", "apiserver").await;
    namespace
        .kubectl(&[
            "patch",
            "pipeline",
            "p",
            "--type=merge",
            "--patch",
            r#"{"spec": {"forward": {"batchSize": 9}}}"#,
        ])
        .await;
    db.await_text(SOON, "SELECT batch_size FROM tide.pipeline", "9")
        .await;
    all_ready(&namespace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_of_the_status_does_not_win() {
    let _alone = CLUSTER.lock().await;
    let cluster = Cluster::with_operator().await;
    let bed = Bed::from_env();
    let namespace = cluster.namespace("storm").await;
    let db = Database::empty(&bed.postgres, "storm").await;
    let topic = unique("storm");
    namespace.apply(&everything(&db, &bed.kafka, &topic)).await;
    all_ready(&namespace).await;
    for n in 0..20 {
        let patch = json!({"status": {"owner": format!("nobody-{n}"), "lag": n}, "metadata": {"labels": {"n": n.to_string()}}});
        namespace
            .kubectl(&[
                "patch",
                "pipeline",
                "p",
                "--subresource=status",
                "--type=merge",
                "--patch",
                &patch.to_string(),
            ])
            .await;
        let label = format!("storm={n}");
        namespace
            .kubectl(&["label", "pipeline", "p", "--overwrite", &label])
            .await;
    }
    namespace
        .await_value(SOON, "pipeline/p", "{.status.owner}", "is a pod again", |owner| {
            owner.starts_with("db-relay-default-")
        })
        .await;
    all_ready(&namespace).await;
}
