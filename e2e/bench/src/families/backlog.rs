//! backlog.*: what a message costs relay and PostgreSQL by how many of them wait. It should not depend on that.
//!
//! A relay is started without pipelines and given some when it is settled, so that its start is not counted. A small
//! backlog is drained several times, one pipeline after the other, until enough was delivered to measure CPU time by.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::drain::{Route, STALL};
use crate::figures::Figure;
use crate::poll::{until, watch};
use crate::relay::Relay;
use crate::report::Values;
use crate::server::Server;
use crate::shape::Shape;

/// Messages that wait, and how the figures call that.
pub const BACKLOGS: [(u64, &str); 4] = [
    (10_000, "10k"),
    (100_000, "100k"),
    (1_000_000, "1m"),
    (5_000_000, "5m"),
];

/// Fewer deliveries are too few to measure by: CPU time is told in hundredths of a second.
const ENOUGH: u64 = 100_000;

/// For a relay to join its group.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a figure calls a backlog.
pub fn name(backlog: u64) -> &'static str {
    let known = BACKLOGS.iter().find(|(count, _)| *count == backlog);
    known.map_or("other", |(_, name)| name)
}

/// One run.
pub async fn run(bench: &Bench, backlog: u64, run: usize) -> Result<Values> {
    let name = name(backlog);
    let label = format!("backlog-{name}-{run}");
    let outbox = format!("backlog-{name}");
    bench
        .database
        .create_backlog(&outbox, backlog, Shape::USUAL)
        .await?;
    let mut routes = Vec::new();
    for turn in 0..ENOUGH.div_ceil(backlog) {
        let pipeline = format!("{label}-{turn}");
        routes.push(Route::new(bench, Broker::Kafka, pipeline, &outbox, backlog, Shape::USUAL).await?);
    }
    let mut relay = bench.start_relay(&label)?;
    let (relay_cpu, postgres_cpu) = match drain_in_turn(bench, &routes, &mut relay).await {
        Ok(used) => used,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;
    let million = (backlog * routes.len() as u64) as f64 / 1e6;
    for route in routes {
        route.close(bench).await?;
    }
    Ok(vec![
        (format!("backlog.{name}.relay_cpu"), relay_cpu / million),
        (format!("backlog.{name}.postgres_cpu"), postgres_cpu / million),
    ])
}

/// What the relay and PostgreSQL used, in seconds.
async fn drain_in_turn(bench: &Bench, routes: &[Route], relay: &mut Relay) -> Result<(f64, f64)> {
    let client = bench.database.connect().await?;
    // The key of the lock that every living member of a group holds.
    let members = "SELECT count(*) FROM pg_locks
                    WHERE locktype = 'advisory' AND classid = 1953064045 AND granted
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until(PATIENCE, "the relay to join its group", async || {
        relay.check()?;
        Ok(client.query_one(members, &[]).await?.try_get::<_, i64>(0)? > 0)
    })
    .await?;
    let server = Server::find(bench).await?;
    let before = (relay.usage()?.cpu_seconds, server.cpu_seconds()?);
    for route in routes {
        route.open(bench).await?;
        watch(route.count, STALL, async || {
            relay.check()?;
            route.target.count(bench).await
        })
        .await?;
    }
    Ok((
        relay.usage()?.cpu_seconds - before.0,
        server.cpu_seconds()? - before.1,
    ))
}

/// The family's figures.
pub fn figures() -> Vec<Figure> {
    let of = |(_, name)| {
        ["relay_cpu", "postgres_cpu"].map(|part| Figure::new(format!("backlog.{name}.{part}"), "s/million"))
    };
    BACKLOGS.into_iter().flat_map(of).collect()
}
