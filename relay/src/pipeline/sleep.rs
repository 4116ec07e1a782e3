//! Pipelines that have nothing to send give their connections back when a
//! relay has many of them: a client of librdkafka has threads of its own, and a
//! thousand of them, idle, would take more than a core.
//!
//! A sleeping pipeline keeps its lock and reads on; its checkpoint is clean.
//! With the first message it connects anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::forward::Run;
use crate::failure::Failure;
use crate::source::outbox::Reader;

/// Pipelines of so much weight in all stay connected however idle they are.
const STAY: usize = 1_000;
/// Of one with a connection, or none.
const LIGHT: usize = 1;
/// Of one with threads of its own.
const HEAVY: usize = 20;
/// Beyond that, a pipeline that has sent messages keeps its connection for so
/// long after the last one.
pub(super) const AFTER: Duration = Duration::from_secs(10);
/// One that had nothing to send when it connected waits for less.
pub(super) const AT_FIRST: Duration = Duration::from_secs(1);
/// So many connect at a time.
const CONNECTING: usize = 16;
/// A turn lasts no longer: brokers that do not answer must not keep other
/// pipelines waiting.
const TURN: Duration = Duration::from_millis(250);

/// The connected pipelines of a relay.
#[derive(Debug, Clone)]
pub(crate) struct Connected(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    weight: AtomicUsize,
    connecting: Arc<Semaphore>,
}

impl Connected {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            weight: AtomicUsize::new(0),
            connecting: Arc::new(Semaphore::new(CONNECTING)),
        }))
    }

    /// Counts a pipeline for as long as the place is held.
    pub(super) fn enter(&self) -> Place {
        self.0.weight.fetch_add(LIGHT, Ordering::Relaxed);
        Place {
            connected: self.clone(),
            weight: LIGHT,
        }
    }

    /// Waits for the turn to connect.
    pub(super) async fn turn(&self) -> Turn {
        let place = Arc::clone(&self.0.connecting).acquire_owned().await;
        let held = tokio::spawn(async move {
            tokio::time::sleep(TURN).await;
            drop(place);
        });
        Turn(held.abort_handle())
    }
}

/// Somebody's turn to connect; passes on when it is dropped, or after a while.
#[derive(Debug)]
pub(super) struct Turn(AbortHandle);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A pipeline's place among the connected ones.
#[derive(Debug)]
pub(super) struct Place {
    connected: Connected,
    /// Nothing once it was given up.
    weight: usize,
}

impl Place {
    /// Gives the place up if there are more than may stay connected. `heavy` is
    /// whether the pipeline's sink has threads of its own.
    pub(super) fn leave_if_many(&mut self, heavy: bool) -> bool {
        let all = &self.connected.0.weight;
        if heavy && self.weight == LIGHT {
            all.fetch_add(HEAVY - LIGHT, Ordering::Relaxed);
            self.weight = HEAVY;
        }
        let without = |all: usize| (self.weight > 0 && all > STAY).then(|| all - self.weight);
        let left = all
            .try_update(Ordering::Relaxed, Ordering::Relaxed, without)
            .is_ok();
        if left {
            self.weight = 0;
        }
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connected.0.weight.fetch_sub(self.weight, Ordering::Relaxed);
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
            &self.shared.outboxes,
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

    #[tokio::test(start_paused = true)]
    async fn who_takes_too_long_to_connect_keeps_nobody_waiting() {
        let connected = Connected::new();
        let mut turns = Vec::new();
        for _ in 0..CONNECTING {
            turns.push(connected.turn().await);
        }
        let waiting = tokio::time::timeout(TURN / 2, connected.turn());
        assert!(waiting.await.is_err(), "all turns are taken");
        drop(turns.pop());
        turns.push(tokio::time::timeout(TURN / 4, connected.turn()).await.unwrap());
        let begun = tokio::time::Instant::now();
        turns.push(connected.turn().await);
        assert!(begun.elapsed() <= TURN, "{:?}", begun.elapsed());
    }

    #[test]
    fn as_many_as_may_stay_do() {
        for (heavy, stay) in [(false, STAY), (true, STAY / HEAVY)] {
            let connected = Connected::new();
            let mut places: Vec<Place> = (0..stay + 3).map(|_| connected.enter()).collect();
            // The first time, the weights of the later ones are not known yet.
            let mut left = 0;
            for _ in 0..2 {
                left += places
                    .iter_mut()
                    .filter_map(|p| p.leave_if_many(heavy).then_some(()))
                    .count();
            }
            assert_eq!(left, 3, "heavy: {heavy}");
            drop(places);
            assert_eq!(connected.0.weight.load(Ordering::Relaxed), 0);
        }
    }
}
