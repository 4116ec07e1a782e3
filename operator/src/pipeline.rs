//! A `Pipeline`: a row of `tide.pipeline`, and what its relay reports.

use std::sync::Arc;

use kube::ResourceExt;

use crate::context::Context;
use crate::crd::{self, Pipeline, Rendered, SecretKeyRef};
use crate::database::{Problem, View};
use crate::reconcile::Outcome;
use crate::resources::{Declared, Key};
use crate::runtime::queue::Next;
use crate::sql::observe::{Catalogue, PipelineSeen};
use crate::sql::step::{Direction, Group, Managed, ObjectKind, PipelineSettings, Step};
use crate::store::{self, Settled};

mod status;
#[cfg(test)]
mod tests;

/// Makes everything be as the resource says, as far as that can be done now.
pub async fn reconcile(context: &Arc<Context>, key: &Key) -> Outcome {
    let Some(pipeline) = context.pipelines.get(&key.namespace, &key.name) else {
        context.written.forget(key);
        // Its row is taken out by its database.
        for database in context.databases.of(&key.namespace, |_| true) {
            context.queue.add(&database.key());
        }
        return Outcome::done(Next::Await);
    };
    if pipeline.deleting() {
        return Outcome::done(Next::Await);
    }
    match settle(context, &pipeline).await {
        // Changes were made; the look that follows comes back here.
        Settled::Changed => Outcome::done(Next::Await),
        Settled::As(view) => finish(context, &pipeline, Ok(view), Next::Await).await,
        Settled::Not(problem, next) => finish(context, &pipeline, Err(problem), next).await,
    }
}

/// The keys of Secrets that a pipeline names; none while it cannot be read.
pub fn secrets_of(pipeline: &Pipeline) -> impl Iterator<Item = SecretKeyRef> {
    crd::render(pipeline)
        .map(|r| r.secrets)
        .unwrap_or_default()
        .into_iter()
}

async fn settle(context: &Arc<Context>, pipeline: &Pipeline) -> Settled {
    let rendered = match crd::render(pipeline) {
        Ok(rendered) => rendered,
        Err(errors) => return Settled::Not(Problem::new("InvalidSpec", errors.join("; ")), Next::Await),
    };
    let (database, view) = match store::database_of(context, pipeline) {
        Ok(found) => found,
        Err(problem) => return Settled::Not(problem, Next::Await),
    };
    if !database.has_seen_changes_of(&pipeline.key(), &view) {
        return Settled::Changed;
    }
    let Some(catalogue) = &view.catalogue else {
        return Settled::Changed;
    };
    let wanted = match dereference(context, pipeline, &rendered, catalogue).await {
        Ok(wanted) => wanted,
        Err(problem) => return Settled::Not(problem, Next::Await),
    };
    let managed = store::managed(
        context,
        pipeline,
        ObjectKind::Pipeline,
        &wanted.name,
        pipeline.spec.reclaim_policy,
        pipeline.spec.adoption_policy,
    );
    let steps = plan(&wanted, &managed, catalogue);
    let observed = pipeline.status.as_ref().and_then(|s| s.observed_generation);
    store::bring_about(context, &database, view, pipeline, &managed, &steps, observed).await
}

/// Finds what the spec names, in the cluster and in the database.
async fn dereference(
    context: &Context,
    pipeline: &Pipeline,
    rendered: &Rendered,
    catalogue: &Catalogue,
) -> Result<PipelineSettings, Problem> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let database = pipeline.database();
    let group = &pipeline.spec.relay_group_id;
    if let Some(declared) = context.databases.get(&namespace, &database)
        && !declared.spec.relay_groups.iter().any(|g| g.id == *group)
    {
        let ids: Vec<&str> = declared.spec.relay_groups.iter().map(|g| g.id.as_str()).collect();
        return Err(Problem::new(
            "RelayGroupNotFound",
            format!(
                "TideDatabase \"{database}\" has no relay group \"{group}\"; it has {}: add it to spec.relayGroups there, or choose one of them in spec.relayGroupId",
                ids.join(", ")
            ),
        ));
    }
    for secret in &rendered.secrets {
        if let Err(error) = context.secrets.key(&namespace, secret).await {
            return Err(Problem::new(error.reason(), error.to_string()));
        }
    }
    let mut config = rendered.config.clone();
    let direction = match &rendered.direction {
        crd::Direction::Forward {
            outbox_ref,
            consumer_group,
        } => {
            let outbox = context.outboxes.get(&namespace, outbox_ref).ok_or_else(|| {
                Problem::new(
                    "OutboxNotFound",
                    format!("Outbox \"{outbox_ref}\" does not exist in this namespace"),
                )
            })?;
            if outbox.database() != database {
                return Err(Problem::new(
                    "DatabaseMismatch",
                    format!(
                        "Outbox \"{outbox_ref}\" is of TideDatabase \"{}\", not of \"{database}\"",
                        outbox.database()
                    ),
                ));
            }
            let name = outbox.sql_name().to_owned();
            let seen = catalogue.outboxes.get(&name).ok_or_else(|| {
                Problem::new("OutboxNotReady", format!("outbox \"{name}\" is not made yet"))
            })?;
            let group = match consumer_group {
                // Made by the Outbox, or by hand: where it begins is said there.
                Some(group) if !seen.groups.contains_key(group) => {
                    return Err(Problem::new(
                        "ConsumerGroupNotFound",
                        format!(
                            "outbox \"{name}\" has no consumer group \"{group}\": add it to spec.consumerGroups of Outbox \"{outbox_ref}\", or leave spec.forward.consumerGroup out to read as a group of the pipeline's own"
                        ),
                    ));
                }
                Some(group) => group.clone(),
                None => rendered.name.clone(),
            };
            config["consumer_group"] = group.clone().into();
            Direction::Forward { outbox: name, group }
        }
        crd::Direction::Reverse {
            inbox_ref,
            max_retries,
            idempotent,
        } => {
            let inbox = context.inboxes.get(&namespace, inbox_ref).ok_or_else(|| {
                Problem::new(
                    "InboxNotFound",
                    format!("Inbox \"{inbox_ref}\" does not exist in this namespace"),
                )
            })?;
            if inbox.database() != database {
                return Err(Problem::new(
                    "DatabaseMismatch",
                    format!(
                        "Inbox \"{inbox_ref}\" is of TideDatabase \"{}\", not of \"{database}\"",
                        inbox.database()
                    ),
                ));
            }
            let name = inbox.sql_name().to_owned();
            if !catalogue.inboxes.contains_key(&name) {
                return Err(Problem::new(
                    "InboxNotReady",
                    format!("inbox \"{name}\" is not made yet"),
                ));
            }
            Direction::Reverse {
                inbox: name,
                max_retries: *max_retries,
                idempotent: *idempotent,
            }
        }
    };
    Ok(PipelineSettings {
        name: rendered.name.clone(),
        direction,
        connector: rendered.connector.clone(),
        config,
        batch_size: rendered.batch_size,
        enabled: rendered.enabled,
        relay_group: rendered.relay_group.clone(),
    })
}

/// What must change.
#[must_use]
pub fn plan(wanted: &PipelineSettings, managed: &Managed, catalogue: &Catalogue) -> Vec<Step> {
    let claim = catalogue.claims.get(&(ObjectKind::Pipeline, wanted.name.clone()));
    let mut steps = Vec::new();
    if !store::is_held(claim, managed) {
        steps.push(Step::Claim(managed.clone()));
    }
    if let Direction::Forward { outbox, group } = &wanted.direction
        && !catalogue
            .outboxes
            .get(outbox)
            .is_some_and(|o| o.groups.contains_key(group))
    {
        // A group of its own, which outlives the pipeline: the position is
        // kept when a Pipeline is deleted and made again.
        steps.push(Step::MakeGroup(
            Group {
                name: group.clone(),
                outbox: outbox.clone(),
            },
            "earliest",
        ));
    }
    if !catalogue
        .pipelines
        .get(&wanted.name)
        .is_some_and(|seen| is_as(seen, wanted))
    {
        steps.push(Step::SetPipeline(wanted.clone()));
    }
    steps
}

fn is_as(seen: &PipelineSeen, wanted: &PipelineSettings) -> bool {
    let there = match &wanted.direction {
        Direction::Forward { outbox, group } => {
            seen.outbox.as_ref() == Some(outbox) && seen.consumer_group.as_ref() == Some(group)
        }
        Direction::Reverse {
            inbox,
            max_retries,
            idempotent,
        } => {
            seen.inbox.as_ref() == Some(inbox)
                && seen.max_retries == *max_retries
                && seen.idempotent == *idempotent
        }
    };
    there
        && seen.connector == wanted.connector
        && seen.config == wanted.config
        && seen.batch_size == wanted.batch_size
        && seen.enabled == wanted.enabled
        && seen.relay_group == wanted.relay_group
}

async fn finish(
    context: &Context,
    pipeline: &Pipeline,
    found: Result<Arc<View>, Problem>,
    next: Next,
) -> Outcome {
    let ready = context
        .databases
        .get(&pipeline.namespace().unwrap_or_default(), &pipeline.database())
        .map(|database| status::pods(&database, &pipeline.spec.relay_group_id));
    let now = status::of(pipeline, &found, ready, jiff::Timestamp::now());
    let difference = status::difference(pipeline.status.as_ref(), &now);
    if let Err(problem) = &found {
        store::warn_of(context, pipeline, problem, difference).await;
    }
    for (reason, note) in status::warnings(pipeline.status.as_ref(), &now) {
        context.events.warning(pipeline, reason, "Deliver", note).await;
    }
    match crate::status::write(context, pipeline, &now, difference).await {
        Ok(Some(pause)) if next == Next::Await => Outcome::done(Next::After(pause)),
        Ok(_) => Outcome::done(next),
        Err(error) => Outcome::failed(error.to_string()),
    }
}
