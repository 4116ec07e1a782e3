//! A `TideDatabase`: its session, its relays, its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Resource;

use super::link::{self, Link};
use super::status::{self, Facts, GroupFacts};
use super::{Database, Problem, View, collect};
use crate::context::Context;
use crate::crd::{Pipeline, SecretKeyRef, TideDatabase, file_name};
use crate::pipeline::secrets_of;
use crate::reconcile::Outcome;
use crate::relay_deployment::{Change, ChildKind, Plan, children, name};
use crate::resources::{Declared, Key};
use crate::runtime::metrics::OfKind;
use crate::runtime::queue::Next;

/// After a `TideDatabase` is gone, resources of its namespace may be going,
/// too: what they made is collected while there is a session.
const FAREWELL: Duration = Duration::from_secs(15);

/// Makes everything be as the resource says, as far as that can be done now.
pub async fn reconcile(context: &Arc<Context>, key: &Key) -> Outcome {
    let resource = context
        .databases
        .get(&key.namespace, &key.name)
        .filter(|resource| !resource.deleting());
    let Some(resource) = resource else {
        context.written.forget(key);
        if let Some(database) = context.sessions.get(key) {
            tokio::spawn(farewell(Arc::clone(context), database));
        }
        context.wake_dependants(key);
        return Outcome::done(Next::Await);
    };
    let mut facts = Facts::default();
    let database = context.sessions.open(context, key);
    let mut first = false;
    match Link::read(&context.secrets, &key.namespace, &resource.spec).await {
        Ok(link) => first = database.set_link(link),
        Err(error) => {
            // For the resources that want to work with it.
            database.set_no_link(Problem::new(
                "InvalidConnection",
                format!("TideDatabase \"{}\": {error}", key.name),
            ));
            facts.secret = Some(Problem::new(error.reason(), error.to_string()));
        }
    }
    let view = if first {
        Database::connecting()
    } else {
        database.view()
    };
    let relays = relays(context, &resource, &view, &mut facts).await;
    let collected = collect::collect(context, &database, &view).await;

    let now = status::of(&resource, &view, &facts, jiff::Timestamp::now());
    let difference = status::difference(resource.status.as_ref(), &now);
    if let Some(problem) = facts.secret.as_ref().or(view.problem())
        && status::is_new(resource.status.as_ref(), problem)
    {
        let note = problem.message.clone();
        context
            .events
            .warning(&*resource, problem.reason, "Connect", note)
            .await;
    }
    match (
        relays,
        crate::status::write(context, &*resource, &now, difference).await,
    ) {
        (Err(error), _) => Outcome::failed(error),
        (_, Err(error)) => Outcome::failed(error.to_string()),
        (Ok(()), Ok(_)) => Outcome::done(collected.map_or(Next::Await, Next::After)),
    }
}

/// Makes what the relays need in Kubernetes.
async fn relays(
    context: &Arc<Context>,
    resource: &TideDatabase,
    view: &View,
    facts: &mut Facts,
) -> Result<(), String> {
    let key = resource.key();
    let namespace = &key.namespace;
    let owner = resource
        .controller_owner_ref(&())
        .ok_or("the resource has no UID")?;
    let connection = link::files(&context.secrets, namespace, &resource.spec).await;
    let mut wanted = Vec::new();
    for group in &resource.spec.relay_groups {
        let name = name(&key.name, &group.id);
        let deployment = context.children.deployments.get(namespace, &name);
        let ready = deployment
            .as_ref()
            .and_then(|d| d.status.as_ref())
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0);
        facts.groups.push(GroupFacts {
            id: group.id.clone(),
            wanted: group.replicas,
            ready,
        });
        for kind in [
            ChildKind::ServiceAccount,
            ChildKind::Secret,
            ChildKind::Deployment,
            ChildKind::Service,
            ChildKind::PodDisruptionBudget,
        ] {
            wanted.push((kind, name.clone()));
        }
        if context.settings.network_policy {
            wanted.push((ChildKind::NetworkPolicy, name.clone()));
        }
        let connection = match &connection {
            Ok(files) => files.clone(),
            Err(error) => {
                // Relays that run go on with what they have.
                facts.relay_secret = Some(Problem::new(error.reason(), error.to_string()));
                continue;
            }
        };
        // Relays that would find no schema are not started yet.
        if view.schema.is_none() && deployment.is_none() {
            continue;
        }
        let address = link::address(&connection);
        let mut files: BTreeMap<String, Vec<u8>> = connection
            .into_iter()
            .map(|(name, content)| (name.to_owned(), content))
            .collect();
        files.extend(pipeline_files(context, &key, &group.id, &name).await);
        let plan = Plan {
            database: &key.name,
            namespace,
            spec: &resource.spec,
            group,
            address,
            owner: owner.clone(),
            image: &context.settings.relay_image,
            image_pull_policy: context.settings.relay_image_pull_policy.as_deref(),
            files,
            network_policy: context.settings.network_policy,
            pod_monitors: context.settings.pod_monitors.as_ref(),
        };
        for child in children(&plan) {
            match context
                .applied
                .apply(&context.client, &context.children, namespace, &child)
                .await
            {
                Ok(Change::None | Change::Applied) => {}
                Ok(Change::Repaired(what)) => {
                    context
                        .metrics
                        .repairs
                        .get_or_create(&OfKind { kind: "TideDatabase" })
                        .inc();
                    context
                        .events
                        .normal(resource, "DriftRepaired", "Repair", what)
                        .await;
                }
                Err(error) if error.namespace_ends() => return Ok(()),
                Err(error) => {
                    let text = error.to_string();
                    facts.apply = Some(Problem::new("ApplyFailed", text.clone()));
                    return Err(text);
                }
            }
        }
    }
    context
        .applied
        .delete_others(&context.client, &context.children, namespace, &key.name, &wanted)
        .await
        .map_err(|e| e.to_string())
}

/// The keys of Secrets that the group's Pipelines name. What cannot be read
/// now stays as it was, as in any pod that has a Secret mounted.
async fn pipeline_files(
    context: &Context,
    database: &Key,
    group: &str,
    secret: &str,
) -> BTreeMap<String, Vec<u8>> {
    let namespace = &database.namespace;
    let uses =
        |p: &Pipeline| p.database() == database.name && p.spec.relay_group_id == group && !p.deleting();
    let mut wanted: Vec<SecretKeyRef> = context
        .pipelines
        .of(namespace, uses)
        .iter()
        .flat_map(|p| secrets_of(p))
        .collect();
    wanted.sort();
    wanted.dedup();
    let mut files = BTreeMap::new();
    let mut before = None;
    for reference in wanted {
        let file = file_name(&reference);
        match context.secrets.key(namespace, &reference).await {
            Ok(bytes) => {
                files.insert(file, bytes);
            }
            Err(error) => {
                if before.is_none() {
                    before = Some(context.secrets.get(namespace, secret).await.unwrap_or_default());
                }
                if let Some(content) = before.as_ref().and_then(|data| data.get(&file)) {
                    files.insert(file, content.clone());
                }
                tracing::debug!(%database, "{error}");
            }
        }
    }
    files
}

/// Keeps the session of a deleted `TideDatabase` for as long as resources that
/// go with it may need it, and ends it.
async fn farewell(context: Arc<Context>, database: Arc<Database>) {
    let key = &database.key;
    let begun = tokio::time::Instant::now();
    loop {
        if context
            .databases
            .get(&key.namespace, &key.name)
            .is_some_and(|again| !again.deleting())
        {
            return;
        }
        let view = database.view();
        if view.problem().is_some() {
            break;
        }
        let left = collect::collect(&context, &database, &view).await;
        let of = |name: String| name == key.name;
        let declared = !context
            .pipelines
            .of(&key.namespace, |p| of(p.database()))
            .is_empty()
            || !context
                .outboxes
                .of(&key.namespace, |o| of(o.database()))
                .is_empty()
            || !context
                .inboxes
                .of(&key.namespace, |i| of(i.database()))
                .is_empty();
        if begun.elapsed() >= FAREWELL || !declared && left.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    context.sessions.close(key);
    context.wake_dependants(key);
}
