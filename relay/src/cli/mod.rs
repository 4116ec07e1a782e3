//! The command line.

mod config;
mod dlq;
mod doctor;
mod inbox;
mod logging;
mod outbox;
mod output;
mod pipeline;
#[cfg(test)]
mod reference;
mod relay;
mod replay;
mod schema;
mod status;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::database::{Database, DatabaseError, Profile, Session, TlsOverrides, describe};

const MORE: &str = "\
Exit codes:
  0  done, and nothing is wrong
  1  it could not be done; standard error says why
  2  the command line cannot be understood
  3  it was done, and something is wrong: a problem that doctor found, a pipeline that is not well
     (status --check), a configuration that is refused (config validate), a dead letter that is
     refused again (dlq retry)

Examples:
  pg-tide --postgres-url postgres://relay@db/shop --log-format json
  pg-tide schema install --postgres-url postgres://owner@db/shop
  pg-tide doctor --postgres-url postgres://relay@db/shop";

/// Carries messages between PostgreSQL and brokers: without a subcommand, runs the relay.
///
/// Relays of one group share the group's pipelines; when one dies, the others take over what it had.
/// SIGTERM and SIGINT end a relay in order: what is in flight is settled first.
#[derive(Debug, Parser)]
#[command(
    name = "pg-tide",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_long_help = MORE
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    relay: RelayArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install, upgrade or look at schema tide.
    #[command(subcommand)]
    Schema(schema::Command),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    /// Pipelines: list, show, switch, set from a file.
    #[command(subcommand)]
    Pipeline(pipeline::Command),
    /// Pipeline configurations, without a database: check a file, list the options.
    #[command(subcommand)]
    Config(config::Command),
    /// Dead letters: messages that a sink or an inbox refused.
    #[command(subcommand)]
    Dlq(dlq::Command),
    Replay(replay::Arguments),
    /// Outboxes: list, look at, make, publish to.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Inboxes: list, look at.
    #[command(subcommand)]
    Inbox(inbox::Command),
}

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// Something is wrong with what was looked at: exit code 3.
    Amiss,
}

impl Ended {
    fn well_if(well: bool) -> Self {
        if well { Self::Well } else { Self::Amiss }
    }
}

/// What a command returns; the error is for a person.
type Outcome = Result<Ended, String>;

/// Where PostgreSQL is.
#[derive(Clone, Args)]
#[allow(clippy::struct_field_names, reason = "the flags are named after the fields")]
pub(crate) struct PostgresArguments {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, or
    /// key=value pairs; what libpq takes
    #[arg(
        long,
        env = "PG_TIDE_POSTGRES_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    postgres_url: Option<String>,
    /// A file that holds the URL; read anew at every connection
    #[arg(
        long,
        env = "PG_TIDE_POSTGRES_URL_FILE",
        value_name = "FILE",
        conflicts_with = "postgres_url"
    )]
    postgres_url_file: Option<PathBuf>,
    /// disable, allow, prefer (the default), require, verify-ca or verify-full;
    /// overrides the URL, as do the next three
    #[arg(long, env = "PG_TIDE_POSTGRES_SSLMODE", value_name = "MODE")]
    postgres_sslmode: Option<String>,
    /// Certificates of the authorities that are trusted (PEM), or "system"
    #[arg(long, env = "PG_TIDE_POSTGRES_SSLROOTCERT", value_name = "FILE")]
    postgres_sslrootcert: Option<String>,
    /// The client certificate (PEM); read anew at every connection, as the others
    #[arg(long, env = "PG_TIDE_POSTGRES_SSLCERT", value_name = "FILE")]
    postgres_sslcert: Option<String>,
    /// The client certificate's key (PEM)
    #[arg(long, env = "PG_TIDE_POSTGRES_SSLKEY", value_name = "FILE")]
    postgres_sslkey: Option<String>,
}

impl fmt::Debug for PostgresArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresArguments")
            .field("postgres_url_file", &self.postgres_url_file)
            .finish_non_exhaustive()
    }
}

impl PostgresArguments {
    /// A URL that cannot be read is an error at once; a file may still come.
    fn database(&self) -> Result<Database, DatabaseError> {
        let overrides = TlsOverrides {
            sslmode: self.postgres_sslmode.clone(),
            sslrootcert: self.postgres_sslrootcert.clone(),
            sslcert: self.postgres_sslcert.clone(),
            sslkey: self.postgres_sslkey.clone(),
            ..TlsOverrides::default()
        };
        match (&self.postgres_url, &self.postgres_url_file) {
            (Some(url), _) => Database::with_tls(url, overrides),
            (None, Some(file)) => Ok(Database::in_file(file.clone(), overrides)),
            (None, None) => Err(DatabaseError::Url(
                "none given; use --postgres-url, --postgres-url-file or PG_TIDE_POSTGRES_URL".into(),
            )),
        }
    }

    /// A session for a command that uses schema tide. Times are shown, and
    /// read where no zone is given, in UTC.
    async fn connect(&self) -> Result<Session, String> {
        let database = self.database().map_err(|e| e.to_string())?;
        connect(&database).await
    }
}

async fn connect(database: &Database) -> Result<Session, String> {
    let session = database
        .connect(Profile::Command, None)
        .await
        .map_err(|e| e.to_string())?;
    session
        .client
        .batch_execute("SET TimeZone = 'UTC'")
        .await
        .map_err(|e| describe(&e))?;
    match pg_tide_schema::status(&session.client).await {
        Ok(Some(_)) => Ok(session),
        Ok(None) => Err(format!(
            "schema tide is not installed in {}: run \"pg-tide schema install\"",
            database.at()
        )),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, Clone, Args)]
struct RelayArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Relays with the same id share their group's pipelines
    #[arg(
        long,
        env = "PG_TIDE_RELAY_GROUP_ID",
        value_name = "ID",
        default_value = "default"
    )]
    relay_group_id: String,
    /// Name of this relay where owners are shown; without it host name and process id
    #[arg(long, env = "PG_TIDE_RELAY_NAME", value_name = "NAME")]
    relay_name: Option<String>,
    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "PG_TIDE_METRICS_ADDR",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:9090"
    )]
    metrics_addr: SocketAddr,
    /// Where requests of webhook pipelines are received, at /webhook/<pipeline>; without it nowhere
    #[arg(long, env = "PG_TIDE_WEBHOOK_ADDR", value_name = "ADDRESS")]
    webhook_addr: Option<SocketAddr>,
    /// How log lines are written (to standard error)
    #[arg(long, env = "PG_TIDE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter like info,pg_tide=debug
    #[arg(
        long,
        env = "PG_TIDE_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the command. The exit codes are those of the long help.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pg-tide: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            None => relay::run(arguments.relay).await,
            Some(Command::Schema(command)) => schema::run(command).await,
            Some(Command::Status(status)) => status::run(status).await,
            Some(Command::Doctor(doctor)) => doctor::run(doctor).await,
            Some(Command::Pipeline(command)) => pipeline::run(command).await,
            Some(Command::Config(command)) => config::run(command),
            Some(Command::Dlq(command)) => dlq::run(command).await,
            Some(Command::Replay(replay)) => replay::run(replay).await,
            Some(Command::Outbox(command)) => outbox::run(command).await,
            Some(Command::Inbox(command)) => inbox::run(command).await,
        }
    });
    // Threads of client libraries may still be closing connections.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Amiss) => ExitCode::from(3),
        Err(error) => {
            eprintln!("pg-tide: {error}");
            ExitCode::FAILURE
        }
    }
}
