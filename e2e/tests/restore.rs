//! A database that was dumped and restored: the relays go on where they were.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Relay, assert_each_once, kafka, numbers, unique};

const SOON: Duration = Duration::from_secs(30);

/// Two pipelines of one outbox, to a topic and to a stream.
struct Scene {
    bed: Bed,
    nats: Nats,
    topic: String,
    stream: String,
}

impl Scene {
    /// With 300 messages delivered, twenty published since, and no relay.
    async fn new(stem: &str) -> (Self, Database) {
        let bed = Bed::from_env();
        let db = Database::fresh(&bed.postgres, stem).await;
        let (topic, stream) = (unique(stem), unique(stem));
        db.create_outboxes(&["events"]).await;
        let nats = Nats::connect(&bed.nats).await;
        nats.create_stream(&stream, &stream, |config| {
            config.duplicate_window = Duration::from_millis(100);
        })
        .await;
        db.to_kafka("k", "events", &bed.kafka, &topic, "{}").await;
        db.to_nats("n", "events", &bed.nats, &stream, "{}").await;
        let mut relay = Relay::start(&db).await;
        db.publish_numbers("events", 1, 300, 1).await;
        db.await_delivered(SOON).await;
        assert!(relay.terminate(SOON).await.success());
        db.publish_numbers("events", 301, 320, 1).await;
        let scene = Self {
            bed,
            nats,
            topic,
            stream,
        };
        (scene, db)
    }

    /// Everything up to `last` has arrived, each once.
    async fn complete(&self, db: &Database, last: i64) {
        kafka::await_records(&self.bed.kafka, &self.topic, usize::try_from(last).unwrap(), SOON).await;
        db.await_delivered(SOON).await;
        let of_kafka = numbers(
            kafka::records(&self.bed.kafka, &self.topic)
                .await
                .iter()
                .map(|r| r.value.as_str()),
        );
        assert_each_once(&of_kafka, 1..=last);
        let of_nats = numbers(
            self.nats
                .messages(&self.stream)
                .await
                .iter()
                .map(|m| m.payload.as_str()),
        );
        assert_each_once(&of_nats, 1..=last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_another_database_is_delivered_from_where_it_was() {
    let (scene, db) = Scene::new("restore").await;
    let copy = Database::empty(&scene.bed.postgres, "restored").await;
    let restored = std::process::Command::new("bash")
        .args([
            "-o",
            "pipefail",
            "-c",
            // pg_dump is of the newest version and sets what servers before 17 do not know.
            "pg_dump \"$1\" | grep -v '^SET transaction_timeout = 0;$' | psql -X -q -v ON_ERROR_STOP=1 \"$2\"",
        ])
        .args(["bash", &db.url(), &copy.url()])
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    copy.publish_numbers("events", 321, 400, 1).await;
    let _relay = Relay::start(&copy).await;
    scene.complete(&copy, 400).await;
}

/// Its messages carry xids that the new cluster gives out only later.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_cluster_that_was_further_ahead_are_delivered_and_do_not_come_again() {
    let (scene, db) = Scene::new("restore_ahead").await;
    let ahead = 2000;
    db.run(&format!(
        "UPDATE tide.events_outbox SET xid = (xid::text::bigint + {ahead})::text::xid8;
         UPDATE tide.group_cursor SET system_identifier = system_identifier + 1"
    ))
    .await;
    db.publish_numbers("events", 321, 400, 1).await;
    let relay = Relay::start(&db).await;
    scene.complete(&db, 400).await;
    // The new cluster gives out the same xids.
    db.run("CREATE TABLE other (n int)").await;
    db.run("SET synchronous_commit = off").await;
    db.run("DO $$ BEGIN FOR n IN 1 .. 4000 LOOP INSERT INTO other VALUES (n); COMMIT; END LOOP; END $$")
        .await;
    db.publish_numbers("events", 401, 420, 1).await;
    scene.complete(&db, 420).await;
    let said = relay.log();
    assert!(said.contains("restored from another cluster"), "{said}");
}
