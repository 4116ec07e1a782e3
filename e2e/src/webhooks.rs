//! Pipelines that post to a receiver, and what it got.

use std::time::Duration;

use crate::{Bed, Database, Received, Receiver, answer, await_condition, numbers};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

/// A database with the outbox `events`, and a receiver.
pub async fn scene(stem: &str) -> (Database, Receiver) {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    (db, Receiver::start().await)
}

/// The pipeline `p` from the outbox to the receiver.
pub async fn to_webhook(db: &Database, receiver: &Receiver, path: &str, more: &str) {
    let url = format!("http://{}{path}", receiver.address());
    to_url(
        db,
        "p",
        &url,
        &format!(r#"{{"allow_private": true, "retry": {{"initial": 20, "max": 200}}}}' || '{more}"#),
    )
    .await;
}

/// A pipeline from the outbox to a URL, by these options; set again, it is
/// replaced.
pub async fn to_url(db: &Database, pipeline: &str, url: &str, more: &str) {
    db.run(&format!(
        "SELECT tide.relay_set_outbox('{pipeline}', 'events', 'webhook', jsonb_build_object('url', '{url}') || '{more}', p_batch_size := 50)"
    ))
    .await;
}

/// The numbers in requests of a message each.
pub fn values(requests: &[Received]) -> Vec<i64> {
    numbers(requests.iter().map(|r| r.body.as_str()))
}

/// The numbers that were accepted, in their order.
pub fn in_batches(requests: &[Received]) -> Vec<i64> {
    requests
        .iter()
        .flat_map(|r| serde_json::from_str::<Vec<serde_json::Value>>(&r.body).unwrap())
        .map(|message| message["payload"]["n"].as_i64().unwrap())
        .collect()
}

/// Waits for so many requests.
pub async fn await_count(receiver: &Receiver, count: usize) {
    await_condition(A_WHILE, &format!("{count} requests"), async || {
        (receiver.count() >= count).then_some(())
    })
    .await;
}

/// The error of pipeline `p`, once it has this part.
///
/// # Panics
/// When it does not come.
pub async fn last_error(db: &Database, part: &str) -> String {
    let error = "SELECT coalesce(last_error, '') FROM tide.relay_pipeline_status WHERE pipeline = 'p'";
    let mut last = String::new();
    let come = answer(SOON, async || {
        last = db.text(error).await;
        last.contains(part).then_some(())
    })
    .await;
    assert!(come.is_some(), "wanted: {part}\ngot: {last}");
    last
}
