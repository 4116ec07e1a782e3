//! `pg-tide pipeline`: looked at, switched, set from a file.

use clap::{Args, Subcommand};
use tokio_postgres::Client;

use super::config::{name_of, read_checked, read_pipelines};
use super::output::{self, Kind, Listing, OutputArguments};
use super::{Ended, Outcome, PostgresArguments};
use crate::config::Declared;
use crate::database::describe;

/// What to do with pipelines.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(ListArguments),
    Show(ShowArguments),
    /// Let relays run a pipeline.
    Enable(NameArguments),
    /// Stop a pipeline. Its position is kept, and what is published meanwhile waits.
    Disable(NameArguments),
    Rename(RenameArguments),
    /// Delete a pipeline. A consumer group that was not made for it alone stays, with its position.
    Delete(NameArguments),
    Apply(ApplyArguments),
}

/// List pipelines as they are configured.
///
/// JSON: {"pipelines": [{"name", "direction", "outbox", "inbox", "connector", "consumer_group", "config",
/// "batch_size", "enabled", "relay_group", "max_retries", "idempotent", "created_at", "updated_at"}]}; pipeline
/// apply takes it.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Show a pipeline's configuration, as JSON that pipeline apply takes.
#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The pipeline
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct NameArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The pipeline
    name: String,
}

/// Give a pipeline another name, while it works.
///
/// Its position and its dead letters come along. Brokers go on to know it by its first name.
#[derive(Debug, Args)]
pub(super) struct RenameArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The pipeline
    name: String,
    /// Its name from now on
    new_name: String,
}

/// Make or replace the pipelines of a file, all or none. Those of the database that the file does not name are
/// left alone.
#[derive(Debug, Args)]
#[command(after_long_help = "\
How the file is written: pg-tide config validate --help

Example:
  pg-tide pipeline list -o json > pipelines.json
  pg-tide pipeline apply pipelines.json --postgres-url postgres://admin@other/shop")]
pub(super) struct ApplyArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The file; - is standard input
    file: String,
    /// Only try it
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(command: Command) -> Outcome {
    match command {
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
        Command::Enable(arguments) => switch(&arguments, "SELECT tide.relay_enable($1)", "enabled").await,
        Command::Disable(arguments) => switch(&arguments, "SELECT tide.relay_disable($1)", "disabled").await,
        Command::Rename(arguments) => rename(&arguments).await,
        Command::Delete(arguments) => switch(&arguments, "SELECT tide.relay_delete($1)", "deleted").await,
        Command::Apply(arguments) => apply(&arguments).await,
    }
}

async fn list(arguments: &ListArguments) -> Outcome {
    let listing = Listing {
        sql: "SELECT * FROM tide.relay_list_configs()",
        parameters: &[],
        name: "pipelines",
        columns: &[
            ("PIPELINE", "name", Kind::Text),
            ("DIRECTION", "direction", Kind::Text),
            ("CONNECTOR", "connector", Kind::Text),
            ("OUTBOX", "outbox", Kind::Text),
            ("INBOX", "inbox", Kind::Text),
            ("GROUP", "consumer_group", Kind::Text),
            ("ENABLED", "enabled", Kind::Text),
            ("RELAY GROUP", "relay_group", Kind::Text),
            ("CHANGED", "updated_at", Kind::Time),
        ],
    };
    listing.print(&arguments.postgres, &arguments.output).await
}

async fn show(arguments: &ShowArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let row = session
        .client
        .query_one(
            "SELECT jsonb_pretty(to_jsonb(c)) FROM tide.relay_get_config($1) c",
            &[&arguments.name],
        )
        .await
        .map_err(|e| describe(&e))?;
    output::print(&format!("{}\n", row.get::<_, String>(0)))?;
    Ok(Ended::Well)
}

async fn switch(arguments: &NameArguments, sql: &str, done: &str) -> Outcome {
    let session = arguments.postgres.connect().await?;
    session
        .client
        .query(sql, &[&arguments.name])
        .await
        .map_err(|e| describe(&e))?;
    output::print(&format!("pipeline \"{}\" is {done}\n", arguments.name))?;
    Ok(Ended::Well)
}

async fn rename(arguments: &RenameArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    session
        .client
        .query(
            "SELECT tide.relay_rename($1, $2)",
            &[&arguments.name, &arguments.new_name],
        )
        .await
        .map_err(|e| describe(&e))?;
    output::print(&format!(
        "pipeline \"{}\" is \"{}\" from now on\n",
        arguments.name, arguments.new_name
    ))?;
    Ok(Ended::Well)
}

async fn apply(arguments: &ApplyArguments) -> Outcome {
    let declared: Vec<Declared> = read_pipelines(&arguments.file)?
        .iter()
        .enumerate()
        .map(|(number, value)| read_checked(value).map_err(|e| format!("{}: {e}", name_of(value, number))))
        .collect::<Result<_, _>>()?;
    let session = arguments.postgres.connect().await?;
    let client = &session.client;
    client.batch_execute("BEGIN").await.map_err(|e| describe(&e))?;
    for pipeline in &declared {
        set(client, pipeline)
            .await
            .map_err(|e| format!("{}: {}", pipeline.name, describe(&e)))?;
    }
    let end = if arguments.dry_run { "ROLLBACK" } else { "COMMIT" };
    client.batch_execute(end).await.map_err(|e| describe(&e))?;
    let done = if arguments.dry_run {
        "could be set"
    } else {
        "is set"
    };
    output::print_lines(declared.iter().map(|p| format!("pipeline \"{}\" {done}", p.name)))?;
    Ok(Ended::Well)
}

async fn set(client: &Client, pipeline: &Declared) -> Result<(), tokio_postgres::Error> {
    let config = pipeline.config.to_string();
    if pipeline.forward {
        client
            .query(
                "SELECT tide.relay_set_outbox($1, $2, $3, $4::text::jsonb, $5, $6, $7)",
                &[
                    &pipeline.name,
                    &pipeline.store,
                    &pipeline.connector,
                    &config,
                    &pipeline.batch_size,
                    &pipeline.enabled,
                    &pipeline.relay_group,
                ],
            )
            .await?;
    } else {
        client
            .query(
                "SELECT tide.relay_set_inbox($1, $2, $3::text::jsonb, $4, $5, $6, $7, $8, $9)",
                &[
                    &pipeline.name,
                    &pipeline.store,
                    &config,
                    &pipeline.batch_size,
                    &pipeline.connector,
                    &pipeline.enabled,
                    &pipeline.max_retries,
                    &pipeline.idempotent,
                    &pipeline.relay_group,
                ],
            )
            .await?;
    }
    Ok(())
}
