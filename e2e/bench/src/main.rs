//! `pg-tide-bench`: measures pg-tide against real servers on this machine, beside what the plain client libraries and
//! PostgreSQL reach there in the same run. docs/performance.md explains the figures.
//!
//! Wants a PostgreSQL, a Kafka and a NATS server, as `e2e/bed` starts them, and pgbench on the PATH. Makes a database,
//! topics and streams of its own, and removes them at the end.

mod bench;
mod broker;
mod choice;
mod clock;
mod database;
mod delivery;
mod drain;
mod event;
mod families;
mod fanout;
mod figures;
mod http;
mod inbox;
mod kafka;
mod latency;
mod limits;
mod machine;
mod maintenance;
mod measurement;
mod nats;
mod picture;
mod poll;
mod publish;
mod relay;
mod report;
mod server;
mod shape;
mod sinks;
mod statistics;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::{Bench, Setup, Sizes};
use crate::machine::{Load, Machine};
use crate::report::Report;

/// Measures pg-tide; prints a table and writes target/bench/summary.json.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The program pg-tide, a release build; without it only what needs no relay is measured
    #[arg(long, value_name = "PROGRAM")]
    relay: Option<PathBuf>,
    /// How often each figure is measured; 3, or 1 with --quick
    #[arg(long)]
    runs: Option<usize>,
    /// Smaller sizes and, unless --only says which, fewer figures: a quick look of five minutes
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
    let mut selected = choice::selected(&arguments.only, arguments.quick);
    ensure!(
        !selected.is_empty(),
        "no figure has {} in its name",
        arguments.only.join(" or ")
    );

    let before = machine::average();
    let sizes = if arguments.quick {
        Sizes::QUICK
    } else {
        Sizes::FULL
    };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 1 } else { 3 });
    let setup = Setup {
        postgres_url: &arguments.postgres_url,
        kafka: &arguments.kafka,
        nats: &arguments.nats,
        relay: arguments.relay,
        sizes,
        output: arguments.output.clone(),
    };
    let bench = Bench::prepare(setup).await?;
    if !bench.has_relay() {
        for group in &mut selected {
            group
                .measurements
                .retain(|measurement| !measurement.needs_relay());
        }
        eprintln!("no --relay given: measuring only what needs none");
    }
    let minutes = choice::seconds(&selected, runs, &sizes) / 60.0;
    eprintln!("this takes about {minutes:.0} minutes on two quiet cores");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut report = Report::new(figures::catalogue());
    let mut loads = Vec::new();
    let outcome = tokio::select! {
        outcome = suite::run(&bench, &selected, runs, &mut report, &mut loads) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    };
    write(&report, before, &loads, &arguments.output)?;
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

/// Prints the table; writes the summary, what it was measured on, and the pictures.
fn write(report: &Report, before: f64, loads: &[Load], folder: &Path) -> Result<()> {
    let machine = Machine::this();
    println!("\n{}\n{}", report.table(), machine.text(before, loads));
    let summary = report.summary();
    write_json(&folder.join("summary.json"), &summary)?;
    let facts = serde_json::json!({"machine": machine, "load_before": before, "loads": loads});
    write_json(&folder.join("machine.json"), &facts)?;
    for path in picture::draw(&summary, folder)? {
        println!("{}", path.display());
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}
