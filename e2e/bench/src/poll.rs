//! Waiting for conditions, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until the condition holds; an error names what did not happen in time.
pub async fn until(
    timeout: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut ticks = tokio::time::interval(INTERVAL);
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("waited {timeout:?} for {what}");
        }
        ticks.tick().await;
    }
    Ok(())
}

/// How a counter rose from its first sight above 0 to the expected number.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    /// When the counter was first seen above 0, and what it then was.
    pub first: (Instant, u64),
    /// When it was first seen at the expected number, or above.
    pub last: Instant,
    /// What it then was.
    pub count: u64,
}

impl Arrivals {
    /// Messages a second between the first and the last sight.
    pub fn rate(&self) -> Result<f64> {
        let (began, seen) = self.first;
        if seen == self.count {
            bail!("all {seen} messages came between two looks: measure with more");
        }
        Ok((self.count - seen) as f64 / (self.last - began).as_secs_f64())
    }
}

/// Watches a counter until it reaches `expected`; an error when it stands still for `stall`.
pub async fn watch(
    expected: u64,
    stall: Duration,
    mut counter: impl AsyncFnMut() -> Result<u64>,
) -> Result<Arrivals> {
    let mut first = None;
    let mut known = 0;
    let mut progress = Instant::now();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let count = counter().await?;
        let now = Instant::now();
        if count > known {
            (known, progress) = (count, now);
        } else if now - progress > stall {
            bail!("{known} of {expected} messages came, and none for {stall:?}");
        }
        if count > 0 {
            let first = *first.get_or_insert((now, count));
            if count >= expected {
                return Ok(Arrivals {
                    first,
                    last: now,
                    count,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_counter_is_timed_from_its_first_sight_to_the_expected_number() {
        let mut count = 0;
        let arrivals = watch(50, Duration::from_secs(1), async || {
            count += 10;
            Ok(count)
        });
        let arrivals = arrivals.await.expect("the counter rises");
        assert_eq!((arrivals.first.1, arrivals.count), (10, 50));
    }

    #[tokio::test]
    async fn a_counter_that_stands_still_is_an_error() {
        let error = watch(50, Duration::from_millis(30), async || Ok(7))
            .await
            .expect_err("7 is not 50");
        assert!(error.to_string().starts_with("7 of 50"), "{error}");
    }

    #[tokio::test]
    async fn a_condition_that_never_holds_is_named() {
        let error = until(Duration::from_millis(30), "rain", async || Ok(false))
            .await
            .expect_err("never");
        assert!(error.to_string().ends_with("for rain"), "{error}");
    }
}
