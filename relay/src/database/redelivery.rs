//! The queue of messages that are to be delivered once more.

use bytes::Bytes;

use super::Pool;
use crate::encode::Row;
use crate::failure::Failure;

/// The next messages of a pipeline's queue, in order.
pub(crate) async fn page(pool: &Pool, pipeline_id: i32, limit: i32) -> Result<Vec<Row>, Failure> {
    let failed = |e| Failure::postgres("reading the redeliveries", &e);
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare(
            "SELECT redelivery_id, message_id, created_us, headers, payload FROM tide._redelivery_page($1, $2)",
        )
        .await
        .map_err(failed)?;
    let rows = lease
        .session
        .client
        .query(&statement, &[&pipeline_id, &limit])
        .await
        .map_err(failed)?;
    lease.done();
    rows.iter()
        .map(|row| {
            let payload: Option<String> = row.try_get(4)?;
            Ok(Row {
                id: row.try_get(1)?,
                created_at: row.try_get(2)?,
                headers: Bytes::from(row.try_get::<_, String>(3)?),
                payload: Bytes::from(payload.unwrap_or_default()),
                redelivery: Some(row.try_get(0)?),
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Records what became of a page: per message none, or why its sink refuses it.
pub(crate) async fn record(
    pool: &Pool,
    pipeline_id: i32,
    epoch: i64,
    page: &[Row],
    errors: &[Option<String>],
) -> Result<(), Failure> {
    let failed = |e| Failure::postgres("recording the redeliveries", &e);
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let statement = lease
        .session
        .prepare("SELECT tide._redelivered($1, $2, $3, $4, $5)")
        .await
        .map_err(failed)?;
    let redeliveries: Vec<Option<i64>> = page.iter().map(|row| row.redelivery).collect();
    let messages: Vec<i64> = page.iter().map(|row| row.id).collect();
    lease
        .session
        .client
        .execute(
            &statement,
            &[&pipeline_id, &epoch, &redeliveries, &messages, &errors],
        )
        .await
        .map_err(failed)?;
    lease.done();
    Ok(())
}
