//! `pg-tide status`: the pipelines of a database, once or kept up to date.

mod view;
mod watch;

use std::io::IsTerminal;

use clap::Args;

use self::view::Pipeline;
use super::output::{self, Format, OutputArguments};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::{Session, describe};

const MORE: &str = "\
States:
  running        messages flow, or would if there were any
  starting       it looks for its position
  retrying       something failed and is tried again; see the last error
  misconfigured  its configuration cannot be used; see the last error
  disabled       switched off with tide.relay_disable
  unowned        relays of its group live, and none of them has it
  no live relay  no relay of its group is running

JSON, one object (with --watch one per line and second):
  {\"pipelines\": [{\"pipeline\", \"direction\", \"outbox\", \"inbox\", \"sink\", \"source\", \"relay_group\",
    \"enabled\", \"owner\", \"epoch\", \"state\", \"state_since\", \"lag\", \"lag_seconds\", \"rate\", \"messages\",
    \"position\", \"retries\", \"duplicates\", \"dead_letters\", \"last_error\", \"last_error_at\", \"note\",
    \"reported_at\"}]}
These are the columns of the view tide.relay_pipeline_status.

Examples:
  pg-tide status --watch
  pg-tide status --check --pipeline orders-to-kafka || echo 'not well'
  pg-tide status -o json | jq -r '.pipelines[] | select(.lag > 1000) | .pipeline'";

/// Show pipelines: owner, state since when, lag, rate and last error.
///
/// LAG is how many committed messages are not yet delivered, BEHIND how long the oldest of them waits, DEAD
/// how many dead letters wait for somebody, MESSAGES how many its owner has moved.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct Arguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only this pipeline
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Show it anew every second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Exit with 3 unless every pipeline shown is running, starting or disabled
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: Arguments) -> Outcome {
    if arguments.watch {
        return watch::run(&arguments).await;
    }
    let session = arguments.postgres.connect().await?;
    let seen = look(&session, arguments.pipeline.as_deref()).await?;
    if arguments.output.format == Format::Json {
        output::print(&seen.json())?;
    } else {
        let width = std::io::stdout().is_terminal().then(|| watch::size().0);
        output::print(&(view::lines(&seen.pipelines, width).join("\n") + "\n"))?;
    }
    let well = seen.pipelines.iter().all(Pipeline::is_well);
    Ok(Ended::well_if(well || !arguments.check))
}

/// The pipelines at one moment.
#[derive(Debug)]
struct Seen {
    pipelines: Vec<Pipeline>,
    json: Vec<String>,
}

impl Seen {
    fn json(&self) -> String {
        format!("{{\"pipelines\": [{}]}}\n", self.json.join(", "))
    }
}

async fn look(session: &Session, pipeline: Option<&str>) -> Result<Seen, String> {
    let failed = |e: tokio_postgres::Error| format!("reading the status: {}", describe(&e));
    let rows = session
        .client
        .query(
            "SELECT to_jsonb(s)::text,
                    extract(epoch FROM clock_timestamp() - s.state_since)::float8,
                    extract(epoch FROM clock_timestamp() - s.last_error_at)::float8
               FROM tide.relay_pipeline_status s
              WHERE $1::text IS NULL OR s.pipeline = $1
              ORDER BY s.pipeline",
            &[&pipeline],
        )
        .await
        .map_err(failed)?;
    if let (true, Some(name)) = (rows.is_empty(), pipeline) {
        // Says which pipelines there are and which one was meant.
        session
            .client
            .query("SELECT tide.relay_get_config($1)", &[&name])
            .await
            .map_err(|e| describe(&e))?;
    }
    let mut seen = Seen {
        pipelines: Vec::new(),
        json: Vec::new(),
    };
    for row in &rows {
        let json: String = row.try_get(0).map_err(failed)?;
        let mut pipeline: Pipeline =
            serde_json::from_str(&json).map_err(|e| format!("reading the status: {e}"))?;
        pipeline.since = row.try_get(1).map_err(failed)?;
        pipeline.error_age = row.try_get(2).map_err(failed)?;
        seen.pipelines.push(pipeline);
        seen.json.push(json);
    }
    Ok(seen)
}
