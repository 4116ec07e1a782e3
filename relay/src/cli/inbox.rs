//! `pg-tide inbox`: a look at inboxes.

use clap::{Args, Subcommand};

use super::output::{Kind, Listing, OutputArguments};
use super::{Outcome, PostgresArguments};

/// What to do with inboxes.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(ListArguments),
    Status(StatusArguments),
}

/// List inboxes with their tables and settings.
///
/// JSON: {"inboxes": [{"inbox_name", "table_name", "max_retries", "processed_retention", "dlq_retention",
/// "created_at"}]}
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Show inboxes with the numbers of their messages: pending (claimed ones included), processed, dead.
///
/// JSON: {"inboxes": [{"inbox_name", "pending", "claimed", "processed", "dead_letter", "oldest_pending_at",
/// "accepted", "duplicates", "pipelines", "total_bytes"}]}
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    postgres: PostgresArguments,
    /// Only this inbox
    name: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Outcome {
    match command {
        Command::List(arguments) => {
            let listing = Listing {
                sql: "SELECT * FROM tide.inbox_list()",
                parameters: &[],
                name: "inboxes",
                columns: &[
                    ("INBOX", "inbox_name", Kind::Text),
                    ("TABLE", "table_name", Kind::Text),
                    ("MAX RETRIES", "max_retries", Kind::Number),
                    ("PROCESSED KEPT", "processed_retention", Kind::Text),
                    ("DEAD KEPT", "dlq_retention", Kind::Text),
                    ("CREATED", "created_at", Kind::Time),
                ],
            };
            listing.print(&arguments.postgres, &arguments.output).await
        }
        Command::Status(arguments) => {
            let listing = Listing {
                sql: "SELECT * FROM tide.inbox_status($1)",
                parameters: &[&arguments.name],
                name: "inboxes",
                columns: &[
                    ("INBOX", "inbox_name", Kind::Text),
                    ("PENDING", "pending", Kind::Number),
                    ("CLAIMED", "claimed", Kind::Number),
                    ("PROCESSED", "processed", Kind::Number),
                    ("DEAD", "dead_letter", Kind::Number),
                    ("OLDEST PENDING", "oldest_pending_at", Kind::Time),
                    ("DUPLICATES", "duplicates", Kind::Number),
                    ("PIPELINES", "pipelines", Kind::Number),
                    ("SIZE", "total_bytes", Kind::Bytes),
                ],
            };
            listing.print(&arguments.postgres, &arguments.output).await
        }
    }
}
