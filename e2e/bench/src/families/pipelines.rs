//! pipelines.*, relays.*: the same number of messages over more and more outboxes and pipelines, and by two relays
//! instead of one; how fast they are drained in all, and what that costs.

use anyhow::Result;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::drain::{self, Route};
use crate::figures::Figure;
use crate::report::Values;
use crate::shape::Shape;

/// Numbers of pipelines that are compared, each on an outbox and with a topic of its own.
pub const PIPELINES: [usize; 3] = [1, 10, 100];

/// Numbers of relays that are compared; they divide four pipelines.
pub const RELAYS: [usize; 2] = [1, 2];
const PIPELINES_OF_RELAYS: usize = 4;

/// One relay and so many pipelines.
pub async fn run(bench: &Bench, pipelines: usize, run: usize) -> Result<Values> {
    let label = format!("pipelines-{pipelines}-{run}");
    let outboxes = format!("pipelines-{pipelines}");
    let routes = routes(bench, &label, &outboxes, pipelines, bench.sizes.family).await?;
    let drained = drain::through(bench, &label, routes, 1).await?;
    drained.values(&format!("pipelines.p{pipelines}"))
}

/// So many relays of one group. Twice the messages: the relays need a moment to divide the pipelines.
pub async fn run_relays(bench: &Bench, relays: usize, run: usize) -> Result<Values> {
    let label = format!("relays-{relays}-{run}");
    let count = bench.sizes.family * 2;
    let routes = routes(bench, &label, "relays", PIPELINES_OF_RELAYS, count).await?;
    let drained = drain::through(bench, &label, routes, relays).await?;
    drained.values(&format!("relays.{relays}"))
}

/// The messages in equal parts on outboxes `<outboxes>-<n>`, each to a topic of its own.
async fn routes(
    bench: &Bench,
    label: &str,
    outboxes: &str,
    number: usize,
    messages: u64,
) -> Result<Vec<Route>> {
    let count = messages / number as u64;
    let mut routes = Vec::new();
    for n in 0..number {
        let outbox = format!("{outboxes}-{n}");
        let pipeline = format!("{label}-{n}");
        bench
            .database
            .create_backlog(&outbox, count, Shape::USUAL)
            .await?;
        routes.push(Route::new(bench, Broker::Kafka, pipeline, &outbox, count, Shape::USUAL).await?);
    }
    Ok(routes)
}

/// The figures of these families.
pub fn figures() -> Vec<Figure> {
    let pipelines = PIPELINES.map(|n| format!("pipelines.p{n}"));
    let relays = RELAYS.map(|n| format!("relays.{n}"));
    let of = |name: &String| {
        [
            Figure::new(name, "msg/s"),
            Figure::new(format!("{name}.relay_cpu"), "s/million"),
            Figure::new(format!("{name}.postgres_cpu"), "s/million"),
        ]
    };
    pipelines.iter().chain(&relays).flat_map(of).collect()
}
