//! Charts, CRDs and schema are upgraded while messages flow, after a while
//! without any operator. Alone in the cluster, which has one operator and one
//! set of CRDs; one test, so that what is slow is waited for once.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pg_tide_cluster_tests::{CHARTS, CHARTS_0_1_0, Cluster, Namespace, OPERATOR_NAMESPACE};
use pg_tide_e2e::{Bed, Database, await_condition, kafka, unique};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

/// What release 0.1.0 installed.
const VERSION_1: &str = include_str!("../../../schema/tests/fixtures/version-1.sql");

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pgtide.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A Secret of this name with the database, and its `TideDatabase`.
fn database(name: &str, db: &Database, manage_schema: bool, relays: i32) -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"uri": db.url()},
        }),
        resource(
            "TideDatabase",
            name,
            &json!({
                "connection": {"secretRef": {"name": name}}, "schema": {"manage": manage_schema},
                "relayGroups": [{"id": "default", "replicas": relays, "terminationGracePeriodSeconds": 5}],
            }),
        ),
    ]
}

fn pipeline(name: &str, database: &str, outbox: &str, bed: &Bed, topic: &str) -> Value {
    resource(
        "Pipeline",
        name,
        &json!({
            "databaseRef": {"name": database},
            "forward": {"outboxRef": {"name": outbox}, "sink": {"kafka": {"brokers": [bed.kafka], "topic": topic}}},
        }),
    )
}

async fn apply(namespace: &Namespace, resources: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": resources});
    namespace.apply(&list.to_string()).await;
}

async fn ready(namespace: &Namespace, resources: &[&str]) {
    for resource in resources {
        namespace.await_condition(SOON, resource, "Ready", "True").await;
    }
}

/// Publishes one number after another until told to stop; returns the last.
async fn traffic(db: &Database, outbox: &str, first: i64, stop: &AtomicBool) -> i64 {
    let mut last = first - 1;
    // Some each second, so that there is one at any moment of an upgrade.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Relaxed) {
        pace.tick().await;
        last += 1;
        db.publish_number(outbox, last).await;
    }
    last
}

/// UIDs of the relay pods of a `TideDatabase`.
async fn relays(namespace: &Namespace, database: &str) -> String {
    let selector = format!("--selector=pgtide.dev/database={database}");
    let uids = "--output=jsonpath={.items[*].metadata.uid}";
    namespace.kubectl(&["get", "pods", &selector, uids]).await
}

/// A database that release 0.1.0 worked with: an outbox whose first messages
/// are delivered, and its pipeline.
async fn of_version_1(bed: &Bed, topic: &str) -> Database {
    let db = Database::empty(&bed.postgres, "upgrade_old").await;
    db.run(VERSION_1).await;
    db.run("SELECT tide.outbox_create('orders'), tide.create_consumer_group('g', 'orders')")
        .await;
    db.publish_numbers("orders", 1, 20, 1).await;
    db.run("SELECT tide.commit_offset('g', 'orders', max(id)) FROM tide.orders_outbox")
        .await;
    db.run(&format!(
        r#"SELECT tide.relay_set_outbox('old', 'orders', 'kafka',
               '{{"brokers": "{}", "topic": "{topic}", "consumer_group": "g"}}')"#,
        bed.kafka
    ))
    .await;
    db
}

/// What goes while there is no operator, and what must not.
struct Absence {
    /// Goes in one go.
    gone: Namespace,
    gone_db: Database,
}

impl Absence {
    /// Makes what will go: in `namespace` some resources of `TideDatabase`
    /// `new`, and a whole namespace.
    async fn prepared(namespace: &Namespace, new_db: &Database, bed: &Bed) -> Self {
        let gone = namespace.cluster().namespace("upgrade-gone").await;
        let gone_db = Database::empty(&bed.postgres, "upgrade_gone").await;
        let in_db = |db: &str, reclaim: &str| json!({"databaseRef": {"name": db}, "reclaimPolicy": reclaim});
        let topic = unique("upgrade_gone");
        apply(&gone, &database("db", &gone_db, true, 0)).await;
        apply(
            &gone,
            &[
                resource("Outbox", "kept", &in_db("db", "Retain")),
                resource("Inbox", "dropped", &in_db("db", "Delete")),
                pipeline("q", "db", "kept", bed, &topic),
            ],
        )
        .await;
        apply(
            namespace,
            &[
                resource("Outbox", "kept", &in_db("new", "Retain")),
                resource("Inbox", "dropped", &in_db("new", "Delete")),
                pipeline("q", "new", "kept", bed, &topic),
            ],
        )
        .await;
        ready(namespace, &["outbox/kept", "inbox/dropped", "pipeline/q"]).await;
        ready(&gone, &["outbox/kept", "inbox/dropped"]).await;
        let row = "SELECT count(*) FROM tide.pipeline WHERE name = 'q'";
        gone_db.await_text(SOON, row, "1").await;
        // By hand, and nobody's.
        new_db
            .run("SELECT tide.outbox_create('by_hand'), tide.inbox_create('by_hand')")
            .await;
        new_db
            .run(
                r#"SELECT tide.relay_set_outbox('by_hand', 'by_hand', 'kafka',
                       '{"brokers": "localhost:1", "topic": "t"}', p_enabled := false)"#,
            )
            .await;
        Self { gone, gone_db }
    }

    /// Without an operator, all of it is deleted.
    async fn begin(&self, namespace: &Namespace) {
        namespace
            .kubectl(&[
                "delete",
                "pipeline/q",
                "outbox/kept",
                "inbox/dropped",
                "--wait=false",
            ])
            .await;
        let cluster = namespace.cluster();
        let delete = ["delete", "namespace", self.gone.name(), "--wait=false"];
        cluster.kubectl(&delete).await.unwrap();
        // Only what asks for its data to be dropped waits for an operator.
        for resource in ["pipeline/q", "outbox/kept"] {
            namespace
                .kubectl(&["wait", "--for=delete", resource, "--timeout=20s"])
                .await;
        }
    }

    /// With an operator again, all has ended, and what is nobody's is there.
    async fn ends(&self, namespace: &Namespace, new_db: &Database) {
        namespace
            .kubectl(&["wait", "--for=delete", "inbox/dropped", "--timeout=60s"])
            .await;
        let namespaces = format!("namespace/{}", self.gone.name());
        namespace
            .cluster()
            .kubectl(&["wait", "--for=delete", &namespaces, "--timeout=60s"])
            .await
            .unwrap();
        new_db
            .await_text(SOON, "SELECT name FROM tide.pipeline ORDER BY 1", "by_hand\np")
            .await;
        new_db
            .await_text(SOON, "SELECT name FROM tide.inbox", "by_hand")
            .await;
        let released = "SELECT released_at IS NOT NULL FROM tide.managed_object WHERE object = 'kept'";
        new_db.await_text(SOON, released, "t").await;
        assert_eq!(
            new_db.text("SELECT name FROM tide.outbox ORDER BY 1").await,
            "by_hand\nkept\norders"
        );
        // The inbox of that namespace has gone, too, if the operator was back
        // before the Secret that says where its database is was deleted.
        let outbox = "SELECT name FROM tide.outbox";
        assert_eq!(self.gone_db.text(outbox).await, "kept");
    }
}

/// Waits for an event about a resource; returns its note.
async fn event(namespace: &Namespace, name: &str, reason: &str) -> String {
    let selector = format!("--field-selector=reason={reason},involvedObject.name={name}");
    let notes = "--output=jsonpath={.items[*].message}";
    await_condition(SOON, &format!("event {reason} about {name}"), async || {
        let notes = namespace.try_kubectl(&["get", "events", &selector, notes]).await;
        notes.ok().filter(|notes| !notes.is_empty())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_release_0_1_0_under_traffic_after_a_while_without_operator() {
    let (cluster, bed) = (Cluster::from_env(), Bed::from_env());
    let (new_topic, old_topic) = (unique("upgrade_new"), unique("upgrade_old"));
    let new = Database::empty(&bed.postgres, "upgrade_new").await;
    let old = of_version_1(&bed, &old_topic).await;
    let namespace = cluster.namespace("upgrade").await;
    cluster.uninstall_operator().await.unwrap();
    cluster.install_crds(CHARTS_0_1_0).await;
    // There is no image of 0.1.0: its charts run the programs of today, which
    // leave the old schema alone for as long as they are told to.
    cluster.install_operator(CHARTS_0_1_0, &[]).await;

    apply(&namespace, &database("new", &new, true, 1)).await;
    apply(
        &namespace,
        &[
            resource("Outbox", "orders", &json!({"databaseRef": {"name": "new"}})),
            pipeline("p", "new", "orders", &bed, &new_topic),
        ],
    )
    .await;
    let mut adopted = pipeline("old", "old", "old-orders", &bed, &old_topic);
    adopted["spec"]["adoptionPolicy"] = "Adopt".into();
    adopted["spec"]["forward"]["consumerGroup"] = "g".into();
    let outbox = json!({
        "databaseRef": {"name": "old"}, "name": "orders", "adoptionPolicy": "Adopt", "consumerGroups": [{"name": "g"}],
    });
    apply(&namespace, &database("old", &old, false, 1)).await;
    apply(&namespace, &[resource("Outbox", "old-orders", &outbox), adopted]).await;
    // Only the later release knows these.
    let webhook = json!({
        "databaseRef": {"name": "new"},
        "reverse": {"inboxRef": {"name": "calls"}, "source": {"webhook": {"signature": "none"}}},
    });
    let webhook = resource("Pipeline", "webhook", &webhook).to_string();
    let refusal = namespace.try_apply(&webhook).await.unwrap_err();
    assert!(refusal.said.contains("unknown field"), "{refusal}");

    ready(&namespace, &["pipeline/p"]).await;
    let outdated = namespace
        .await_condition_as(SOON, "tidedatabase/old", "Ready", "is outdated", |c| {
            c.reason == "SchemaOutdated"
        })
        .await;
    assert!(
        outdated.message.contains("version 1") && outdated.message.contains("pg-tide schema upgrade"),
        "{outdated:?}"
    );
    let absence = Absence::prepared(&namespace, &new, &bed).await;
    let before = relays(&namespace, "new").await;

    let stop = AtomicBool::new(false);
    let upgrade = async {
        let scale = ["scale", "deployment/pg-tide-operator", "--replicas=0"];
        let system = ["--namespace", OPERATOR_NAMESPACE];
        cluster.kubectl(&[&scale[..], &system].concat()).await.unwrap();
        let pods = "--selector=app.kubernetes.io/name=pg-tide-operator";
        let gone = ["wait", "--for=delete", "pods", pods, "--timeout=30s"];
        cluster.kubectl(&[&gone[..], &system].concat()).await.unwrap();
        absence.begin(&namespace).await;

        cluster.install_crds(CHARTS).await;
        cluster.install_operator(CHARTS, &[]).await;
        // Told not to touch the schema, it does not.
        let version = "SELECT max(version) FROM tide.schema_version";
        assert_eq!(old.text(version).await, "1");
        apply(&namespace, &database("old", &old, true, 1)).await;
        let note = event(&namespace, "old", "SchemaUpgraded").await;
        assert!(note.contains("upgraded from version 1 to 2"), "{note}");
        let all = [
            "tidedatabase/old",
            "outbox/old-orders",
            "pipeline/old",
            "pipeline/p",
        ];
        ready(&namespace, &all).await;
        namespace.apply(&webhook).await;
        absence.ends(&namespace, &new).await;
        stop.store(true, Relaxed);
    };
    let (last_new, last_old, ()) = tokio::join!(
        traffic(&new, "orders", 1, &stop),
        traffic(&old, "orders", 21, &stop),
        upgrade
    );

    for (db, topic, first, last) in [(&new, &new_topic, 1, last_new), (&old, &old_topic, 21, last_old)] {
        db.await_delivered(SOON).await;
        let values = kafka::values(&kafka::records(&bed.kafka, topic).await);
        let all: Vec<i64> = (first..=last).collect();
        assert_eq!(values, all, "each once and in order");
    }
    println!("{last_new} and {last_old} messages, each once and in order");
    assert_eq!(relays(&namespace, "new").await, before, "no relay was restarted");
}
