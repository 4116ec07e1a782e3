//! Pauses between attempts: exponential, with jitter.

use std::time::Duration;

use rand::Rng;
use rand::RngExt as _;

use crate::config::Retry;

/// Doubles from `initial` to `max`; the pause is drawn from the upper half, so
/// that relays that failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    attempt: u32,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, attempt: 0 }
    }

    /// The number of the failed attempt and the pause after it.
    pub(crate) fn next(&mut self, random: &mut impl Rng) -> (u32, Duration) {
        let doubled = self.retry.initial.saturating_mul(1 << self.attempt.min(20));
        let full = doubled.min(self.retry.max);
        self.attempt = self.attempt.saturating_add(1);
        (self.attempt, full.mul_f64(random.random_range(0.5..=1.0)))
    }

    /// Something was delivered: the next failure starts from `initial`.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_starts_over() {
        let retry = Retry {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(3),
        };
        let mut backoff = Backoff::new(retry);
        let mut random = rand::rng();
        for full in [100u64, 200, 400, 800, 1600, 3000, 3000] {
            let (_, pause) = backoff.next(&mut random);
            let full = Duration::from_millis(full);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut random).1 <= Duration::from_millis(100));
    }
}
