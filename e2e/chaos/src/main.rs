//! `pg-tide-chaos`: see the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pg_tide_chaos::{Kind, Length, Options, Sink, run};
use tokio::signal::unix::{SignalKind, signal};

/// Breaks relays, servers and the network under load, and checks by id that nothing is lost or doubled.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Names the plan of faults and the publishers' transactions; without it a new one
    #[arg(long)]
    seed: Option<u64>,
    /// For how long faults are injected
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// After how many faults to end, instead of minutes
    #[arg(long)]
    count: Option<usize>,
    /// Faults, by commas, or "all"
    #[arg(long, default_value = "all")]
    faults: String,
    /// kafka, transactional or nats
    #[arg(long, default_value = "kafka")]
    sink: Sink,
    /// Relays at rest
    #[arg(long, default_value_t = 3)]
    relays: usize,
    /// Messages published a second
    #[arg(long, default_value_t = 1500)]
    rate: u32,
    /// Messages sent a second to the broker for the inbox
    #[arg(long, default_value_t = 200)]
    rate_in: u32,
    /// Rounds in which each fault is alone, before they are mixed
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Where logs, summary.json and a failure's history go
    #[arg(long, default_value = "target/chaos", value_name = "FOLDER")]
    output: PathBuf,
    /// A protection that the relays do without (they must be built with the feature "sabotage")
    #[arg(long)]
    sabotage: Option<String>,
}

fn kinds(faults: &str) -> Result<Vec<Kind>, String> {
    match faults {
        "all" => Ok(Kind::ALL.to_vec()),
        names => names.split(',').map(|name| name.trim().parse()).collect(),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kinds = match kinds(&arguments.faults) {
        Ok(kinds) => kinds,
        Err(error) => {
            eprintln!("pg-tide-chaos: {error}");
            return ExitCode::from(2);
        }
    };
    let options = Options {
        seed: arguments.seed.unwrap_or_else(|| u64::from(std::process::id())),
        length: arguments
            .count
            .map_or(Length::Minutes(arguments.minutes), Length::Faults),
        kinds,
        rounds: arguments.rounds,
        sink: arguments.sink,
        relays: arguments.relays,
        rate: arguments.rate,
        rate_in: arguments.rate_in,
        output: arguments.output,
        sabotage: arguments.sabotage,
    };
    eprintln!("chaos: {}", options.command());
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return ExitCode::from(2);
    };
    // Whatever ends the run, servers and hosts go with its values.
    let report = tokio::select! {
        report = run(&options) => report,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
        _ = terminate.recv() => return ExitCode::from(143),
    };
    println!("{}", report.table());
    if report.is_clean() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "chaos: FAILED; the history is in {}; again: {}",
        options.output.display(),
        options.command()
    );
    ExitCode::FAILURE
}
