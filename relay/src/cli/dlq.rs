//! `pg-tide dlq`: dead letters looked at, tried again, discarded.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Client;

use super::output::{self, Format, Kind, OutputArguments, Row, print_rows, rows, value};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::describe;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(ListArguments),
    Show(ShowArguments),
    Retry(RetryArguments),
    Discard(DiscardArguments),
    Purge(PurgeArguments),
}

/// List dead letters, oldest first.
///
/// JSON: {"dead_letters": [{"dlq_id", "pipeline", "direction", "message_id", "event_id", "source", "payload",
/// "headers", "error", "attempts", "created_at", "resolved_at", "resolution", "body"}]}
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  pg-tide dlq list --pipeline orders-to-kafka")]
pub(super) struct ListArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only those of this pipeline
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Those that are dealt with as well
    #[arg(long)]
    resolved: bool,
    /// How many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..))]
    limit: i32,
    #[command(flatten)]
    output: OutputArguments,
}

/// Show one dead letter whole: headers, payload, the error.
///
/// JSON: the object that dlq list has for it.
#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Its number, as dlq list shows it
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    output: OutputArguments,
}

/// Which dead letters.
#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Their numbers, as dlq list shows them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<i64>,
    /// All that are unresolved of the pipeline
    #[arg(long, requires = "pipeline")]
    all: bool,
    /// The pipeline, for --all
    #[arg(short, long, value_name = "NAME", requires = "all")]
    pipeline: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

/// Put dead letters through their pipeline once more.
///
/// Those of a forward pipeline are queued for the relay, which resolves each when its sink has taken it.
/// Those of a reverse pipeline are stored in the inbox at once; one that is refused again stays, with the new
/// error, and the exit code is 3.
///
/// JSON: {"results": [{"dlq_id", "result": "queued", "stored" or "refused", "error"}]}, with --all
/// {"pipeline", "count"}.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  pg-tide dlq retry 17 18\n  pg-tide dlq retry --all --pipeline orders-to-kafka"
)]
pub(super) struct RetryArguments {
    #[command(flatten)]
    chosen: Chosen,
}

/// Mark dead letters as dealt with, without sending them. They stay visible with dlq list --resolved until
/// they are purged, by relays after a week.
///
/// JSON: {"discarded"}: how many were unresolved until now.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  pg-tide dlq discard 17 --reason 'test message'")]
pub(super) struct DiscardArguments {
    #[command(flatten)]
    chosen: Chosen,
    /// What became of them, for whoever looks later
    #[arg(long, value_name = "TEXT", default_value = "discarded")]
    reason: String,
}

/// Remove dead letters that are dealt with. Unresolved ones are never removed.
///
/// JSON: {"purged"}: how many.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  pg-tide dlq purge --older-than '7 days'")]
pub(super) struct PurgeArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only those of this pipeline
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only those dealt with so long ago, as PostgreSQL writes intervals
    #[arg(long, value_name = "INTERVAL", default_value = "0 seconds")]
    older_than: String,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Outcome {
    match command {
        Command::List(arguments) => list(&arguments).await,
        Command::Show(arguments) => show(&arguments).await,
        Command::Retry(RetryArguments { chosen }) => retry(&chosen).await,
        Command::Discard(arguments) => discard(&arguments).await,
        Command::Purge(arguments) => purge(&arguments).await,
    }
}

async fn list(arguments: &ListArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let letters = rows(
        &session.client,
        "SELECT * FROM tide.relay_dlq_list($1, $2, $3)",
        &[&arguments.pipeline, &arguments.resolved, &arguments.limit],
    )
    .await?;
    if letters.is_empty() && arguments.output.format == Format::Text {
        output::print("there are no dead letters\n")?;
        return Ok(Ended::Well);
    }
    let mut columns = vec![
        ("ID", "dlq_id", Kind::Number),
        ("PIPELINE", "pipeline", Kind::Text),
        ("CREATED", "created_at", Kind::Time),
        ("TRIES", "attempts", Kind::Number),
        ("MESSAGE", "message_id", Kind::Number),
    ];
    if arguments.resolved {
        columns.push(("RESOLVED", "resolution", Kind::Text));
    }
    columns.push(("ERROR", "error", Kind::Text));
    print_rows(arguments.output.format, "dead_letters", &columns, &letters)?;
    Ok(Ended::Well)
}

async fn show(arguments: &ShowArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let found = rows(
        &session.client,
        "SELECT d.dlq_id, d.pipeline, d.direction, d.message_id, d.event_id, d.source, d.payload, d.headers, d.error,
                d.attempts, d.created_at, d.resolved_at, d.resolution, d.body
           FROM tide.dead_letter d WHERE d.dlq_id = $1",
        &[&arguments.id],
    )
    .await?;
    let Some(letter) = found.first() else {
        return Err(format!(
            "there is no dead letter {}; \"pg-tide dlq list\" shows those there are",
            arguments.id
        ));
    };
    if arguments.output.format == Format::Json {
        output::print(&format!("{}\n", letter.json))?;
        return Ok(Ended::Well);
    }
    // Written by PostgreSQL, so that numbers keep all their digits.
    let payload: Option<String> = value(
        &session.client,
        "SELECT coalesce(jsonb_pretty(d.payload), encode(d.body, 'escape')) FROM tide.dead_letter d WHERE d.dlq_id = $1",
        &[&arguments.id],
    )
    .await?;
    output::print(&letter_text(letter, payload.as_deref()))?;
    Ok(Ended::Well)
}

fn letter_text(letter: &Row, payload: Option<&str>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    for (name, field) in [
        ("dead letter", "dlq_id"),
        ("pipeline", "pipeline"),
        ("direction", "direction"),
        ("message id", "message_id"),
        ("event id", "event_id"),
        ("source", "source"),
        ("created", "created_at"),
        ("attempts", "attempts"),
        ("resolved", "resolved_at"),
        ("resolution", "resolution"),
        ("error", "error"),
    ] {
        match letter.fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) if field.ends_with("_at") => line(name, &output::time(value)),
            Some(Value::String(value)) => line(name, value),
            Some(other) => line(name, &other.to_string()),
        }
    }
    text += "headers\n";
    if let Some(Value::Object(headers)) = letter.fields.get("headers") {
        for (name, value) in headers {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "  {name}: {value}");
        }
    }
    let what = if letter.fields.get("payload").is_some_and(|p| !p.is_null()) {
        "payload"
    } else {
        "body (no JSON)"
    };
    text + &format!("{what}\n{}\n", payload.unwrap_or("-"))
}

#[derive(Debug, Serialize)]
struct Retried {
    dlq_id: i64,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn retry(chosen: &Chosen) -> Outcome {
    let session = chosen.postgres.connect().await?;
    if let (true, Some(pipeline)) = (chosen.all, &chosen.pipeline) {
        return retry_all(&session.client, pipeline, chosen.output.format).await;
    }
    let mut results = Vec::new();
    for id in &chosen.ids {
        results.push(retry_one(&session.client, *id).await?);
    }
    if chosen.output.format == Format::Json {
        output::print_json(&serde_json::json!({ "results": results }))?;
    } else {
        output::print_lines(results.iter().map(|r| {
            let what = match r.result {
                "queued" => "queued for the relay".to_owned(),
                "stored" => "stored in the inbox".to_owned(),
                _ => format!("refused again: {}", r.error.as_deref().unwrap_or_default()),
            };
            format!("dead letter {}: {what}", r.dlq_id)
        }))?;
    }
    Ok(Ended::well_if(results.iter().all(|r| r.result != "refused")))
}

async fn retry_one(client: &Client, id: i64) -> Result<Retried, String> {
    let taken: bool = value(client, "SELECT tide.relay_dlq_retry($1)", &[&id]).await?;
    let row = client
        .query_one(
            "SELECT d.direction, d.error FROM tide.dead_letter d WHERE d.dlq_id = $1",
            &[&id],
        )
        .await
        .map_err(|e| describe(&e))?;
    let (direction, error): (String, String) = (row.get(0), row.get(1));
    Ok(Retried {
        dlq_id: id,
        result: match (taken, direction.as_str()) {
            (true, "forward") => "queued",
            (true, _) => "stored",
            (false, _) => "refused",
        },
        error: (!taken).then_some(error),
    })
}

async fn retry_all(client: &Client, pipeline: &str, format: Format) -> Outcome {
    let count: i64 = value(client, "SELECT tide.relay_dlq_retry_all($1)", &[&pipeline]).await?;
    let forward: bool = value(
        client,
        "SELECT direction = 'forward' FROM tide.pipeline WHERE name = $1",
        &[&pipeline],
    )
    .await?;
    let left: i64 = value(
        client,
        "SELECT count(*) FROM tide.dead_letter WHERE pipeline = $1 AND resolved_at IS NULL",
        &[&pipeline],
    )
    .await?;
    if format == Format::Json {
        output::print_json(&serde_json::json!({ "pipeline": pipeline, "count": count }))?;
    } else if forward {
        output::print(&format!("{count} dead letters are queued for the relay\n"))?;
    } else {
        output::print(&format!(
            "{count} dead letters were stored in the inbox, {left} are left\n"
        ))?;
    }
    Ok(Ended::well_if(forward || left == 0))
}

async fn discard(arguments: &DiscardArguments) -> Outcome {
    let chosen = &arguments.chosen;
    let session = chosen.postgres.connect().await?;
    let ids = match &chosen.pipeline {
        Some(pipeline) if chosen.all => {
            // Refuses a name that is neither a pipeline nor one that was.
            value(
                &session.client,
                "SELECT coalesce(array_agg(l.dlq_id), '{}') FROM tide.relay_dlq_list($1, false, 2147483647) l",
                &[pipeline],
            )
            .await?
        }
        _ => chosen.ids.clone(),
    };
    let discarded: i64 = value(
        &session.client,
        "SELECT count(*) FILTER (WHERE tide.relay_dlq_resolve(u.id, $2)) FROM unnest($1::bigint[]) AS u(id)",
        &[&ids, &arguments.reason],
    )
    .await?;
    if chosen.output.format == Format::Json {
        output::print_json(&serde_json::json!({ "discarded": discarded }))?;
    } else {
        let before = i64::try_from(ids.len()).unwrap_or(i64::MAX) - discarded;
        let more = if before > 0 {
            format!(", {before} had been resolved before")
        } else {
            String::new()
        };
        output::print(&format!("{discarded} dead letters discarded{more}\n"))?;
    }
    Ok(Ended::Well)
}

async fn purge(arguments: &PurgeArguments) -> Outcome {
    let session = arguments.postgres.connect().await?;
    let purged: i64 = value(
        &session.client,
        "SELECT tide.relay_dlq_purge($1, $2::text::interval)",
        &[&arguments.pipeline, &arguments.older_than],
    )
    .await?;
    if arguments.output.format == Format::Json {
        output::print_json(&serde_json::json!({ "purged": purged }))?;
    } else {
        output::print(&format!("{purged} dead letters removed\n"))?;
    }
    Ok(Ended::Well)
}
