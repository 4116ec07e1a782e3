//! Prometheus metrics, prefix `pg_tide_operator_`.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A kind and the outcome of a reconciliation: success, waiting, error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// As the API names the kind.
    pub kind: &'static str,
    /// How it ended.
    pub result: &'static str,
}

/// A kind alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    /// As the API names the kind.
    pub kind: &'static str,
}

/// A kind and a state: ready, `not_ready`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InState {
    /// As the API names the kind.
    pub kind: &'static str,
    /// What its condition Ready says.
    pub state: &'static str,
}

type Durations = Family<OfKind, Histogram, fn() -> Histogram>;

/// All metrics of an operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    durations: Durations,
    /// Keys that are due and wait for a worker.
    pub queue_depth: Gauge,
    /// Resources by what their condition Ready says.
    pub resources: Family<InState, Gauge>,
    /// Drift that was put right.
    pub repairs: Family<OfKind, Counter>,
    /// Statuses written.
    pub status_writes: Family<OfKind, Counter>,
    /// Sessions with databases that are open.
    pub databases_connected: Gauge,
    /// 1 while this operator has the lease.
    pub leader: Gauge,
}

/// From 1 ms to about 65 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("pg_tide_operator"),
            reconciles: Family::default(),
            durations: Family::new_with_constructor(buckets),
            queue_depth: Gauge::default(),
            resources: Family::default(),
            repairs: Family::default(),
            status_writes: Family::default(),
            databases_connected: Gauge::default(),
            leader: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "reconcile",
            "Reconciliations by kind and result",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time that a reconciliation took",
            metrics.durations.clone(),
        );
        registry.register(
            "queue_depth",
            "Resources that are due and wait for a worker",
            metrics.queue_depth.clone(),
        );
        registry.register(
            "resources",
            "Resources by kind and by what their condition Ready says",
            metrics.resources.clone(),
        );
        registry.register(
            "drift_repaired",
            "Drift that was put right",
            metrics.repairs.clone(),
        );
        registry.register("status_writes", "Statuses written", metrics.status_writes.clone());
        registry.register(
            "databases_connected",
            "Databases with an open session",
            metrics.databases_connected.clone(),
        );
        registry.register(
            "leader",
            "1 while this operator has the lease",
            metrics.leader.clone(),
        );
        registry.register(
            "build",
            "Version of the operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        metrics
    }
}

impl Metrics {
    /// A reconciliation ended.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { kind, result }).inc();
        self.durations
            .get_or_create(&OfKind { kind })
            .observe(took.as_secs_f64());
    }

    /// As Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
