//! An `Inbox`: the inbox in SQL, and who may process it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::context::Context;
use crate::crd::{Inbox, InboxStatus, ReclaimPolicy};
use crate::database::{Problem, View};
use crate::runtime::conditions::{Finding, conditions};
use crate::sql::observe::{Catalogue, InboxSeen, Right};
use crate::sql::step::{InboxSettings, Managed, ObjectKind, Step};
use crate::status::Difference;
use crate::store::{self, Keeps};

/// An inbox as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    managed: Managed,
    settings: InboxSettings,
    rights: Vec<Right>,
}

fn validate(inbox: &Inbox, managed: Managed) -> Result<Wanted, Problem> {
    let hours = |field: &str, retention: &crate::crd::Retention| {
        retention
            .hours()
            .map_err(|error| Problem::new("InvalidSpec", format!("spec.{field}: {error}")))
    };
    Ok(Wanted {
        settings: InboxSettings {
            name: managed.object.clone(),
            max_retries: inbox.spec.max_retries,
            processed_retention_hours: hours("processedRetention", &inbox.spec.processed_retention)?,
            dead_letter_retention_hours: hours("deadLetterRetention", &inbox.spec.dead_letter_retention)?,
        },
        managed,
        rights: inbox
            .spec
            .processors
            .iter()
            .map(|role| Right {
                right: "process".into(),
                role: role.clone(),
            })
            .collect(),
    })
}

/// What must change.
#[must_use]
pub fn plan(wanted: &Wanted, catalogue: &Catalogue) -> Vec<Step> {
    let managed = &wanted.managed;
    let claim = catalogue.claims.get(&(ObjectKind::Inbox, managed.object.clone()));
    let seen = catalogue.inboxes.get(&managed.object);
    let settings = &wanted.settings;
    let mut steps = Vec::new();
    if !store::is_held(claim, managed) {
        steps.push(Step::Claim(managed.clone()));
    }
    match seen {
        None => steps.push(Step::MakeInbox(settings.clone())),
        Some(inbox) => {
            if !inbox.faults.is_empty() {
                steps.push(Step::RepairInbox(settings.clone()));
            }
            if !inbox.table.is_empty() && settings_of(&settings.name, inbox) != *settings {
                steps.push(Step::SetInbox(settings.clone()));
            }
        }
    }
    let nothing = InboxSeen::default();
    let given = claim
        .filter(|claim| store::belongs(claim, managed))
        .map(|claim| claim.rights.clone())
        .unwrap_or_default();
    steps.extend(store::rights(
        ObjectKind::Inbox,
        managed,
        &wanted.rights,
        &seen.unwrap_or(&nothing).rights,
        &given,
    ));
    steps
}

fn settings_of(name: &str, inbox: &InboxSeen) -> InboxSettings {
    let hours = |hours: i64| i32::try_from(hours).unwrap_or(i32::MAX);
    InboxSettings {
        name: name.to_owned(),
        max_retries: inbox.max_retries,
        processed_retention_hours: hours(inbox.processed_retention_hours),
        dead_letter_retention_hours: inbox.dead_letter_retention_hours.map_or(0, hours),
    }
}

impl Keeps for Inbox {
    const OBJECT: ObjectKind = ObjectKind::Inbox;
    type Status = InboxStatus;

    fn managed(&self, context: &Context) -> Managed {
        let spec = &self.spec;
        store::managed(
            context,
            self,
            ObjectKind::Inbox,
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
        Step::DropInbox(self.sql_name().to_owned())
    }

    fn users(&self, catalogue: &Catalogue) -> Vec<String> {
        let mut users: Vec<String> = catalogue
            .pipelines
            .iter()
            .filter(|(_, p)| p.inbox.as_deref() == Some(self.sql_name()))
            .map(|(name, _)| name.clone())
            .collect();
        users.sort();
        users
    }

    fn observed_generation(&self) -> Option<i64> {
        self.status.as_ref().and_then(|s| s.observed_generation)
    }

    fn status(&self, found: &Result<Arc<View>, Problem>, now: Timestamp) -> (InboxStatus, Difference) {
        let status = status(self, found, now);
        let difference = difference(self.status.as_ref(), &status);
        (status, difference)
    }
}

fn status(inbox: &Inbox, found: &Result<Arc<View>, Problem>, now: Timestamp) -> InboxStatus {
    let before = inbox.status.clone().unwrap_or_default();
    let generation = inbox.meta().generation;
    let name = inbox.sql_name();
    let ready = match found {
        Ok(_) => Finding::new("Ready", true, "Ready", "messages can be stored and processed"),
        Err(problem) => problem.finding("Ready"),
    };
    let view = found.as_ref().ok();
    let seen = view
        .and_then(|v| v.catalogue.as_ref())
        .and_then(|c| c.inboxes.get(name));
    let amounts = view.and_then(|v| v.amounts.inboxes.get(name));
    InboxStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, &[ready], generation, now),
        inbox_name: Some(name.to_owned()),
        table: seen.map(|i| format!("tide.\"{}\"", i.table)).or(before.table),
        pending: amounts.map(|a| a.pending).or(before.pending),
        oldest_pending_at: match amounts {
            Some(a) => a.oldest_pending_at.map(Time),
            None => before.oldest_pending_at,
        },
        processed: amounts.map(|a| a.processed).or(before.processed),
        dead_letters: amounts.map(|a| a.dead_letters).or(before.dead_letters),
    }
}

fn difference(before: Option<&InboxStatus>, now: &InboxStatus) -> Difference {
    let Some(before) = before else {
        return Difference::Material;
    };
    let still = |status: &InboxStatus| InboxStatus {
        pending: None,
        oldest_pending_at: None,
        processed: None,
        ..status.clone()
    };
    if before == now {
        Difference::None
    } else if still(before) == still(now) {
        Difference::Figures
    } else {
        Difference::Material
    }
}
