//! inbox.*: how fast a relay stores what waits in a stream, and whether every message is there once.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio_postgres::Client;

use crate::bench::Bench;
use crate::delivery::Delivery;
use crate::event;
use crate::nats::Stream;
use crate::poll::watch;
use crate::relay::Relay;
use crate::report::Values;

/// No new row for this long: the relay is stuck.
const STALL: Duration = Duration::from_secs(30);

/// Fills a new stream with messages that have no id, then has a relay store them in a new inbox.
pub async fn run(bench: &Bench, run: usize) -> Result<Values> {
    let inbox = format!("inbox-nats-{run}");
    let stream = bench.nats.create_stream(&inbox).await?;
    bench
        .nats
        .publish(&stream.subject, bench.sizes.inbox, false)
        .await?;

    let client = bench.database.connect().await?;
    client.execute("SELECT tide.inbox_create($1)", &[&inbox]).await?;
    let config = json!({
        "url": bench.nats.url(),
        "subject": stream.subject,
        "stream": stream.name,
        "queue_group": stream.name,
    });
    bench.set_inbox(&inbox, &inbox, &config).await?;

    let relay = bench.start_relay(&inbox)?;
    measure(bench, &inbox, &stream, relay, &client).await
}

async fn measure(
    bench: &Bench,
    inbox: &str,
    stream: &Stream,
    mut relay: Relay,
    client: &Client,
) -> Result<Values> {
    // The batches of an inbox commit one after the other, so rows become visible in id order and each look only has to
    // count what is new. A new table has no statistics: the planner is told to use the key.
    client
        .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        .await?;
    let look = format!("SELECT count(*), coalesce(max(id), $1) FROM tide.\"{inbox}_inbox\" WHERE id > $1");
    let look = client.prepare(&look).await?;
    let (mut seen, mut last_id) = (0, 0_i64);
    let watched = watch(bench.sizes.inbox, STALL, async || {
        relay.check()?;
        let row = client.query_one(&look, &[&last_id]).await?;
        seen += u64::try_from(row.try_get::<_, i64>(0)?)?;
        last_id = row.try_get(1)?;
        Ok(seen)
    });
    let arrivals = match watched.await {
        Ok(arrivals) => arrivals,
        Err(error) => return Err(relay.blame(&error)),
    };
    let (started, usage) = (relay.started(), relay.usage()?);
    relay.stop().await?;

    let mut delivery = Delivery::new(bench.sizes.inbox);
    let rows = client
        .query(
            &format!("SELECT payload::text FROM tide.\"{inbox}_inbox\" ORDER BY id"),
            &[],
        )
        .await?;
    for row in rows {
        delivery.note(event::number(row.try_get::<_, &str>(0)?.as_bytes()));
    }
    delivery.check()?;
    bench.delete_pipeline(inbox).await?;
    client.execute("SELECT tide.inbox_drop($1)", &[&inbox]).await?;
    bench.nats.delete_stream(&stream.name).await?;
    Ok(vec![
        ("inbox.nats".to_owned(), arrivals.rate()?),
        (
            "inbox.nats.total".to_owned(),
            (arrivals.last - started).as_secs_f64(),
        ),
        (
            "cpu_per_million.inbox_nats".to_owned(),
            usage.cpu_seconds / bench.sizes.inbox as f64 * 1e6,
        ),
    ])
}
