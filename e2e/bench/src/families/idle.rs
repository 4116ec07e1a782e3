//! idle.*: what a relay with many pipelines uses while there is nothing to send; first.*: how long the first event
//! takes after that, through one of them and through a pipeline that is alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::database::APPLICATION;
use crate::event::{self, Payload};
use crate::figures::Figure;
use crate::latency::Consumer;
use crate::poll::until;
use crate::relay::{Options, Relay};
use crate::report::Values;
use crate::server::Server;
use crate::shape::Shape;
use crate::statistics::{median, range};

/// Numbers of pipelines: for figures to quote, and for a quick look.
pub const PIPELINES: [usize; 2] = [1000, 100];

/// For all pipelines to connect.
const SETTLING: Duration = Duration::from_mins(4);

/// Until what was needed for connecting is closed again: clients of librdkafka after 5 s, connections to PostgreSQL
/// after 10 to 20.
const QUIET: Duration = Duration::from_secs(25);

/// Pipelines that are sent an event, one after the other.
const FIRSTS: u64 = 5;

/// Outboxes or pipelines made in one transaction: each takes locks on several tables.
const AT_ONCE: usize = 10;

/// One run with so many pipelines, each on an outbox of its own, all to the same topic or stream.
pub async fn run(bench: &Bench, broker: Broker, pipelines: usize, run: usize) -> Result<Values> {
    let label = format!("idle-{}-{run}", broker.name());
    let client = bench.database.connect().await?;
    let target = broker.create_target(bench, &label).await?;
    let outboxes =
        "SELECT tide.outbox_create_if_not_exists('idle-' || g) FROM generate_series($1::int, $2) g";
    in_parts(&client, pipelines, outboxes).await?;
    let config = target.config(bench, Shape::USUAL);
    let set = format!(
        "SELECT tide.relay_set_outbox('{label}-' || g, 'idle-' || g, '{}', '{config}', p_relay_group := '{label}')
           FROM generate_series($1::int, $2) g",
        broker.name(),
    );
    in_parts(&client, pipelines, &set).await?;

    let clock = Arc::new(Clock::new(FIRSTS));
    let consumer = Consumer::start(bench, &target, Arc::clone(&clock)).await?;
    let mut relay = start(bench, &label)?;
    let values = measure(bench, &client, &mut relay, pipelines, (&clock, &consumer)).await;
    let values = match values {
        Ok(values) => values,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    let delete = format!("SELECT tide.relay_delete('{label}-' || g) FROM generate_series($1::int, $2) g");
    in_parts(&client, pipelines, &delete).await?;
    target.delete(bench).await?;
    let name = format!("{}.p{pipelines}", broker.name());
    Ok(values
        .into_iter()
        .map(|(family, part, value)| (format!("{family}.{name}{part}"), value))
        .collect())
}

/// Runs a statement for the numbers from 1, some at a time.
async fn in_parts(client: &Client, count: usize, sql: &str) -> Result<()> {
    let statement = client.prepare(sql).await?;
    for first in (1..=count).step_by(AT_ONCE) {
        let last = count.min(first + AT_ONCE - 1);
        client
            .execute(&statement, &[&i32::try_from(first)?, &i32::try_from(last)?])
            .await?;
    }
    Ok(())
}

fn start(bench: &Bench, group: &str) -> Result<Relay> {
    let options = Options {
        group: Some(group.to_owned()),
        ..Options::default()
    };
    bench.start_relay_with(group, &options)
}

async fn measure(
    bench: &Bench,
    client: &Client,
    relay: &mut Relay,
    pipelines: usize,
    (clock, consumer): (&Clock, &Consumer),
) -> Result<Vec<(&'static str, &'static str, f64)>> {
    let settling =
        "SELECT count(*) FROM tide.relay_pipeline_state WHERE pipeline LIKE 'idle-%' AND state = 'running'";
    let began = Instant::now();
    until(SETTLING, "the pipelines to settle", async || {
        relay.check()?;
        let running: i64 = client.query_one(settling, &[]).await?.try_get(0)?;
        let settled = usize::try_from(running)? == pipelines;
        if !settled {
            // The view is not free with a thousand pipelines, and this is no part of what is measured.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(settled)
    })
    .await?;
    let settled = began.elapsed();
    tokio::time::sleep(QUIET).await;

    let server = Server::find(bench).await?;
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let commits = async || -> Result<i64> { Ok(client.query_one(commits, &[]).await?.try_get(0)?) };
    let before = (
        relay.usage()?.cpu_seconds,
        server.cpu_seconds()?,
        commits().await?,
    );
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(bench.sizes.idle_seconds)).await;
    let took = began.elapsed().as_secs_f64();
    relay.check()?;
    let usage = relay.usage()?;
    let postgres_cpu = server.cpu_seconds()? - before.1;
    let transactions = (commits().await? - before.2) as f64;
    let connections: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND backend_type = 'client backend' AND application_name <> $1",
            &[&APPLICATION],
        )
        .await?
        .try_get(0)?;
    let first = first_of_some(client, relay, clock, consumer).await?;
    let (_, slowest) = range(&first).context("no first events")?;
    Ok(vec![
        ("idle", ".settled", settled.as_secs_f64()),
        (
            "idle",
            ".relay_cpu",
            (usage.cpu_seconds - before.0) / took * 100.0,
        ),
        ("idle", ".postgres_cpu", postgres_cpu / took * 100.0),
        ("idle", ".transactions", transactions / took),
        ("idle", ".connections", connections as f64),
        ("idle", ".rss", usage.rss_mib),
        ("first", "", median(&first).context("no first events")?),
        ("first", ".max", slowest),
    ])
}

/// Publishes an event to some outboxes, one after the other; milliseconds from each commit to the receipt.
async fn first_of_some(
    client: &Client,
    relay: &mut Relay,
    clock: &Clock,
    consumer: &Consumer,
) -> Result<Vec<f64>> {
    let outboxes = client
        .query(
            "SELECT name FROM tide.outbox WHERE name LIKE 'idle-%' ORDER BY md5(name) LIMIT $1",
            &[&i64::try_from(FIRSTS)?],
        )
        .await?;
    let since = Instant::now();
    for (n, row) in (0..).zip(&outboxes) {
        publish(client, row.try_get(0)?, n, clock).await?;
        consumer.wait_for(n + 1, clock, &mut || relay.check()).await?;
    }
    Ok(clock
        .latencies(since)
        .into_iter()
        .map(|(_, delay)| delay)
        .collect())
}

async fn publish(client: &Client, outbox: &str, n: u64, clock: &Clock) -> Result<()> {
    let publish = "SELECT tide.outbox_publish($1, $2::text::jsonb, $3::text::jsonb)";
    client
        .execute(publish, &[&outbox, &Payload::text(n), &event::headers(n)])
        .await?;
    clock.published(n);
    Ok(())
}

/// The first event through a pipeline that is the only one of its relay; both brokers side by side, since most of it is
/// waiting.
pub async fn first(bench: &Bench, run: usize) -> Result<Values> {
    let [kafka, nats] = Broker::ALL;
    let (kafka, nats) = try_join(first_alone(bench, kafka, run), first_alone(bench, nats, run)).await?;
    Ok(vec![
        ("first.kafka.p1".to_owned(), kafka),
        ("first.nats.p1".to_owned(), nats),
    ])
}

async fn first_alone(bench: &Bench, broker: Broker, run: usize) -> Result<f64> {
    let label = format!("first-{}-{run}", broker.name());
    let client = bench.database.connect().await?;
    client.execute("SELECT tide.outbox_create($1)", &[&label]).await?;
    let target = broker.create_target(bench, &label).await?;
    let config = target.config(bench, Shape::USUAL);
    bench
        .set_outbox_in(&label, &label, &label, broker.name(), &config)
        .await?;
    let clock = Arc::new(Clock::new(2));
    let consumer = Consumer::start(bench, &target, Arc::clone(&clock)).await?;
    let mut relay = start(bench, &label)?;
    let measured = async {
        for n in 0..2 {
            if n > 0 {
                tokio::time::sleep(Duration::from_secs(bench.sizes.idle_seconds)).await;
            }
            publish(&client, &label, n, &clock).await?;
            consumer.wait_for(n + 1, &clock, &mut || relay.check()).await?;
        }
        let latencies = clock.latencies(Instant::now());
        latencies.last().map(|(_, delay)| *delay).context("no event came")
    };
    let latency = match measured.await {
        Ok(latency) => latency,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    bench.delete_pipeline(&label).await?;
    target.delete(bench).await?;
    Ok(latency)
}

/// The figures of these families.
pub fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    for broker in Broker::ALL.map(Broker::name) {
        all.push(Figure::new(format!("first.{broker}.p1"), "ms"));
        for pipelines in PIPELINES {
            let name = format!("{broker}.p{pipelines}");
            all.extend(
                [
                    ("first", "", "ms"),
                    ("first", ".max", "ms"),
                    ("idle", ".relay_cpu", "% of a core"),
                    ("idle", ".postgres_cpu", "% of a core"),
                    ("idle", ".transactions", "transactions/s"),
                    ("idle", ".connections", "connections"),
                    ("idle", ".rss", "MiB"),
                    ("idle", ".settled", "s"),
                ]
                .map(|(family, part, unit)| Figure::new(format!("{family}.{name}{part}"), unit)),
            );
        }
    }
    all
}
