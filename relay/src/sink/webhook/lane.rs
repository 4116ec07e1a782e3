//! A lane: messages that are sent one request after the other.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::client::Connection;
use super::request::Entry;
use crate::config::Retry;
use crate::pipeline::Backoff;
use crate::sink::suspects::Suspects;

/// See the module's description.
pub(super) struct Lane {
    pub(super) waiting: VecDeque<Entry>,
    /// Its request is under way.
    pub(super) busy: bool,
    pub(super) connection: Option<Connection>,
    /// Not to be sent to before.
    pub(super) resume_at: Option<Instant>,
    /// Its last request was not answered, or put off.
    pub(super) failing: bool,
    pub(super) backoff: Backoff,
    pub(super) suspects: Suspects,
}

impl Lane {
    pub(super) fn new(retry: Retry) -> Self {
        Self {
            waiting: VecDeque::new(),
            busy: false,
            connection: None,
            resume_at: None,
            failing: false,
            backoff: Backoff::new(retry),
            suspects: Suspects::default(),
        }
    }

    /// Whether it has something to send, and may, now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        !self.busy && !self.waiting.is_empty() && self.resume_at.is_none_or(|at| at <= now)
    }

    /// Takes the messages of the next request: some with the same target.
    pub(super) fn next_batch(&mut self, rows: usize, bytes: usize) -> Vec<Entry> {
        let rows = self.suspects.limit(rows);
        let mut batch: Vec<Entry> = Vec::new();
        let mut size = 0;
        while batch.len() < rows
            && let Some(entry) = self.waiting.front()
            && batch.first().is_none_or(|first| first.target == entry.target)
            && (batch.is_empty() || size + entry.bytes() <= bytes)
        {
            size += entry.bytes();
            batch.extend(self.waiting.pop_front());
        }
        batch
    }

    /// Puts messages back to where they were taken from.
    pub(super) fn put_back(&mut self, batch: Vec<Entry>) {
        for entry in batch.into_iter().rev() {
            self.waiting.push_front(entry);
        }
    }

    /// The receiver answers again.
    pub(super) fn recovered(&mut self) {
        self.failing = false;
        self.resume_at = None;
        self.backoff.reset();
    }
}
