//! Membership, advisory locks, acquisition, and the pipelines of a group.

use serde_json::Value;

use super::Session;
use crate::config::PipelineRow;
use crate::failure::Failure;

/// First key of the two-key advisory locks: "tide" for pipelines, "tidm" for
/// members, so that they never meet an application's own single-key locks.
pub(crate) const PIPELINE_CLASS: i32 = 0x7469_6465;
/// See [`PIPELINE_CLASS`].
pub(crate) const MEMBER_CLASS: i32 = 0x7469_646d;

/// This relay as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: i32,
    pub(crate) name: String,
}

/// What the lock connection saw in one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) config_version: i64,
    /// Live members of this relay's group, itself included.
    pub(crate) members: Vec<i32>,
    /// Pipelines whose lock is held by anybody.
    pub(crate) locked: Vec<i32>,
    /// Whether this session still holds its own member lock.
    pub(crate) alive: bool,
    /// Whether one of the members listens for webhooks.
    pub(crate) listening: bool,
}

/// Registers this relay and takes its member lock.
pub(crate) async fn join(
    session: &mut Session,
    group: &str,
    name: &str,
    release: &str,
    webhook_addr: Option<&str>,
) -> Result<Member, Failure> {
    let failed = |e| Failure::postgres("joining the relay group", &e);
    session
        .client
        .batch_execute("LISTEN tide_config")
        .await
        .map_err(failed)?;
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let row = session
        .client
        .query_one(
            "INSERT INTO tide.relay_member (relay_group, name, pid, release, backend_pid, webhook_addr)
             VALUES ($1, $2, $3, $4, pg_backend_pid(), $5) RETURNING member_id",
            &[&group, &name, &pid, &release, &webhook_addr],
        )
        .await
        .map_err(failed)?;
    let id: i32 = row.try_get(0).map_err(failed)?;
    session
        .client
        .execute("SELECT pg_advisory_lock($1, $2)", &[&MEMBER_CLASS, &id])
        .await
        .map_err(failed)?;
    // Members that are gone: their lock is free.
    session
        .client
        .execute(
            "DELETE FROM tide.relay_member m
              WHERE heartbeat_at < clock_timestamp() - interval '1 minute'
                AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2
                                   AND l.classid = $1::int::oid AND l.objid = m.member_id::oid AND l.granted
                                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            &[&MEMBER_CLASS],
        )
        .await
        .map_err(failed)?;
    Ok(Member {
        id,
        name: name.to_owned(),
    })
}

/// Unregisters; the locks go with the connection.
pub(crate) async fn leave(session: &Session, member: &Member) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("leaving the relay group", &e);
    session
        .client
        .execute(
            "DELETE FROM tide.relay_member WHERE member_id = $1",
            &[&member.id],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// One look at everything that decides ownership.
pub(crate) async fn look(session: &mut Session, group: &str, member: &Member) -> Result<View, Failure> {
    let failed = |e| Failure::postgres("looking at the relay group", &e);
    let statement = session
        .prepare(
            "WITH held AS MATERIALIZED (
                 SELECT classid::bigint AS class, objid::bigint::int AS id, pid
                   FROM pg_locks
                  WHERE locktype = 'advisory' AND objsubid = 2 AND granted
                    AND classid IN ($1::int::oid, $2::int::oid)
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
             SELECT (SELECT version FROM tide.config_state),
                    ARRAY(SELECT m.member_id FROM tide.relay_member m JOIN held h ON h.id = m.member_id
                           WHERE h.class = $1::int::bigint AND m.relay_group = $3 ORDER BY 1),
                    ARRAY(SELECT h.id FROM held h WHERE h.class = $2::int::bigint ORDER BY 1),
                    EXISTS (SELECT FROM held h WHERE h.class = $1::int::bigint AND h.id = $4 AND h.pid = pg_backend_pid()),
                    EXISTS (SELECT FROM tide.relay_member m JOIN held h ON h.id = m.member_id
                             WHERE h.class = $1::int::bigint AND m.relay_group = $3 AND m.webhook_addr IS NOT NULL)",
        )
        .await
        .map_err(failed)?;
    let row = session
        .client
        .query_one(&statement, &[&MEMBER_CLASS, &PIPELINE_CLASS, &group, &member.id])
        .await
        .map_err(failed)?;
    Ok(View {
        config_version: row.try_get(0).map_err(failed)?,
        members: row.try_get(1).map_err(failed)?,
        locked: row.try_get(2).map_err(failed)?,
        alive: row.try_get(3).map_err(failed)?,
        listening: row.try_get(4).map_err(failed)?,
    })
}

/// Says that this member is alive, for people who read the table.
pub(crate) async fn heartbeat(session: &mut Session, member: &Member) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("writing the heartbeat", &e);
    let statement = session
        .prepare("UPDATE tide.relay_member SET heartbeat_at = clock_timestamp() WHERE member_id = $1")
        .await
        .map_err(failed)?;
    session
        .client
        .execute(&statement, &[&member.id])
        .await
        .map_err(failed)?;
    Ok(())
}

/// Pipelines as [`pipeline_row`] reads them; a condition on `p` may follow.
pub(crate) const PIPELINES: &str =
    "SELECT p.pipeline_id, p.name, p.direction, p.connector, p.config::text, p.batch_size, p.idempotent,
            coalesce(o.name, i.name), coalesce(o.table_name, i.table_name)::text, p.group_id, p.inbox_id,
            (SELECT max(r.redelivery_id) FROM tide.redelivery r WHERE r.pipeline_id = p.pipeline_id),
            p.max_retries, p.enabled, p.xmin::text::bigint, coalesce(p.first_name, p.name)
       FROM tide.pipeline p
       LEFT JOIN tide.outbox o USING (outbox_id)
       LEFT JOIN tide.inbox i USING (inbox_id)";

/// Reads a row of [`PIPELINES`].
pub(crate) fn pipeline_row(row: &tokio_postgres::Row) -> Result<PipelineRow, tokio_postgres::Error> {
    Ok(PipelineRow {
        pipeline_id: row.try_get(0)?,
        name: row.try_get(1)?,
        direction: row.try_get(2)?,
        connector: row.try_get(3)?,
        config: serde_json::from_str(row.try_get(4)?).unwrap_or(Value::Null),
        batch_size: row.try_get(5)?,
        idempotent: row.try_get(6)?,
        store: row.try_get(7)?,
        table: row.try_get(8)?,
        group_id: row.try_get(9)?,
        inbox_id: row.try_get(10)?,
        redelivery: row.try_get(11)?,
        max_retries: row.try_get(12)?,
        enabled: row.try_get(13)?,
        version: row.try_get(14)?,
        first_name: row.try_get(15)?,
    })
}

/// The enabled pipelines of a relay group, and its webhook pipelines also while
/// they are disabled: the listener must tell them from unknown ones.
pub(crate) async fn pipelines(session: &mut Session, group: &str) -> Result<Vec<PipelineRow>, Failure> {
    let failed = |e| Failure::postgres("reading the pipelines", &e);
    let statement = session
        .prepare(&format!(
            "{PIPELINES} WHERE p.relay_group = $1 AND (p.enabled OR p.direction = 'reverse' AND p.connector = 'webhook')
              ORDER BY p.pipeline_id"
        ))
        .await
        .map_err(failed)?;
    let rows = session
        .client
        .query(&statement, &[&group])
        .await
        .map_err(failed)?;
    rows.iter()
        .map(pipeline_row)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Tries to take the locks of some pipelines; returns those it got.
pub(crate) async fn try_lock(session: &mut Session, ids: &[i32]) -> Result<Vec<i32>, Failure> {
    let failed = |e| Failure::postgres("taking pipeline locks", &e);
    let statement = session
        .prepare("SELECT id FROM unnest($1::int[]) AS u(id) WHERE pg_try_advisory_lock($2, id)")
        .await
        .map_err(failed)?;
    let rows = session
        .client
        .query(&statement, &[&ids, &PIPELINE_CLASS])
        .await
        .map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Gives a pipeline's lock back and notes when.
pub(crate) async fn unlock(session: &mut Session, id: i32, epoch: Option<i64>) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("releasing a pipeline lock", &e);
    if let Some(epoch) = epoch {
        session
            .client
            .execute(
                "UPDATE tide.pipeline_owner SET released_at = clock_timestamp() WHERE pipeline_id = $1 AND epoch = $2",
                &[&id, &epoch],
            )
            .await
            .map_err(failed)?;
    }
    session
        .client
        .execute("SELECT pg_advisory_unlock($1, $2)", &[&PIPELINE_CLASS, &id])
        .await
        .map_err(failed)?;
    Ok(())
}

/// Becomes the owner of locked pipelines; returns the new epochs.
pub(crate) async fn acquire(
    session: &mut Session,
    ids: &[i32],
    member: &Member,
) -> Result<Vec<(i32, i64)>, Failure> {
    let failed = |e| Failure::postgres("acquiring a pipeline", &e);
    let statement = session
        .prepare("SELECT id, tide._acquire(id, $2, $3) FROM unnest($1::int[]) AS u(id)")
        .await
        .map_err(failed)?;
    let rows = session
        .client
        .query(&statement, &[&ids, &member.id, &member.name])
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?)))
        .collect()
}
