//! `pg-tide schema`: install, upgrade, status, print.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, Format, OutputArguments};
use super::{Ended, Outcome, PostgresArguments};
use crate::database::Profile;

/// What to do with schema tide.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Install schema tide, or upgrade it; does nothing when it is up to date.
    ///
    /// Needs the right to create a schema in the database, not a superuser. Several at the same time wait
    /// for each other.
    Install(PostgresArguments),
    /// Upgrade schema tide to this program's version.
    ///
    /// Relays may keep running. A schema that was made by CREATE EXTENSION is upgraded with
    /// ALTER EXTENSION pg_tide UPDATE instead.
    Upgrade(PostgresArguments),
    /// Show which version is installed.
    Status(StatusArguments),
    /// Print the SQL that install runs, or an upgrade, to look at it or to run it with psql.
    Print {
        /// What an upgrade from this version runs; of the present version, what
        /// puts functions, views and rights back
        #[arg(long, value_name = "VERSION")]
        from: Option<i32>,
    },
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// `schema status --output json`.
#[derive(Debug, Serialize)]
struct StatusJson<'a> {
    version: i32,
    release: &'a str,
    origin: &'a str,
    program_version: i32,
    current: bool,
}

pub(super) async fn run(command: Command) -> Outcome {
    match command {
        Command::Print { from: None } => output::print(&pg_tide_schema::print())?,
        Command::Print { from: Some(from) } => {
            let sql = pg_tide_schema::print_upgrade(from).ok_or_else(|| {
                format!(
                    "no upgrade leads from version {from}: this program knows versions 1 to {}",
                    pg_tide_schema::VERSION
                )
            })?;
            output::print(&sql)?;
        }
        Command::Install(postgres) => {
            let mut session = connect(&postgres).await?;
            let installed = pg_tide_schema::install(&mut session.client)
                .await
                .map_err(|e| e.to_string())?;
            output::print(&installed_text(&installed))?;
        }
        Command::Upgrade(postgres) => {
            let mut session = connect(&postgres).await?;
            let installed = pg_tide_schema::upgrade(&mut session.client)
                .await
                .map_err(|e| e.to_string())?;
            output::print(&installed_text(&installed))?;
        }
        Command::Status(arguments) => status(&arguments).await?,
    }
    Ok(Ended::Well)
}

async fn status(arguments: &StatusArguments) -> Result<(), String> {
    let session = connect(&arguments.postgres).await?;
    let status = pg_tide_schema::status(&session.client)
        .await
        .map_err(|e| e.to_string())?
        .ok_or("schema tide is not installed: run \"pg-tide schema install\"")?;
    if arguments.output.format == Format::Json {
        return output::print_json(&StatusJson {
            version: status.version,
            release: &status.release,
            origin: match status.origin {
                pg_tide_schema::Origin::Extension(_) => "extension",
                pg_tide_schema::Origin::Plain => "pg-tide",
            },
            program_version: pg_tide_schema::VERSION,
            current: status.is_current(),
        });
    }
    let found = format!(
        "schema tide: version {} (release {}, {})",
        status.version,
        status.release,
        origin(&status.origin)
    );
    let ours = (!status.is_current()).then(|| {
        format!(
            "this program has version {}: {}",
            pg_tide_schema::VERSION,
            status.remedy()
        )
    });
    output::print_lines(std::iter::once(found).chain(ours))
}

async fn connect(postgres: &PostgresArguments) -> Result<crate::database::Session, String> {
    let database = postgres.database().map_err(|e| e.to_string())?;
    database
        .connect(Profile::Command, None)
        .await
        .map_err(|e| e.to_string())
}

fn origin(origin: &pg_tide_schema::Origin) -> &'static str {
    match origin {
        pg_tide_schema::Origin::Extension(_) => "extension pg_tide",
        pg_tide_schema::Origin::Plain => "installed by pg-tide",
    }
}

fn installed_text(installed: &pg_tide_schema::Installed) -> String {
    let to = installed.to;
    match installed.from {
        None => format!("schema tide: installed version {to}\n"),
        Some(from) if from == to => {
            format!(
                "schema tide: version {to} is already there ({})\n",
                origin(&installed.origin)
            )
        }
        Some(from) => format!("schema tide: upgraded from version {from} to {to}\n"),
    }
}
