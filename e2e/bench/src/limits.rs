//! limit.*: what the plain client libraries reach from memory, on the same machine in the same run.

use std::pin::pin;
use std::time::Instant;

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::bench::{BACKLOG_OUTBOX, Bench};
use crate::broker::Broker;
use crate::event::{self, Payload};
use crate::http::{Poster, Receiver};
use crate::report::Values;
use crate::shape::Shape;
use crate::sinks::CONNECTIONS;

/// A record of the main limit to Kafka: two headers in all, those that are added.
pub const RECORD: Shape = Shape {
    headers: 0,
    ..Shape::USUAL
};

/// Rows of one INSERT, and of one transaction.
const INBOX_BATCH: u64 = 1000;

/// The backlog read by one binary COPY.
pub async fn pg_copy_out(bench: &Bench) -> Result<Values> {
    let rate = copy_out(bench, BACKLOG_OUTBOX, bench.sizes.backlog, event::PAYLOAD_BYTES).await?;
    Ok(vec![("limit.pg_copy_out".to_owned(), rate)])
}

/// Rows a second of one binary COPY of an outbox that has `expected` messages of so many bytes.
pub async fn copy_out(bench: &Bench, outbox: &str, expected: u64, bytes_each: usize) -> Result<f64> {
    let client = bench.database.connect().await?;
    let copy = format!(
        "COPY (SELECT id, created_at, headers, payload FROM tide.\"{outbox}_outbox\" ORDER BY id)
           TO STDOUT (FORMAT binary)"
    );
    let began = Instant::now();
    let mut chunks = pin!(client.copy_out(&copy).await?);
    let (mut rows, mut bytes) = (0, 0);
    while let Some(chunk) = chunks.next().await {
        bytes += chunk?.len() as u64;
        rows += 1;
    }
    let took = began.elapsed();
    // PostgreSQL sends each row in a message of its own, and the trailer.
    ensure!(
        rows == expected + 1,
        "COPY gave {rows} messages for {expected} rows"
    );
    ensure!(bytes > expected * bytes_each as u64, "COPY gave {bytes} bytes");
    Ok(expected as f64 / took.as_secs_f64())
}

/// Records that nobody times: a Java virtual machine compiles its programs while they run, and the first records
/// would be slower by half than those that come later.
pub async fn warm_up_kafka(bench: &Bench) -> Result<()> {
    let topic = bench.kafka.create_topic("warm-up", 1).await?;
    bench.kafka.produce(&topic, bench.sizes.backlog, RECORD)?;
    let delivery = bench.kafka.read_back(&topic, bench.sizes.backlog, RECORD)?;
    delivery.check()?;
    bench.kafka.delete_topic(&topic).await
}

/// Records by an idempotent producer, acks=all, to one partition.
pub async fn kafka_produce(bench: &Bench, run: usize) -> Result<Values> {
    let topic = Broker::Kafka
        .create_target(bench, &format!("limit-{run}"))
        .await?;
    let rate = topic.fill(bench, bench.sizes.backlog, RECORD).await?;
    topic.delete(bench).await?;
    Ok(vec![("limit.kafka_produce".to_owned(), rate)])
}

/// JetStream publishes with ids, acknowledgements awaited in a pipeline, on one connection.
pub async fn nats_publish(bench: &Bench, run: usize) -> Result<Values> {
    let stream = Broker::Nats.create_target(bench, &format!("limit-{run}")).await?;
    let rate = stream.fill(bench, bench.sizes.backlog, Shape::USUAL).await?;
    stream.delete(bench).await?;
    Ok(vec![("limit.nats_publish".to_owned(), rate)])
}

/// Batches by UNNEST and ON CONFLICT DO NOTHING into a copy of an inbox's table, every key filled as a relay fills it.
pub async fn inbox_insert(bench: &Bench, run: usize) -> Result<Values> {
    let client = bench.database.connect().await?;
    let inbox = format!("limit-{run}");
    let table = format!("bench_limit_{run}");
    client.execute("SELECT tide.inbox_create($1)", &[&inbox]).await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE {table} (LIKE tide.\"{inbox}_inbox\" INCLUDING ALL)"
        ))
        .await?;
    let insert = format!(
        "INSERT INTO {table} (event_id, source, payload, headers, dedup_key, source_ref, source_seq)
         SELECT event_id, $6, payload::jsonb, headers::jsonb, dedup_key, 1, source_seq
           FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[])
             AS batch(event_id, payload, headers, dedup_key, source_seq)
         ON CONFLICT DO NOTHING"
    );
    let insert = client.prepare(&insert).await?;
    let batches: Vec<Batch> = (0..bench.sizes.inbox.div_ceil(INBOX_BATCH))
        .map(Batch::new)
        .collect();

    let began = Instant::now();
    let mut stored = 0;
    for batch in &batches {
        let Batch {
            event_ids,
            payloads,
            headers,
            dedup_keys,
            source_seqs,
        } = batch;
        stored += client
            .execute(
                &insert,
                &[event_ids, payloads, headers, dedup_keys, source_seqs, &"bench"],
            )
            .await?;
    }
    let took = began.elapsed();
    let expected = batches.len() as u64 * INBOX_BATCH;
    ensure!(stored == expected, "{stored} of {expected} rows were stored");
    client.batch_execute(&format!("DROP TABLE {table}")).await?;
    client.execute("SELECT tide.inbox_drop($1)", &[&inbox]).await?;
    Ok(vec![(
        "limit.inbox_insert".to_owned(),
        stored as f64 / took.as_secs_f64(),
    )])
}

/// Requests posted to a server that does nothing with them: one event each, on as many connections as the sink has, and
/// a batch each on one connection.
pub async fn webhook_post(bench: &Bench) -> Result<Values> {
    let count = bench.sizes.short;
    let receiver = Receiver::start(count).await?;
    let began = Instant::now();
    let mut posters = JoinSet::new();
    for first in 0..CONNECTIONS {
        let mut poster = Poster::connect(receiver.address()).await?;
        posters.spawn(async move {
            for n in (first..count).step_by(usize::try_from(CONNECTIONS)?) {
                let status = poster.post("/", n, Payload::text(n).as_bytes()).await?;
                ensure!(status == 204, "request {n} was answered with {status}");
            }
            Ok(())
        });
    }
    while let Some(poster) = posters.join_next().await {
        poster??;
    }
    let single = began.elapsed();
    receiver.check_each_once()?;

    let receiver = Receiver::start(count).await?;
    let began = Instant::now();
    let mut poster = Poster::connect(receiver.address()).await?;
    let mut from = 0;
    while from < count {
        let to = count.min(from + INBOX_BATCH);
        let events: Vec<_> = (from..to).map(Payload::text).collect();
        let body = format!("[{}]", events.join(","));
        let status = poster.post("/", from, body.as_bytes()).await?;
        ensure!(status == 204, "request {from} was answered with {status}");
        from = to;
    }
    let batch = began.elapsed();
    receiver.check()?;
    Ok(vec![
        (
            "limit.webhook_post".to_owned(),
            count as f64 / single.as_secs_f64(),
        ),
        (
            "limit.webhook_post_batch".to_owned(),
            count as f64 / batch.as_secs_f64(),
        ),
    ])
}

struct Batch {
    event_ids: Vec<String>,
    payloads: Vec<String>,
    headers: Vec<String>,
    dedup_keys: Vec<Vec<u8>>,
    source_seqs: Vec<i64>,
}

impl Batch {
    fn new(index: u64) -> Self {
        let numbers = index * INBOX_BATCH..(index + 1) * INBOX_BATCH;
        Self {
            event_ids: numbers.clone().map(|n| format!("bench:nats:seq-{n}")).collect(),
            payloads: numbers.clone().map(Payload::text).collect(),
            headers: numbers.clone().map(event::headers).collect(),
            dedup_keys: numbers.clone().map(digest).collect(),
            source_seqs: numbers.filter_map(|n| i64::try_from(n).ok()).collect(),
        }
    }
}

/// 32 bytes that look like a digest: in no order, and no two alike (splitmix64).
fn digest(n: u64) -> Vec<u8> {
    (0..4_u64)
        .flat_map(|part| {
            let mut z = (4 * n + part).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)).to_be_bytes()
        })
        .collect()
}
