//! What every reconciliation has at hand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;

use crate::crd::{Inbox, Outbox, Pipeline, TideDatabase};
use crate::database::Databases;
use crate::relay_deployment::{Applied, Children, PodMonitors};
use crate::resources::{Declared, Key};
use crate::runtime::events::Events;
use crate::runtime::metrics::Metrics;
use crate::runtime::queue::Queue;
use crate::secrets::Secrets;
use crate::status::Written;
use crate::stores::Objects;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Identity of the cluster, in claims.
    pub cluster: String,
    /// Image of relays that name none.
    pub relay_image: String,
    /// Its pull policy, when not the default.
    pub relay_image_pull_policy: Option<String>,
    /// Between two verifications of everything.
    pub resync: Duration,
    /// Whether NetworkPolicies are made for relays.
    pub network_policy: bool,
    /// The PodMonitors that are made for relays, if they are.
    pub pod_monitors: Option<PodMonitors>,
}

/// Resources whose deletion was seen.
#[derive(Debug, Default)]
pub struct Deleted(Mutex<HashSet<Key>>);

impl Deleted {
    /// A deletion was seen.
    pub fn add(&self, key: Key) {
        self.0.lock().insert(key);
    }

    /// It is there again, or what it claimed is collected.
    pub fn remove(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Whether it was.
    pub fn contains(&self, key: &Key) -> bool {
        self.0.lock().contains(key)
    }
}

/// The stores, the queue, the databases.
pub struct Context {
    /// Of the API.
    pub client: Client,
    /// Of the command line.
    pub settings: Settings,
    /// What is due.
    pub queue: Arc<Queue>,
    /// Declared.
    pub databases: Objects<TideDatabase>,
    /// Declared.
    pub outboxes: Objects<Outbox>,
    /// Declared.
    pub inboxes: Objects<Inbox>,
    /// Declared.
    pub pipelines: Objects<Pipeline>,
    /// Made by this operator.
    pub children: Children,
    /// By metadata, and read on demand.
    pub secrets: Secrets,
    /// Sessions.
    pub sessions: Databases,
    /// What was applied to Kubernetes.
    pub applied: Applied,
    /// When statuses were written.
    pub written: Written,
    /// Resources whose deletion was seen; what they claimed is collected.
    pub deleted: Deleted,
    /// For users.
    pub events: Events,
    /// For Prometheus.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Wants all resources of a database reconciled.
    pub fn wake_dependants(&self, database: &Key) {
        let of = |name: String| name == database.name;
        let namespace = &database.namespace;
        for outbox in self.outboxes.of(namespace, |o| of(o.database())) {
            self.queue.add(&outbox.key());
        }
        for inbox in self.inboxes.of(namespace, |i| of(i.database())) {
            self.queue.add(&inbox.key());
        }
        for pipeline in self.pipelines.of(namespace, |p| of(p.database())) {
            self.queue.add(&pipeline.key());
        }
    }
}
