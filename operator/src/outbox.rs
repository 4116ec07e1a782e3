//! An `Outbox`: the outbox in SQL, its consumer groups, and who may publish.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::context::Context;
use crate::crd::{Outbox, OutboxStatus, ReclaimPolicy};
use crate::database::{Problem, View};
use crate::runtime::conditions::{Finding, conditions};
use crate::sql::observe::{Catalogue, OutboxSeen, Right};
use crate::sql::step::{Group, Managed, ObjectKind, OutboxSettings, Step};
use crate::status::Difference;
use crate::store::{self, Keeps};

/// An outbox as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    managed: Managed,
    settings: OutboxSettings,
    enabled: bool,
    /// Names and where they begin.
    groups: Vec<(String, &'static str)>,
    rights: Vec<Right>,
}

fn validate(outbox: &Outbox, managed: Managed) -> Result<Wanted, Problem> {
    let retention_hours = outbox
        .spec
        .retention
        .hours()
        .map_err(|error| Problem::new("InvalidSpec", format!("spec.retention: {error}")))?;
    let right = |right: &str, roles: &[String]| -> Vec<Right> {
        roles
            .iter()
            .map(|role| Right {
                right: right.into(),
                role: role.clone(),
            })
            .collect()
    };
    Ok(Wanted {
        settings: OutboxSettings {
            name: managed.object.clone(),
            retention_hours,
        },
        managed,
        enabled: outbox.spec.enabled,
        groups: outbox
            .spec
            .consumer_groups
            .iter()
            .map(|g| (g.name.clone(), g.auto_offset_reset.as_str()))
            .collect(),
        rights: [
            right("publish", &outbox.spec.publishers),
            right("consume", &outbox.spec.consumers),
        ]
        .concat(),
    })
}

/// What must change.
#[must_use]
pub fn plan(wanted: &Wanted, catalogue: &Catalogue) -> Vec<Step> {
    let managed = &wanted.managed;
    let name = &managed.object;
    let claim = catalogue.claims.get(&(ObjectKind::Outbox, name.clone()));
    let seen = catalogue.outboxes.get(name);
    let nothing = OutboxSeen::default();
    let mut steps = Vec::new();
    if !store::is_held(claim, managed) {
        steps.push(Step::Claim(managed.clone()));
    }
    let known = seen.is_some_and(|o| !o.table.is_empty());
    match seen {
        None => steps.push(Step::MakeOutbox(wanted.settings.clone())),
        Some(outbox) if !outbox.faults.is_empty() => steps.push(Step::RepairOutbox(wanted.settings.clone())),
        Some(_) => {}
    }
    let seen = seen.unwrap_or(&nothing);
    if known && seen.retention_hours != i64::from(wanted.settings.retention_hours) {
        steps.push(Step::SetRetention(wanted.settings.clone()));
    }
    if (known && seen.enabled != wanted.enabled) || (!known && !wanted.enabled) {
        steps.push(Step::SwitchOutbox(name.clone(), wanted.enabled));
    }
    for (group, reset) in &wanted.groups {
        if !seen.groups.contains_key(group) {
            let group = Group {
                name: group.clone(),
                outbox: name.clone(),
            };
            steps.push(Step::MakeGroup(group, reset));
        }
    }
    let given = claim
        .filter(|claim| store::belongs(claim, managed))
        .map(|claim| claim.rights.clone())
        .unwrap_or_default();
    steps.extend(store::rights(
        ObjectKind::Outbox,
        managed,
        &wanted.rights,
        &seen.rights,
        &given,
    ));
    steps
}

impl Keeps for Outbox {
    const OBJECT: ObjectKind = ObjectKind::Outbox;
    type Status = OutboxStatus;

    fn managed(&self, context: &Context) -> Managed {
        let spec = &self.spec;
        store::managed(
            context,
            self,
            ObjectKind::Outbox,
            self.sql_name(),
            spec.reclaim_policy,
            spec.adoption_policy,
        )
    }

    fn drops_data(&self) -> bool {
        self.spec.reclaim_policy == ReclaimPolicy::Delete
    }

    fn steps(&self, managed: &Managed, catalogue: &Catalogue) -> Result<Vec<Step>, Problem> {
        Ok(plan(&validate(self, managed.clone())?, catalogue))
    }

    fn dropping(&self) -> Step {
        Step::DropOutbox(self.sql_name().to_owned())
    }

    fn users(&self, catalogue: &Catalogue) -> Vec<String> {
        let outbox = catalogue.outboxes.get(self.sql_name());
        outbox.map_or_else(Vec::new, |o| o.bound.values().cloned().collect())
    }

    fn observed_generation(&self) -> Option<i64> {
        self.status.as_ref().and_then(|s| s.observed_generation)
    }

    fn status(&self, found: &Result<Arc<View>, Problem>, now: Timestamp) -> (OutboxStatus, Difference) {
        let status = status(self, found, now);
        let difference = difference(self.status.as_ref(), &status);
        (status, difference)
    }
}

fn status(outbox: &Outbox, found: &Result<Arc<View>, Problem>, now: Timestamp) -> OutboxStatus {
    let before = outbox.status.clone().unwrap_or_default();
    let generation = outbox.meta().generation;
    let name = outbox.sql_name();
    let ready = match found {
        Ok(_) if !outbox.spec.enabled => Finding::new(
            "Ready",
            false,
            "Disabled",
            "spec.enabled is false: the outbox refuses messages",
        ),
        Ok(_) => Finding::new("Ready", true, "Ready", "messages can be published"),
        Err(problem) => problem.finding("Ready"),
    };
    let view = found.as_ref().ok();
    let seen = view
        .and_then(|v| v.catalogue.as_ref())
        .and_then(|c| c.outboxes.get(name));
    let amounts = view.and_then(|v| v.amounts.outboxes.get(name));
    OutboxStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, &[ready], generation, now),
        outbox_name: Some(name.to_owned()),
        table: seen.map(|o| format!("tide.\"{}\"", o.table)).or(before.table),
        pending: amounts.map(|a| a.0).or(before.pending),
        oldest_pending_at: match amounts {
            Some((_, oldest)) => oldest.map(Time),
            None => before.oldest_pending_at,
        },
    }
}

fn difference(before: Option<&OutboxStatus>, now: &OutboxStatus) -> Difference {
    let Some(before) = before else {
        return Difference::Material;
    };
    let still = |status: &OutboxStatus| OutboxStatus {
        pending: None,
        oldest_pending_at: None,
        ..status.clone()
    };
    if before == now {
        Difference::None
    } else if still(before) == still(now) && (before.pending == Some(0)) == (now.pending == Some(0)) {
        Difference::Figures
    } else {
        Difference::Material
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
