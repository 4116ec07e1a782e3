//! The status of a `TideDatabase`.

use std::collections::HashMap;

use jiff::Timestamp;
use kube::Resource;

use super::{Problem, View};
use crate::crd::{RelayGroupStatus, TideDatabase, TideDatabaseStatus};
use crate::runtime::conditions::{Finding, Is, conditions};
use crate::status::Difference;

/// What a reconciliation found out besides the view.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Why the operator's own Secret cannot be had.
    pub secret: Option<Problem>,
    /// Why the relays' Secret cannot be had.
    pub relay_secret: Option<Problem>,
    /// Why something could not be made in Kubernetes.
    pub apply: Option<Problem>,
    /// The groups.
    pub groups: Vec<GroupFacts>,
}

/// A group in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its id.
    pub id: String,
    /// Pods that are wanted.
    pub wanted: i32,
    /// Pods that are ready.
    pub ready: i32,
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Whether a problem is not what the status said before.
#[must_use]
pub fn is_new(before: Option<&TideDatabaseStatus>, problem: &Problem) -> bool {
    let mut conditions = before.iter().flat_map(|status| &status.conditions);
    problem.reason != "Connecting" && !conditions.any(|c| c.type_ == "Ready" && c.reason == problem.reason)
}

/// The status that is true now.
#[must_use]
pub fn of(resource: &TideDatabase, view: &View, facts: &Facts, now: Timestamp) -> TideDatabaseStatus {
    let before = resource.status.clone().unwrap_or_default();
    let mut pipelines: HashMap<&str, usize> = HashMap::new();
    if let Some(catalogue) = &view.catalogue {
        for pipeline in catalogue.pipelines.values() {
            *pipelines.entry(&pipeline.relay_group).or_default() += 1;
        }
    }
    let connected = view.problem().is_none();
    let relay_groups: Vec<RelayGroupStatus> = facts
        .groups
        .iter()
        .map(|group| RelayGroupStatus {
            id: group.id.clone(),
            replicas: group.wanted,
            ready_replicas: group.ready,
            live_relays: view
                .reports
                .relays
                .get(&group.id)
                .map_or(0, |live| count(live.len())),
            pipelines: match before.relay_groups.iter().find(|g| g.id == group.id) {
                Some(before) if !connected => before.pipelines,
                _ => pipelines.get(group.id.as_str()).map_or(0, |n| count(*n)),
            },
        })
        .collect();
    let live: i32 = relay_groups.iter().map(|g| g.live_relays).sum();
    let wanted: i32 = relay_groups.iter().map(|g| g.replicas).sum();

    let reachable = reachable(view, facts);
    let schema = schema(view);
    let relays = relays(view, facts, &relay_groups);
    let ready = ready(facts, &[&reachable, &schema, &relays]);
    let generation = resource.meta().generation;
    TideDatabaseStatus {
        observed_generation: generation,
        conditions: conditions(
            &before.conditions,
            &[ready, reachable, schema, relays],
            generation,
            now,
        ),
        schema_version: view.schema.as_ref().map(|s| s.version),
        schema_release: view.schema.as_ref().map(|s| s.release.clone()),
        server_version: view.schema.as_ref().map(|s| s.server.clone()),
        address: view.address.clone().or(before.address),
        relays: Some(format!("{live}/{wanted}")),
        relay_groups,
    }
}

fn reachable(view: &View, facts: &Facts) -> Finding {
    let about = "DatabaseReachable";
    match (&view.disconnected, &facts.secret) {
        (Some(_), Some(secret)) => Finding::new(about, false, secret.reason, secret.message.clone()),
        (Some(problem), None) => problem.finding(about),
        (None, _) => Finding::new(
            about,
            true,
            "Connected",
            "the operator has a session with the database",
        ),
    }
}

fn schema(view: &View) -> Finding {
    let about = "SchemaApplied";
    match (&view.disconnected, &view.unusable, &view.schema) {
        (None, Some(problem), _) => Finding::new(about, false, problem.reason, problem.message.clone()),
        (None, None, Some(schema)) => Finding::new(
            about,
            true,
            "UpToDate",
            format!(
                "schema tide has version {} (release {})",
                schema.version, schema.release
            ),
        ),
        (Some(_), _, _) | (None, None, None) => Finding::new(
            about,
            Is::Unknown,
            "DatabaseUnreachable",
            "it is seen when the database can be reached",
        ),
    }
}

fn relays(view: &View, facts: &Facts, groups: &[RelayGroupStatus]) -> Finding {
    let about = "RelayAvailable";
    if let Some(problem) = facts.apply.as_ref().or(facts.relay_secret.as_ref()) {
        return Finding::new(about, false, problem.reason, problem.message.clone());
    }
    if view.problem().is_some() {
        return Finding::new(
            about,
            Is::Unknown,
            "DatabaseUnreachable",
            "relays report to the database, which cannot be asked",
        );
    }
    let without: Vec<String> = groups
        .iter()
        .filter(|g| g.live_relays == 0)
        .map(|g| format!("{} ({} of {} pods ready)", g.id, g.ready_replicas, g.replicas))
        .collect();
    if without.is_empty() {
        Finding::new(
            about,
            true,
            "Live",
            "every relay group has a relay that reports to the database",
        )
    } else if groups.iter().all(|g| g.live_relays > 0 || g.replicas == 0) {
        Finding::new(
            about,
            false,
            "ScaledToZero",
            format!(
                "relay groups without relays, as spec.relayGroups says: {}",
                without.join(", ")
            ),
        )
    } else {
        Finding::new(
            about,
            false,
            "NoLiveRelay",
            format!(
                "relay groups without a relay that reports to the database: {}",
                without.join(", ")
            ),
        )
    }
}

/// Ready when everything is; else the first that is not says why.
fn ready(facts: &Facts, parts: &[&Finding]) -> Finding {
    if let Some(part) = parts.iter().find(|part| part.is != Is::True) {
        let is = if part.is == Is::Unknown {
            Is::Unknown
        } else {
            Is::False
        };
        return Finding::new("Ready", is, part.reason, part.message.clone());
    }
    if let Some(secret) = &facts.secret {
        return Finding::new(
            "Ready",
            false,
            secret.reason,
            format!(
                "{}; what is connected goes on, nothing new can connect",
                secret.message
            ),
        );
    }
    Finding::new(
        "Ready",
        true,
        "Ready",
        "the database answers, and every relay group has a live relay",
    )
}

/// How much it differs from the status that is there.
#[must_use]
pub fn difference(before: Option<&TideDatabaseStatus>, now: &TideDatabaseStatus) -> Difference {
    let Some(before) = before else {
        return Difference::Material;
    };
    if before == now {
        return Difference::None;
    }
    let without_figures = |status: &TideDatabaseStatus| {
        let mut status = status.clone();
        for group in &mut status.relay_groups {
            group.pipelines = 0;
        }
        status
    };
    if without_figures(before) == without_figures(now) {
        Difference::Figures
    } else {
        Difference::Material
    }
}
