//! size.*: how fast a backlog is drained by the size of its payloads; beside it the same rows by COPY, and payloads of
//! the same size sent from memory.

use anyhow::Result;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::drain::{self, Route};
use crate::figures::Figure;
use crate::limits;
use crate::report::Values;
use crate::shape::Shape;

/// Bytes of a payload.
pub const BYTES: [usize; 4] = [100, 300, 2048, 65_536];

fn shape(bytes: usize) -> Shape {
    Shape {
        bytes,
        ..Shape::USUAL
    }
}

fn count(bench: &Bench, bytes: usize) -> u64 {
    bench.sizes.family.min(bench.sizes.family_bytes / bytes as u64)
}

/// Makes the backlog if there is none yet.
async fn backlog(bench: &Bench, bytes: usize) -> Result<String> {
    let outbox = format!("size-{bytes}");
    let database = &bench.database;
    database
        .create_backlog(&outbox, count(bench, bytes), shape(bytes))
        .await?;
    Ok(outbox)
}

/// Reading the backlog by COPY.
pub async fn copy_out(bench: &Bench, bytes: usize) -> Result<Values> {
    let outbox = backlog(bench, bytes).await?;
    let rate = limits::copy_out(bench, &outbox, count(bench, bytes), bytes).await?;
    Ok(vec![(format!("limit.size.pg_copy_out.{bytes}"), rate)])
}

/// Sending from memory.
pub async fn limit(bench: &Bench, broker: Broker, bytes: usize, run: usize) -> Result<Values> {
    let name = broker.name();
    let target = broker
        .create_target(bench, &format!("limit-size-{name}-{bytes}-{run}"))
        .await?;
    let rate = target.fill(bench, count(bench, bytes), shape(bytes)).await?;
    target.delete(bench).await?;
    Ok(vec![(format!("limit.size.{name}.{bytes}"), rate)])
}

/// Draining the backlog.
pub async fn run(bench: &Bench, broker: Broker, bytes: usize, run: usize) -> Result<Values> {
    let name = broker.name();
    let label = format!("size-{name}-{bytes}-{run}");
    let outbox = backlog(bench, bytes).await?;
    let count = count(bench, bytes);
    let route = Route::new(bench, broker, label.clone(), &outbox, count, shape(bytes)).await?;
    let drained = drain::through(bench, &label, vec![route], 1).await?;
    Ok(vec![(format!("size.{name}.{bytes}"), drained.arrivals.rate()?)])
}

/// The family's figures.
pub fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    for bytes in BYTES {
        let copy = format!("limit.size.pg_copy_out.{bytes}");
        all.push(Figure::new(&copy, "rows/s"));
        for broker in Broker::ALL.map(Broker::name) {
            let limit = format!("limit.size.{broker}.{bytes}");
            all.push(Figure::new(&limit, "msg/s"));
            all.push(Figure::new(format!("size.{broker}.{bytes}"), "msg/s").compared_to(&[&copy, &limit]));
        }
    }
    all
}
