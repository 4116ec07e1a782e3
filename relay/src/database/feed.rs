//! Feeding an inbox, in this database or another.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Statement};

use super::Session;
use super::cursor::Cluster;
use crate::encode::EventId;

/// Where a pipeline lives, and the epoch under which it is owned.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) database: &'a str,
    pub(crate) pipeline: &'a str,
    pub(crate) epoch: i64,
}

/// A feed that this session alone may write to.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    id: i32,
    session: i64,
    /// Messages that came by it so far.
    pub(crate) last_seq: i64,
    /// Its name across databases.
    pub(crate) stream: String,
}

/// Opens the feed of a pipeline into an inbox; whoever had it before can write
/// no more.
pub(crate) async fn open(session: &Session, inbox: &str, origin: &Origin<'_>) -> Result<Feed, Error> {
    let row = session
        .client
        .query_one(
            "SELECT feed_id, session, last_seq, stream FROM tide._inbox_feed_open($1, $2, $3, $4, $5, $6)",
            &[
                &inbox,
                &origin.cluster.system_identifier,
                &origin.database,
                &origin.pipeline,
                &origin.cluster.timeline,
                &origin.epoch,
            ],
        )
        .await?;
    Ok(Feed {
        id: row.try_get(0)?,
        session: row.try_get(1)?,
        last_seq: row.try_get(2)?,
        stream: row.try_get(3)?,
    })
}

/// Whether an inbox is there and this session may deliver into it.
pub(crate) async fn check(session: &Session, inbox: &str) -> Result<(), Error> {
    let sql = "SELECT tide._inbox_feed_check($1)";
    session.client.query_one(sql, &[&inbox]).await.map(drop)
}

/// The messages that came by a feed from a number on.
pub(crate) async fn landed(session: &Session, feed: &Feed, since: i64) -> Result<HashSet<EventId>, Error> {
    let rows = session
        .client
        .query(
            "SELECT message_id, created_us, redelivery FROM tide._inbox_feed_landed($1, $2)",
            &[&feed.id, &since],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(EventId {
                id: row.try_get(0)?,
                created_at: row.try_get(1)?,
                redelivery: row.try_get(2)?,
            })
        })
        .collect()
}

/// The statement of [`Batch::parameters`].
pub(crate) async fn prepare_write(session: &mut Session) -> Result<Statement, Error> {
    session
        .prepare("SELECT tide._inbox_feed_write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .await
}

/// Messages as columns.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) after_seq: i64,
    pub(crate) forget_below: i64,
    pub(crate) source: &'a str,
    pub(crate) event_ids: Vec<&'a str>,
    pub(crate) payloads: Vec<Option<&'a str>>,
    pub(crate) headers: Vec<&'a str>,
    pub(crate) message_ids: Vec<i64>,
    pub(crate) created_us: Vec<i64>,
    pub(crate) redeliveries: Option<Vec<Option<i64>>>,
}

impl Batch<'_> {
    /// For a statement by [`prepare_write`].
    pub(crate) fn parameters<'p>(&'p self, feed: &'p Feed) -> [&'p (dyn ToSql + Sync); 11] {
        [
            &feed.id,
            &feed.session,
            &self.after_seq,
            &self.forget_below,
            &self.source,
            &self.event_ids,
            &self.payloads,
            &self.headers,
            &self.message_ids,
            &self.created_us,
            &self.redeliveries,
        ]
    }
}
