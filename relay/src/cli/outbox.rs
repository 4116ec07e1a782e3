//! `pg-tide outbox`: looked at, made, published to by hand.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::output::{self, Format, Kind, Listing, OutputArguments, value};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::describe;

/// What to do with outboxes.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(ListArguments),
    Status(StatusArguments),
    Create(CreateArguments),
    Publish(PublishArguments),
}

/// List outboxes with their tables and retention.
///
/// JSON: {"outboxes": [{"outbox_name", "table_name", "enabled", "retention", "created_at"}]}
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Show outboxes with their pending messages, groups, pipelines and size.
///
/// Pending are the committed messages that at least one consumer group has not had yet.
///
/// JSON: {"outboxes": [{"outbox_name", "enabled", "retention", "pending_count", "oldest_pending_at",
/// "max_pending_id", "consumer_groups", "pipelines", "leaves", "partitioned_until", "total_bytes"}]}
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only this outbox
    name: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

/// Make an outbox and its table.
#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Its name
    name: String,
    /// How long delivered messages are kept at least
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    retention_hours: i32,
    /// No error when it exists; it is left as it is then
    #[arg(long)]
    if_not_exists: bool,
}

/// Publish messages by hand: one JSON value, or with --lines one per line, all in one transaction.
///
/// Prints the id of each message.
///
/// JSON: {"ids": [...]}
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  pg-tide outbox publish orders < payload.json
  echo '{\"order_id\": 1}' | pg-tide outbox publish orders --header event_type=order.confirmed
  pg-tide outbox publish orders --lines --file events.ndjson")]
pub(super) struct PublishArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// The outbox
    name: String,
    /// Where the payload is; without it standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Every line is a message
    #[arg(long)]
    lines: bool,
    /// A header of each message; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = read_header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArguments,
}

fn read_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

pub(super) async fn run(command: Command) -> Outcome {
    match command {
        Command::List(arguments) => list(&arguments).await,
        Command::Status(arguments) => status(&arguments).await,
        Command::Create(arguments) => create(&arguments).await,
        Command::Publish(arguments) => publish(&arguments).await,
    }
}

async fn list(arguments: &ListArguments) -> Outcome {
    let listing = Listing {
        sql: "SELECT * FROM tide.outbox_list()",
        parameters: &[],
        name: "outboxes",
        columns: &[
            ("OUTBOX", "outbox_name", Kind::Text),
            ("TABLE", "table_name", Kind::Text),
            ("ENABLED", "enabled", Kind::Text),
            ("RETENTION", "retention", Kind::Text),
            ("CREATED", "created_at", Kind::Time),
        ],
    };
    listing.print(&arguments.postgres, &arguments.output).await
}

async fn status(arguments: &StatusArguments) -> Outcome {
    let listing = Listing {
        sql: "SELECT * FROM tide.outbox_status($1)",
        parameters: &[&arguments.name],
        name: "outboxes",
        columns: &[
            ("OUTBOX", "outbox_name", Kind::Text),
            ("ENABLED", "enabled", Kind::Text),
            ("PENDING", "pending_count", Kind::Number),
            ("OLDEST PENDING", "oldest_pending_at", Kind::Time),
            ("GROUPS", "consumer_groups", Kind::Number),
            ("PIPELINES", "pipelines", Kind::Number),
            ("RETENTION", "retention", Kind::Text),
            ("PARTITIONS", "leaves", Kind::Number),
            ("SIZE", "total_bytes", Kind::Bytes),
        ],
    };
    listing.print(&arguments.postgres, &arguments.output).await
}

async fn create(arguments: &CreateArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let name = &arguments.name;
    let made: bool = if arguments.if_not_exists {
        value(
            &session.client,
            "SELECT tide.outbox_create_if_not_exists($1, $2)",
            &[name, &arguments.retention_hours],
        )
        .await?
    } else {
        session
            .client
            .query(
                "SELECT tide.outbox_create($1, $2)",
                &[name, &arguments.retention_hours],
            )
            .await
            .map_err(|e| describe(&e))?;
        true
    };
    output::print(&if made {
        format!("outbox \"{name}\" is made\n")
    } else {
        format!("outbox \"{name}\" was there already\n")
    })?;
    Ok(Ended::Well)
}

async fn publish(arguments: &PublishArguments) -> Outcome {
    let text = if let Some(file) = &arguments.file {
        std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?
    } else {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| format!("cannot read standard input: {e}"))?;
        text
    };
    let payloads: Vec<&str> = if arguments.lines {
        text.lines().filter(|l| !l.trim().is_empty()).collect()
    } else {
        vec![text.trim()]
    };
    if payloads.first().is_none_or(|p| p.is_empty()) {
        return Err("there is nothing to publish: give a JSON value".into());
    }
    let headers: Map<String, Value> = arguments
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), Value::String(value.clone())))
        .collect();
    let headers = Value::Object(headers).to_string();
    let session = arguments.postgres.connect().await?;
    // As text: PostgreSQL reads the JSON, so that numbers keep all their digits.
    let ids: Vec<i64> = value(
        &session.client,
        "SELECT array_agg(p.id) FROM tide.outbox_publish_batch($1,
                (SELECT array_agg(u.payload::jsonb ORDER BY u.n) FROM unnest($2::text[]) WITH ORDINALITY AS u(payload, n)),
                array_fill($3::text::jsonb, ARRAY[cardinality($2::text[])])) AS p(id)",
        &[&arguments.name, &payloads, &headers],
    )
    .await?;
    if arguments.output.format == Format::Json {
        output::print_json(&serde_json::json!({ "ids": ids }))?;
    } else {
        output::print_lines(ids.iter().map(i64::to_string))?;
    }
    Ok(Ended::Well)
}
