//! One reconciliation: by kind, timed, counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::context::Context;
use crate::resources::{Key, Kind};
use crate::runtime::queue::Next;
use crate::{database, pipeline, store};

/// A reconciliation that takes longer is ended and tried again.
const LIMIT: Duration = Duration::from_mins(1);

/// How a reconciliation ended.
#[derive(Debug)]
pub struct Outcome {
    /// What it asks for.
    pub next: Next,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Outcome {
    /// All is done that could be done.
    #[must_use]
    pub fn done(next: Next) -> Self {
        Self { next, error: None }
    }

    /// It is worth another attempt.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            next: Next::Retry,
            error: Some(error.into()),
        }
    }
}

/// Works off the queue, `workers` keys at a time, until dropped.
pub async fn work(context: Arc<Context>, workers: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.len() >= workers {
            let _ = tasks.join_next().await;
        }
        let key = context.queue.take().await;
        let context = Arc::clone(&context);
        tasks.spawn(async move {
            let begun = Instant::now();
            let outcome = tokio::time::timeout(LIMIT, one(&context, &key))
                .await
                .unwrap_or_else(|_| Outcome::failed(format!("no end within {} s", LIMIT.as_secs())));
            let result = match (&outcome.error, outcome.next) {
                (Some(error), _) => {
                    tracing::warn!(resource = %key, "{error}");
                    "error"
                }
                (None, Next::Retry) => "error",
                (None, _) => "success",
            };
            context
                .metrics
                .reconciled(key.kind.name(), result, begun.elapsed());
            context.queue.finish(&key, outcome.next);
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn one(context: &Arc<Context>, key: &Key) -> Outcome {
    match key.kind {
        Kind::TideDatabase => database::reconcile::reconcile(context, key).await,
        Kind::Outbox => store::reconcile(context, key, context.outboxes.get(&key.namespace, &key.name)).await,
        Kind::Inbox => store::reconcile(context, key, context.inboxes.get(&key.namespace, &key.name)).await,
        Kind::Pipeline => pipeline::reconcile(context, key).await,
    }
}
