//! What the inbox's database says, and what to make of it.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::database::describe;
use crate::failure::Failure;

fn code(error: &Error) -> &str {
    error.code().map_or("", SqlState::code)
}

/// As for any inbox: the data (22), a constraint (23), a limit (54), or what a
/// trigger of the user's own raises (P0001).
pub(super) fn is_refusal(error: &Error) -> bool {
    let code = code(error);
    ["22", "23", "54"].iter().any(|class| code.starts_with(class)) || code == "P0001"
}

/// The batch before it was refused.
pub(super) fn is_out_of_turn(error: &Error) -> bool {
    code(error) == "TD005"
}

/// An error of the inbox's database, with what to do about it.
pub(super) fn explain(inbox: &str, at: &str, user: &str, error: &Error) -> Failure {
    let said = describe(error);
    let message = format!("inbox \"{inbox}\" at {at}: {said}");
    match code(error) {
        "TD001" => Failure::lost(message),
        // No such schema, function, table, column. Others than ours are a
        // trigger's matter.
        "3F000" | "42883" | "42P01" | "42703" if said.contains("tide") => Failure::transient(format!(
            "{message}; schema tide is not installed there, or not by this release: run \"pg-tide schema install\" on that database, or upgrade"
        )),
        "42501" if error.as_db_error().is_some_and(|e| e.hint().is_none()) => Failure::transient(format!(
            "{message}; let the role deliver, in that database: SELECT tide.inbox_grant_feed('{}', '{}')",
            inbox.replace('\'', "''"),
            user.replace('\'', "''")
        )),
        _ => Failure::transient(message),
    }
}
