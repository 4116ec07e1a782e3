//! Small pools of connections, opened when needed.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Database, DatabaseError, Profile, Session};

/// A bounded pool of connections of one profile, opened when needed.
#[derive(Debug)]
pub struct Pool {
    database: Database,
    profile: Profile,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

/// A connection on loan. Goes back to the pool only through [`Pooled::done`],
/// so that one that failed halfway is never used again.
#[derive(Debug)]
pub struct Pooled<'a> {
    pool: &'a Pool,
    /// The connection.
    pub session: Session,
    _place: OwnedSemaphorePermit,
}

impl Pooled<'_> {
    /// Gives the connection back: it is in a clean state.
    pub fn done(self) {
        self.pool.idle.lock().push(self.session);
    }
}

impl Pool {
    /// A pool of at most `size` connections, none of them open yet.
    #[must_use]
    pub fn new(database: Database, profile: Profile, size: usize) -> Self {
        Self {
            database,
            profile,
            places: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
        }
    }

    /// Where its connections lead.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// A connection, once one is free or can be opened.
    ///
    /// # Errors
    /// When none can be opened.
    pub async fn get(&self) -> Result<Pooled<'_>, DatabaseError> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| DatabaseError::Statement {
                what: "pool",
                reason: "closed".into(),
            })?;
        let reused = {
            let mut idle = self.idle.lock();
            idle.retain(|s| !s.client.is_closed());
            idle.pop()
        };
        let session = match reused {
            Some(session) => session,
            None => self.database.connect(self.profile, None).await?,
        };
        Ok(Pooled {
            pool: self,
            session,
            _place: place,
        })
    }
}
