//! `pg-tide schema`: install, upgrade, status, print.

use clap::Subcommand;

use super::PostgresArguments;
use crate::database::Profile;

/// What to do with schema tide.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Install schema tide, or upgrade it; does nothing when it is up to date.
    /// Needs the right to create a schema in the database, not a superuser.
    Install(PostgresArguments),
    /// Upgrade schema tide to this program's version.
    Upgrade(PostgresArguments),
    /// Show which version is installed.
    Status(PostgresArguments),
    /// Print the SQL that install runs, or an upgrade.
    Print {
        /// What an upgrade from this version runs; of the present version, what
        /// puts functions, views and rights back
        #[arg(long, value_name = "VERSION")]
        from: Option<i32>,
    },
}

pub(super) async fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Print { from: None } => {
            print!("{}", pg_tide_schema::print());
            Ok(())
        }
        Command::Print { from: Some(from) } => {
            let sql = pg_tide_schema::print_upgrade(from).ok_or_else(|| {
                format!(
                    "no upgrade leads from version {from}: this program knows versions 1 to {}",
                    pg_tide_schema::VERSION
                )
            })?;
            print!("{sql}");
            Ok(())
        }
        Command::Install(postgres) => {
            let mut session = connect(&postgres).await?;
            let installed = pg_tide_schema::install(&mut session.client)
                .await
                .map_err(|e| e.to_string())?;
            println!("{}", installed_text(&installed));
            Ok(())
        }
        Command::Upgrade(postgres) => {
            let mut session = connect(&postgres).await?;
            let installed = pg_tide_schema::upgrade(&mut session.client)
                .await
                .map_err(|e| e.to_string())?;
            println!("{}", installed_text(&installed));
            Ok(())
        }
        Command::Status(postgres) => {
            let session = connect(&postgres).await?;
            let status = pg_tide_schema::status(&session.client)
                .await
                .map_err(|e| e.to_string())?;
            match status {
                Some(status) => {
                    println!(
                        "schema tide: version {} (release {}, {})",
                        status.version,
                        status.release,
                        origin(&status.origin)
                    );
                    if !status.is_current() {
                        println!(
                            "this program has version {}: {}",
                            pg_tide_schema::VERSION,
                            status.remedy()
                        );
                    }
                    Ok(())
                }
                None => Err("schema tide is not installed: run \"pg-tide schema install\"".into()),
            }
        }
    }
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
        None => format!("schema tide: installed version {to}"),
        Some(from) if from == to => {
            format!(
                "schema tide: version {to} is already there ({})",
                origin(&installed.origin)
            )
        }
        Some(from) => format!("schema tide: upgraded from version {from} to {to}"),
    }
}
