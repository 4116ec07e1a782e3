//! calm.* and maintenance.*: what publishers, a relay, a consumer in SQL and a worker of an inbox wait for, at a steady
//! load; first while nothing else is done, then while partitions of that outbox are made and dropped and that inbox is
//! purged.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join4;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::bench::Bench;
use crate::broker::{Broker, Target};
use crate::latency::{self, Delays, WARM_UP};
use crate::report::Values;
use crate::shape::Shape;
use crate::statistics::percentile;

/// Partitions past their retention, each with messages in it.
const OLD_PARTITIONS: u64 = 160;
const MESSAGES_IN_EACH: u64 = 1_000;
/// Processed rows of the inbox, past their retention; those that are pending.
const OLD_ROWS: u64 = 200_000;
const PENDING_ROWS: u64 = 50_000;
/// Between two steps of maintenance, and between two looks of those who work.
const STEP: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(5);

/// The figures of a phase, each with its percentiles.
pub const WHO: [&str; 4] = ["publish", "delivery", "poll", "claim"];
/// The phases, by what their figures begin with.
pub const PHASES: [&str; 2] = ["calm", "maintenance"];
/// Percentiles that are figures.
pub const PARTS: [(&str, f64); 3] = [("p50", 50.0), ("p99", 99.0), ("max", 100.0)];

/// One run, with an outbox, an inbox, a pipeline to Kafka and a relay of its own.
pub async fn run(bench: &Bench, run: usize) -> Result<Values> {
    let label = format!("maintenance-{run}");
    set_scene(bench, &label).await?;
    let target = Broker::Kafka.create_target(bench, &label).await?;
    let mut config = target.config(bench, Shape::USUAL);
    config["consumer_group"] = json!("relay");
    bench.set_outbox(&label, &label, "kafka", &config).await?;
    let phase = bench.sizes.latency_seconds;
    let mut relay = bench.start_relay(&label)?;
    let values = measure(bench, &label, &target, phase, &mut || relay.check()).await;
    let values = match values {
        Ok(values) => values,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    bench.delete_pipeline(&label).await?;
    target.delete(bench).await?;
    let client = bench.database.connect().await?;
    client
        .batch_execute(&format!(
            "SELECT tide.drop_consumer_group('reader', '{label}');
             SELECT tide.outbox_drop('{label}'), tide.inbox_drop('{label}')"
        ))
        .await?;
    Ok(values)
}

/// An outbox with old partitions that every group has passed, and an inbox with much that is past its retention.
async fn set_scene(bench: &Bench, label: &str) -> Result<()> {
    let client = bench.database.connect().await?;
    client
        .batch_execute(&format!(
            "SELECT tide.outbox_create('{label}'), tide.inbox_create('{label}');
             DO $$
             DECLARE
                 v_outbox tide.outbox;
                 v_leaf   name;
                 v_first  timestamptz;
             BEGIN
                 SELECT * INTO v_outbox FROM tide.outbox WHERE name = '{label}';
                 v_first := date_bin('6 hours', now(), '2001-01-01 00:00:00+00') - {OLD_PARTITIONS} * interval '6 hours';
                 SELECT l.leaf INTO v_leaf FROM tide._leaves(v_outbox) l WHERE l.lower_bound = '-infinity';
                 EXECUTE format('DROP TABLE tide.%I', v_leaf);
                 FOR n IN 0 .. {OLD_PARTITIONS} LOOP
                     v_leaf := format('outbox_%s_%s', v_outbox.outbox_id,
                                      to_char((v_first + n * interval '6 hours') AT TIME ZONE 'UTC', 'YYYYMMDDHH24'));
                     PERFORM tide._create_leaf(v_leaf);
                     PERFORM tide._attach_leaf(v_outbox, v_leaf, v_first + n * interval '6 hours', v_first + (n + 1) * interval '6 hours');
                 END LOOP;
                 INSERT INTO tide.outbox_message (outbox, payload, created_at)
                 SELECT '{label}', '1', v_first + n * interval '6 hours' / {MESSAGES_IN_EACH}
                   FROM generate_series(0, {OLD_PARTITIONS} * {MESSAGES_IN_EACH} - 1) n;
             END $$;
             INSERT INTO tide.\"{label}_inbox\" (event_id, source, payload, received_at, processed_at)
             SELECT 'old-' || n, 'bench', '1', now() - interval '101 hours', now() - interval '100 hours'
               FROM generate_series(1, {OLD_ROWS}) n;
             INSERT INTO tide.\"{label}_inbox\" (event_id, source, payload)
             SELECT 'new-' || n, 'bench', '1' FROM generate_series(1, {PENDING_ROWS}) n"
        ))
        .await?;
    client
        .batch_execute(&format!(
            "VACUUM (ANALYZE) tide.\"{label}_inbox\", tide.\"{label}_outbox\""
        ))
        .await?;
    let groups = format!(
        "SELECT tide.create_consumer_group(g, '{label}', 'latest') FROM unnest(ARRAY['relay', 'reader']) g"
    );
    Ok(client.batch_execute(&groups).await?)
}

async fn measure(
    bench: &Bench,
    label: &str,
    target: &Target,
    phase: u64,
    check: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<Values> {
    let mut publishers = Vec::new();
    for _ in 0..latency::PUBLISHERS {
        publishers.push(latency::Publisher::commit(bench, label).await?);
    }
    let (begin, begins) = watch::channel(None);
    let half = Duration::from_secs(phase);
    let poll = work(
        bench.database.connect().await?,
        begins.clone(),
        half * 2,
        poll_once(label),
    );
    let claim = work(
        bench.database.connect().await?,
        begins.clone(),
        half * 2,
        claim_once(label),
    );
    let partitions = maintain(
        bench.database.connect().await?,
        begins.clone(),
        half,
        partitions_once(label),
    );
    let rows = maintain(
        bench.database.connect().await?,
        begins,
        half,
        [
            format!("SELECT processed > 0 FROM tide.maintain_inbox('{label}')"),
            String::new(),
        ],
    );
    let delays = latency::measure(
        bench,
        target,
        publishers,
        latency::Schedule::usual(2 * phase),
        &mut |start| {
            begin.send_replace(Some(start));
        },
        check,
    )
    .await?;
    let (poll, claim, partitions, rows) =
        try_join4(flat(poll), flat(claim), flat(partitions), flat(rows)).await?;
    // More than one a second, of ten that are tried.
    ensure!(
        partitions > phase && rows > phase,
        "partitions were changed {partitions} times, and rows removed {rows} times: that is no maintenance to speak of"
    );
    eprintln!("maintenance: partitions changed in {partitions} steps, rows removed in {rows}");

    let Delays {
        publish, delivery, ..
    } = delays;
    let mut values = Values::new();
    for (who, delays) in WHO.into_iter().zip([publish, delivery, poll, claim]) {
        let path = bench.output.join(format!("{label}-{who}.csv"));
        latency::write_csv(&path, &delays)?;
        for (name, from) in PHASES.into_iter().zip([0.0, half.as_secs_f64()]) {
            let of_phase: Vec<f64> = delays
                .iter()
                .filter(|(at, _)| (from + WARM_UP..from + half.as_secs_f64()).contains(at))
                .map(|(_, delay)| *delay)
                .collect();
            for (part, percent) in PARTS {
                let value = percentile(&of_phase, percent).with_context(|| format!("{name}: no {who}"))?;
                values.push((format!("{name}.{who}.{part}"), value));
            }
        }
    }
    Ok(values)
}

async fn flat<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await?
}

/// A page polled and committed, as a consumer in SQL does.
fn poll_once(label: &str) -> [String; 2] {
    [
        format!("SELECT max(id) FROM tide.poll_outbox('reader', '{label}', 100)"),
        format!("SELECT tide.commit_offset('reader', '{label}', $1)"),
    ]
}

/// Ten rows claimed and marked, as a worker of an inbox does.
fn claim_once(label: &str) -> [String; 2] {
    [
        format!("SELECT array_agg(event_id) FROM tide.inbox_claim('{label}', 10)"),
        format!("SELECT tide.inbox_mark_processed('{label}', $1::text[])"),
    ]
}

/// Partitions made further and further ahead, and those that are old dropped.
fn partitions_once(label: &str) -> [String; 2] {
    let of = |call: &str| {
        format!(
            "SELECT coalesce(bool_or(m.action <> 'skipped'), false) FROM tide.outbox o, {call} m WHERE o.name = '{label}'"
        )
    };
    [
        of("tide._make_leaves_ahead(o, clock_timestamp() + $1::bigint * o.partition_period)"),
        of("tide._drop_passed_leaves(o, clock_timestamp())"),
    ]
}

type Begins = watch::Receiver<Option<Instant>>;

async fn beginning(mut begins: Begins) -> Result<Instant> {
    let start = begins.wait_for(Option::is_some).await?;
    start.context("no beginning")
}

/// Takes and deals with something again and again: when, in seconds from the start, and how many milliseconds it took.
fn work(
    client: Client,
    begins: Begins,
    length: Duration,
    [take, done]: [String; 2],
) -> JoinHandle<Result<Vec<(f64, f64)>>> {
    tokio::spawn(async move {
        let take = client.prepare(&take).await?;
        let done = client.prepare(&done).await?;
        let start = beginning(begins).await?;
        tokio::time::sleep_until(start).await;
        let mut took = Vec::new();
        while start.elapsed() < length {
            let began = Instant::now();
            let taken = client.query_one(&take, &[]).await?;
            // Ids of messages, or names of events; null when there was nothing.
            if let Ok(Some(id)) = taken.try_get::<_, Option<i64>>(0) {
                client.execute(&done, &[&id]).await?;
            } else if let Ok(Some(ids)) = taken.try_get::<_, Option<Vec<String>>>(0) {
                client.execute(&done, &[&ids]).await?;
            }
            took.push(((began - start).as_secs_f64(), began.elapsed().as_secs_f64() * 1e3));
            tokio::time::sleep(PAUSE).await;
        }
        Ok(took)
    })
}

/// Runs the statements in turn, each in a transaction of its own, in the second half; how many of them did something.
fn maintain(
    client: Client,
    begins: Begins,
    half: Duration,
    statements: [String; 2],
) -> JoinHandle<Result<u64>> {
    tokio::spawn(async move {
        let start = beginning(begins).await? + half;
        tokio::time::sleep_until(start).await;
        let mut changed = 0;
        for turn in 1_i64.. {
            if start.elapsed() >= half {
                break;
            }
            for statement in statements.iter().filter(|sql| !sql.is_empty()) {
                let sql = statement.replace("$1", &turn.to_string());
                let rows = client.simple_query(&sql).await?;
                changed += u64::from(rows.iter().any(|row| {
                    matches!(row, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
                }));
                tokio::time::sleep(STEP / 2).await;
            }
        }
        Ok(changed)
    })
}
