//! The command line.

mod logging;
mod relay;
mod schema;
mod status;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::database::{Database, DatabaseError, TlsOverrides};

/// Carries messages between PostgreSQL and brokers: without a subcommand, runs the relay.
#[derive(Debug, Parser)]
#[command(name = "pg-tide", version, args_conflicts_with_subcommands = true)]
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
    /// Show pipelines, their owners, states and lags.
    Status(status::Arguments),
}

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
        };
        match (&self.postgres_url, &self.postgres_url_file) {
            (Some(url), _) => Database::with_tls(url, overrides),
            (None, Some(file)) => Ok(Database::in_file(file.clone(), overrides)),
            (None, None) => Err(DatabaseError::Url(
                "none given; use --postgres-url, --postgres-url-file or PG_TIDE_POSTGRES_URL".into(),
            )),
        }
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
    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "PG_TIDE_METRICS_ADDR",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:9090"
    )]
    metrics_addr: SocketAddr,
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

/// Runs the command; the exit code is 0 on success, 1 on failure (2, by clap,
/// for arguments that cannot be read).
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pg-tide: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            None => relay::run(arguments.relay).await,
            Some(Command::Schema(command)) => schema::run(command).await,
            Some(Command::Status(status)) => status::run(status).await,
        }
    });
    // Threads of client libraries may still be closing connections.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pg-tide: {error}");
            ExitCode::FAILURE
        }
    }
}
