//! What becomes of claims whose resource is gone.

use std::sync::Arc;
use std::time::Duration;

use super::{Database, View};
use crate::context::Context;
use crate::resources::{Key, Kind};
use crate::sql::observe::{Catalogue, Claim};
use crate::sql::step::{Group, Managed, ObjectKind, Step};

/// For how long a claim whose resource was never seen is left alone: the
/// resources of a database may be on their way.
const GRACE: Duration = Duration::from_secs(30);

/// The resource of a claim.
#[must_use]
pub fn resource_of(kind: ObjectKind, claim: &Claim) -> Key {
    let kind = match kind {
        ObjectKind::Outbox => Kind::Outbox,
        ObjectKind::Inbox => Kind::Inbox,
        ObjectKind::Pipeline => Kind::Pipeline,
    };
    Key::new(kind, &claim.namespace, &claim.resource)
}

/// A claim that nothing stands behind any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// What is claimed.
    pub kind: ObjectKind,
    /// Its name.
    pub object: String,
    /// By whom.
    pub claim: Claim,
}

/// Claims of resources of this namespace that `wants` knows no resource for.
/// `wants` tells which object a resource is about, none when it is not there.
pub fn orphans(
    catalogue: &Catalogue,
    cluster: &str,
    namespace: &str,
    wants: impl Fn(&Key) -> Option<String>,
) -> Vec<Orphan> {
    let mut found: Vec<Orphan> = catalogue
        .claims
        .iter()
        .filter(|(_, claim)| claim.cluster == cluster && claim.namespace == namespace && !claim.released)
        .filter(|((kind, object), claim)| wants(&resource_of(*kind, claim)).as_ref() != Some(object))
        .map(|((kind, object), claim)| Orphan {
            kind: *kind,
            object: object.clone(),
            claim: claim.clone(),
        })
        .collect();
    // Pipelines before what they use.
    found.sort_by(|a, b| (b.kind, &a.object).cmp(&(a.kind, &b.object)));
    found
}

/// What is done about one. Data is never dropped here: a resource that asks
/// for that has a finalizer, and is not gone before it is done.
#[must_use]
pub fn steps(orphan: &Orphan, catalogue: &Catalogue, declared: impl Fn(&str, &str) -> bool) -> Vec<Step> {
    let managed = Managed {
        kind: orphan.kind,
        object: orphan.object.clone(),
        cluster: orphan.claim.cluster.clone(),
        namespace: orphan.claim.namespace.clone(),
        resource: orphan.claim.resource.clone(),
        uid: orphan.claim.uid.clone(),
        reclaim: orphan.claim.reclaim.clone(),
        adopt: false,
    };
    let mut steps = Vec::new();
    if orphan.kind == ObjectKind::Pipeline
        && let Some(pipeline) = catalogue.pipelines.get(&orphan.object)
    {
        steps.push(Step::DeletePipeline(orphan.object.clone()));
        if let (Some(outbox), Some(group)) = (&pipeline.outbox, &pipeline.consumer_group)
            && orphan.claim.reclaim == "Delete"
            && !declared(outbox, group)
        {
            steps.push(Step::DropGroup(Group {
                name: group.clone(),
                outbox: outbox.clone(),
            }));
        }
    }
    steps.push(Step::Release(managed));
    steps
}

/// Collects what can be; says in how long to come back, if something is left.
pub async fn collect(context: &Arc<Context>, database: &Database, view: &View) -> Option<Duration> {
    let catalogue = view.catalogue.as_ref()?;
    let namespace = &database.key.namespace;
    let wants = |key: &Key| match key.kind {
        Kind::Outbox => context
            .outboxes
            .get(&key.namespace, &key.name)
            .map(|o| o.sql_name().to_owned()),
        Kind::Inbox => context
            .inboxes
            .get(&key.namespace, &key.name)
            .map(|i| i.sql_name().to_owned()),
        Kind::Pipeline => context
            .pipelines
            .get(&key.namespace, &key.name)
            .map(|p| p.sql_name().to_owned()),
        Kind::TideDatabase => None,
    };
    let declared = |outbox: &str, group: &str| {
        !context
            .outboxes
            .of(namespace, |o| {
                o.sql_name() == outbox && o.spec.consumer_groups.iter().any(|g| g.name == group)
            })
            .is_empty()
    };
    let mut later = None;
    for orphan in orphans(catalogue, &context.settings.cluster, namespace, wants) {
        let resource = resource_of(orphan.kind, &orphan.claim);
        let seen = context.deleted.contains(&resource) || wants(&resource).is_some();
        if !seen && database.age() < GRACE {
            later = Some(GRACE.saturating_sub(database.age()) + Duration::from_secs(1));
            continue;
        }
        let steps = steps(&orphan, catalogue, declared);
        match database.apply(&resource, &steps).await {
            Ok(_) => {
                context.deleted.remove(&resource);
                let done: Vec<String> = steps.iter().map(ToString::to_string).collect();
                tracing::info!(%resource, "the resource is gone: {}", done.join("; "));
            }
            Err(error) => {
                tracing::warn!(%resource, "what the resource made could not be let go: {error}");
                later = Some(Duration::from_secs(5));
            }
        }
    }
    later
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sql::observe::PipelineSeen;

    fn claim(resource: &str, reclaim: &str) -> Claim {
        Claim {
            cluster: "c".into(),
            namespace: "shop".into(),
            resource: resource.into(),
            uid: "u".into(),
            reclaim: reclaim.into(),
            rights: BTreeSet::new(),
            released: false,
        }
    }

    fn catalogue() -> Catalogue {
        let mut seen = Catalogue::default();
        for (kind, object, claim) in [
            (ObjectKind::Outbox, "orders", claim("orders", "Retain")),
            (ObjectKind::Pipeline, "a", claim("a", "Retain")),
            (ObjectKind::Pipeline, "b", claim("b", "Delete")),
        ] {
            seen.claims.insert((kind, object.into()), claim);
        }
        for name in ["a", "b"] {
            seen.pipelines.insert(
                name.into(),
                PipelineSeen {
                    outbox: Some("orders".into()),
                    inbox: None,
                    connector: "kafka".into(),
                    consumer_group: Some(name.into()),
                    config: serde_json::Value::Null,
                    batch_size: 100,
                    enabled: true,
                    relay_group: "default".into(),
                    max_retries: 3,
                    idempotent: true,
                },
            );
        }
        seen
    }

    #[test]
    fn only_claims_of_this_cluster_and_namespace_without_a_resource_are_orphans() {
        let mut seen = catalogue();
        let mut foreign = claim("z", "Delete");
        foreign.cluster = "other".into();
        seen.claims.insert((ObjectKind::Inbox, "z".into()), foreign);
        let mut released = claim("y", "Retain");
        released.released = true;
        seen.claims.insert((ObjectKind::Inbox, "y".into()), released);
        let wants = |key: &Key| (key.name == "a").then(|| "a".to_owned());
        let found = orphans(&seen, "c", "shop", wants);
        let names: Vec<&str> = found.iter().map(|o| o.object.as_str()).collect();
        assert_eq!(names, ["b", "orders"], "pipelines first");
        assert!(orphans(&seen, "c", "elsewhere", wants).is_empty());
    }

    #[test]
    fn a_resource_that_is_about_another_object_now_lets_the_old_one_go() {
        let found = orphans(&catalogue(), "c", "shop", |key| Some(format!("{}-new", key.name)));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_group_goes_only_when_that_was_asked_for_and_nobody_declares_it() {
        let seen = catalogue();
        let orphan = |name: &str| {
            orphans(&seen, "c", "shop", |_| None)
                .into_iter()
                .find(|o| o.object == name)
                .unwrap_or_else(|| panic!("no orphan {name}"))
        };
        let drops = |name: &str, declared: bool| {
            steps(&orphan(name), &seen, |_, _| declared)
                .iter()
                .any(|s| matches!(s, Step::DropGroup(_)))
        };
        assert!(!drops("a", false));
        assert!(drops("b", false));
        assert!(!drops("b", true));
        assert!(
            steps(&orphan("orders"), &seen, |_, _| false)
                .iter()
                .all(|s| matches!(s, Step::Release(_)))
        );
    }
}
