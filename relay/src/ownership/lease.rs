//! How long an owner may act without hearing from its lock connection.
//!
//! The server ends a silent session (and frees its locks) about 3 s after its
//! host is gone; the lease is shorter, so that the owner has stopped sending
//! before anybody else can start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// See the module's description.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Shared by the lock loop, which renews it, and all pipelines.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    origin: Instant,
    /// Milliseconds after `origin`.
    valid_until: Arc<AtomicU64>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            valid_until: Arc::default(),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// The locks were seen to be held by a look that began at this time.
    pub(crate) fn renew(&self, looked_at: Instant) {
        self.valid_until
            .fetch_max(self.millis(looked_at + LEASE), Ordering::Relaxed);
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.is_valid_at(Instant::now())
    }

    fn is_valid_at(&self, now: Instant) -> bool {
        self.millis(now) < self.valid_until.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_beginning_of_the_look() {
        let lease = Lease::new();
        let start = Instant::now();
        assert!(!lease.is_valid_at(start), "nothing was seen yet");
        lease.renew(start);
        assert!(lease.is_valid_at(start + Duration::from_millis(1_900)));
        assert!(!lease.is_valid_at(start + Duration::from_millis(2_100)));
    }
}
