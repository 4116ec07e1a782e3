//! What many tests begin with: a database with something in it, and a name of
//! one's own for topic, subject or stream.

use crate::nats::Nats;
use crate::{Bed, Database, unique};

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
