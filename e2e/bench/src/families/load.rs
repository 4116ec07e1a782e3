//! load.*: how long an event takes at a steady load, from the moment it was due to its receipt; and limit.load.*, the
//! same by the plain client library, without PostgreSQL and relay.
//!
//! Due, not published: where a publisher falls behind its schedule, what follows is counted as late as it is. A mean
//! over what was published in the end would leave out just the bad moments (coordinated omission).

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::figures::Figure;
use crate::latency::{self, Schedule, WARM_UP};
use crate::report::Values;

/// Events a second, and how many of them are published in one transaction. At 10,000 a second an application that
/// commits each by itself would measure PostgreSQL's log instead of the relay.
pub const LOADS: [(u64, u64); 3] = [(100, 1), (1000, 1), (10_000, 10)];

/// Percentiles that are figures.
pub const PARTS: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("max", 100.0),
];

/// Digits that a histogram keeps of microseconds.
const DIGITS: u8 = 3;

fn schedule(bench: &Bench, rate: u64) -> Result<Schedule> {
    let load = LOADS.iter().find(|(known, _)| *known == rate);
    let (_, at_once) = load.with_context(|| format!("no load has {rate} events a second"))?;
    Ok(Schedule {
        rate,
        at_once: *at_once,
        last: rate * bench.sizes.load_seconds,
    })
}

/// Through an outbox and a relay.
pub async fn run(bench: &Bench, broker: Broker, rate: u64, run: usize) -> Result<Values> {
    let label = format!("load-{}-{rate}-{run}", broker.name());
    let delays = latency::through_relay(bench, broker, &label, schedule(bench, rate)?).await?;
    percentiles(&format!("load.{}.r{rate}", broker.name()), &delays.since_due)
}

/// By the plain client library.
pub async fn limit(bench: &Bench, broker: Broker, rate: u64, run: usize) -> Result<Values> {
    let label = format!("limit-load-{}-{rate}-{run}", broker.name());
    let delays = latency::by_client(bench, broker, &label, schedule(bench, rate)?).await?;
    percentiles(
        &format!("limit.load.{}.r{rate}", broker.name()),
        &delays.since_due,
    )
}

/// Percentiles in milliseconds of what comes after the warm-up.
fn percentiles(name: &str, delays: &[(f64, f64)]) -> Result<Values> {
    let mut histogram = Histogram::<u64>::new(DIGITS)?;
    for (_, delay) in delays.iter().filter(|(due, _)| *due >= WARM_UP) {
        histogram.record(microseconds(*delay))?;
    }
    ensure!(!histogram.is_empty(), "no latencies");
    let value = |percent| histogram.value_at_percentile(percent) as f64 / 1e3;
    Ok(PARTS
        .map(|(part, percent)| (format!("{name}.{part}"), value(percent)))
        .into())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a delay is not negative, and far below the largest number"
)]
fn microseconds(milliseconds: f64) -> u64 {
    (milliseconds * 1e3).round() as u64
}

/// The family's figures.
pub fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    for broker in Broker::ALL.map(Broker::name) {
        for (rate, _) in LOADS {
            for (part, _) in PARTS {
                let limit = format!("limit.load.{broker}.r{rate}.{part}");
                all.push(Figure::new(&limit, "ms"));
                let figure = Figure::new(format!("load.{broker}.r{rate}.{part}"), "ms");
                all.push(figure.compared_to(&[&limit]));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_comes_after_the_warm_up() {
        let mut delays: Vec<(f64, f64)> = (1..=1000).map(|n| (1.5, f64::from(n) / 10.0)).collect();
        delays.push((0.5, 9_999.0));
        let values = percentiles("x", &delays).expect("delays");
        for ((name, value), (part, expected)) in values.iter().zip([
            ("p50", 50.0),
            ("p90", 90.0),
            ("p99", 99.0),
            ("p99.9", 99.9),
            ("max", 100.0),
        ]) {
            assert_eq!(*name, format!("x.{part}"));
            assert!((value - expected).abs() / expected < 0.002, "{name} {value}");
        }
        assert!(percentiles("x", &[(0.5, 1.0)]).is_err());
    }
}
