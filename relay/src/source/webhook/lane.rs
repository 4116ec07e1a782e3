//! One pipeline's requests on their way into its inbox.
//!
//! What comes while a batch is stored makes up the next one, so that under
//! load many requests share a transaction. Each is answered when the
//! transaction that has it is committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::Answer;
use crate::config::{Retry, ReverseSpec};
use crate::database::Pool;
use crate::database::inbox::{Batch, Poison};
use crate::database::webhook::{self as store, Fence, WriteError};
use crate::pipeline::{Backoff, intake};
use crate::source::Incoming;
use crate::source::identity::Rules;
use crate::status::Intake;

/// For how long a batch is filled up under load.
const LINGER: Duration = Duration::from_millis(3);
/// A batch of so many is a sign of load.
const MANY: usize = 32;
/// Refused requests that are being tried again at the same time; beyond that
/// they wait with everybody else.
const TRIED_AGAIN: usize = 64;
/// And for so long at most: their senders wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The sender can be told.
    Settled(Answer),
    /// The pipeline is another one by now: to be looked up once more.
    Changed,
}

/// A request that waits to be stored.
pub(super) struct Waiting {
    pub(super) message: Incoming,
    pub(super) done: oneshot::Sender<Outcome>,
}

impl Waiting {
    fn settle(self, outcome: Outcome) {
        // A sender that is gone asks again, and is told then.
        let _ = self.done.send(outcome);
    }
}

/// What storing needs.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) pipeline: Arc<str>,
    pub(super) fence: Fence,
    pub(super) spec: Arc<ReverseSpec>,
    pub(super) rules: Arc<Rules>,
    pub(super) retry: Retry,
    pub(super) batch_size: usize,
    pub(super) pool: Arc<Pool>,
    pub(super) intake: Arc<Intake>,
}

fn unavailable() -> Outcome {
    Outcome::Settled(Answer::later(
        2,
        "the database cannot be written to at the moment: send the same request again",
    ))
}

impl Lane {
    /// Stores what comes, until nobody can send any more and all is settled.
    pub(super) async fn run(self, mut requests: mpsc::Receiver<Waiting>) {
        let mut refused = JoinSet::new();
        let mut many = false;
        while let Some(first) = requests.recv().await {
            let mut batch = Vec::from([first]);
            let deadline = Instant::now() + LINGER;
            while batch.len() < self.batch_size {
                match requests.try_recv() {
                    Ok(next) => batch.push(next),
                    Err(_) if !many => break,
                    Err(_) => match tokio::time::timeout_at(deadline, requests.recv()).await {
                        Ok(Some(next)) => batch.push(next),
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            many = batch.len() >= MANY.min(self.batch_size);
            self.store(batch, &mut refused).await;
            while refused.try_join_next().is_some() {}
            if refused.len() >= TRIED_AGAIN {
                refused.join_next().await;
            }
        }
        refused.join_all().await;
    }

    async fn store(&self, waiting: Vec<Waiting>, refused: &mut JoinSet<()>) {
        let mut batch = Batch::default();
        let mut stored = Vec::with_capacity(waiting.len());
        for request in waiting {
            let message = &request.message;
            let taken = self.spec.filter.as_ref().is_none_or(|f| {
                let payload = message.payload.as_deref().unwrap_or_default();
                f.takes(|name| message.headers.get(name), payload)
            });
            if !taken {
                self.intake.filtered();
                request.settle(Outcome::Settled(Answer::filtered()));
                continue;
            }
            match intake::json(message) {
                Ok(text) => {
                    intake::add(&mut batch, &self.rules, None, message, text);
                    stored.push(request);
                }
                Err(reason) => {
                    let error = format!("the payload is not JSON: {reason}");
                    let outcome = self.set_aside(&request.message, &error).await;
                    request.settle(outcome);
                }
            }
        }
        // Halves of a batch that PostgreSQL refuses, until the culprit is alone.
        let mut parts = Vec::from([(batch, stored)]);
        while let Some((batch, mut requests)) = parts.pop() {
            if requests.is_empty() {
                continue;
            }
            match store::write(&self.pool, self.fence, &batch).await {
                Ok(written) => {
                    self.intake.stored(written);
                    for request in requests {
                        request.settle(Outcome::Settled(Answer::stored()));
                    }
                }
                Err(WriteError::Refused(reason)) if requests.len() == 1 => {
                    let lane = self.clone();
                    refused.spawn(async move {
                        if let Some(request) = requests.pop() {
                            let outcome = lane.try_again(&request.message, &batch, reason).await;
                            request.settle(outcome);
                        }
                    });
                }
                Err(WriteError::Refused(_)) => {
                    let middle = requests.len() / 2;
                    let second = requests.split_off(middle);
                    parts.push((batch.part(middle..batch.len()), second));
                    parts.push((batch.part(0..middle), requests));
                }
                Err(error) => {
                    // It would be the same for the rest.
                    let outcome = self.not_stored(&error);
                    let rest = parts.drain(..).flat_map(|(_, requests)| requests);
                    for request in requests.into_iter().chain(rest) {
                        request.settle(outcome.clone());
                    }
                }
            }
        }
    }

    fn not_stored(&self, error: &WriteError) -> Outcome {
        match error {
            WriteError::Changed => Outcome::Changed,
            WriteError::Failed(reason) | WriteError::Refused(reason) => {
                self.intake.failed(reason);
                unavailable()
            }
        }
    }

    /// A request that PostgreSQL refuses: the cause may be mended meanwhile.
    async fn try_again(&self, message: &Incoming, batch: &Batch, mut reason: String) -> Outcome {
        let mut backoff = Backoff::new(self.retry);
        let began = Instant::now();
        loop {
            let (attempt, pause) = backoff.next(&mut rand::rng());
            if attempt > self.spec.dead_letter.max_retries || began.elapsed() + pause > PATIENCE {
                let error = format!("the inbox refuses it: {reason}");
                return self.set_aside(message, &error).await;
            }
            tokio::time::sleep(pause).await;
            match store::write(&self.pool, self.fence, batch).await {
                Ok(written) => {
                    self.intake.stored(written);
                    return Outcome::Settled(Answer::stored());
                }
                Err(WriteError::Refused(again)) => reason = again,
                Err(error) => return self.not_stored(&error),
            }
        }
    }

    /// Keeps a request with its bytes; or has the sender keep it, when the
    /// pipeline is to have no dead letters.
    async fn set_aside(&self, message: &Incoming, error: &str) -> Outcome {
        if !self.spec.dead_letter.enabled {
            return Outcome::Settled(Answer::refused(
                hyper::StatusCode::UNPROCESSABLE_ENTITY,
                "the body cannot be stored: send JSON that PostgreSQL takes (no NUL characters, no numbers out of bounds)",
            ));
        }
        let found = message.identify(&self.rules);
        let poison = Poison {
            event_id: found.event_id.as_deref(),
            source: &message.source(),
            source_ref: None,
            source_seq: None,
            body: message.payload.as_deref(),
            headers: &message.headers.json(),
            error,
        };
        match store::dead_letter(&self.pool, self.fence, &poison).await {
            Ok(new) => {
                tracing::warn!(pipeline = &*self.pipeline, "dead-lettered: {error}");
                self.intake.set_aside(new);
                Outcome::Settled(Answer::set_aside())
            }
            Err(error) => self.not_stored(&error),
        }
    }
}
