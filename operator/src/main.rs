//! `pg-tide-operator`: the command line, and the way to run.

use clap::Parser;
use pg_tide_operator::args::{Arguments, Command, LogFormat};
use pg_tide_operator::{crd, run};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Crds) = arguments.command {
        print!("{}", crd::yaml());
        return Ok(());
    }
    let filter = EnvFilter::try_new(&arguments.run.log_level)
        .map_err(|e| anyhow::anyhow!("--log-level \"{}\": {e}", arguments.run.log_level))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.run.log_format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().with_target(false).init(),
    }
    // Two threads are plenty: the work is waiting for others.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run::run(arguments.run))
}
