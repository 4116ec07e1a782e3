//! The tutorial as manifests: helm install, kubectl apply, psql and the
//! brokers' own clients.

use pg_tide_cluster_tests::Cluster;
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, kafka};
use serde_json::json;

use crate::scene::SOON;

const MANIFESTS: &str = include_str!("../../../../config/samples/tutorial.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_to_kafka_and_payments_come_from_nats() {
    let cluster = Cluster::with_operator().await;
    let bed = Bed::from_env();
    let namespace = cluster.namespace("tutorial").await;
    let db = Database::empty(&bed.postgres, "kubectl_tutorial").await;
    namespace.service_on("kafka", 9092, &bed.kafka).await;
    namespace
        .service_on("nats", 4222, bed.nats.trim_start_matches("nats://"))
        .await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-db"}, "stringData": {"uri": db.url()},
    });
    namespace.apply(&secret.to_string()).await;

    namespace.apply(MANIFESTS).await;
    for resource in [
        "tidedatabase/shop",
        "outbox/orders",
        "inbox/payments",
        "pipeline/orders-to-kafka",
        "pipeline/nats-to-payments",
    ] {
        namespace
            .kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", resource])
            .await;
    }

    db.run(
        "CREATE TABLE orders (id serial PRIMARY KEY, customer_id text NOT NULL, total numeric(10,2) NOT NULL,
                              status text NOT NULL DEFAULT 'pending')",
    )
    .await;
    for (id, customer) in [(1, "alice"), (2, "bob"), (3, "charlie")] {
        db.run(&format!(
            "BEGIN;
             INSERT INTO orders (id, customer_id, total, status) VALUES ({id}, '{customer}', 42, 'confirmed');
             SELECT tide.outbox_publish('orders', '{{\"order_id\": {id}, \"customer_id\": \"{customer}\"}}'::jsonb,
                                        '{{\"event_type\": \"order.confirmed\"}}'::jsonb);
             COMMIT;"
        ))
        .await;
    }
    let records = kafka::await_records(&bed.kafka, "order-events", 3, SOON).await;
    assert!(
        records
            .iter()
            .all(|r| r.key.as_deref() == Some("order.confirmed")),
        "{records:?}"
    );
    assert!(records[2].value.contains("charlie"), "{records:?}");
    db.await_delivered(SOON).await;

    let nats = Nats::connect(&bed.nats).await;
    for payment in ["pay-001", "pay-002", "pay-003", "pay-001"] {
        nats.publish("payments.confirmed", &format!(r#"{{"payment_id": "{payment}"}}"#))
            .await;
    }
    db.await_text(
        SOON,
        r#"SELECT event_id, payload->>'payment_id' FROM tide."payments_inbox" ORDER BY id"#,
        "payments:nats:seq-1|pay-001\npayments:nats:seq-2|pay-002\npayments:nats:seq-3|pay-003",
    )
    .await;
    db.run("SELECT tide.inbox_mark_processed('payments', 'payments:nats:seq-1')")
        .await;

    let columns = namespace.kubectl(&["get", "pipelines"]).await;
    println!(
        "{}",
        namespace.kubectl(&["get", "tdb,outbox,inbox,pipeline"]).await
    );
    for column in ["READY", "SOURCE", "SINK", "LAG", "OWNER", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }
    for text in [
        "outbox/orders",
        "kafka/order-events",
        "nats/payments.confirmed",
        "inbox/payments",
    ] {
        assert!(columns.contains(text), "{text}: {columns}");
    }
}
