//! `pg-tide-bench`: measures pg-tide against real servers on this machine, beside what the plain client libraries and
//! PostgreSQL reach there in the same run. docs/performance.md explains the figures.
//!
//! Wants a PostgreSQL, a Kafka and a NATS server, as `e2e/bed` starts them, and pgbench on the PATH. Makes a database,
//! topics and streams of its own, and removes them at the end.

mod bench;
mod broker;
mod clock;
mod database;
mod delivery;
mod drain;
mod event;
mod fanout;
mod figures;
mod http;
mod inbox;
mod kafka;
mod latency;
mod limits;
mod maintenance;
mod nats;
mod poll;
mod publish;
mod relay;
mod report;
mod sinks;
mod statistics;
mod suite;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::{Bench, Setup, Sizes};
use crate::report::Report;

/// Measures pg-tide; prints a table and writes target/bench/summary.json.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The program pg-tide, a release build; without it only what needs no relay is measured
    #[arg(long, value_name = "PROGRAM")]
    relay: Option<PathBuf>,
    /// How often each figure is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Smaller sizes, for a quick look
    #[arg(long)]
    quick: bool,
    /// Only measurements with this in a figure's name; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Fail when a figure misses its bar
    #[arg(long)]
    enforce: bool,
    /// Where logs and summary.json go
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    output: PathBuf,
    /// PostgreSQL, by a role that may create databases
    #[arg(long, env = "TIDE_PG_URL", hide_env_values = true)]
    postgres_url: String,
    /// Kafka's bootstrap servers
    #[arg(long, env = "TIDE_KAFKA")]
    kafka: String,
    /// NATS' URL
    #[arg(long, env = "TIDE_NATS")]
    nats: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pg-tide-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: Arguments) -> Result<()> {
    let mut selected = suite::all();
    selected.retain(|measurement| measurement.selected(&arguments.only));
    ensure!(
        !selected.is_empty(),
        "no figure has {} in its name",
        arguments.only.join(" or ")
    );

    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let setup = Setup {
        postgres_url: &arguments.postgres_url,
        kafka: &arguments.kafka,
        nats: &arguments.nats,
        relay: arguments.relay,
        sizes: if arguments.quick {
            Sizes::QUICK
        } else {
            Sizes::FULL
        },
        output: arguments.output.clone(),
    };
    let bench = Bench::prepare(setup).await?;
    if !bench.has_relay() {
        selected.retain(|measurement| !measurement.needs_relay());
        eprintln!("no --relay given: measuring only what needs none");
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut report = Report::new(figures::catalogue());
    let outcome = tokio::select! {
        outcome = suite::run(&bench, &selected, arguments.runs, &mut report) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    };
    println!("\n{}\n{}", report.table(), machine(&load));
    write_summary(&report, &arguments.output)?;
    bench.clean_up().await?;
    let failures = outcome?;
    if !failures.is_empty() {
        bail!("{} measurements failed:\n{}", failures.len(), failures.join("\n"));
    }
    match report.missed() {
        missed if missed > 0 && arguments.enforce => bail!("{missed} figures miss their bar"),
        _ => Ok(()),
    }
}

/// What the figures were measured on; a load of others makes them worth little.
fn machine(load: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, NonZero::get);
    let load = load.split_whitespace().take(2).collect::<Vec<_>>().join(" and ");
    format!("{cores} cores; load average before the start, over 1 and 5 minutes: {load}")
}

fn write_summary(report: &Report, folder: &Path) -> Result<()> {
    let path = folder.join("summary.json");
    let json = serde_json::to_string_pretty(&report.summary())?;
    std::fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}
