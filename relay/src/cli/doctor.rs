//! `pg-tide doctor`.

use clap::Args;

use super::output::{self, Format, OutputArguments};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::Database;
use crate::doctor::{self, Report, Scope};

const MORE: &str = "\
Run it with the URL of the relays, where they run, so that it sees what they see: the role's rights, the
secrets, the way to the brokers. It changes nothing, neither in the database nor at brokers.

JSON: {\"problems\": N, \"warnings\": N, \"findings\": [{\"severity\": \"ok\", \"warning\" or \"problem\", \"code\",
\"subject\", \"message\", \"hint\"}]}. Codes stay the same between versions.

Exit code 3 when a problem was found; 0 with warnings alone.

Examples:
  pg-tide doctor
  pg-tide doctor --pipeline orders-to-kafka
  pg-tide doctor -o json | jq -r '.findings[] | select(.severity != \"ok\") | .code'";

/// Check database, rights, settings, outboxes, pipelines, brokers, topics and streams; say what to fix.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Arguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only this pipeline, and the database
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// From which age in seconds an open transaction is worth a warning
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    long_transaction: u32,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: Arguments) -> Outcome {
    let database: Database = arguments.postgres.database().map_err(|e| e.to_string())?;
    let scope = Scope {
        pipeline: arguments.pipeline.as_deref(),
        long_transaction: arguments.long_transaction.into(),
    };
    let report: Report = doctor::run(&database, &scope).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&report)?,
        Format::Text => output::print(&report.text())?,
    }
    Ok(Ended::well_if(report.is_well()))
}
