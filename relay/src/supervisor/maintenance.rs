//! Keeps the outboxes' partitions: makes those that will be needed, drops
//! those that every group has passed. One relay of a database at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::database::{Pool, ownership, report};
use crate::failure::Failure;

/// Partitions are made days ahead, so that this is often enough by far.
const EVERY: Duration = Duration::from_mins(2);
/// The first time, so that a relay's start is not burdened.
const FIRST: Duration = Duration::from_secs(10);

/// Runs until the task is aborted; failures are logged and tried again.
pub(super) async fn run(pool: Arc<Pool>) -> Result<(), Failure> {
    tokio::time::sleep(FIRST).await;
    loop {
        if let Err(failure) = maintain(&pool).await {
            tracing::warn!("{failure}");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn maintain(pool: &Pool) -> Result<(), Failure> {
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    // One outbox a transaction: its locks are held until the end of it.
    while let Some(actions) = report::maintain(&mut lease.session, ownership::MEMBER_CLASS).await? {
        let changed = actions.iter().any(report::Maintained::changed);
        for a in actions {
            let (outbox, action, leaf, detail) = (a.outbox, a.action, a.leaf, a.detail);
            match action.as_str() {
                "failed" => tracing::warn!(outbox, "partitions cannot be kept: {detail}"),
                "made" | "closed" | "dropped" => tracing::info!(outbox, leaf, "partition {action}: {detail}"),
                _ => tracing::debug!(outbox, leaf, "partition {action}: {detail}"),
            }
        }
        if !changed {
            break;
        }
    }
    lease.done();
    Ok(())
}
