//! One classification of everything that can go wrong while messages move,
//! made at the edge where the error is first seen.

use std::fmt;

pub(crate) use pg_tide_postgres::words::with_causes;

/// What the pipeline does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Worth trying again after a pause: a server is away, slow or overloaded,
    /// or something is missing that somebody may create.
    Transient,
    /// Ownership is gone or can no longer be proved: stop sending at once.
    LostOwnership,
}

/// A failure with its class and a message for a person: what was tried, on
/// what, what came back.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) message: String,
    /// The message that must be sent alone at the next attempt, to find out
    /// whether it is the one that the broker refuses.
    pub(crate) suspect: Option<i64>,
}

impl Failure {
    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self {
            class: Class::Transient,
            message: message.into(),
            suspect: None,
        }
    }

    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self {
            class: Class::LostOwnership,
            message: message.into(),
            suspect: None,
        }
    }

    pub(crate) fn suspecting(mut self, message_id: i64) -> Self {
        self.suspect = Some(message_id);
        self
    }

    /// A failed call to PostgreSQL. The schema's own code for lost ownership
    /// (TD001) is the only one that is not worth a retry.
    pub(crate) fn postgres(what: &str, error: &tokio_postgres::Error) -> Self {
        let message = format!("{what}: {}", crate::database::describe(error));
        match error.code() {
            Some(code) if code.code() == "TD001" => Self::lost(message),
            _ => Self::transient(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
