//! Deletion with `reclaimPolicy: Delete`: the data goes when nothing is lost by
//! it, and where that would take for ever, the resource goes and the data stays.

use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Keeps, belongs, database_of, finish};
use crate::context::Context;
use crate::database::{Problem, View};
use crate::reconcile::Outcome;
use crate::resources::Declared;
use crate::runtime::queue::Next;
use crate::sql::step::{Managed, Step};

/// Of a resource that asks for its data to be dropped.
pub const FINALIZER: &str = "pgtide.dev/drop-data";
/// With "true": the data is dropped although messages are pending.
pub const FORCE: &str = "pgtide.dev/force-delete";
/// After so long without a database the resource goes, and the data stays.
const GIVE_UP: Duration = Duration::from_mins(10);

/// Adds or takes away the finalizer; whether that was a change.
///
/// # Errors
/// What the API server refused.
pub async fn set_finalizer<K>(context: &Context, resource: &K, wanted: bool) -> Result<bool, kube::Error>
where
    K: Declared<Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let there = resource.finalizers().iter().any(|f| f == FINALIZER);
    if there == wanted {
        return Ok(false);
    }
    let mut finalizers: Vec<String> = resource.finalizers().to_vec();
    finalizers.retain(|f| f != FINALIZER);
    if wanted {
        finalizers.push(FINALIZER.into());
    }
    // With the version that was seen, so that no other one's finalizer is lost.
    let patch =
        json!({"metadata": {"finalizers": finalizers, "resourceVersion": resource.resource_version()}});
    let api = Api::<K>::namespaced(context.client.clone(), &resource.namespace().unwrap_or_default());
    match api
        .patch(
            &resource.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

/// What a deletion with `reclaimPolicy: Delete` comes to now.
#[derive(Debug)]
pub enum Farewell {
    /// The resource may go.
    Go,
    /// It waits.
    Wait(Problem),
}

/// Drops the data of a resource that is being deleted, or says what it waits
/// for. Where it would wait for ever, the data stays and the resource goes.
pub async fn drop_data<K: Declared>(
    context: &Context,
    resource: &K,
    managed: &Managed,
    drop: Step,
    users: impl FnOnce(&View) -> Vec<String>,
) -> Farewell {
    let keep = async |why: String| {
        let note = format!(
            "{} \"{}\" stays in the database: {why}",
            managed.kind.name(),
            managed.object
        );
        context
            .events
            .warning(resource, "DataRetained", "Delete", note)
            .await;
        Farewell::Go
    };
    let (database, view) = match database_of(context, resource) {
        Ok(found) => found,
        Err(problem) => {
            if problem.reason == "TideDatabaseNotFound" || namespace_ends(context, &managed.namespace).await {
                return keep(problem.message).await;
            }
            let since = resource.meta().deletion_timestamp.as_ref().map(|t| t.0);
            let waited = since.map_or(0, |since| Timestamp::now().as_second() - since.as_second());
            if u64::try_from(waited).is_ok_and(|waited| waited > GIVE_UP.as_secs()) {
                return keep(format!(
                    "it could not be dropped for {} minutes: {}",
                    waited / 60,
                    problem.message
                ))
                .await;
            }
            return Farewell::Wait(Problem::new(
                "DeletionWaitsForDatabase",
                format!(
                    "{}; after {} minutes the data is left there and the resource goes",
                    problem.message,
                    GIVE_UP.as_secs() / 60
                ),
            ));
        }
    };
    let Some(catalogue) = &view.catalogue else {
        return Farewell::Wait(Problem::new("Connecting", "the database is being connected"));
    };
    let claim = catalogue.claims.get(&(managed.kind, managed.object.clone()));
    if !claim.is_some_and(|claim| belongs(claim, managed) && !claim.released) {
        // Not ours: nothing to drop.
        return Farewell::Go;
    }
    let users = users(&view);
    if !users.is_empty() {
        if namespace_ends(context, &managed.namespace).await && database.age() > Duration::from_secs(20) {
            return keep(format!("pipelines still use it: {}", users.join(", "))).await;
        }
        return Farewell::Wait(Problem::new(
            "DeletionBlocked",
            format!("pipelines still use it: {}; delete them first", users.join(", ")),
        ));
    }
    let forced = resource.annotations().get(FORCE).map(String::as_str) == Some("true");
    let mut steps = Vec::new();
    if !forced {
        steps.push(Step::RefuseUnlessDrained(managed.kind, managed.object.clone()));
    }
    steps.push(drop);
    steps.push(Step::Release(managed.clone()));
    match database.apply(&resource.key(), &steps).await {
        Ok(_) => Farewell::Go,
        Err(error) => {
            if namespace_ends(context, &managed.namespace).await {
                return keep(error.to_string()).await;
            }
            Farewell::Wait(Problem::new("DeletionBlocked", error.to_string()))
        }
    }
}

/// Whether the namespace is being deleted.
async fn namespace_ends(context: &Context, namespace: &str) -> bool {
    Api::<Namespace>::all(context.client.clone())
        .get_opt(namespace)
        .await
        .is_ok_and(|found| found.is_none_or(|n| n.metadata.deletion_timestamp.is_some()))
}

/// A resource that is being deleted.
pub(super) async fn going<K: Keeps>(context: &Context, resource: &K, managed: &Managed) -> Outcome {
    if !resource.finalizers().iter().any(|f| f == FINALIZER) {
        return Outcome::done(Next::Await);
    }
    let users = |view: &View| {
        view.catalogue
            .as_ref()
            .map_or_else(Vec::new, |c| resource.users(c))
    };
    match drop_data(context, resource, managed, resource.dropping(), users).await {
        Farewell::Go => match set_finalizer(context, resource, false).await {
            Ok(_) => Outcome::done(Next::Await),
            Err(error) => Outcome::failed(error.to_string()),
        },
        Farewell::Wait(problem) => {
            let again = Next::After(Duration::from_secs(2));
            finish(context, resource, Err(problem), again).await
        }
    }
}
