//! Prometheus metrics, prefix `pg_tide_relay_`.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Pipeline and direction, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Directed {
    pub(crate) pipeline: String,
    pub(crate) direction: &'static str,
}

/// A pipeline alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Named {
    pub(crate) pipeline: String,
}

/// What happened to a pipeline's ownership.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OwnershipEvent {
    pub(crate) event: &'static str,
}

/// Requests to a webhook pipeline, by what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Answered {
    pub(crate) pipeline: String,
    pub(crate) code: u16,
}

type LatencyFamily = Family<Named, Histogram, fn() -> Histogram>;

/// All metrics of a relay.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(super) published: Family<Directed, Counter>,
    pub(super) consumed: Family<Directed, Counter>,
    pub(super) healthy: Family<Named, Gauge>,
    pub(super) errors: Family<Named, Counter>,
    pub(super) skipped: Family<Named, Counter>,
    pub(super) filtered: Family<Named, Counter>,
    pub(super) dead_letters: Family<Named, Counter>,
    pub(super) in_flight: Family<Named, Gauge>,
    pub(super) latency: LatencyFamily,
    pub(super) lag: Family<Named, Gauge>,
    pub(super) lag_seconds: Family<Named, Gauge<f64, AtomicU64>>,
    pub(super) webhook_requests: Family<Answered, Counter>,
    pub(crate) owned: Gauge<i64, AtomicI64>,
    pub(crate) ownership_events: Family<OwnershipEvent, Counter>,
    pub(crate) checkpoint_errors: Counter,
    pub(crate) outbox_reads: Counter,
    pub(crate) outbox_reads_shared: Counter,
}

/// From 0.5 ms to about 65 s.
fn latency_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("pg_tide_relay");
        let metrics = Self {
            published: Family::default(),
            consumed: Family::default(),
            healthy: Family::default(),
            errors: Family::default(),
            skipped: Family::default(),
            filtered: Family::default(),
            dead_letters: Family::default(),
            in_flight: Family::default(),
            lag: Family::default(),
            lag_seconds: Family::default(),
            latency: Family::new_with_constructor(latency_buckets),
            webhook_requests: Family::default(),
            owned: Gauge::default(),
            ownership_events: Family::default(),
            checkpoint_errors: Counter::default(),
            outbox_reads: Counter::default(),
            outbox_reads_shared: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "messages_published",
            "Messages acknowledged by the sink",
            metrics.published.clone(),
        );
        registry.register(
            "messages_filtered",
            "Messages that the pipeline's filter does not take",
            metrics.filtered.clone(),
        );
        registry.register(
            "messages_consumed",
            "Messages stored in an inbox",
            metrics.consumed.clone(),
        );
        registry.register(
            "pipeline_healthy",
            "1 while the pipeline can deliver, else 0",
            metrics.healthy.clone(),
        );
        registry.register(
            "publish_errors",
            "Attempts that ended with an error",
            metrics.errors.clone(),
        );
        registry.register(
            "dedup_skipped",
            "Messages not sent or stored a second time",
            metrics.skipped.clone(),
        );
        registry.register(
            "dlq_entries_written",
            "Messages put into tide.dead_letter",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "inflight",
            "Messages sent and not yet settled",
            metrics.in_flight.clone(),
        );
        registry.register(
            "consumer_lag",
            "Messages that wait to be delivered or stored, looked at every few seconds",
            metrics.lag.clone(),
        );
        registry.register(
            "consumer_lag_seconds",
            "How long the oldest of them waits",
            metrics.lag_seconds.clone(),
        );
        registry.register(
            "delivery_latency_seconds",
            "From the insertion of a message to its acknowledgement by the sink",
            metrics.latency.clone(),
        );
        registry.register(
            "webhook_requests",
            "Requests to the listener for webhooks, by the status they were answered with; without a pipeline's name those that named none",
            metrics.webhook_requests.clone(),
        );
        registry.register(
            "owned_pipelines",
            "Pipelines that this relay owns",
            metrics.owned.clone(),
        );
        registry.register(
            "ownership_events",
            "Pipelines acquired, released and lost",
            metrics.ownership_events.clone(),
        );
        registry.register(
            "outbox_reads",
            "Queries for an outbox's new messages, backlogs aside",
            metrics.outbox_reads.clone(),
        );
        registry.register(
            "outbox_reads_shared",
            "Queries spared because another pipeline's was shared",
            metrics.outbox_reads_shared.clone(),
        );
        registry.register(
            "checkpoint_errors",
            "Checkpoints that could not be written",
            metrics.checkpoint_errors.clone(),
        );
        registry.register(
            "build",
            "The version that is running",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self { registry, ..metrics }
    }

    /// With a series of every metric, for the reference.
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let metrics = Self::new();
        let named = Named {
            pipeline: String::new(),
        };
        let directed = Directed {
            pipeline: String::new(),
            direction: "",
        };
        for family in [&metrics.published, &metrics.consumed] {
            drop(family.get_or_create(&directed));
        }
        for family in [
            &metrics.errors,
            &metrics.skipped,
            &metrics.filtered,
            &metrics.dead_letters,
        ] {
            drop(family.get_or_create(&named));
        }
        for family in [&metrics.healthy, &metrics.in_flight, &metrics.lag] {
            drop(family.get_or_create(&named));
        }
        drop(metrics.lag_seconds.get_or_create(&named));
        drop(metrics.latency.get_or_create(&named));
        metrics.ownership_event("");
        let answered = Answered {
            pipeline: String::new(),
            code: 200,
        };
        drop(metrics.webhook_requests.get_or_create(&answered));
        metrics
    }

    /// The text that a scrape gets.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn ownership_event(&self, event: &'static str) {
        self.ownership_events
            .get_or_create(&OwnershipEvent { event })
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_documented() {
        let metrics = Metrics::new();
        let directed = Directed {
            pipeline: "orders-to-kafka".into(),
            direction: "forward",
        };
        metrics.published.get_or_create(&directed).inc_by(3);
        metrics
            .healthy
            .get_or_create(&Named {
                pipeline: "orders-to-kafka".into(),
            })
            .set(1);
        let text = metrics.text();
        for line in [
            r#"pg_tide_relay_messages_published_total{pipeline="orders-to-kafka",direction="forward"} 3"#,
            r#"pg_tide_relay_pipeline_healthy{pipeline="orders-to-kafka"} 1"#,
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{text}");
        }
    }
}
