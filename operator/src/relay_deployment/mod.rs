//! The relays of one group of a `TideDatabase`: what is made for them in
//! Kubernetes. Built as a list, one file per object, then applied in one loop.

mod apply;
mod deployment;
mod network_policy;
mod pod_disruption_budget;
mod pod_monitor;
mod secret;
mod service;
mod service_account;

pub use apply::{Applied, ApplyError, Change, Children, namespace_ends};
pub use pod_monitor::PodMonitors;
pub use secret::SOURCES_ANNOTATION;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crd::{RelayGroup, TideDatabaseSpec};

/// Label of everything made here: name of the `TideDatabase`.
pub const DATABASE_LABEL: &str = "pgtide.dev/database";
/// Label of everything made here: id of the relay group.
pub const GROUP_LABEL: &str = "pgtide.dev/relay-group";
/// Port of `/metrics` and the probes.
const METRICS_PORT: i32 = 9090;

/// Longest name: a Service's is a DNS label, and a pod's adds 17 characters to
/// its Deployment's.
const LONGEST_NAME: usize = 45;

/// Kinds of objects that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    /// Without any rights.
    ServiceAccount,
    /// What is mounted into the relays.
    Secret,
    /// The relays.
    Deployment,
    /// For metrics and webhooks.
    Service,
    /// One relay at a time.
    PodDisruptionBudget,
    /// Who may connect to relays.
    NetworkPolicy,
    /// For the Prometheus operator.
    PodMonitor,
}

/// An object to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub body: Value,
}

/// What the objects of one group are built from.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Name of the `TideDatabase`.
    pub database: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its spec.
    pub spec: &'a TideDatabaseSpec,
    /// The group.
    pub group: &'a RelayGroup,
    /// Where the database is, without secrets.
    pub address: String,
    /// Owner of everything.
    pub owner: OwnerReference,
    /// Image unless the group names one.
    pub image: &'a str,
    /// Pull policy, when not the default.
    pub image_pull_policy: Option<&'a str>,
    /// What is mounted: file names and contents.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether relays get a NetworkPolicy.
    pub network_policy: bool,
    /// The relays' PodMonitor, when they get one.
    pub pod_monitors: Option<&'a PodMonitors>,
}

/// Name of everything that is made for a group.
#[must_use]
pub fn name(database: &str, group: &str) -> String {
    let whole = format!("{database}-relay-{group}");
    if whole.len() <= LONGEST_NAME && !database.contains('.') {
        return whole;
    }
    // Cut names are told apart by a piece of the digest of the whole.
    let digest = Sha256::digest(format!("{database}/{group}").as_bytes());
    let tail = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let head: String = whole.replace('.', "-").chars().take(LONGEST_NAME - 9).collect();
    format!("{}-{tail:08x}", head.trim_end_matches('-'))
}

/// All objects of a group, in the order in which they are made.
#[must_use]
pub fn children(plan: &Plan<'_>) -> Vec<Child> {
    let mut children = vec![
        service_account::build(plan),
        secret::build(plan),
        deployment::build(plan),
        service::build(plan),
        pod_disruption_budget::build(plan),
    ];
    if plan.network_policy {
        children.push(network_policy::build(plan));
    }
    if let Some(monitors) = plan.pod_monitors {
        children.push(pod_monitor::build(plan, monitors));
    }
    children
}

impl Plan<'_> {
    fn name(&self) -> String {
        name(self.database, &self.group.id)
    }

    /// Labels by which pods are found; they never change.
    fn selector(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "pg-tide-relay",
            DATABASE_LABEL: self.database,
            GROUP_LABEL: self.group.id,
        })
    }

    fn labels(&self) -> Value {
        let mut labels = self.selector();
        labels["app.kubernetes.io/component"] = "relay".into();
        labels["app.kubernetes.io/part-of"] = "pg-tide".into();
        labels["app.kubernetes.io/managed-by"] = "pg-tide-operator".into();
        labels
    }

    fn metadata(&self) -> Value {
        json!({
            "name": self.name(),
            "namespace": self.namespace,
            "labels": self.labels(),
            "ownerReferences": [self.owner],
        })
    }

    fn child(&self, kind: ChildKind, body: Value) -> Child {
        Child {
            kind,
            name: self.name(),
            body,
        }
    }

    /// The port of webhooks that are received, when there is one.
    fn webhook_port(&self) -> Option<i32> {
        self.group.webhook.filter(|w| w.enabled).map(|w| w.port)
    }
}

#[cfg(test)]
mod tests;
