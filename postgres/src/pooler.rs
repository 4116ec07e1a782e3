//! Refuses connections on which the relay's locks would not hold.
//!
//! A pooler in transaction mode gives a server session to whichever client
//! begins a transaction: advisory locks, LISTEN and settings then belong to
//! nobody, or to an application. Nothing in the protocol tells of a pooler, but
//! two clients that get the same backend do.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::describe;
use super::error::{Cause, Refusal};

/// A pooler whose only server session is taken lets the other client wait.
const WAIT: Duration = Duration::from_secs(3);

/// Compares the backends of two sessions, the second in a transaction: with a
/// session each they are always two, and always the same two.
pub(super) async fn refuse_transaction_mode(first: &Client, second: &Client) -> Result<(), Refusal> {
    let shared = |what: &str| Refusal::new(Cause::Pooler, what.to_owned());
    let before = backend(first).await?;
    if let Err(error) = second.batch_execute("BEGIN").await {
        let text = describe(&error);
        // A pooler in statement mode says so itself.
        return Err(match error.as_db_error() {
            Some(_) => shared(&format!("a transaction is refused: {text}")),
            None => Refusal::new(Cause::Other, text),
        });
    }
    let other = backend(second).await?;
    let again = if other == before {
        Ok(Ok(other.clone()))
    } else {
        tokio::time::timeout(WAIT, backend(first)).await
    };
    let _ = second.batch_execute("ROLLBACK").await;
    let Ok(again) = again else {
        return Err(shared(
            "a session does not answer while another one is in a transaction: a pooler in transaction mode is in between",
        ));
    };
    if other == before || again? != before {
        return Err(shared(
            "two sessions share one backend: a pooler in transaction mode is in between",
        ));
    }
    Ok(())
}

/// The relay writes from its first statement on.
pub(super) async fn refuse_standby(client: &Client) -> Result<(), Refusal> {
    if text(client, "SELECT pg_catalog.pg_is_in_recovery()").await? == "t" {
        return Err(Refusal::new(
            Cause::Standby,
            "this server is a standby, which takes no writes",
        ));
    }
    Ok(())
}

async fn backend(client: &Client) -> Result<String, Refusal> {
    text(client, "SELECT pg_catalog.pg_backend_pid()").await
}

/// By the simple protocol: prepared statements, too, may go astray.
async fn text(client: &Client, sql: &str) -> Result<String, Refusal> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|e| Refusal::new(Cause::Other, describe(&e)))?;
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .ok_or_else(|| Refusal::new(Cause::Other, format!("no answer to {sql}")))
}
