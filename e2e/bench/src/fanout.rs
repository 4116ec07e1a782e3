//! fanout.*: several pipelines on one outbox, each to a topic of its own: how fast a backlog is drained, and what the
//! relay and PostgreSQL use for it; and what they use at a steady load.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::{Bench, SHORT_OUTBOX};
use crate::broker::{Broker, Target};
use crate::drain::STALL;
use crate::event::{self, Payload};
use crate::latency::{PUBLISHERS, RATE};
use crate::poll::watch;
use crate::relay::{Relay, cpu_seconds};
use crate::report::Values;

/// Numbers of pipelines that are compared.
pub const PIPELINES: [usize; 2] = [1, 3];

/// One run: the backlog first, then the steady load, each with a relay of its own.
pub async fn run(bench: &Bench, pipelines: usize, run: usize) -> Result<Values> {
    let name = format!("fanout.p{pipelines}");
    let label = format!("fanout-{pipelines}-{run}");
    let (targets, relay) = start(bench, &label, SHORT_OUTBOX, pipelines).await?;
    let server = Server::find(bench).await?;
    let before = server.cpu_seconds()?;
    let (rate, relay_cpu) = match drain(bench, &targets, relay).await {
        Ok(measured) => measured,
        Err(error) => return Err(error.context(label)),
    };
    let server_cpu = server.cpu_seconds()? - before;
    let deliveries = (bench.sizes.short * pipelines as u64) as f64;
    for target in &targets {
        target.read_back(bench, bench.sizes.short).await?.check()?;
    }
    finish(bench, &label, targets).await?;
    let mut values = vec![
        (format!("{name}.drain"), rate),
        (format!("{name}.drain.relay_cpu"), relay_cpu / deliveries * 1e6),
        (
            format!("{name}.drain.postgres_cpu"),
            server_cpu / deliveries * 1e6,
        ),
    ];

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
        let config = target.config(bench);
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

async fn count(bench: &Bench, targets: &[Target]) -> Result<u64> {
    let mut sum = 0;
    for target in targets {
        sum += target.count(bench).await?;
    }
    Ok(sum)
}

/// Deliveries a second, and what the relay used.
async fn drain(bench: &Bench, targets: &[Target], mut relay: Relay) -> Result<(f64, f64)> {
    let watched = watch(bench.sizes.short * targets.len() as u64, STALL, async || {
        relay.check()?;
        count(bench, targets).await
    });
    let arrivals = match watched.await {
        Ok(arrivals) => arrivals,
        Err(error) => return Err(relay.blame(&error)),
    };
    let usage = relay.usage()?;
    relay.stop().await?;
    Ok((arrivals.rate()?, usage.cpu_seconds))
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
        count(bench, targets).await
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

/// The processes of the server, which is on this machine.
struct Server {
    postmaster: u32,
}

impl Server {
    async fn find(bench: &Bench) -> Result<Self> {
        let client = bench.database.connect().await?;
        let backend: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .try_get(0)?;
        let stat = std::fs::read_to_string(format!("/proc/{backend}/stat"))
            .context("what PostgreSQL uses is measured only when it runs on this machine")?;
        Ok(Self {
            postmaster: parent(&stat).context("unexpected form of /proc/PID/stat")?,
        })
    }

    /// User and system time of all its processes, also of those that have ended.
    fn cpu_seconds(&self) -> Result<f64> {
        let own = std::fs::read_to_string(format!("/proc/{}/stat", self.postmaster))?;
        let mut sum = cpu_seconds(&own, 4).context("unexpected form of /proc/PID/stat")?;
        for entry in std::fs::read_dir("/proc")? {
            // A process may end while it is looked at: the postmaster has its time then.
            let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else {
                continue;
            };
            if parent(&stat) == Some(self.postmaster) {
                sum += cpu_seconds(&stat, 2).unwrap_or_default();
            }
        }
        Ok(sum)
    }
}

/// The second field after the name.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}
