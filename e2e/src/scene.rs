//! What many tests begin with: a database with something in it, and a name of
//! one's own for topic, subject or stream.

use std::time::Duration;

use crate::nats::Nats;
use crate::{Bed, Database, Relay, assert_each_once, kafka, numbers, unique};

const SOON: Duration = Duration::from_secs(30);

async fn database(stem: &str, setup: &str) -> (Bed, Database, String) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.run(setup).await;
    (bed, db, unique(stem))
}

async fn connected(scene: (Bed, Database, String)) -> (Bed, Database, Nats, String) {
    let (bed, db, name) = scene;
    let nats = Nats::connect(&bed.nats).await;
    (bed, db, nats, name)
}

/// A database with the outbox `events`.
pub async fn outbox(stem: &str) -> (Bed, Database, String) {
    database(stem, "SELECT tide.outbox_create('events')").await
}

/// A database with the outbox `events`, and a connection to NATS.
pub async fn outbox_and_nats(stem: &str) -> (Bed, Database, Nats, String) {
    connected(outbox(stem).await).await
}

/// A database with the inbox `calls`, and a connection to NATS.
pub async fn inbox_and_nats(stem: &str) -> (Bed, Database, Nats, String) {
    connected(database(stem, "SELECT tide.inbox_create('calls')").await).await
}

/// Two pipelines of the outbox `events`: `k` to a topic, `n` to a stream that
/// forgets message ids at once.
#[derive(Debug)]
pub struct ToBoth {
    /// The shared bed.
    pub bed: Bed,
    /// Connected.
    pub nats: Nats,
    /// Where `k` leads to.
    pub topic: String,
    /// Where `n` leads to.
    pub stream: String,
}

impl ToBoth {
    /// With messages 1 to 300 delivered, and no relay.
    pub async fn delivered(stem: &str) -> (Self, Database) {
        let (bed, db, nats, topic) = outbox_and_nats(stem).await;
        let stream = unique(stem);
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
        let scene = Self {
            bed,
            nats,
            topic,
            stream,
        };
        (scene, db)
    }

    /// Everything up to `last` arrives at both, each once.
    pub async fn complete(&self, db: &Database, last: i64) {
        kafka::await_records(&self.bed.kafka, &self.topic, usize::try_from(last).unwrap(), SOON).await;
        db.await_delivered(SOON).await;
        let records = kafka::records(&self.bed.kafka, &self.topic).await;
        assert_each_once(&numbers(records.iter().map(|r| r.value.as_str())), 1..=last);
        let messages = self.nats.messages(&self.stream).await;
        assert_each_once(&numbers(messages.iter().map(|m| m.payload.as_str())), 1..=last);
    }
}
