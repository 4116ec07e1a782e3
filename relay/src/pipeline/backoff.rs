//! Pauses between attempts: exponential, with jitter.

use std::time::Duration;

use rand::Rng;
use rand::RngExt as _;

use crate::config::Retry;

/// A broker that was frozen works off what lies in its sockets within a few
/// hundred ms of waking up.
const AFTER_SILENCE: Duration = Duration::from_secs(3);

/// Doubles from `initial` to `max`; the pause is drawn from the upper half, so
/// that relays that failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    attempt: u32,
    unanswered: bool,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Self {
        Self {
            retry,
            attempt: 0,
            unanswered: false,
        }
    }

    /// The number of the failed attempt and the pause after it.
    pub(crate) fn next(&mut self, random: &mut impl Rng) -> (u32, Duration) {
        let doubled = self.retry.initial.saturating_mul(1 << self.attempt.min(20));
        let full = doubled.min(self.retry.max);
        self.attempt = self.attempt.saturating_add(1);
        (self.attempt, full.mul_f64(random.random_range(0.5..=1.0)))
    }

    /// The other side went silent with messages in flight: it may still have
    /// them, and write them when it comes to itself.
    pub(crate) fn went_silent(&mut self) {
        self.unanswered = true;
    }

    /// For how long its log must stay as it is before that counts as the end
    /// of what was sent, beyond what is usual.
    pub(crate) fn quiet_time(&self) -> Duration {
        if self.unanswered {
            AFTER_SILENCE
        } else {
            Duration::ZERO
        }
    }

    /// Its log was read to that end.
    pub(crate) fn caught_up(&mut self) {
        self.unanswered = false;
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

    #[test]
    fn after_a_silence_the_log_must_be_quiet_for_longer_until_it_was_read() {
        let mut backoff = Backoff::new(Retry {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(3),
        });
        assert_eq!(backoff.quiet_time(), Duration::ZERO);
        backoff.went_silent();
        // Failed attempts in between change nothing about it.
        backoff.next(&mut rand::rng());
        assert_eq!(backoff.quiet_time(), AFTER_SILENCE);
        backoff.caught_up();
        assert_eq!(backoff.quiet_time(), Duration::ZERO);
    }
}
