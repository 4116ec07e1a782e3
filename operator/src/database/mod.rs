//! Databases: one session each, kept by a task that looks and tells.
//!
//! - [`link`]: from Secrets to a way to connect
//! - [`task`]: the session; what it sees is a [`View`]
//! - [`reconcile`]: a `TideDatabase`, its relays and what became of claims
//! - [`status`]: its conditions

pub mod collect;
pub mod link;
pub mod reconcile;
pub mod status;
pub mod task;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pg_tide_postgres::Session;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::resources::Key;
use crate::runtime::conditions::{Finding, Is};
use crate::sql::change::{self, ChangeError, Done};
use crate::sql::observe::{Amounts, Catalogue, Reports};
use crate::sql::step::Step;
use link::Link;

/// Why a database cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// As a condition that does not hold, or of which nothing is known while
    /// the operator is still connecting.
    #[must_use]
    pub fn finding(&self, about: &'static str) -> Finding {
        let is = if self.reason == "Connecting" {
            Is::Unknown
        } else {
            Is::False
        };
        Finding::new(about, is, self.reason, self.message.clone())
    }
}

/// Schema `tide` and its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaSeen {
    /// Version of the schema.
    pub version: i32,
    /// Release that installed it.
    pub release: String,
    /// Version of PostgreSQL.
    pub server: String,
}

/// What a session sees.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Rises with each look at the catalogue.
    pub number: u64,
    /// Where the database is, without secrets.
    pub address: Option<String>,
    /// Why there is no session.
    pub disconnected: Option<Problem>,
    /// Why the schema cannot be used.
    pub unusable: Option<Problem>,
    /// The schema, once it was seen.
    pub schema: Option<SchemaSeen>,
    /// The catalogue; none until the first look of this session.
    pub catalogue: Option<Arc<Catalogue>>,
    /// The relays' report.
    pub reports: Arc<Reports>,
    /// Counts.
    pub amounts: Arc<Amounts>,
}

impl View {
    /// What stands in the way of working with the database, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.disconnected.as_ref().or(self.unusable.as_ref())
    }
}

/// A database as reconciliations use it.
pub struct Database {
    /// Of the `TideDatabase`.
    pub key: Key,
    link: watch::Sender<Option<Result<Link, Problem>>>,
    view: watch::Receiver<Arc<View>>,
    session: tokio::sync::Mutex<Option<Session>>,
    /// Somebody changed something: look now.
    poke: Notify,
    /// Looks that were begun; a change is seen by those begun after it.
    looks: Mutex<u64>,
    /// Resources whose change needs a look of at least this number.
    pending: Mutex<HashMap<Key, u64>>,
    stop: CancellationToken,
    started: Instant,
}

impl Database {
    /// What is seen now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// What is seen before there is a session.
    #[must_use]
    pub fn connecting() -> Arc<View> {
        Arc::new(View {
            disconnected: Some(Problem::new("Connecting", "the operator is connecting")),
            ..View::default()
        })
    }

    /// How long the task has been there.
    #[must_use]
    pub fn age(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// Sets how to connect; the session is renewed when that has changed.
    /// Returns whether there was none before, so that what is seen now is not
    /// of this one.
    pub fn set_link(&self, link: Link) -> bool {
        let mut first = false;
        self.link.send_if_modified(|current| {
            if matches!(current, Some(Ok(before)) if *before == link) {
                return false;
            }
            first = !matches!(current, Some(Ok(_)));
            *current = Some(Ok(link));
            true
        });
        first
    }

    /// Says why there is no way to connect yet. One that was known stays in
    /// use, as relays that run go on with what they have.
    pub fn set_no_link(&self, problem: Problem) {
        self.link.send_if_modified(|current| {
            if matches!(current, Some(Ok(_))) || matches!(current, Some(Err(before)) if *before == problem) {
                return false;
            }
            *current = Some(Err(problem));
            true
        });
    }

    /// Makes changes for a resource, and has them looked at.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing is changed then.
    pub async fn apply(&self, resource: &Key, steps: &[Step]) -> Result<Done, ChangeError> {
        let mut session = self.session.lock().await;
        let Some(open) = session.as_mut() else {
            return Err(ChangeError::Failed(
                "the session with the database has ended".into(),
            ));
        };
        let done = change::apply(&mut open.client, steps).await;
        let begun = *self.looks.lock();
        if done.is_ok() {
            self.pending.lock().insert(resource.clone(), begun + 1);
        }
        drop(session);
        self.poke.notify_one();
        done
    }

    /// Whether the last change made for a resource can be seen in this view;
    /// before that, what is seen says nothing about it.
    #[must_use]
    pub fn has_seen_changes_of(&self, resource: &Key, view: &View) -> bool {
        let mut pending = self.pending.lock();
        match pending.get(resource) {
            Some(number) if view.number < *number => false,
            Some(_) => {
                pending.remove(resource);
                true
            }
            None => true,
        }
    }

    /// Asks for a look now.
    pub fn look(&self) {
        self.poke.notify_one();
    }
}

/// All databases with a session.
#[derive(Default)]
pub struct Databases {
    open: Mutex<HashMap<Key, Arc<Database>>>,
}

impl Databases {
    /// The database of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<Database>> {
        self.open.lock().get(key).cloned()
    }

    /// How many have an open session.
    pub fn connected(&self) -> usize {
        self.open
            .lock()
            .values()
            .filter(|d| d.view().disconnected.is_none())
            .count()
    }

    /// Ends the session of a database that is not declared any more.
    pub fn close(&self, key: &Key) -> Option<Arc<Database>> {
        let closed = self.open.lock().remove(key);
        if let Some(database) = &closed {
            database.stop.cancel();
        }
        closed
    }

    /// Ends all sessions.
    pub fn close_all(&self) {
        for (_, database) in self.open.lock().drain() {
            database.stop.cancel();
        }
    }
}
