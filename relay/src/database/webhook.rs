//! Storing requests of webhook pipelines: fenced by the version of the
//! pipeline's row, for any relay of the group may do it.

use tokio_postgres::Error;

use super::inbox::{Batch, Poison, Written};
use super::{Pool, describe};
use crate::failure::Failure;

/// Which pipeline, and as which version of its row it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) pipeline_id: i32,
    pub(crate) version: i64,
}

/// Why nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// PostgreSQL refuses the data of some request in it.
    Refused(String),
    /// The pipeline is another one by now, or none.
    Changed,
    /// For as long as it lasts.
    Failed(String),
}

fn error(e: &Error) -> WriteError {
    match e.code().map(tokio_postgres::error::SqlState::code) {
        Some("TD006") => WriteError::Changed,
        // As for other inbox batches: data, constraints, limits.
        Some(code) if ["22", "23", "54"].contains(&&code[..2]) => WriteError::Refused(describe(e)),
        _ => WriteError::Failed(format!("writing to the inbox: {}", describe(e))),
    }
}

/// Stores a batch in one transaction.
pub(crate) async fn write(pool: &Pool, fence: Fence, batch: &Batch) -> Result<Written, WriteError> {
    let failed = |e: Error| error(&e);
    let mut lease = pool.get().await.map_err(|e| WriteError::Failed(e.to_string()))?;
    let statement = lease
        .session
        .prepare("SELECT inserted, duplicates FROM tide._webhook_write($1, $2, $3, $4, $5, $6, $7)")
        .await
        .map_err(failed)?;
    let row = lease
        .session
        .client
        .query_one(
            &statement,
            &[
                &fence.pipeline_id,
                &fence.version,
                &batch.event_ids,
                &batch.dedup_keys,
                &batch.sources,
                &batch.payloads,
                &batch.headers,
            ],
        )
        .await
        .map_err(failed);
    if !lease.session.client.is_closed() {
        lease.done();
    }
    let row = row?;
    let count = |column: usize| {
        row.try_get::<_, i64>(column)
            .map(|n| u64::try_from(n).unwrap_or(0))
            .map_err(failed)
    };
    Ok(Written {
        inserted: count(0)?,
        duplicates: count(1)?,
    })
}

/// Sets a request aside with its bytes; whether that was not done before.
pub(crate) async fn dead_letter(pool: &Pool, fence: Fence, poison: &Poison<'_>) -> Result<bool, WriteError> {
    let failed = |e: Error| error(&e);
    let mut lease = pool.get().await.map_err(|e| WriteError::Failed(e.to_string()))?;
    let statement = lease
        .session
        .prepare("SELECT tide._webhook_dead_letter($1, $2, $3, $4, $5, $6, $7)")
        .await
        .map_err(failed)?;
    let row = lease
        .session
        .client
        .query_one(
            &statement,
            &[
                &fence.pipeline_id,
                &fence.version,
                &poison.event_id,
                &poison.source,
                &poison.body,
                &poison.headers,
                &poison.error,
            ],
        )
        .await
        .map_err(failed);
    if !lease.session.client.is_closed() {
        lease.done();
    }
    row?.try_get(0).map_err(failed)
}

/// What came by a pipeline since it was made, in all relays together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) pipeline_id: i32,
    pub(crate) messages: i64,
    pub(crate) duplicates: i64,
    pub(crate) dead_letters: i64,
}

/// The counts of these pipelines; nothing of one by which nothing came.
pub(crate) async fn counts(pool: &Pool, pipelines: &[i32]) -> Result<Vec<Count>, Failure> {
    let failed = |e| Failure::postgres("counting webhooks", &e);
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare(
            "SELECT pipeline_id, messages, duplicates, dead_letters
               FROM tide.webhook_counter WHERE pipeline_id = ANY ($1)",
        )
        .await
        .map_err(failed)?;
    let rows = lease
        .session
        .client
        .query(&statement, &[&pipelines])
        .await
        .map_err(failed)?;
    lease.done();
    rows.iter()
        .map(|row| {
            Ok(Count {
                pipeline_id: row.try_get(0)?,
                messages: row.try_get(1)?,
                duplicates: row.try_get(2)?,
                dead_letters: row.try_get(3)?,
            })
        })
        .collect::<Result<_, Error>>()
        .map_err(failed)
}
