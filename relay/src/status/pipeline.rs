//! One pipeline's state and counters, told to metrics, log and SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::metrics::{Directed, Metrics, Named};
use crate::config::PipelineSpec;
use crate::database::report::Report;

/// Microseconds since the Unix epoch.
pub(crate) fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    /// Waiting for the next attempt after a failure.
    Retrying,
    Stopped,
    /// Its configuration cannot be used.
    Misconfigured,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stopped => "stopped",
            Self::Misconfigured => "misconfigured",
        }
    }
}

#[derive(Debug, Clone)]
struct Current {
    state: State,
    since: i64,
    last_error: Option<(String, i64)>,
    note: Option<String>,
    source_position: Option<(Arc<str>, i64)>,
    source_lag: Option<i64>,
    speed: Speed,
}

/// Messages a second, smoothed over a few seconds.
#[derive(Debug, Clone, Copy)]
struct Speed {
    at: Instant,
    messages: i64,
    rate: f64,
}

impl Speed {
    /// Looks again after a second or more; rounded to tenths, so that a quiet
    /// pipeline comes to 0.
    fn look(&mut self, now: Instant, messages: i64) -> f32 {
        let elapsed = now.duration_since(self.at).as_secs_f64();
        if elapsed >= 1.0 {
            let current = (messages - self.messages) as f64 / elapsed;
            self.rate += (current - self.rate) * (1.0 - (-elapsed / 2.0).exp());
            if current == 0.0 && self.rate < 1.0 {
                self.rate = 0.0;
            }
            self.at = now;
            self.messages = messages;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a rate fits")]
        let rounded = ((self.rate * 10.0).round() / 10.0) as f32;
        rounded
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct PipelineStatus {
    pipeline_id: i32,
    name: String,
    epoch: i64,
    metrics: Arc<Metrics>,
    published: Counter,
    consumed: Counter,
    healthy: Gauge,
    errors: Counter,
    skipped: Counter,
    filtered: Counter,
    dead_letters: Counter,
    in_flight: Gauge,
    latency: Histogram,
    messages: AtomicI64,
    duplicates: AtomicI64,
    dead: AtomicI64,
    retries: AtomicI64,
    counted: AtomicBool,
    current: Mutex<Current>,
    reported: Mutex<Option<Report>>,
}

impl PipelineStatus {
    pub(crate) fn new(
        metrics: &Arc<Metrics>,
        id: i32,
        name: &str,
        direction: &'static str,
        epoch: i64,
    ) -> Self {
        let named = Named {
            pipeline: name.to_owned(),
        };
        let directed = Directed {
            pipeline: name.to_owned(),
            direction,
        };
        // A series exists only for the direction that the pipeline has.
        let (published, consumed) = if direction == "forward" {
            (
                metrics.published.get_or_create_owned(&directed),
                Counter::default(),
            )
        } else {
            (
                Counter::default(),
                metrics.consumed.get_or_create_owned(&directed),
            )
        };
        let latency = if direction == "forward" {
            metrics.latency.get_or_create_owned(&named)
        } else {
            Histogram::new([])
        };
        let status = Self {
            pipeline_id: id,
            name: name.to_owned(),
            epoch,
            published,
            consumed,
            healthy: metrics.healthy.get_or_create_owned(&named),
            errors: metrics.errors.get_or_create_owned(&named),
            skipped: metrics.skipped.get_or_create_owned(&named),
            filtered: metrics.filtered.get_or_create_owned(&named),
            dead_letters: metrics.dead_letters.get_or_create_owned(&named),
            in_flight: metrics.in_flight.get_or_create_owned(&named),
            latency,
            metrics: Arc::clone(metrics),
            messages: AtomicI64::new(0),
            duplicates: AtomicI64::new(0),
            dead: AtomicI64::new(0),
            retries: AtomicI64::new(0),
            counted: AtomicBool::new(false),
            current: Mutex::new(Current {
                state: State::Starting,
                since: 0,
                last_error: None,
                note: None,
                source_position: None,
                source_lag: None,
                speed: Speed {
                    at: Instant::now(),
                    messages: 0,
                    rate: 0.0,
                },
            }),
            reported: Mutex::new(None),
        };
        status.set(State::Starting);
        status
    }

    pub(crate) fn of(metrics: &Arc<Metrics>, spec: &PipelineSpec, epoch: i64) -> Self {
        Self::new(metrics, spec.id, &spec.name, spec.direction(), epoch)
    }

    pub(crate) fn set(&self, state: State) {
        let mut current = self.current.lock();
        if state == State::Starting && current.state == State::Retrying {
            // Still the same trouble until it runs again.
            return;
        }
        if current.state != state || current.since == 0 {
            current.state = state;
            current.since = now_micros() / 1000;
            tracing::info!(pipeline = self.name, "{}", state.name());
        }
        self.healthy.set(i64::from(state == State::Running));
    }

    pub(crate) fn failed(&self, state: State, error: &str) {
        {
            let mut current = self.current.lock();
            current.last_error = Some((error.to_owned(), now_micros() / 1000));
            if current.state != state {
                current.state = state;
                current.since = now_micros() / 1000;
            }
        }
        self.errors.inc();
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.healthy.set(0);
    }

    pub(crate) fn note(&self, note: Option<String>) {
        self.current.lock().note = note;
    }

    /// Where the last message stored lay in its source, and how many are known
    /// to wait there.
    pub(crate) fn source(&self, position: Option<(Arc<str>, i64)>, lag: Option<u64>) {
        let mut current = self.current.lock();
        if position.is_some() {
            current.source_position = position;
        }
        current.source_lag = lag.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        if let Some(lag) = current.source_lag {
            self.lag(lag, None);
        }
    }

    /// Messages not yet delivered and, when known, how long the oldest waits.
    pub(crate) fn lag(&self, messages: i64, seconds: Option<f64>) {
        let named = Named {
            pipeline: self.name.clone(),
        };
        self.metrics.lag.get_or_create(&named).set(messages);
        if let Some(seconds) = seconds {
            self.metrics.lag_seconds.get_or_create(&named).set(seconds);
        }
    }

    pub(crate) fn id(&self) -> i32 {
        self.pipeline_id
    }

    fn count(counter: &Counter, total: &AtomicI64, n: u64) {
        if n > 0 {
            counter.inc_by(n);
            total.fetch_add(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    pub(crate) fn published(&self, n: u64) {
        Self::count(&self.published, &self.messages, n);
    }

    pub(crate) fn consumed(&self, n: u64) {
        Self::count(&self.consumed, &self.messages, n);
    }

    pub(crate) fn skipped(&self, n: u64) {
        Self::count(&self.skipped, &self.duplicates, n);
    }

    /// Messages that the pipeline's filter does not take.
    pub(crate) fn filtered(&self, n: u64) {
        self.filtered.inc_by(n);
    }

    pub(crate) fn dead_lettered(&self, n: u64) {
        Self::count(&self.dead_letters, &self.dead, n);
    }

    /// What all relays together have counted of a pipeline that each of them
    /// serves; their metrics are their own.
    pub(crate) fn totals(&self, messages: i64, duplicates: i64, dead_letters: i64) {
        self.messages.store(messages, Ordering::Relaxed);
        self.duplicates.store(duplicates, Ordering::Relaxed);
        self.dead.store(dead_letters, Ordering::Relaxed);
        if !self.counted.swap(true, Ordering::Relaxed) {
            // What came before is no speed.
            self.current.lock().speed.messages = messages;
        }
    }

    pub(crate) fn in_flight(&self, n: usize) {
        self.in_flight.set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// Microseconds from insertion to acknowledgement.
    pub(crate) fn latency(&self, micros: i64) {
        self.latency.observe(micros.max(0) as f64 / 1e6);
    }

    /// The report to be written, when it differs from the last one taken.
    pub(crate) fn take_report(&self) -> Option<Report> {
        let messages = self.messages.load(Ordering::Relaxed);
        let (current, rate) = {
            let mut current = self.current.lock();
            let rate = current.speed.look(Instant::now(), messages);
            (current.clone(), rate)
        };
        let (last_error, last_error_at) = current.last_error.unzip();
        let report = Report {
            pipeline_id: self.pipeline_id,
            epoch: self.epoch,
            state: current.state.name(),
            state_since: current.since,
            messages,
            duplicates: self.duplicates.load(Ordering::Relaxed),
            dead_letters: self.dead.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            last_error,
            last_error_at,
            note: current.note,
            rate,
            source_position: current
                .source_position
                .map(|(stream, sequence)| format!("{stream} {sequence}")),
            source_lag: current.source_lag,
        };
        let mut reported = self.reported.lock();
        if reported.as_ref() == Some(&report) {
            return None;
        }
        *reported = Some(report.clone());
        Some(report)
    }

    /// A report that could not be written is due again.
    pub(crate) fn report_failed(&self) {
        *self.reported.lock() = None;
    }

    /// The pipeline is another relay's now: this one says nothing of it.
    pub(crate) fn forget(&self) {
        let named = Named {
            pipeline: self.name.clone(),
        };
        self.metrics.healthy.remove(&named);
        self.metrics.in_flight.remove(&named);
        self.metrics.lag.remove(&named);
        self.metrics.lag_seconds.remove(&named);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_rate_follows_and_comes_to_rest() {
        let start = Instant::now();
        let mut speed = Speed {
            at: start,
            messages: 0,
            rate: 0.0,
        };
        let mut rate = 0.0;
        for second in 1..=20 {
            rate = speed.look(
                start + Duration::from_secs(second),
                i64::try_from(second).unwrap() * 100,
            );
        }
        assert!((99.0..=100.0).contains(&rate), "{rate}");
        for second in 21..=60 {
            rate = speed.look(start + Duration::from_secs(second), 2_000);
        }
        assert!(rate.abs() < f32::EPSILON, "{rate}");
    }
}
