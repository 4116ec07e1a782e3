//! Reading outboxes: the tick, and the two shapes of a read.

use bytes::Bytes;
use futures::{TryStreamExt, pin_mut};
use tokio_postgres::types::{FromSql, Type};

use super::{Pool, Session};
use crate::cursor::{Round, Snapshot};
use crate::encode::Row;
use crate::failure::Failure;

/// Microseconds from the Unix epoch to PostgreSQL's (2000-01-01).
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Quotes an identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What one tick read, in this order: a transaction with a xid from `next_xid`
/// on took its ids above `sequence_value`.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) sequence_value: i64,
    pub(crate) next_xid: u64,
    pub(crate) snapshot: Snapshot,
}

/// Reads the tick.
pub(crate) async fn tick(session: &mut Session) -> Result<Look, Failure> {
    let failed = |e| Failure::postgres("reading the tick", &e);
    let statement = session
        .prepare("SELECT sequence_value, next_xid, snapshot FROM tide._tick()")
        .await
        .map_err(failed)?;
    let row = session.client.query_one(&statement, &[]).await.map_err(failed)?;
    let snapshot: &str = row.try_get(2).map_err(failed)?;
    Ok(Look {
        sequence_value: row.try_get(0).map_err(failed)?,
        next_xid: u64::try_from(row.try_get::<_, i64>(1).map_err(failed)?).unwrap_or(0),
        snapshot: snapshot
            .parse()
            .map_err(|e| Failure::transient(format!("reading the tick: {e}")))?,
    })
}

/// Makes the messages of a group's outbox that a dump brought from another
/// cluster those of this one. Returns how many there were.
pub(crate) async fn adopt(session: &mut Session, group_id: i32) -> Result<i64, Failure> {
    let failed = |e| Failure::postgres("adopting restored messages", &e);
    let sql = "SELECT tide._adopt_messages(g.outbox_id) FROM tide.consumer_group g WHERE g.group_id = $1";
    let statement = session.prepare(sql).await.map_err(failed)?;
    let mut adopted = 0;
    loop {
        let row = session
            .client
            .query_opt(&statement, &[&group_id])
            .await
            .map_err(failed)?;
        let page: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(failed)?;
        if page == 0 {
            return Ok(adopted);
        }
        adopted += page;
    }
}

/// A column's bytes as they came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// All messages of a round, when they are few: found by xid.
///
/// The sort key is `id + 0` so that no index on id can serve it: the planner
/// must come through the xid index, whatever it believes about the table.
pub(crate) async fn read_by_xid(
    pool: &Pool,
    table: &str,
    round: &Round,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let failed = |e| Failure::postgres("reading the outbox", &e);
    let finished = round.old.finished_in(&round.new);
    let table = quote(table);
    let fresh = format!(
        "SELECT id, created_at, headers, payload FROM tide.{table}
          WHERE xid >= $1::text::xid8 AND xid < $2::text::xid8
            AND pg_visible_in_snapshot(xid, $3::text::pg_snapshot)"
    );
    let sql = if finished.is_empty() {
        format!("{fresh} ORDER BY id + 0 LIMIT $4")
    } else {
        format!(
            "SELECT * FROM (({fresh}) UNION ALL
               (SELECT id, created_at, headers, payload FROM tide.{table}
                 WHERE xid = ANY ($5::text::xid8[]))) AS m ORDER BY id + 0 LIMIT $4"
        )
    };
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease.session.prepare(&sql).await.map_err(failed)?;
    let (from, to, new) = (
        round.old.xmax().to_string(),
        round.new.xmax().to_string(),
        round.new.to_string(),
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = if finished.is_empty() {
        lease
            .session
            .client
            .query(&statement, &[&from, &to, &new, &limit])
            .await
    } else {
        let list: Vec<String> = finished.iter().map(u64::to_string).collect();
        let list = format!("{{{}}}", list.join(","));
        lease
            .session
            .client
            .query(&statement, &[&from, &to, &new, &limit, &list])
            .await
    }
    .map_err(failed)?;
    lease.done();
    rows.iter()
        .map(|row| {
            let json = |column| {
                row.try_get::<_, Option<Raw<'_>>>(column)
                    .map(|raw| raw.map_or_else(Bytes::new, |r| Bytes::copy_from_slice(unversioned(r.0))))
            };
            let created: Raw<'_> = row.try_get(1)?;
            Ok(Row {
                id: row.try_get(0)?,
                created_at: i64::from_be_bytes(created.0.try_into().unwrap_or_default()) + POSTGRES_EPOCH,
                headers: json(2)?,
                payload: json(3)?,
                redelivery: None,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// The binary form of `jsonb` is a version byte and the text.
fn unversioned(raw: &[u8]) -> &[u8] {
    raw.split_first().map_or(raw, |(_, text)| text)
}

/// The lowest id in the round of a transaction that may have taken ids before
/// the tick of the old snapshot: listed as open there, or below its next xid.
pub(crate) async fn lowest_overlapping(
    pool: &Pool,
    table: &str,
    round: &Round,
    old_next_xid: u64,
) -> Result<Option<i64>, Failure> {
    let failed = |e| Failure::postgres("reading the outbox", &e);
    let list: Vec<String> = round
        .old
        .finished_in(&round.new)
        .iter()
        .map(u64::to_string)
        .collect();
    let sql = format!(
        "SELECT least((SELECT min(id + 0) FROM tide.{table} WHERE xid = ANY ($1::text::xid8[])),
                      (SELECT min(id + 0) FROM tide.{table}
                        WHERE xid >= $2::text::xid8 AND xid < $3::text::xid8))",
        table = quote(table)
    );
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease.session.prepare(&sql).await.map_err(failed)?;
    let list = format!("{{{}}}", list.join(","));
    let (from, to) = (round.old.xmax().to_string(), old_next_xid.to_string());
    let row = lease
        .session
        .client
        .query_one(&statement, &[&list, &from, &to])
        .await
        .map_err(failed)?;
    lease.done();
    row.try_get(0).map_err(failed)
}

/// A page of a round by id: for a backlog, by COPY in binary.
///
/// Visibility is tested by function, which no index can serve: the planner
/// must walk the id index and stop at the limit.
pub(crate) async fn copy_by_id(
    pool: &Pool,
    table: &str,
    round: &Round,
    after: i64,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let failed = |e| Failure::postgres("reading the outbox", &e);
    let sql = format!(
        "COPY (SELECT id, created_at, headers, payload FROM tide.{}
                WHERE id > {after} AND pg_visible_in_snapshot(xid, '{}')
                  AND NOT pg_visible_in_snapshot(xid, '{}')
                ORDER BY id LIMIT {limit}) TO STDOUT (FORMAT binary)",
        quote(table),
        round.new,
        round.old,
    );
    let lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let stream = lease.session.client.copy_out(&sql).await.map_err(failed)?;
    pin_mut!(stream);
    let mut rows = Vec::with_capacity(limit.min(16_384));
    let mut header = true;
    while let Some(chunk) = stream.try_next().await.map_err(failed)? {
        let mut fields = Fields { chunk: &chunk, at: 0 };
        if std::mem::take(&mut header) {
            fields.skip_header();
        }
        // PostgreSQL sends a row per chunk, but does not promise to.
        while let Some(row) = fields.row() {
            rows.push(row?);
        }
    }
    lease.done();
    Ok(rows)
}

/// A walk over a chunk of COPY BINARY data.
struct Fields<'a> {
    chunk: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    /// Signature (11 bytes), flags, length of the extension, extension.
    fn skip_header(&mut self) {
        self.at += 15;
        let extension = self.int4().unwrap_or(0);
        self.at += usize::try_from(extension).unwrap_or(0);
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        let end = self.at.checked_add(length)?;
        let field = (end <= self.chunk.len()).then(|| self.chunk.slice(self.at..end))?;
        self.at = end;
        Some(field)
    }

    fn int4(&mut self) -> Option<i32> {
        let bytes = self.chunk.get(self.at..self.at + 4)?.try_into().ok()?;
        self.at += 4;
        Some(i32::from_be_bytes(bytes))
    }

    /// One field; empty when it is null.
    fn field(&mut self) -> Option<Bytes> {
        match self.int4()? {
            -1 => Some(Bytes::new()),
            length => self.take(usize::try_from(length).ok()?),
        }
    }

    fn int8(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.field()?.as_ref().try_into().ok()?))
    }

    fn json(&mut self) -> Option<Bytes> {
        let field = self.field()?;
        Some(if field.is_empty() { field } else { field.slice(1..) })
    }

    /// The next row; none at the end of the chunk or of the data.
    fn row(&mut self) -> Option<Result<Row, Failure>> {
        let count = i16::from_be_bytes(self.chunk.get(self.at..self.at + 2)?.try_into().ok()?);
        if count < 0 {
            return None;
        }
        self.at += 2;
        let row = (|| {
            Some(Row {
                id: self.int8()?,
                created_at: self.int8()? + POSTGRES_EPOCH,
                headers: self.json()?,
                payload: self.json()?,
                redelivery: None,
            })
        })();
        Some(row.ok_or_else(|| Failure::transient("reading the outbox: COPY data ended within a row")))
    }
}
