//! What becomes of a message that its sink, or the encoder, refuses for good.
//!
//! It is tried again as often as configured, then set aside in the dead-letter
//! table, or, with dead letters off, the pipeline waits. With `ordering:
//! strict` later messages of its key are set aside behind it.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::forward::{Attempt, Run};
use crate::config::Ordering;
use crate::database::cursor as store;
use crate::encode::Row;
use crate::failure::Failure;

/// How often messages were refused in this run of the pipeline.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<i64, u32>>);

impl Refusals {
    /// Counts a refusal; whether the message is to be tried again.
    fn again(&self, id: i64, max_retries: u32) -> bool {
        let mut counts = self.0.lock();
        let count = counts.entry(id).or_default();
        if *count < max_retries {
            *count += 1;
            return true;
        }
        counts.remove(&id);
        false
    }
}

/// The keys that wait, when order is strict.
#[derive(Debug, Default)]
pub(super) struct Keys {
    strict: bool,
    /// Keys with an unresolved dead letter.
    blocked: HashSet<String>,
    /// Keys of messages in flight; cleared when nothing is. A sink that may
    /// refuse one message and take a later one gets one per key at a time.
    in_flight: HashSet<String>,
}

impl Keys {
    /// Whether a message must wait for those in flight.
    pub(super) fn must_wait(&mut self, key: Option<&[u8]>, window_is_empty: bool) -> bool {
        if !self.strict {
            return false;
        }
        if window_is_empty {
            self.in_flight.clear();
        }
        !self.in_flight.insert(text(key))
    }
}

fn text(key: Option<&[u8]>) -> String {
    String::from_utf8_lossy(key.unwrap_or_default()).into_owned()
}

impl Run<'_> {
    /// The keys that wait at the beginning of an attempt.
    pub(super) async fn waiting_keys(&self) -> Result<Keys, Failure> {
        let strict = self.forward.ordering == Ordering::Strict;
        let mut keys = Keys {
            strict,
            ..Keys::default()
        };
        if strict {
            keys.blocked = store::dead_keys(&self.shared.writers, &self.spec.name).await?;
        }
        Ok(keys)
    }

    /// Sets a message aside when an earlier one of its key is.
    pub(super) async fn is_behind(
        &self,
        keys: &Keys,
        row: &Row,
        key: Option<&[u8]>,
    ) -> Result<bool, Failure> {
        let Some(key) = key.filter(|_| !keys.blocked.is_empty()) else {
            return Ok(false);
        };
        let key = text(Some(key));
        if !keys.blocked.contains(&key) {
            return Ok(false);
        }
        let reason = "an earlier message of its key is a dead letter (ordering is strict)";
        self.dead_letter(row, Some(&key), reason).await?;
        Ok(true)
    }

    /// Deals with a refused message; afterwards it counts as settled.
    ///
    /// # Errors
    /// When it is to be tried again, or must wait.
    pub(super) async fn refuse(
        &self,
        a: &mut Attempt,
        row: &Row,
        key: Option<Vec<u8>>,
        reason: &str,
    ) -> Result<(), Failure> {
        let policy = self.forward.dead_letter;
        if self.refusals.again(row.id, policy.max_retries) {
            return Err(Failure::transient(format!("message {}: {reason}", row.id)).suspecting(row.id));
        }
        if !policy.enabled {
            let text = format!(
                "message {} is refused and the pipeline waits, as \"dead_letter.enabled\" is false: {reason}",
                row.id
            );
            return Err(Failure::transient(text).suspecting(row.id));
        }
        let strict = self.forward.ordering == Ordering::Strict;
        let Some(key) = key.filter(|_| strict) else {
            if strict {
                let text = format!(
                    "message {} is refused and the pipeline waits, as \"ordering\" is strict and it has no key: {reason}",
                    row.id
                );
                return Err(Failure::transient(text).suspecting(row.id));
            }
            return self.dead_letter(row, None, reason).await;
        };
        let key = text(Some(&key));
        self.dead_letter(row, Some(&key), reason).await?;
        a.keys.blocked.insert(key);
        Ok(())
    }

    async fn dead_letter(&self, row: &Row, key: Option<&str>, reason: &str) -> Result<(), Failure> {
        let event_id = row.event_id().text(&self.forward.outbox);
        let pipeline = (self.spec.name.as_str(), self.forward.group_id, self.epoch);
        // It may be there from an attempt that got no further.
        if store::dead_letter(&self.shared.writers, pipeline, &event_id, row, key, reason).await? {
            tracing::warn!(pipeline = self.spec.name, event_id, "dead-lettered: {reason}");
            self.status.dead_lettered(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_again_as_often_as_configured() {
        let refusals = Refusals::default();
        let tries: Vec<bool> = (0..4).map(|_| refusals.again(7, 2)).collect();
        assert_eq!(tries, [true, true, false, true]);
        assert!(!refusals.again(8, 0));
    }

    #[test]
    fn strict_keys_go_one_at_a_time() {
        let mut keys = Keys {
            strict: true,
            ..Keys::default()
        };
        assert!(!keys.must_wait(Some(b"a"), true));
        assert!(!keys.must_wait(Some(b"b"), false));
        assert!(keys.must_wait(Some(b"a"), false));
        assert!(!keys.must_wait(Some(b"a"), true));
        assert!(!Keys::default().must_wait(Some(b"a"), false));
    }
}
