//! Writing inbox batches.

use tokio_postgres::types::ToSql;

use super::Pool;
use crate::failure::Failure;

/// Incoming messages as columns, in the order of their arrival.
#[derive(Debug, Default, Clone)]
pub(crate) struct Batch {
    pub(crate) event_ids: Vec<Option<String>>,
    pub(crate) dedup_keys: Vec<Option<Vec<u8>>>,
    pub(crate) source_refs: Vec<Option<i32>>,
    pub(crate) source_seqs: Vec<Option<i64>>,
    pub(crate) sources: Vec<String>,
    /// JSON; none is stored as null.
    pub(crate) payloads: Vec<Option<String>>,
    pub(crate) headers: Vec<String>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.payloads.len()
    }

    /// A part of the batch.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            event_ids: self.event_ids[range.clone()].to_vec(),
            dedup_keys: self.dedup_keys[range.clone()].to_vec(),
            source_refs: self.source_refs[range.clone()].to_vec(),
            source_seqs: self.source_seqs[range.clone()].to_vec(),
            sources: self.sources[range.clone()].to_vec(),
            payloads: self.payloads[range.clone()].to_vec(),
            headers: self.headers[range].to_vec(),
        }
    }
}

/// Positions in topic partitions that move with a batch, as columns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) source_refs: Vec<i32>,
    /// Where the inbox is believed to stand; none where it never was.
    pub(crate) expected: Vec<Option<i64>>,
    pub(crate) next: Vec<i64>,
    /// Milliseconds since 1970 of the record before `next`.
    pub(crate) times: Vec<Option<i64>>,
}

/// Where a consumer group stands in a topic partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPosition {
    pub(crate) name: String,
    pub(crate) source_ref: i32,
    /// None when it never was there.
    pub(crate) next: Option<i64>,
    pub(crate) last_time: Option<i64>,
    /// It stands somewhere in the same topic.
    pub(crate) topic_known: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) inserted: u64,
    pub(crate) duplicates: u64,
}

/// Why a batch was not stored.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// PostgreSQL refuses the data of some message in it.
    Refused(String),
    Failed(Failure),
}

/// Stores a batch in one transaction, fenced by the epoch; with it move the
/// positions of a consumer group, if the source has one.
pub(crate) async fn write(
    pool: &Pool,
    pipeline_id: i32,
    epoch: i64,
    batch: &Batch,
    moves: Option<(&str, &Moves)>,
) -> Result<Written, WriteError> {
    let failed = |e: tokio_postgres::Error| {
        // Classes 22 (data exception) and 23 (constraint) are the message's
        // own fault, as is 54 (a limit, such as an index row too large).
        match e.code().map(tokio_postgres::error::SqlState::code) {
            Some(code) if ["22", "23", "54"].contains(&&code[..2]) => {
                WriteError::Refused(super::describe(&e))
            }
            _ => WriteError::Failed(Failure::postgres("writing to the inbox", &e)),
        }
    };
    let mut lease = pool
        .get()
        .await
        .map_err(|e| WriteError::Failed(Failure::transient(e.to_string())))?;
    let sql = match moves {
        None => "SELECT inserted, duplicates FROM tide._inbox_write($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        Some(_) => {
            "SELECT inserted, duplicates
               FROM tide._inbox_write_at($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        }
    };
    let statement = lease.session.prepare(sql).await.map_err(failed)?;
    let mut arguments: Vec<&(dyn ToSql + Sync)> = vec![
        &pipeline_id,
        &epoch,
        &batch.event_ids,
        &batch.dedup_keys,
        &batch.source_refs,
        &batch.source_seqs,
        &batch.sources,
        &batch.payloads,
        &batch.headers,
    ];
    if let Some((group, moves)) = &moves {
        arguments.extend::<[&(dyn ToSql + Sync); 5]>([
            group,
            &moves.source_refs,
            &moves.expected,
            &moves.next,
            &moves.times,
        ]);
    }
    let result = lease
        .session
        .client
        .query_one(&statement, &arguments)
        .await
        .map_err(failed);
    if !lease.session.client.is_closed() {
        lease.done();
    }
    let row = result?;
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

/// The number of a stream in an inbox.
pub(crate) async fn source_ref(pool: &Pool, inbox_id: i32, description: &str) -> Result<i32, Failure> {
    let failed = |e| Failure::postgres("naming the source", &e);
    let lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let row = lease
        .session
        .client
        .query_one("SELECT tide._inbox_source($1, $2)", &[&inbox_id, &description])
        .await
        .map_err(failed)?;
    lease.done();
    row.try_get(0).map_err(failed)
}

/// Where a consumer group stands in these streams of an inbox.
pub(crate) async fn positions(
    pool: &Pool,
    inbox_id: i32,
    group: &str,
    names: &[String],
) -> Result<Vec<StoredPosition>, Failure> {
    let failed = |e| Failure::postgres("reading the positions of the inbox", &e);
    let lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let rows = lease
        .session
        .client
        .query(
            "SELECT description, source_ref, next_offset, last_time, topic_known
               FROM tide._inbox_positions($1, $2, $3)",
            &[&inbox_id, &group, &names],
        )
        .await
        .map_err(failed)?;
    lease.done();
    rows.iter()
        .map(|row| {
            Ok(StoredPosition {
                name: row.try_get(0)?,
                source_ref: row.try_get(1)?,
                next: row.try_get(2)?,
                last_time: row.try_get(3)?,
                topic_known: row.try_get(4)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// An incoming message that cannot be stored.
#[derive(Debug)]
pub(crate) struct Poison<'a> {
    pub(crate) event_id: Option<&'a str>,
    pub(crate) source: &'a str,
    pub(crate) source_ref: Option<i32>,
    pub(crate) source_seq: Option<i64>,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) headers: &'a str,
    pub(crate) error: &'a str,
}

/// Puts a message aside with its bytes, once.
pub(crate) async fn dead_letter(pool: &Pool, pipeline: &str, poison: &Poison<'_>) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("writing a dead letter", &e);
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare(
            "INSERT INTO tide.dead_letter
                    (pipeline, direction, event_id, source, source_ref, source_seq, body, headers, error)
             VALUES ($1, 'reverse', $2, $3, $4, $5, $6, $7::text::jsonb, $8)
             ON CONFLICT DO NOTHING",
        )
        .await
        .map_err(failed)?;
    lease
        .session
        .client
        .execute(
            &statement,
            &[
                &pipeline,
                &poison.event_id,
                &poison.source,
                &poison.source_ref,
                &poison.source_seq,
                &poison.body,
                &poison.headers,
                &poison.error,
            ],
        )
        .await
        .map_err(failed)?;
    lease.done();
    Ok(())
}
