//! drain.*: how fast a relay delivers a backlog, what it uses for that, and whether every event arrived once.

use std::time::Duration;

use anyhow::Result;

use crate::bench::{BACKLOG_OUTBOX, Bench};
use crate::broker::{Broker, Target};
use crate::poll::{Arrivals, watch};
use crate::relay::{Relay, Usage};
use crate::report::Values;

/// No delivery for this long: the relay is stuck.
pub const STALL: Duration = Duration::from_secs(30);

/// Drains the backlog once, through a new pipeline with a group of its own, into a new topic or stream.
pub async fn run(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let pipeline = format!("drain-{}-{run}", broker.name());
    let target = broker.create_target(bench, &pipeline).await?;
    bench
        .set_outbox(&pipeline, BACKLOG_OUTBOX, broker.name(), &target.config(bench))
        .await?;

    let mut relay = bench.start_relay(&pipeline)?;
    let started = relay.started();
    let (arrivals, usage) = match drain(bench, &target, &mut relay).await {
        Ok(measured) => measured,
        Err(error) => return Err(relay.blame(&error)),
    };
    relay.stop().await?;

    // The relay has left: what is there now is all that it sent.
    target.read_back(bench, bench.sizes.backlog).await?.check()?;
    bench.delete_pipeline(&pipeline).await?;
    target.delete(bench).await?;

    let name = broker.name();
    Ok(vec![
        (format!("drain.{name}"), arrivals.rate()?),
        (
            format!("drain.{name}.total"),
            (arrivals.last - started).as_secs_f64(),
        ),
        (
            format!("cpu_per_million.{name}"),
            usage.cpu_seconds / bench.sizes.backlog as f64 * 1e6,
        ),
        ("rss.relay".to_owned(), usage.peak_rss_mib),
    ])
}

async fn drain(bench: &Bench, target: &Target, relay: &mut Relay) -> Result<(Arrivals, Usage)> {
    let arrivals = watch(bench.sizes.backlog, STALL, async || {
        relay.check()?;
        target.count(bench).await
    })
    .await?;
    Ok((arrivals, relay.usage()?))
}
