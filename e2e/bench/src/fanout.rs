//! fanout.*: several pipelines on one outbox, each to a topic of its own: how fast a backlog is drained, and what the
//! relay and PostgreSQL use for it; and what they use at a steady load.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::{Bench, SHORT_OUTBOX};
use crate::broker::{Broker, Target};
use crate::drain::{self, Route, STALL};
use crate::event::{self, Payload};
use crate::latency::{PUBLISHERS, RATE};
use crate::poll::watch;
use crate::relay::Relay;
use crate::report::Values;
use crate::server::Server;
use crate::shape::Shape;

/// Numbers of pipelines that are compared.
pub const PIPELINES: [usize; 2] = [1, 3];

/// One run: the backlog first, then the steady load, each with a relay of its own.
pub async fn run(bench: &Bench, pipelines: usize, run: usize) -> Result<Values> {
    let name = format!("fanout.p{pipelines}");
    let label = format!("fanout-{pipelines}-{run}");
    let mut routes = Vec::new();
    for n in 0..pipelines {
        let pipeline = format!("{label}-{n}");
        let count = bench.sizes.short;
        let route = Route::new(bench, Broker::Kafka, pipeline, SHORT_OUTBOX, count, Shape::USUAL);
        routes.push(route.await?);
    }
    let server = Server::find(bench).await?;
    let mut values = drain::through(bench, &label, routes, 1)
        .await?
        .values(&format!("{name}.drain"))?;

    let label = format!("fanout-steady-{pipelines}-{run}");
    let client = bench.database.connect().await?;
    client.execute("SELECT tide.outbox_create($1)", &[&label]).await?;
    let (targets, relay) = start(bench, &label, &label, pipelines).await?;
    let (relay_cpu, server_cpu) = steady(bench, &label, &targets, relay, &server).await?;
    finish(bench, &label, targets).await?;
    values.extend([
        (format!("{name}.r1000.relay_cpu"), relay_cpu * 100.0),
        (format!("{name}.r1000.postgres_cpu"), server_cpu * 100.0),
    ]);
    Ok(values)
}

async fn start(bench: &Bench, label: &str, outbox: &str, pipelines: usize) -> Result<(Vec<Target>, Relay)> {
    let mut targets = Vec::new();
    for n in 0..pipelines {
        let pipeline = format!("{label}-{n}");
        let target = Broker::Kafka.create_target(bench, &pipeline).await?;
        let config = target.config(bench, Shape::USUAL);
        bench.set_outbox(&pipeline, outbox, "kafka", &config).await?;
        targets.push(target);
    }
    Ok((targets, bench.start_relay(label)?))
}

async fn finish(bench: &Bench, label: &str, targets: Vec<Target>) -> Result<()> {
    for (n, target) in targets.iter().enumerate() {
        bench.delete_pipeline(&format!("{label}-{n}")).await?;
        target.delete(bench).await?;
    }
    Ok(())
}

/// What relay and PostgreSQL used of a core.
async fn steady(
    bench: &Bench,
    outbox: &str,
    targets: &[Target],
    mut relay: Relay,
    server: &Server,
) -> Result<(f64, f64)> {
    let all = targets.len() as u64;
    publish(bench, outbox, Duration::from_secs(1)).await?;
    let warm = watch(all, STALL, async || {
        relay.check()?;
        Target::count_all(&targets.iter().collect::<Vec<_>>(), bench).await
    });
    if let Err(error) = warm.await {
        return Err(relay.blame(&error));
    }
    let (began, before, relay_before) = (Instant::now(), server.cpu_seconds()?, relay.usage()?.cpu_seconds);
    let length = Duration::from_secs(bench.sizes.latency_seconds / 2);
    publish(bench, outbox, length).await?;
    let took = began.elapsed().as_secs_f64();
    let used = (
        (relay.usage()?.cpu_seconds - relay_before) / took,
        (server.cpu_seconds()? - before) / took,
    );
    relay.stop().await?;
    Ok(used)
}

/// Publishes at the steady rate.
async fn publish(bench: &Bench, outbox: &str, length: Duration) -> Result<()> {
    let start = Instant::now();
    let last = RATE * length.as_secs();
    let mut publishers = JoinSet::new();
    for first in 0..PUBLISHERS {
        let client = bench.database.connect().await?;
        let sql = format!("SELECT tide.outbox_publish('{outbox}', $1::text::jsonb, $2::text::jsonb)");
        publishers.spawn(async move {
            let publish = client.prepare(&sql).await?;
            for n in (first..last).step_by(usize::try_from(PUBLISHERS)?) {
                tokio::time::sleep_until(start + Duration::from_micros(n * 1_000_000 / RATE)).await;
                client
                    .execute(&publish, &[&Payload::text(n), &event::headers(n)])
                    .await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(publisher) = publishers.join_next().await {
        publisher??;
    }
    Ok(())
}
