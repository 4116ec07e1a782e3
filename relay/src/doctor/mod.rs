//! `pg-tide doctor`: looks at everything a pipeline needs, says what is wrong
//! and what to do.
//!
//! `gather` reads facts from servers; the other modules turn facts into
//! findings, without I/O. Nothing is changed or made anywhere.

mod finding;
mod gather;
mod kafka;
mod nats;
mod pipelines;
mod server;
mod stores;

pub(crate) use self::finding::Report;

use self::finding::Finding;
use crate::database::{Cause, Database, DatabaseError, Profile, Session, describe};

/// Every statement of doctor is given up after this.
const SETTINGS: &str =
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET statement_timeout = '30s'; SET lock_timeout = '5s';
     SET default_transaction_read_only = on";

/// What to look at.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    /// Only this pipeline, and no outboxes or inboxes.
    pub(crate) pipeline: Option<&'a str>,
    /// From which age in seconds an open transaction is worth a warning.
    pub(crate) long_transaction: f64,
}

/// Looks at everything.
///
/// # Errors
/// The pipeline that was named does not exist.
pub(crate) async fn run(database: &Database, scope: &Scope<'_>) -> Result<Report, String> {
    let mut found = Vec::new();
    look(database, scope, &mut found).await?;
    Ok(Report::new(found))
}

async fn look(database: &Database, scope: &Scope<'_>, found: &mut Vec<Finding>) -> Result<(), String> {
    let session = match database.connect(Profile::Command, None).await {
        Ok(session) => session,
        Err(error) => {
            found.push(server::connection_refused(&error));
            return Ok(());
        }
    };
    // As a relay connects: it refuses what its locks would not hold on.
    match database.connect(Profile::Lock, None).await {
        Err(DatabaseError::Connect {
            cause: Cause::Standby,
            ..
        })
        | Ok(_) => {}
        Err(error) => {
            found.push(server::connection_refused(&error));
            return Ok(());
        }
    }
    let facts = match gather::server::server(&session, &database.at(), scope.long_transaction).await {
        Ok(facts) => facts,
        Err(reason) => {
            found.push(Finding::not_checked("database", reason));
            return Ok(());
        }
    };
    found.extend(facts.findings());
    if facts.is_usable() {
        match session.client.batch_execute(SETTINGS).await {
            Ok(()) => inside(&session, scope, found).await?,
            Err(error) => found.push(Finding::not_checked("database", describe(&error))),
        }
    }
    Ok(())
}

/// What schema tide holds.
async fn inside(session: &Session, scope: &Scope<'_>, found: &mut Vec<Finding>) -> Result<(), String> {
    let client = &session.client;
    let missed = |subject: &str, reason: String, found: &mut Vec<Finding>| {
        found.push(Finding::not_checked(
            subject,
            format!("{}.", reason.trim_end_matches('.')),
        ));
    };
    if scope.pipeline.is_none() {
        match gather::stores::outboxes(client).await {
            Ok(outboxes) => found.extend(outboxes.iter().flat_map(stores::Outbox::findings)),
            Err(reason) => missed("outboxes", reason, found),
        }
        match gather::stores::inboxes(client).await {
            Ok(inboxes) => found.extend(inboxes.iter().flat_map(stores::Inbox::findings)),
            Err(reason) => missed("inboxes", reason, found),
        }
    }
    match gather::pipelines::pipelines(client, scope.pipeline).await {
        Ok(pipelines) => match scope.pipeline {
            Some(name) if pipelines.is_empty() => {
                return Err(format!(
                    "there is no pipeline \"{name}\"; \"pg-tide pipeline list\" shows those there are"
                ));
            }
            _ => found.extend(pipelines.iter().flat_map(pipelines::Pipeline::findings)),
        },
        Err(reason) => missed("pipelines", reason, found),
    }
    match gather::stores::dead_letters(client).await {
        Ok(letters) => {
            let wanted = letters
                .iter()
                .filter(|l| scope.pipeline.is_none_or(|p| p == l.pipeline));
            found.extend(wanted.map(stores::DeadLetters::finding));
        }
        Err(reason) => missed("dead letters", reason, found),
    }
    Ok(())
}
