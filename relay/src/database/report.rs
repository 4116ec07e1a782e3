//! The owner's report on its pipelines.

use super::{Pool, Session};
use crate::failure::Failure;

/// One pipeline's report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) pipeline_id: i32,
    pub(crate) epoch: i64,
    pub(crate) state: &'static str,
    /// Milliseconds since the Unix epoch.
    pub(crate) state_since: i64,
    pub(crate) messages: i64,
    pub(crate) duplicates: i64,
    pub(crate) dead_letters: i64,
    pub(crate) retries: i64,
    pub(crate) last_error: Option<String>,
    pub(crate) last_error_at: Option<i64>,
    pub(crate) note: Option<String>,
    /// Messages a second.
    pub(crate) rate: f32,
    pub(crate) source_position: Option<String>,
    pub(crate) source_lag: Option<i64>,
}

/// Writes reports; an older epoch never overwrites a newer one's.
pub(crate) async fn write(session: &mut Session, reports: &[Report]) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("writing the pipeline status", &e);
    let statement = session
        .prepare(
            "INSERT INTO tide.pipeline_status AS s
                    (pipeline_id, epoch, state, state_since, messages, duplicates, dead_letters, retries,
                     last_error, last_error_at, note, rate, source_position, source_lag, reported_at)
             SELECT u.pipeline_id, u.epoch, u.state, to_timestamp(u.since / 1000.0), u.messages, u.duplicates,
                    u.dead_letters, u.retries, u.last_error, to_timestamp(u.last_error_at / 1000.0), u.note, u.rate, u.source_position, u.source_lag,
                    clock_timestamp()
               FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                           $7::bigint[], $8::bigint[], $9::text[], $10::bigint[], $11::text[], $12::real[], $13::text[], $14::bigint[])
                    AS u(pipeline_id, epoch, state, since, messages, duplicates, dead_letters, retries,
                         last_error, last_error_at, note, rate, source_position, source_lag)
               JOIN tide.pipeline p USING (pipeline_id)
             ON CONFLICT (pipeline_id) DO UPDATE
                SET epoch = excluded.epoch, state = excluded.state, state_since = excluded.state_since,
                    messages = excluded.messages, duplicates = excluded.duplicates,
                    dead_letters = excluded.dead_letters, retries = excluded.retries,
                    last_error = excluded.last_error, last_error_at = excluded.last_error_at,
                    note = excluded.note, rate = excluded.rate,
                    source_position = excluded.source_position, source_lag = excluded.source_lag,
                    reported_at = excluded.reported_at
              WHERE s.epoch <= excluded.epoch",
        )
        .await
        .map_err(failed)?;
    macro_rules! column {
        ($r:ident => $e:expr) => {
            &reports.iter().map(|$r| $e).collect::<Vec<_>>()
        };
    }
    session
        .client
        .execute(
            &statement,
            &[
                column!(r => r.pipeline_id),
                column!(r => r.epoch),
                column!(r => r.state),
                column!(r => r.state_since),
                column!(r => r.messages),
                column!(r => r.duplicates),
                column!(r => r.dead_letters),
                column!(r => r.retries),
                column!(r => r.last_error.as_deref()),
                column!(r => r.last_error_at),
                column!(r => r.note.as_deref()),
                column!(r => r.rate),
                column!(r => r.source_position.as_deref()),
                column!(r => r.source_lag),
            ],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// Per forward pipeline: messages that are not delivered, and for how many
/// seconds the oldest has been waiting.
pub(crate) async fn lags(pool: &Pool, pipelines: &[i32]) -> Result<Vec<(i32, i64, f64)>, Failure> {
    let failed = |e| Failure::postgres("measuring the lag", &e);
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare(
            "SELECT p.pipeline_id, b.lag,
                    coalesce(extract(epoch FROM clock_timestamp() - b.oldest_at), 0)::float8
               FROM tide.pipeline p
               JOIN tide.outbox o USING (outbox_id)
               LEFT JOIN tide.group_cursor c USING (group_id)
               CROSS JOIN LATERAL tide._group_backlog(o, c) b
              WHERE p.pipeline_id = ANY ($1)",
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
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}
