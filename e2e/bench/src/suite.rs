//! Running what was chosen: group by group, each all its runs, values into the report.

use anyhow::Result;

use crate::bench::{BACKLOG_OUTBOX, Bench, SHORT_OUTBOX};
use crate::choice::Group;
use crate::machine::Load;
use crate::measurement::Measurement;
use crate::report::Report;
use crate::shape::Shape;
use crate::{limits, publish};

/// Runs the groups one after the other, `runs` times each. A measurement that fails does not stop the others; returns
/// the failures.
pub async fn run(
    bench: &Bench,
    groups: &[Group],
    runs: usize,
    report: &mut Report,
    loads: &mut Vec<Load>,
) -> Result<Vec<String>> {
    prepare(bench, groups).await?;
    let mut failures = Vec::new();
    for group in groups {
        let runs = runs.min(group.most_runs);
        for run in 0..runs {
            for measurement in &group.measurements {
                let label = format!("run {} of {runs}", run + 1);
                let load = Load::before(&measurement.figures().join(", "), run);
                match measurement.run(bench, run).await {
                    Ok(values) => {
                        let shown: Vec<_> = values
                            .iter()
                            .map(|(name, value)| format!("{name} {value:.2}"))
                            .collect();
                        eprintln!("{label}, load {:.2}: {}", load.average, shown.join(", "));
                        report.add(run, values)?;
                    }
                    Err(error) => {
                        let label = format!("{label}: {}", load.measurement);
                        eprintln!("{label}: FAILED: {error:#}");
                        failures.push(format!("{label}: {error:#}"));
                    }
                }
                loads.push(load);
            }
        }
        if let Some(prefix) = group.outboxes {
            // What a failed measurement left has a pipeline still, and stays until the database goes.
            if let Err(error) = bench.database.drop_outboxes(prefix).await {
                eprintln!("{}: cannot clean up: {error:#}", group.name);
            }
        }
    }
    Ok(failures)
}

/// Makes what several measurements share.
async fn prepare(bench: &Bench, groups: &[Group]) -> Result<()> {
    let any = |needs: fn(Measurement) -> bool| {
        groups
            .iter()
            .any(|group| group.measurements.iter().any(|measurement| needs(*measurement)))
    };
    if any(|measurement| matches!(measurement, Measurement::Publish(_))) {
        publish::prepare(bench).await?;
    }
    let sizes = bench.sizes;
    for (needed, outbox, count) in [
        (any(Measurement::needs_backlog), BACKLOG_OUTBOX, sizes.backlog),
        (any(Measurement::needs_short_backlog), SHORT_OUTBOX, sizes.short),
    ] {
        if needed {
            eprintln!("making a backlog of {count} messages");
            bench.database.create_backlog(outbox, count, Shape::USUAL).await?;
        }
    }
    if any(Measurement::uses_kafka) {
        eprintln!("warming Kafka up");
        limits::warm_up_kafka(bench).await?;
    }
    Ok(())
}
