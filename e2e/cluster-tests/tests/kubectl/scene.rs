//! What most tests begin with: a namespace, a database in a Secret, and the
//! resources of one pipeline.

use std::time::Duration;

use pg_tide_cluster_tests::{Cluster, Namespace};
use pg_tide_e2e::{Bed, Database, unique};
use serde_json::{Value, json};

/// For what involves pods.
pub const SOON: Duration = Duration::from_mins(1);
/// What `kubectl get` has to be true after a change.
pub const HONEST: Duration = Duration::from_secs(10);

/// A namespace with a database that the operator has made ready.
pub struct Scene {
    pub namespace: Namespace,
    pub bed: Bed,
    pub db: Database,
    /// Topic, subject or stream of this test alone.
    pub name: String,
}

impl Scene {
    /// A namespace with Secret `db` and `TideDatabase` `db` of one relay; not
    /// yet ready.
    pub async fn begun(stem: &str) -> Self {
        let cluster = Cluster::with_operator().await;
        let namespace = cluster.namespace(&stem.replace('_', "-")).await;
        let bed = Bed::from_env();
        let db = Database::empty(&bed.postgres, stem).await;
        let scene = Self {
            namespace,
            bed,
            db,
            name: unique(stem),
        };
        scene.secret("db", &[("uri", &scene.db.url())]).await;
        scene.apply(&[database(1)]).await;
        scene
    }

    /// The same, with an outbox, a pipeline `p` to Kafka that is ready, and
    /// its topic.
    pub async fn to_kafka(stem: &str) -> Self {
        let scene = Self::begun(stem).await;
        scene
            .apply(&[outbox("events"), scene.pipeline("p", "events")])
            .await;
        scene.ready("pipeline/p").await;
        scene
    }

    /// The address of this machine that pods reach.
    pub fn host(&self) -> String {
        let (host, _) = self.bed.kafka.rsplit_once(':').unwrap();
        host.to_owned()
    }

    /// Applies resources.
    pub async fn apply(&self, resources: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": resources});
        self.namespace.apply(&list.to_string()).await;
    }

    /// Makes or changes a Secret.
    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: serde_json::Map<String, Value> =
            data.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        self.apply(&[json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        })])
        .await;
    }

    /// Waits until a resource is ready.
    pub async fn ready(&self, resource: &str) {
        self.namespace
            .await_condition(SOON, resource, "Ready", "True")
            .await;
    }

    /// Waits until a resource is not ready for this reason; returns what it says.
    pub async fn not_ready(&self, resource: &str, reason: &str) -> String {
        self.not_ready_within(HONEST, resource, reason).await
    }

    /// The same, where relays must begin first.
    pub async fn not_ready_within(&self, within: Duration, resource: &str, reason: &str) -> String {
        let what = format!("is False because of {reason}");
        self.namespace
            .await_condition_as(within, resource, "Ready", &what, |c| {
                c.status != "True" && c.reason == reason
            })
            .await
            .message
    }

    /// A pipeline from an outbox to the topic of this test.
    pub fn pipeline(&self, name: &str, outbox: &str) -> Value {
        resource(
            "Pipeline",
            name,
            &json!({
                "databaseRef": {"name": "db"},
                "forward": {
                    "outboxRef": {"name": outbox},
                    "sink": {"kafka": {"brokers": [self.bed.kafka], "topic": self.name}},
                },
            }),
        )
    }

    /// Waits for events about a resource with this reason; returns their notes.
    pub async fn event(&self, resource: &str, reason: &str) -> String {
        let (kind, name) = resource.split_once('/').unwrap();
        let selector = format!("--field-selector=reason={reason},involvedObject.name={name}");
        pg_tide_e2e::await_condition(
            HONEST,
            &format!("event {reason} about {kind}/{name}"),
            async || {
                let notes = self
                    .namespace
                    .try_kubectl(&[
                        "get",
                        "events",
                        &selector,
                        "--output=jsonpath={.items[*].message}",
                    ])
                    .await
                    .unwrap_or_default();
                (!notes.is_empty()).then_some(notes)
            },
        )
        .await
    }

    /// UID of the one relay pod, once others that were before it are gone.
    pub async fn only_pod(&self) -> String {
        pg_tide_e2e::await_condition(SOON, "one relay pod", async || {
            let pods = self.pods().await;
            (pods.split_whitespace().count() == 1).then_some(pods)
        })
        .await
    }

    /// UIDs of the relay pods.
    pub async fn pods(&self) -> String {
        self.namespace
            .kubectl(&[
                "get",
                "pods",
                "--selector=app.kubernetes.io/name=pg-tide-relay",
                "--output=jsonpath={.items[*].metadata.uid}",
            ])
            .await
    }
}

/// A resource of pg-tide.
pub fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pgtide.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// `TideDatabase` `db` by Secret `db`.
pub fn database(relays: i32) -> Value {
    resource(
        "TideDatabase",
        "db",
        &json!({
            "connection": {"secretRef": {"name": "db"}},
            "relayGroups": [{"id": "default", "replicas": relays, "terminationGracePeriodSeconds": 5}],
        }),
    )
}

/// An outbox.
pub fn outbox(name: &str) -> Value {
    resource("Outbox", name, &json!({"databaseRef": {"name": "db"}}))
}
