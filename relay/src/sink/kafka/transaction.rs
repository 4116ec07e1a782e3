//! Batches in transactions: nothing counts as delivered before its
//! transaction is committed.

use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::producer::End;
use crate::failure::Failure;
use crate::sink::{Outcome, Settled};

/// A transaction takes no more messages than so many. A commit takes a few
/// milliseconds however many there are.
const MOST: usize = 5_000;
/// Nor any more after so long. It is committed as soon as all of its messages
/// are acknowledged; under a steady stream that would be never.
const LONGEST: Duration = Duration::from_millis(20);

/// The transaction under way. One without messages is always begun.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    first_sent: Option<Instant>,
    sent: usize,
    reported: Vec<Settled>,
    /// Messages whose fate says nothing of them, and why.
    failed: usize,
    failure: Option<Failure>,
    /// Being committed or aborted.
    pub(super) ending: Option<JoinHandle<Result<(), KafkaError>>>,
}

impl Transaction {
    pub(super) fn accepts(&self) -> bool {
        self.ending.is_none()
            && self.failure.is_none()
            && self.sent < MOST
            && self.first_sent.is_none_or(|at| at.elapsed() < LONGEST)
    }

    pub(super) fn sent(&mut self) {
        self.first_sent.get_or_insert_with(Instant::now);
        self.sent += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == 0
    }

    pub(super) fn report(&mut self, settled: Settled) {
        self.reported.push(settled);
    }

    /// A message that was sent has failed.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        self.spoil(failure);
    }

    /// It takes no message any more and cannot be committed.
    pub(super) fn spoil(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// How it is to be ended, once the outcome of every message is known. A
    /// transaction with a message that the broker refused cannot be committed;
    /// one that failed otherwise neither, but the library tells why only when
    /// that is tried.
    pub(super) fn due(&self) -> Option<End> {
        let settled = self.reported.len() + self.failed >= self.sent;
        if !settled || self.ending.is_some() || (self.sent == 0 && self.failure.is_none()) {
            return None;
        }
        Some(if self.has_refused() {
            End::Abort
        } else {
            End::Commit
        })
    }

    /// It has ended: what is known of its messages now. After an abort that is
    /// who was refused; the others are still to be delivered.
    ///
    /// # Errors
    /// When it failed as a whole.
    pub(super) fn ended(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        let ended = std::mem::take(self);
        // What was refused for good explains whatever else failed.
        let aborted = ended.has_refused();
        match ended.failure {
            Some(failure) if !aborted => return Err(failure),
            _ => {}
        }
        let told = |settled: &Settled| !aborted || is_refused(settled);
        out.extend(ended.reported.into_iter().filter(told));
        Ok(())
    }

    fn has_refused(&self) -> bool {
        self.reported.iter().any(is_refused)
    }
}

fn is_refused(settled: &Settled) -> bool {
    matches!(settled.outcome, Outcome::Refused(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(ticket: u64, outcome: Outcome) -> Settled {
        Settled { ticket, outcome }
    }

    fn placed(ticket: u64) -> Settled {
        settled(
            ticket,
            Outcome::Placed {
                stream: 0,
                position: 7,
            },
        )
    }

    #[test]
    fn is_committed_when_every_message_is_reported() {
        let mut transaction = Transaction::default();
        assert!(transaction.accepts() && transaction.due().is_none());
        transaction.sent();
        transaction.sent();
        transaction.report(placed(1));
        assert_eq!(transaction.due(), None);
        transaction.report(placed(0));
        assert_eq!(transaction.due(), Some(End::Commit));
        let mut out = Vec::new();
        transaction.ended(&mut out).unwrap();
        assert_eq!(out.len(), 2);
        assert!(transaction.is_empty() && transaction.due().is_none());
    }

    #[test]
    fn is_aborted_for_a_refused_message_and_tells_of_it_alone() {
        let mut transaction = Transaction::default();
        transaction.sent();
        transaction.sent();
        transaction.report(placed(0));
        transaction.report(settled(1, Outcome::Refused("large".into())));
        assert_eq!(transaction.due(), Some(End::Abort));
        let mut out = Vec::new();
        transaction.ended(&mut out).unwrap();
        assert_eq!(out.iter().map(|s| s.ticket).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn fails_as_a_whole_when_nobody_was_refused() {
        let mut transaction = Transaction::default();
        transaction.sent();
        transaction.sent();
        transaction.report(placed(0));
        transaction.fail(Failure::transient("no leader"));
        assert!(!transaction.accepts());
        assert_eq!(transaction.due(), Some(End::Commit));
        let failure = transaction.ended(&mut Vec::new()).unwrap_err();
        assert_eq!(failure.message, "no leader");
    }

    #[test]
    fn takes_no_more_than_so_many() {
        let mut transaction = Transaction::default();
        for _ in 0..MOST {
            assert!(transaction.accepts());
            transaction.sent();
        }
        assert!(!transaction.accepts());
    }
}
