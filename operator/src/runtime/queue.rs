//! What is to be reconciled when: each key at most once in the queue and at
//! most once at work, the earliest wish wins, failures back off per key.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::resources::Key;

/// First pause after a failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A queue of keys with the times at which they are due.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeMap<(Instant, u64), Key>,
    entries: HashMap<Key, Entry>,
    next: u64,
}

/// A key leaves the map when nothing is known of it: not due, not at work, no
/// failures.
#[derive(Debug, Default)]
struct Entry {
    due: Option<(Instant, u64)>,
    working: bool,
    /// Wished for while at work.
    again: Option<Instant>,
    failures: u32,
}

/// What a reconciliation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Await,
    /// Another look after a while.
    After(Duration),
    /// It failed: another attempt, later each time.
    Retry,
}

impl State {
    fn schedule(&mut self, key: &Key, at: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.working {
            entry.again = Some(entry.again.map_or(at, |earlier| earlier.min(at)));
            return;
        }
        if let Some((earlier, _)) = entry.due
            && earlier <= at
        {
            return;
        }
        let place = (at, self.next);
        self.next += 1;
        if let Some(old) = entry.due.replace(place) {
            self.due.remove(&old);
        }
        self.due.insert(place, key.clone());
    }

    /// The next key that is due, or when one will be.
    fn take(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        match self.due.first_key_value() {
            Some((&(at, _), _)) if at > now => Err(Some(at)),
            None => Err(None),
            Some((&place, _)) => {
                let key = self.due.remove(&place).ok_or(None)?;
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.due = None;
                    entry.working = true;
                }
                Ok(key)
            }
        }
    }

    fn finish(&mut self, key: &Key, next: Next, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.working = false;
        let again = entry.again.take();
        let later = match next {
            Next::Await => None,
            Next::After(pause) => Some(now + pause),
            Next::Retry => Some(now + pause_after(entry.failures, jitter)),
        };
        entry.failures = match next {
            Next::Retry => entry.failures.saturating_add(1),
            Next::Await | Next::After(_) => 0,
        };
        let idle = entry.failures == 0;
        match [again, later].into_iter().flatten().min() {
            Some(at) => self.schedule(key, at),
            None if idle => {
                self.entries.remove(key);
            }
            None => {}
        }
    }
}

/// The pause after that many failures before this one. `jitter` from 0 to 1
/// takes up to a fifth off, so that many do not come back at once.
fn pause_after(failures: u32, jitter: f64) -> Duration {
    let pause = FIRST_PAUSE
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_PAUSE);
    pause.mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0))
}

impl Queue {
    /// Wants a key reconciled now.
    pub fn add(&self, key: &Key) {
        self.add_after(key, Duration::ZERO);
    }

    /// Wants a key reconciled after a pause, unless it is due sooner anyway.
    pub fn add_after(&self, key: &Key, pause: Duration) {
        self.state.lock().schedule(key, Instant::now() + pause);
        self.changed.notify_one();
    }

    /// Waits for the next key. Whoever takes it must give it back by
    /// [`Queue::finish`].
    pub async fn take(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let wait = match self.state.lock().take(Instant::now()) {
                Ok(key) => {
                    // Another one may be due for the next worker.
                    self.changed.notify_one();
                    return key;
                }
                Err(at) => at,
            };
            match wait {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Tells the outcome of what was taken.
    pub fn finish(&self, key: &Key, next: Next) {
        self.state
            .lock()
            .finish(key, next, Instant::now(), rand::random());
        self.changed.notify_one();
    }

    /// Keys that are due now and wait for a worker.
    pub fn depth(&self) -> usize {
        let now = Instant::now();
        self.state.lock().due.range(..=(now, u64::MAX)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::Pipeline, "shop", name)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_taken_once_however_often_it_is_wanted() {
        let queue = Queue::default();
        queue.add(&key("a"));
        queue.add(&key("a"));
        assert_eq!(queue.depth(), 1);
        assert_eq!(queue.take().await, key("a"));
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_during_the_work_comes_after_it() {
        let queue = Queue::default();
        queue.add(&key("a"));
        queue.take().await;
        queue.add(&key("a"));
        assert_eq!(queue.depth(), 0, "not twice at once");
        queue.finish(&key("a"), Next::Await);
        assert_eq!(queue.take().await, key("a"));
        queue.finish(&key("a"), Next::Await);
        assert!(queue.state.lock().entries.is_empty(), "nothing is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_wins() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(&key("a"), seconds(30));
        queue.add_after(&key("a"), seconds(5));
        queue.add_after(&key("a"), seconds(60));
        assert_eq!(queue.take().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_until_a_success() {
        let queue = Queue::default();
        queue.add(&key("a"));
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            queue.take().await;
            pauses.push(start.elapsed());
            queue.finish(&key("a"), Next::Retry);
        }
        assert!(pauses.windows(2).all(|p| p[1] >= p[0].mul_f64(0.8)), "{pauses:?}");
        assert!(
            pauses.last().is_some_and(|p| (48..=60).contains(&p.as_secs())),
            "{pauses:?}"
        );
        queue.take().await;
        queue.finish(&key("a"), Next::After(seconds(1)));
        queue.take().await;
        queue.finish(&key("a"), Next::Retry);
        let start = Instant::now();
        queue.take().await;
        assert!(start.elapsed() <= FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_the_backoff() {
        let queue = Queue::default();
        queue.add(&key("a"));
        for _ in 0..8 {
            queue.take().await;
            queue.finish(&key("a"), Next::Retry);
        }
        let start = Instant::now();
        queue.add(&key("a"));
        queue.take().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
