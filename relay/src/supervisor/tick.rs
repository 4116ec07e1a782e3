//! One cheap query for all pipelines of a database: can anything have been
//! published since the last one?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::database::outbox::{self, Look};
use crate::database::{Database, Profile, Session};
use crate::failure::Failure;
use crate::source::outbox::Tick;

/// Pause between ticks while messages come.
const BUSY: Duration = Duration::from_millis(1);
/// The longest pause, which bounds the delay of the first message after quiet.
const IDLE: Duration = Duration::from_millis(16);
/// Without news for so long, the pauses begin to grow.
const LINGER: Duration = Duration::from_millis(100);

/// Whether any pipeline needs ticks.
#[derive(Debug, Clone, Default)]
pub(super) struct Demand(Arc<(AtomicBool, Notify)>);

impl Demand {
    pub(super) fn set(&self, wanted: bool) {
        if self.0.0.swap(wanted, Ordering::Relaxed) != wanted {
            self.0.1.notify_one();
        }
    }

    async fn wait(&self) {
        while !self.0.0.load(Ordering::Relaxed) {
            self.0.1.notified().await;
        }
    }
}

/// Failures in a row after which the database session is given up.
const FAILURES: u32 = 4;

/// Ticks until the task is aborted or the database cannot be asked.
pub(super) async fn run(
    database: Database,
    ticks: watch::Sender<Option<Tick>>,
    demand: Demand,
) -> Result<(), Failure> {
    let mut session: Option<Session> = None;
    let mut state = News::default();
    let mut failures = 0;
    loop {
        demand.wait().await;
        let pause = match next(&database, &mut session).await {
            Ok(look) => {
                if let Some(tick) = state.take(look, Instant::now()) {
                    ticks.send_replace(Some(tick));
                }
                failures = 0;
                state.pause(Instant::now())
            }
            Err(failure) => {
                session = None;
                failures += 1;
                if failures >= FAILURES {
                    return Err(failure);
                }
                tracing::warn!("{failure}");
                Duration::from_millis(200)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn next(database: &Database, session: &mut Option<Session>) -> Result<Look, Failure> {
    let session = match session {
        Some(session) => session,
        none => {
            let opened = database.connect(Profile::Tick, None).await;
            none.insert(opened.map_err(|e| Failure::transient(e.to_string()))?)
        }
    };
    outbox::tick(session).await
}

/// Decides which ticks are worth telling. Pure but for the time given to it.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(crate) struct News {
    /// Sequence value and, from the first tick that saw it, the next xid: no
    /// transaction from there on has taken an id.
    last: Option<(i64, u64)>,
    told: Option<Arc<crate::cursor::Snapshot>>,
    told_at: Option<Instant>,
}

impl News {
    /// The tick, if any pipeline may find something through it: an id was
    /// taken, or a transaction that may hold one has ended.
    pub(crate) fn take(&mut self, look: Look, now: Instant) -> Option<Tick> {
        let Look {
            sequence_value,
            next_xid,
            snapshot,
        } = look;
        let quiet_from = match self.last {
            Some((value, quiet_from)) if value == sequence_value => quiet_from,
            _ => next_xid,
        };
        let taken = self.last.is_none_or(|(value, _)| value != sequence_value);
        self.last = Some((sequence_value, quiet_from));
        let ended = self
            .told
            .as_ref()
            .is_none_or(|told| told.any_finished_below(quiet_from, &snapshot));
        if !taken && !ended {
            return None;
        }
        let snapshot = Arc::new(snapshot);
        self.told = Some(Arc::clone(&snapshot));
        self.told_at = Some(now);
        Some(Tick {
            sequence_value,
            next_xid,
            snapshot,
            quiet_from,
        })
    }

    fn pause(&self, now: Instant) -> Duration {
        let quiet = self.told_at.map_or(IDLE, |at| now - at);
        if quiet < LINGER {
            BUSY
        } else {
            (quiet / 25).clamp(BUSY, IDLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(sequence_value: i64, next_xid: u64, snapshot: &str) -> Look {
        Look {
            sequence_value,
            next_xid,
            snapshot: snapshot.parse().unwrap(),
        }
    }

    #[test]
    fn tells_of_taken_ids_and_of_the_ends_of_their_transactions() {
        let mut news = News::default();
        let now = Instant::now();
        assert!(news.take(look(5, 10, "10:10:"), now).is_some(), "the first");
        assert!(
            news.take(look(5, 10, "10:10:"), now).is_none(),
            "nothing happened"
        );
        assert!(
            news.take(look(5, 90, "90:90:"), now).is_none(),
            "others' transactions"
        );
        // 90 takes an id and stays open; no later one has ended yet, so the
        // snapshot does not list it.
        let tick = news.take(look(6, 91, "90:90:"), now).unwrap();
        assert_eq!(tick.quiet_from, 91);
        // 95 comes and goes without an id.
        assert!(news.take(look(6, 97, "90:96:90"), now).is_none());
        assert!(news.take(look(6, 99, "90:99:90"), now).is_none());
        assert!(news.take(look(6, 99, "99:99:"), now).is_some(), "90 has ended");
    }

    #[test]
    fn slows_down_in_the_quiet() {
        let mut news = News::default();
        let now = Instant::now();
        news.take(look(1, 10, "10:10:"), now);
        assert_eq!(news.pause(now + Duration::from_millis(50)), BUSY);
        assert_eq!(
            news.pause(now + Duration::from_millis(250)),
            Duration::from_millis(10)
        );
        assert_eq!(news.pause(now + Duration::from_mins(1)), IDLE);
    }
}
