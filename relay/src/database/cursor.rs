//! Cursors of consumer groups: reading, checkpointing, dead letters.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::{Pool, Session};
use crate::cursor::{Positions, Progress, Round, Snapshot};
use crate::encode::Row;
use crate::failure::Failure;
use crate::sabotage::Protection;

/// Identity of the cluster in which a snapshot means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) system_identifier: i64,
    pub(crate) timeline: i64,
}

/// A group's cursor as it stands in SQL.
#[derive(Debug, Clone)]
pub(crate) struct StoredCursor {
    pub(crate) progress: Progress,
    pub(crate) low_water_id: i64,
    pub(crate) low_water_positions: Positions,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) clean: bool,
}

/// One checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) group_id: i32,
    pub(crate) epoch: i64,
    pub(crate) progress: Progress,
    pub(crate) low_water_id: i64,
    pub(crate) low_water_positions: Positions,
    pub(crate) cluster: Cluster,
    pub(crate) clean: bool,
}

fn positions(value: &Value) -> Positions {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, position)| Some((name.clone(), position.as_i64()?)))
        .collect()
}

fn to_json(positions: &Positions) -> String {
    serde_json::to_string(positions).unwrap_or_else(|_| "{}".into())
}

/// The cluster that this session talks to.
pub(crate) async fn cluster(session: &mut Session) -> Result<Cluster, Failure> {
    let failed = |e| Failure::postgres("reading the cluster's identity", &e);
    let statement = session
        .prepare("SELECT system_identifier, timeline FROM tide._cluster()")
        .await
        .map_err(failed)?;
    let row = session.client.query_one(&statement, &[]).await.map_err(failed)?;
    Ok(Cluster {
        system_identifier: row.try_get(0).map_err(failed)?,
        timeline: row.try_get(1).map_err(failed)?,
    })
}

/// A name for this database that no other has, and that stays the same when a
/// standby takes over.
pub(crate) async fn origin(session: &mut Session, cluster: Cluster) -> Result<Arc<str>, Failure> {
    let failed = |e| Failure::postgres("reading the database's name", &e);
    let row = session
        .client
        .query_one("SELECT current_database()::text", &[])
        .await
        .map_err(failed)?;
    let name: &str = row.try_get(0).map_err(failed)?;
    Ok(format!("{}-{name}", cluster.system_identifier).into())
}

/// Reads a group's cursor.
pub(crate) async fn read(session: &mut Session, group_id: i32) -> Result<StoredCursor, Failure> {
    let failed = |e| Failure::postgres("reading the cursor", &e);
    let statement = session
        .prepare(
            "SELECT old_snapshot::text, new_snapshot::text, last_id, committed_offset, low_water_id,
                    system_identifier, timeline, clean, sink_position::text, low_water_position::text
               FROM tide.group_cursor WHERE group_id = $1",
        )
        .await
        .map_err(failed)?;
    let row = session
        .client
        .query_opt(&statement, &[&group_id])
        .await
        .map_err(failed)?
        .ok_or_else(|| Failure::lost("the consumer group's cursor is gone"))?;
    let snapshot = |column: usize| {
        let text: &str = row.try_get(column).map_err(failed)?;
        text.parse::<Snapshot>()
            .map_err(|e| Failure::transient(format!("reading the cursor: {e}")))
    };
    let json = |column: usize| {
        let text: &str = row.try_get(column).map_err(failed)?;
        Ok::<_, Failure>(positions(&serde_json::from_str(text).unwrap_or(Value::Null)))
    };
    let system_identifier: Option<i64> = row.try_get(5).map_err(failed)?;
    let timeline: Option<i64> = row.try_get(6).map_err(failed)?;
    Ok(StoredCursor {
        progress: Progress {
            round: Arc::new(Round {
                old: snapshot(0)?,
                new: snapshot(1)?,
            }),
            last_id: row.try_get(2).map_err(failed)?,
            committed_offset: row.try_get(3).map_err(failed)?,
            positions: json(8)?,
        },
        low_water_id: row.try_get(4).map_err(failed)?,
        low_water_positions: json(9)?,
        cluster: system_identifier
            .zip(timeline)
            .map(|(system_identifier, timeline)| Cluster {
                system_identifier,
                timeline,
            }),
        clean: row.try_get(7).map_err(failed)?,
    })
}

/// Writes checkpoints of many pipelines in one statement, each fenced by its
/// epoch. Returns the groups that were written; the others are lost.
pub(crate) async fn write(session: &mut Session, batch: &[Checkpoint]) -> Result<HashSet<i32>, Failure> {
    let failed = |e| Failure::postgres("writing the checkpoint", &e);
    let fence = if Protection::EpochFence.is_off() {
        "u.epoch > 0"
    } else {
        "c.epoch = u.epoch"
    };
    let statement = session
        .prepare(&format!(
            "UPDATE tide.group_cursor c
                SET old_snapshot = u.old::pg_snapshot, new_snapshot = u.new::pg_snapshot,
                    last_id = u.last_id, committed_offset = u.committed_offset,
                    low_water_id = u.low_water_id, clean = u.clean,
                    system_identifier = u.system_identifier, timeline = u.timeline,
                    sink_position = u.sink_position::jsonb,
                    low_water_position = u.low_water_position::jsonb,
                    committed_at = clock_timestamp()
               FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                           $7::bigint[], $8::bool[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])
                    AS u(group_id, epoch, old, new, last_id, committed_offset, low_water_id, clean,
                         system_identifier, timeline, sink_position, low_water_position)
              WHERE c.group_id = u.group_id AND {fence}
          RETURNING c.group_id"
        ))
        .await
        .map_err(failed)?;
    macro_rules! column {
        ($c:ident => $e:expr) => {
            &batch.iter().map(|$c| $e).collect::<Vec<_>>()
        };
    }
    let rows = session
        .client
        .query(
            &statement,
            &[
                column!(c => c.group_id),
                column!(c => c.epoch),
                column!(c => c.progress.round.old.to_string()),
                column!(c => c.progress.round.new.to_string()),
                column!(c => c.progress.last_id),
                column!(c => c.progress.committed_offset),
                column!(c => c.low_water_id),
                column!(c => c.clean),
                column!(c => c.cluster.system_identifier),
                column!(c => c.cluster.timeline),
                column!(c => to_json(&c.progress.positions)),
                column!(c => to_json(&c.low_water_positions)),
            ],
        )
        .await
        .map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Puts a message aside that its sink refuses, whole, once; fenced.
pub(crate) async fn dead_letter(
    pool: &Pool,
    pipeline: (&str, i32, i64),
    event_id: &str,
    row: &Row,
    key: Option<&str>,
    error: &str,
) -> Result<bool, Failure> {
    let failed = |e| Failure::postgres("writing a dead letter", &e);
    let (name, group_id, epoch) = pipeline;
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare(
            "WITH mine AS (SELECT 1 FROM tide.group_cursor WHERE group_id = $1 AND epoch = $2 FOR SHARE),
                  written AS (
                      INSERT INTO tide.dead_letter (pipeline, direction, message_id, event_id, headers, payload, error, message_key)
                      SELECT coalesce((SELECT p.name FROM tide.pipeline p WHERE p.group_id = $1), $3),
                             'forward', $4, $5, $6::text::jsonb, $7::text::jsonb, $8, $9 FROM mine
                      ON CONFLICT DO NOTHING RETURNING 1)
             SELECT (SELECT count(*) FROM mine), (SELECT count(*) FROM written)",
        )
        .await
        .map_err(failed)?;
    let headers = String::from_utf8_lossy(&row.headers).into_owned();
    let payload = (!row.payload.is_empty()).then(|| String::from_utf8_lossy(&row.payload).into_owned());
    let counted = lease
        .session
        .client
        .query_one(
            &statement,
            &[
                &group_id, &epoch, &name, &row.id, &event_id, &headers, &payload, &error, &key,
            ],
        )
        .await
        .map_err(failed)?;
    lease.done();
    if counted.try_get::<_, i64>(0).map_err(failed)? == 0 {
        return Err(Failure::lost("another relay owns the pipeline"));
    }
    Ok(counted.try_get::<_, i64>(1).map_err(failed)? > 0)
}

/// Keys of a pipeline's unresolved dead letters.
pub(crate) async fn dead_keys(pool: &Pool, pipeline: &str) -> Result<HashSet<String>, Failure> {
    let failed = |e| Failure::postgres("reading the dead letters", &e);
    let lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let rows = lease
        .session
        .client
        .query(
            "SELECT DISTINCT message_key FROM tide.dead_letter
              WHERE pipeline = $1 AND resolved_at IS NULL AND message_key IS NOT NULL",
            &[&pipeline],
        )
        .await
        .map_err(failed)?;
    lease.done();
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}
