//! Small pools of connections, opened when needed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Database, DatabaseError, Profile, Session};

/// Beyond one, a connection that was not needed for so long is closed.
const KEPT: Duration = Duration::from_secs(10);

/// A bounded pool of connections of one profile, opened when needed and closed
/// again, all but one, when they are not.
#[derive(Debug)]
pub struct Pool {
    database: Database,
    profile: Profile,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that nobody has on loan.
#[derive(Debug, Default)]
struct Idle {
    /// With the time since when; the one used last is at the end.
    sessions: VecDeque<(Session, Instant)>,
    /// Whether somebody sees to it that they are closed.
    is_watched: bool,
}

/// Closes what is not needed, until only one is left.
async fn close_unneeded(idle: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(KEPT).await;
        let Some(idle) = idle.upgrade() else {
            return;
        };
        let mut idle = idle.lock();
        while idle.sessions.len() > 1
            && idle
                .sessions
                .front()
                .is_some_and(|(_, since)| since.elapsed() > KEPT)
        {
            idle.sessions.pop_front();
        }
        if idle.sessions.len() <= 1 {
            idle.is_watched = false;
            return;
        }
    }
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
        let mut idle = self.pool.idle.lock();
        idle.sessions.push_back((self.session, Instant::now()));
        if idle.sessions.len() > 1 && !idle.is_watched {
            idle.is_watched = true;
            tokio::spawn(close_unneeded(Arc::downgrade(&self.pool.idle)));
        }
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
            idle: Arc::default(),
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
            idle.sessions.retain(|(session, _)| !session.client.is_closed());
            idle.sessions.pop_back().map(|(session, _)| session)
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
