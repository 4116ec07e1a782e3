//! What came by a webhook pipeline in this relay, told to metrics and log. Any
//! relay of the group has it, whoever owns the pipeline; the numbers in SQL
//! are those of all of them and are the owner's to report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::metrics::{Answered, Directed, Metrics, Named};
use crate::database::inbox::Written;

/// One line of the log about refused requests in so much time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Intake {
    pipeline: String,
    metrics: Arc<Metrics>,
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    at: Option<Instant>,
    since: u64,
}

impl Intake {
    /// Of a pipeline; of none, for requests that name none.
    pub(crate) fn new(metrics: &Arc<Metrics>, pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            metrics: Arc::clone(metrics),
            logged: Mutex::default(),
        }
    }

    fn named(&self) -> Named {
        Named {
            pipeline: self.pipeline.clone(),
        }
    }

    pub(crate) fn stored(&self, written: Written) {
        let directed = Directed {
            pipeline: self.pipeline.clone(),
            direction: "reverse",
        };
        self.metrics
            .consumed
            .get_or_create(&directed)
            .inc_by(written.inserted);
        self.metrics
            .skipped
            .get_or_create(&self.named())
            .inc_by(written.duplicates);
    }

    pub(crate) fn filtered(&self) {
        self.metrics.filtered.get_or_create(&self.named()).inc();
    }

    /// A dead letter; `new` when it was none before.
    pub(crate) fn set_aside(&self, new: bool) {
        let family = if new {
            &self.metrics.dead_letters
        } else {
            &self.metrics.skipped
        };
        family.get_or_create(&self.named()).inc();
    }

    /// A batch could not be stored for now.
    pub(crate) fn failed(&self, reason: &str) {
        self.metrics.errors.get_or_create(&self.named()).inc();
        self.log(reason);
    }

    /// Requests that are received or stored.
    pub(crate) fn in_flight(&self, n: usize) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.in_flight.get_or_create(&self.named()).set(n);
    }

    /// A request was answered; with an error, the log has it now and then.
    pub(crate) fn answered(&self, code: u16, error: Option<&str>) {
        let answered = Answered {
            pipeline: self.pipeline.clone(),
            code,
        };
        self.metrics.webhook_requests.get_or_create(&answered).inc();
        if let Some(error) = error {
            self.log(&format!("answered {code}: {error}"));
        }
    }

    fn log(&self, text: &str) {
        let mut logged = self.logged.lock();
        if logged.at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            logged.since += 1;
            return;
        }
        let more = std::mem::take(&mut logged.since);
        logged.at = Some(Instant::now());
        drop(logged);
        if more == 0 {
            tracing::warn!(pipeline = self.pipeline, "webhook: {text}");
        } else {
            tracing::warn!(
                pipeline = self.pipeline,
                more,
                "webhook: {text} (and more since the last such line)"
            );
        }
    }
}
