//! When a pipeline's checkpoint is due, and the reply to the one under way.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::failure::Failure;

/// Between two checkpoints under load.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(50);
/// With nothing more to send, a checkpoint follows so soon.
const IDLE_CHECKPOINT: Duration = Duration::from_millis(5);
/// The cursor moves without messages, too; that is worth writing seldom.
const EMPTY_CHECKPOINT: Duration = Duration::from_secs(5);

/// When to write the next checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoints {
    written_at: Instant,
    /// The last acknowledgement.
    pub(super) active_at: Instant,
    /// Messages were delivered since the last checkpoint.
    pub(super) delivered: bool,
    /// The cursor moved, with messages or without.
    pub(super) moved: bool,
    pub(super) pending: Option<oneshot::Receiver<Result<(), Failure>>>,
}

impl Checkpoints {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            written_at: now,
            active_at: now,
            delivered: false,
            moved: false,
            pending: None,
        }
    }

    /// When the next one is to be written; none while one is under way.
    pub(super) fn due(&self, window_empty: bool) -> Option<Instant> {
        if self.pending.is_some() {
            return None;
        }
        if self.delivered {
            let regular = self.written_at + CHECKPOINT_EVERY;
            return Some(if window_empty {
                regular.min(self.active_at + IDLE_CHECKPOINT)
            } else {
                regular
            });
        }
        self.moved.then(|| self.written_at + EMPTY_CHECKPOINT)
    }
}

impl Checkpoints {
    pub(super) fn written(&mut self, now: Instant) {
        self.written_at = now;
        self.delivered = false;
        self.moved = false;
    }
}

/// The outcome of a checkpoint; a writer that is gone has written nothing.
pub(super) fn flatten(reply: Result<Result<(), Failure>, oneshot::error::RecvError>) -> Result<(), Failure> {
    reply.unwrap_or_else(|_| Err(Failure::transient("the checkpoint writer ended")))
}

/// The reply to a pending checkpoint; never resolves without one.
pub(super) async fn reply(
    pending: &mut Option<oneshot::Receiver<Result<(), Failure>>>,
) -> Result<(), Failure> {
    match pending {
        Some(pending) => flatten(pending.await),
        None => std::future::pending().await,
    }
}
