//! Retention: the statements of maintenance, each in a transaction that only
//! one relay of the database has at a time.

use tokio_postgres::Transaction;

use super::{Session, ownership};
use crate::failure::Failure;

/// Something that was done to an outbox's partitions, or why it was not.
#[derive(Debug)]
pub(crate) struct Maintained {
    pub(crate) outbox: String,
    pub(crate) action: String,
    pub(crate) leaf: String,
    pub(crate) detail: String,
}

impl Maintained {
    /// Whether another call may have more to do.
    pub(crate) fn changed(&self) -> bool {
        matches!(self.action.as_str(), "made" | "closing" | "closed" | "dropped")
    }
}

/// An inbox to look through.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) id: i32,
    pub(crate) name: String,
}

/// What was removed of a page of an inbox.
#[derive(Debug)]
pub(crate) struct Purged {
    /// Where the next page begins; none at the end.
    pub(crate) go_on_from: Option<i64>,
    pub(crate) processed: i64,
    pub(crate) dead: i64,
}

/// A group that holds partitions which are old enough to go.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    pub(crate) outbox: String,
    pub(crate) group: String,
    pub(crate) since: String,
    pub(crate) partitions: i64,
    pub(crate) bytes: i64,
    /// About as many.
    pub(crate) rows: i64,
    pub(crate) hint: String,
}

/// A transaction with the duty; none while another relay has it.
async fn duty<'a>(session: &'a mut Session, what: &str) -> Result<Option<Transaction<'a>>, Failure> {
    let failed = |e| Failure::postgres(what, &e);
    let transaction = session.client.transaction().await.map_err(failed)?;
    let mine: bool = transaction
        .query_one(
            "SELECT pg_try_advisory_xact_lock($1, 0)",
            &[&ownership::MEMBER_CLASS],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    Ok(mine.then_some(transaction))
}

/// Keeps the partitions of at most one outbox that needs it. None when another
/// relay is at it.
pub(crate) async fn maintain_outbox(session: &mut Session) -> Result<Option<Vec<Maintained>>, Failure> {
    let what = "keeping the partitions";
    let failed = |e| Failure::postgres(what, &e);
    let Some(transaction) = duty(session, what).await? else {
        return Ok(None);
    };
    // Checking a large partition takes its time, and stops nobody.
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0")
        .await
        .map_err(failed)?;
    let rows = transaction
        .query(
            "SELECT outbox_name, action, coalesce(leaf, ''), coalesce(detail, '') FROM tide.maintain_outboxes(1)",
            &[],
        )
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    rows.iter()
        .map(|row| {
            Ok(Maintained {
                outbox: row.try_get(0)?,
                action: row.try_get(1)?,
                leaf: row.try_get(2)?,
                detail: row.try_get(3)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map(Some)
        .map_err(failed)
}

/// The inboxes.
pub(crate) async fn inboxes(session: &Session) -> Result<Vec<Inbox>, Failure> {
    let failed = |e| Failure::postgres("reading the inboxes", &e);
    let rows = session
        .client
        .query("SELECT inbox_id, name FROM tide.inbox ORDER BY inbox_id", &[])
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| {
            Ok(Inbox {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Removes messages past their retention among the next `limit` of an inbox.
/// None when another relay is at it.
pub(crate) async fn purge_inbox(
    session: &mut Session,
    inbox_id: i32,
    after_id: i64,
    limit: i32,
) -> Result<Option<Purged>, Failure> {
    let what = "removing messages past their retention";
    let failed = |e| Failure::postgres(what, &e);
    let Some(transaction) = duty(session, what).await? else {
        return Ok(None);
    };
    let row = transaction
        .query_one(
            "SELECT go_on_from, coalesce(processed, 0), coalesce(dead, 0) FROM tide._purge_inbox($1, $2, $3)",
            &[&inbox_id, &after_id, &limit],
        )
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Some(Purged {
        go_on_from: row.try_get(0).map_err(failed)?,
        processed: row.try_get(1).map_err(failed)?,
        dead: row.try_get(2).map_err(failed)?,
    }))
}

/// Removes dead letters past their retention, and relays that are gone.
/// Returns how many letters; none when another relay is at it.
pub(crate) async fn purge_dead_letters(session: &mut Session, limit: i32) -> Result<Option<i64>, Failure> {
    let what = "removing dead letters past their retention";
    let failed = |e| Failure::postgres(what, &e);
    let Some(transaction) = duty(session, what).await? else {
        return Ok(None);
    };
    let row = transaction
        .query_one(
            "SELECT resolved + unresolved, tide._purge_members() FROM tide._purge_dead_letters($1)",
            &[&limit],
        )
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    row.try_get(0).map(Some).map_err(failed)
}

/// Groups that hold retention back.
pub(crate) async fn holders(session: &Session) -> Result<Vec<Holder>, Failure> {
    let failed = |e| Failure::postgres("reading the retention status", &e);
    let rows = session
        .client
        .query(
            "SELECT outbox_name, held_by, held_since::timestamptz(0)::text, held_partitions, held_bytes, held_rows,
                    coalesce(hint, '')
               FROM tide.retention_status WHERE held_by IS NOT NULL",
            &[],
        )
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| {
            Ok(Holder {
                outbox: row.try_get(0)?,
                group: row.try_get(1)?,
                since: row.try_get(2)?,
                partitions: row.try_get(3)?,
                bytes: row.try_get(4)?,
                rows: row.try_get(5)?,
                hint: row.try_get(6)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}
