//! What outboxes and inboxes have in common: they keep messages, so they are
//! claimed, repaired, and let go only when nothing is lost by it.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use deletion::FORCE;

use crate::context::Context;
use crate::crd::{AdoptionPolicy, ReclaimPolicy};
use crate::database::{Database, Problem, View};
use crate::reconcile::Outcome;
use crate::resources::{Declared, Key};
use crate::runtime::metrics::OfKind;
use crate::runtime::queue::Next;
use crate::sql::change::{ChangeError, Claimed};
use crate::sql::observe::{Catalogue, Claim, Right};
use crate::sql::step::{Managed, ObjectKind, Step};
use crate::status::Difference;

mod deletion;

/// Who a resource is, for claims.
pub fn managed<K: Declared>(
    context: &Context,
    resource: &K,
    kind: ObjectKind,
    object: &str,
    reclaim: ReclaimPolicy,
    adoption: AdoptionPolicy,
) -> Managed {
    Managed {
        kind,
        object: object.to_owned(),
        cluster: context.settings.cluster.clone(),
        namespace: resource.namespace().unwrap_or_default(),
        resource: resource.name_any(),
        uid: resource.uid().unwrap_or_default(),
        reclaim: format!("{reclaim:?}"),
        adopt: adoption == AdoptionPolicy::Adopt,
    }
}

/// Whether the claim is this resource's, as it is now.
#[must_use]
pub fn is_held(claim: Option<&Claim>, managed: &Managed) -> bool {
    claim.is_some_and(|claim| {
        belongs(claim, managed)
            && !claim.released
            && claim.uid == managed.uid
            && claim.reclaim == managed.reclaim
    })
}

/// Whether the claim is this resource's, or of one of the same name before it.
#[must_use]
pub fn belongs(claim: &Claim, managed: &Managed) -> bool {
    claim.cluster == managed.cluster
        && claim.namespace == managed.namespace
        && claim.resource == managed.resource
}

/// The steps from the rights that are there to those that should be. Only
/// what this resource gave is taken back.
#[must_use]
pub fn rights(
    kind: ObjectKind,
    managed: &Managed,
    wanted: &[Right],
    there: &std::collections::BTreeSet<Right>,
    given: &std::collections::BTreeSet<Right>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for right in wanted.iter().filter(|right| !there.contains(right)) {
        steps.push(Step::Grant(kind, managed.object.clone(), right.clone()));
    }
    for right in given
        .iter()
        .filter(|right| !wanted.contains(right) && there.contains(right))
    {
        steps.push(Step::Revoke(kind, managed.object.clone(), right.clone()));
    }
    let unchanged = given.len() == wanted.len() && wanted.iter().all(|right| given.contains(right));
    if !unchanged {
        steps.push(Step::RememberRights(managed.clone(), wanted.to_vec()));
    }
    steps
}

/// The database of a resource, and what is seen in it.
///
/// # Errors
/// Why it cannot be worked with now.
pub fn database_of<K: Declared>(
    context: &Context,
    resource: &K,
) -> Result<(Arc<Database>, Arc<View>), Problem> {
    let key = resource.database_key();
    let declared = context.databases.get(&key.namespace, &key.name);
    let Some(database) = declared.and_then(|_| context.sessions.get(&key)) else {
        return Err(if context.databases.get(&key.namespace, &key.name).is_some() {
            Problem::new(
                "Connecting",
                format!("TideDatabase \"{}\" is being connected", key.name),
            )
        } else {
            Problem::new(
                "TideDatabaseNotFound",
                format!("TideDatabase \"{}\" does not exist in this namespace", key.name),
            )
        });
    };
    let view = database.view();
    if let Some(problem) = view.problem() {
        return Err(problem.clone());
    }
    if view.catalogue.is_none() {
        return Err(Problem::new(
            "Connecting",
            format!("TideDatabase \"{}\" is being connected", key.name),
        ));
    }
    Ok((database, view))
}

/// What became of steps.
#[derive(Debug)]
enum Applied {
    /// Done; what is seen of it comes with the next look.
    Done,
    /// Not to be done as things are.
    Stands(Problem),
    /// Worth another attempt.
    Fails(Problem),
}

/// Makes the changes, and tells the user what a status cannot.
async fn apply<K: Declared>(
    context: &Context,
    database: &Database,
    resource: &K,
    steps: &[Step],
    is_drift: bool,
) -> Applied {
    let key = resource.key();
    match database.apply(&key, steps).await {
        Ok(done) => {
            let mut words: Vec<String> = steps
                .iter()
                .filter(|step| !matches!(step, Step::Claim(_) | Step::RememberRights(..)))
                .map(ToString::to_string)
                .collect();
            words.extend(done.repaired);
            let words = words.join("; ");
            if is_drift && !words.is_empty() {
                context
                    .metrics
                    .repairs
                    .get_or_create(&OfKind { kind: K::KIND.name() })
                    .inc();
                context
                    .events
                    .normal(resource, "DriftRepaired", "Repair", words)
                    .await;
            } else {
                let (reason, action, note) = match done.claimed {
                    Some(Claimed::Adopted) => {
                        ("Adopted", "Adopt", format!("what was there was adopted. {words}"))
                    }
                    Some(Claimed::Returned) => (
                        "Returned",
                        "Adopt",
                        format!(
                            "what was kept when the {} of this name was deleted was taken back. {words}",
                            K::KIND.name()
                        ),
                    ),
                    _ => ("Applied", "Apply", words),
                };
                if !note.is_empty() {
                    context
                        .events
                        .normal(resource, reason, action, note.trim_end().to_owned())
                        .await;
                }
            }
            Applied::Done
        }
        Err(ChangeError::AlreadyExists(text)) => Applied::Stands(Problem::new("AlreadyExists", text)),
        Err(ChangeError::Conflict(text)) => Applied::Stands(Problem::new("Conflict", text)),
        Err(ChangeError::Refused(text)) => Applied::Stands(Problem::new("Refused", text)),
        Err(ChangeError::Failed(text)) => Applied::Fails(Problem::new("ApplyFailed", text)),
    }
}

/// Whether a resource was as it should be in this generation already, so that
/// what differs now is drift.
fn was_settled(
    generation: Option<i64>,
    observed: Option<i64>,
    claim: Option<&Claim>,
    managed: &Managed,
) -> bool {
    generation.is_some() && generation == observed && claim.is_some_and(|c| belongs(c, managed))
}

/// An outbox or inbox as a resource describes it.
pub trait Keeps:
    Declared<Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
    /// What it is in SQL.
    const OBJECT: ObjectKind;
    /// Its status.
    type Status: Serialize;

    /// Who claims what.
    fn managed(&self, context: &Context) -> Managed;
    /// Whether its data is dropped when it is deleted.
    fn drops_data(&self) -> bool;
    /// What must change.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn steps(&self, managed: &Managed, catalogue: &Catalogue) -> Result<Vec<Step>, Problem>;
    /// Drops it with its data.
    fn dropping(&self) -> Step;
    /// Pipelines that use it.
    fn users(&self, catalogue: &Catalogue) -> Vec<String>;
    /// The generation that its status is about.
    fn observed_generation(&self) -> Option<i64>;
    /// The status that is true, and how much it differs from the one there.
    fn status(&self, found: &Result<Arc<View>, Problem>, now: Timestamp) -> (Self::Status, Difference);
}

/// Makes everything be as the resource says, as far as that can be done now.
pub async fn reconcile<K: Keeps>(context: &Context, key: &Key, resource: Option<Arc<K>>) -> Outcome {
    let Some(resource) = resource else {
        context.written.forget(key);
        // What it claimed is let go by its database.
        for database in context.databases.of(&key.namespace, |_| true) {
            context.queue.add(&database.key());
        }
        return Outcome::done(Next::Await);
    };
    let managed = resource.managed(context);
    if resource.deleting() {
        return deletion::going(context, &*resource, &managed).await;
    }
    match deletion::set_finalizer(context, &*resource, resource.drops_data()).await {
        Ok(false) => {}
        // The watch brings it back with the change.
        Ok(true) => return Outcome::done(Next::Await),
        Err(error) => return Outcome::failed(error.to_string()),
    }
    match settle(context, &*resource, &managed).await {
        // Changes were made; the look that follows comes back here.
        Settled::Changed => Outcome::done(Next::Await),
        Settled::As(view) => finish(context, &*resource, Ok(view), Next::Await).await,
        Settled::Not(problem, next) => finish(context, &*resource, Err(problem), next).await,
    }
}

/// Where a resource stands after what could be done.
#[derive(Debug)]
pub enum Settled {
    /// Changes were made, and are not seen yet.
    Changed,
    /// All is as it should be, by this view.
    As(Arc<View>),
    /// Something stands in the way.
    Not(Problem, Next),
}

/// Makes the changes, if there are any. `observed` is the generation that the
/// resource's status is about.
pub async fn bring_about<K: Declared>(
    context: &Context,
    database: &Database,
    view: Arc<View>,
    resource: &K,
    managed: &Managed,
    steps: &[Step],
    observed: Option<i64>,
) -> Settled {
    if steps.is_empty() {
        return Settled::As(view);
    }
    let claims = view.catalogue.as_ref().map(|catalogue| &catalogue.claims);
    let claim = claims.and_then(|claims| claims.get(&(managed.kind, managed.object.clone())));
    let drift = was_settled(resource.meta().generation, observed, claim, managed);
    match apply(context, database, resource, steps, drift).await {
        Applied::Done => Settled::Changed,
        Applied::Stands(problem) => Settled::Not(problem, Next::Await),
        Applied::Fails(problem) => Settled::Not(problem, Next::Retry),
    }
}

async fn settle<K: Keeps>(context: &Context, resource: &K, managed: &Managed) -> Settled {
    let (database, view) = match database_of(context, resource) {
        Ok(found) => found,
        Err(problem) => return Settled::Not(problem, Next::Await),
    };
    if !database.has_seen_changes_of(&resource.key(), &view) {
        return Settled::Changed;
    }
    let Some(catalogue) = &view.catalogue else {
        return Settled::Changed;
    };
    let steps = match resource.steps(managed, catalogue) {
        Ok(steps) => steps,
        Err(problem) => return Settled::Not(problem, Next::Await),
    };
    let observed = resource.observed_generation();
    bring_about(context, &database, view, resource, managed, &steps, observed).await
}

async fn finish<K: Keeps>(
    context: &Context,
    resource: &K,
    found: Result<Arc<View>, Problem>,
    next: Next,
) -> Outcome {
    let (status, difference) = resource.status(&found, Timestamp::now());
    if let Err(problem) = &found {
        warn_of(context, resource, problem, difference).await;
    }
    match crate::status::write(context, resource, &status, difference).await {
        Ok(Some(pause)) if next == Next::Await => Outcome::done(Next::After(pause)),
        Ok(_) => Outcome::done(next),
        Err(error) => Outcome::failed(error.to_string()),
    }
}

/// An event for what somebody must do something about, when it is new.
pub async fn warn_of<K: Declared>(
    context: &Context,
    resource: &K,
    problem: &Problem,
    difference: Difference,
) {
    let worth = ["Conflict", "AlreadyExists", "Refused", "DeletionBlocked"];
    if difference == Difference::Material && worth.contains(&problem.reason) {
        context
            .events
            .warning(resource, problem.reason, "Apply", problem.message.clone())
            .await;
    }
}
