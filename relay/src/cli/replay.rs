//! `pg-tide replay`: delivered messages once more through a pipeline.

use clap::{ArgGroup, Args};

use super::output::{self, Format, OutputArguments, value};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::describe;

const MORE: &str = "\
A time is written as PostgreSQL reads it; without a zone it is UTC.

JSON: {\"pipeline\", \"messages\", \"dry_run\"}

Examples:
  pg-tide replay orders-to-kafka --from-id 4711 --to-id 4720
  pg-tide replay orders-to-kafka --from-time '2026-01-15 10:00+01' --to-time '2026-01-15 11:00+01' --dry-run";

/// Send messages that were delivered, and are still kept, through a forward pipeline once more.
///
/// The relay that owns the pipeline sends them before anything new, with the header tide-redelivery. Both ends
/// belong to the range; an end that is not given is open.
#[derive(Debug, Args)]
#[command(
    after_long_help = MORE,
    group = ArgGroup::new("range").args(["from_id", "to_id", "from_time", "to_time"]).required(true).multiple(true)
)]
pub(super) struct Arguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The pipeline
    pipeline: String,
    /// First message id
    #[arg(long, value_name = "ID")]
    from_id: Option<i64>,
    /// Last message id
    #[arg(long, value_name = "ID")]
    to_id: Option<i64>,
    /// Published at this time or later
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from_id", "to_id"])]
    from_time: Option<String>,
    /// Published at this time or before
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from_id", "to_id"])]
    to_time: Option<String>,
    /// Only say how many messages it would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: Arguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let client = &session.client;
    let failed = |e: tokio_postgres::Error| describe(&e);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    let by_time = arguments.from_time.is_some() || arguments.to_time.is_some();
    let messages: i64 = if by_time {
        value(
            client,
            "SELECT tide.relay_replay($1, $2::text::timestamptz, $3::text::timestamptz)",
            &[&arguments.pipeline, &arguments.from_time, &arguments.to_time],
        )
        .await?
    } else {
        value(
            client,
            "SELECT tide.relay_replay($1, $2::bigint, $3::bigint)",
            &[&arguments.pipeline, &arguments.from_id, &arguments.to_id],
        )
        .await?
    };
    let end = if arguments.dry_run { "ROLLBACK" } else { "COMMIT" };
    client.batch_execute(end).await.map_err(failed)?;
    if arguments.output.format == Format::Json {
        output::print_json(&serde_json::json!({
            "pipeline": arguments.pipeline, "messages": messages, "dry_run": arguments.dry_run,
        }))?;
    } else if messages == 0 {
        output::print("no message of this range was delivered and is still kept\n")?;
    } else if arguments.dry_run {
        output::print(&format!("{messages} messages would be sent once more\n"))?;
    } else {
        output::print(&format!("{messages} messages are queued for the relay\n"))?;
    }
    Ok(Ended::Well)
}
