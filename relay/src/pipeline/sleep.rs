//! Pipelines that have nothing to send give their connections back when a
//! relay has many of them: a Kafka producer has threads of its own, and a
//! thousand of them, idle, would take more than a core.
//!
//! A sleeping pipeline keeps its lock and reads on; its checkpoint is clean.
//! With the first message it connects anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::forward::Run;
use crate::failure::Failure;
use crate::source::outbox::Reader;

/// So many pipelines stay connected however idle they are.
const CONNECTED: usize = 50;
/// Beyond that, a pipeline that has sent messages keeps its connection for so
/// long after the last one.
pub(super) const AFTER: Duration = Duration::from_secs(10);
/// One that had nothing to send when it connected waits for less.
pub(super) const AT_FIRST: Duration = Duration::from_secs(1);
/// So many connect at a time, unless that takes too long: brokers that do not
/// answer must not keep other pipelines waiting.
const CONNECTING: usize = 16;
const TURN: Duration = Duration::from_secs(1);

/// The connected pipelines of a relay.
#[derive(Debug, Clone)]
pub(crate) struct Connected(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    count: AtomicUsize,
    connecting: Semaphore,
}

impl Connected {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            count: AtomicUsize::new(0),
            connecting: Semaphore::new(CONNECTING),
        }))
    }

    /// Counts a pipeline for as long as the place is held.
    pub(super) fn enter(&self) -> Place {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Place {
            connected: Some(self.clone()),
        }
    }

    /// Waits for the turn to connect.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN, self.0.connecting.acquire());
        turn.await.ok().and_then(Result::ok)
    }
}

/// A pipeline's place among the connected ones.
#[derive(Debug)]
pub(super) struct Place {
    connected: Option<Connected>,
}

impl Place {
    /// Gives the place up if there are more than stay connected.
    pub(super) fn leave_if_many(&mut self) -> bool {
        let left = self.connected.as_ref().is_some_and(|connected| {
            let count = &connected.0.count;
            count
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                    (n > CONNECTED).then(|| n - 1)
                })
                .is_ok()
        });
        if left {
            self.connected = None;
        }
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(connected) = &self.connected {
            connected.0.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Run<'_> {
    /// Reads on without a connection to the sink. Returns when there is
    /// something to send, or the pipeline is told to stop.
    pub(super) async fn sleep(&self) -> Result<(), Failure> {
        let (stored, reanchored) = self.stored_cursor().await?;
        if reanchored {
            return Ok(());
        }
        let (sender, mut pages) = mpsc::channel(1);
        let reader = Reader::new(
            Arc::clone(&self.shared.readers),
            self.forward.table.clone(),
            self.shared.ticks.clone(),
            sender,
            1,
            stored.low_water_id,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(reader.run(stored.progress));
        self.status.note(Some(
            "nothing to send for a while: the connection is closed until there is".into(),
        ));
        let result = loop {
            tokio::select! {
                () = self.stop.cancelled() => break Ok(()),
                page = pages.recv() => match page {
                    Some(Ok(page)) if page.rows.is_empty() => {}
                    Some(Ok(_)) => break Ok(()),
                    Some(Err(failure)) => break Err(failure),
                    None => break Err(Failure::transient("the reader ended")),
                },
            }
        };
        self.status.note(None);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_stay_do() {
        let connected = Connected::new();
        let mut places: Vec<Place> = (0..CONNECTED + 3).map(|_| connected.enter()).collect();
        let left = places
            .iter_mut()
            .filter_map(|p| p.leave_if_many().then_some(()))
            .count();
        assert_eq!(left, 3);
        assert!(!places[0].leave_if_many(), "once");
        drop(places);
        assert_eq!(connected.0.count.load(Ordering::Relaxed), 0);
    }
}
