//! From the command line to a working operator, and to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use pg_tide_probes::Health;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Run;
use crate::context::{Context, Deleted, Settings};
use crate::crd::{Inbox, Outbox, Pipeline, TideDatabase};
use crate::database::Databases;
use crate::relay_deployment::{Applied, Children, DATABASE_LABEL};
use crate::resources::{Declared, Key, Kind};
use crate::runtime::conditions::holds;
use crate::runtime::events::Events;
use crate::runtime::leader::Candidate;
use crate::runtime::metrics::{InState, Metrics};
use crate::runtime::queue::Queue;
use crate::secrets::Secrets;
use crate::status::Written;
use crate::stores::{Change, Objects, ours};
use crate::{reconcile, wake};

/// For what is under way when the operator is told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// The dispatcher beats every second; silence for so long means that it hangs.
const STALL: Duration = Duration::from_mins(1);

/// Runs until told to stop.
///
/// # Errors
/// Why it could not, or could not go on.
pub async fn run(arguments: Run) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no way to a Kubernetes API: neither in a pod nor by KUBECONFIG")?;
    let identity = arguments.identity.clone().unwrap_or_else(|| {
        std::env::var("HOSTNAME").unwrap_or_else(|_| format!("pg-tide-operator-{}", std::process::id()))
    });
    let namespaces = arguments.namespaces();
    let cluster = match &arguments.cluster_id {
        Some(id) => id.clone(),
        None => cluster_id(&client, &arguments.namespace).await?,
    };
    let settings = Settings {
        cluster,
        relay_image: arguments.relay_image.clone(),
        relay_image_pull_policy: arguments
            .relay_image_pull_policy
            .clone()
            .filter(|p| !p.is_empty()),
        resync: arguments.resync,
        network_policy: arguments.network_policy,
        pod_monitors: arguments.pod_monitors(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity,
        cluster = settings.cluster,
        ?namespaces,
        "starting"
    );

    let stop = CancellationToken::new();
    let health = Arc::new(Health::new("dispatcher", STALL, "the resources are not read yet"));
    let metrics = Arc::new(Metrics::default());
    let scraped = Arc::clone(&metrics);
    let serving = pg_tide_probes::serve(
        arguments.metrics_addr,
        move || scraped.text(),
        Arc::clone(&health),
        stop.clone(),
    )
    .await
    .with_context(|| format!("cannot listen on {}", arguments.metrics_addr))?;
    let serving = tokio::spawn(serving);

    let mut watches = JoinSet::new();
    let context = watch(
        client.clone(),
        settings,
        &identity,
        &namespaces,
        metrics,
        &mut watches,
    );
    let ended = tokio::select! {
        ended = lead(&arguments, &client, &identity, &context, &health) => ended,
        _ = watches.join_next() => Err(anyhow::anyhow!("a watch has ended")),
    };
    context.sessions.close_all();
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    ended
}

/// Waits until all is read and the Lease is had, and works until that ends.
async fn lead(
    arguments: &Run,
    client: &Client,
    identity: &str,
    context: &Arc<Context>,
    health: &Health,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut told = std::pin::pin!(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let candidate = Candidate::new(client.clone(), &arguments.namespace, "pg-tide-operator", identity);
    let ready = async {
        synced(context).await;
        health.ready();
        if arguments.leader_elect {
            Some(candidate.acquire().await)
        } else {
            None
        }
    };
    let lease = tokio::select! {
        lease = ready => lease,
        () = &mut told => return Ok(()),
        () = beat(context, health) => return Ok(()),
    };
    tracing::info!("leading");
    context.metrics.leader.set(1);
    let work = reconcile::work(Arc::clone(context), arguments.workers.max(1));
    let hold = async {
        match &lease {
            Some(lease) => candidate.hold(lease.clone()).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = work => Err(anyhow::anyhow!("the workers have ended")),
        lost = hold => Err(anyhow::anyhow!("{lost}; another operator may be at work")),
        () = beat(context, health) => Ok(()),
        () = &mut told => {
            tracing::info!("told to stop");
            Ok(())
        }
    };
    context.metrics.leader.set(0);
    if ended.is_ok() && lease.is_some() {
        // What was begun in SQL ends with its session: all of it or nothing.
        context.sessions.close_all();
        let _ = tokio::time::timeout(DRAIN, candidate.release()).await;
    }
    ended
}

/// Beats, and counts what is there, for as long as the program runs.
async fn beat(context: &Context, health: &Health) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut counted = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        health.beat();
        context
            .metrics
            .queue_depth
            .set(i64::try_from(context.queue.depth()).unwrap_or(i64::MAX));
        context
            .metrics
            .databases_connected
            .set(i64::try_from(context.sessions.connected()).unwrap_or(i64::MAX));
        if counted.elapsed() >= Duration::from_secs(10) {
            counted = tokio::time::Instant::now();
            count(context);
        }
    }
}

/// Resources by what their condition Ready says.
fn count(context: &Context) {
    let set = |kind: Kind, states: Vec<bool>| {
        let ready = states.iter().filter(|ready| **ready).count();
        for (state, number) in [("ready", ready), ("not_ready", states.len() - ready)] {
            context
                .metrics
                .resources
                .get_or_create(&InState {
                    kind: kind.name(),
                    state,
                })
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    };
    macro_rules! count {
        ($($store:ident => $kind:ident),*) => {$(
            set(
                Kind::$kind,
                context
                    .$store
                    .all()
                    .iter()
                    .map(|o| o.status.as_ref().is_some_and(|s| holds(&s.conditions, "Ready")))
                    .collect(),
            );
        )*};
    }
    count!(databases => TideDatabase, outboxes => Outbox, inboxes => Inbox, pipelines => Pipeline);
}

async fn synced(context: &Context) {
    let mut told = false;
    loop {
        let all = async {
            context.databases.synced().await;
            context.outboxes.synced().await;
            context.inboxes.synced().await;
            context.pipelines.synced().await;
            context.children.synced().await;
        };
        if tokio::time::timeout(Duration::from_secs(10), all).await.is_ok() {
            return;
        }
        if !told {
            tracing::warn!(
                "the resources cannot be read yet; are the CRDs installed (chart pg-tide-crds) and may this operator list them?"
            );
            told = true;
        }
    }
}

/// Begins all watches; each change wakes whom it concerns.
fn watch(
    client: Client,
    settings: Settings,
    identity: &str,
    namespaces: &[String],
    metrics: Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Arc<Context> {
    let queue = Arc::new(Queue::default());
    let context = Arc::new(std::sync::OnceLock::<Arc<Context>>::new());
    let all = watcher::Config::default();

    macro_rules! declared {
        ($kind:ty) => {{
            let (queue, context) = (Arc::clone(&queue), Arc::clone(&context));
            Objects::<$kind>::watch(&client, namespaces, &all, tasks, move |change, object: &$kind| {
                let key = object.key();
                if let Some(context) = context.get() {
                    match change {
                        Change::Deleted => context.deleted.add(key.clone()),
                        Change::There => context.deleted.remove(&key),
                    }
                    wake::declared(context, object);
                }
                queue.add(&key);
            })
        }};
    }
    macro_rules! made {
        ($kind:ty) => {{
            let queue = Arc::clone(&queue);
            Objects::<$kind>::watch(&client, namespaces, &ours(), tasks, move |_, object: &$kind| {
                wake_owner(&queue, object.meta());
            })
        }};
    }
    let secrets = {
        let (queue, context) = (Arc::clone(&queue), Arc::clone(&context));
        Objects::<PartialObjectMeta<Secret>>::watch(&client, namespaces, &all, tasks, move |_, secret| {
            wake_owner(&queue, &secret.metadata);
            if let Some(context) = context.get() {
                wake::secret(
                    context,
                    &secret.namespace().unwrap_or_default(),
                    &secret.name_any(),
                );
            }
        })
    };
    let made = Context {
        databases: declared!(TideDatabase),
        outboxes: declared!(Outbox),
        inboxes: declared!(Inbox),
        pipelines: declared!(Pipeline),
        children: Children {
            deployments: made!(Deployment),
            secrets: secrets.clone(),
            service_accounts: made!(PartialObjectMeta<ServiceAccount>),
            services: made!(PartialObjectMeta<Service>),
            budgets: made!(PartialObjectMeta<PodDisruptionBudget>),
            policies: made!(PartialObjectMeta<NetworkPolicy>),
        },
        secrets: Secrets::new(client.clone(), secrets),
        events: Events::new(client.clone(), identity),
        client,
        settings,
        queue,
        sessions: Databases::default(),
        applied: Applied::default(),
        written: Written::default(),
        deleted: Deleted::default(),
        metrics,
    };
    let made = Arc::new(made);
    let _ = context.set(Arc::clone(&made));
    made
}

/// Something that was made for a database has changed.
fn wake_owner(queue: &Queue, meta: &ObjectMeta) {
    let labels = meta.labels.as_ref();
    if let Some(database) = labels.and_then(|labels| labels.get(DATABASE_LABEL)) {
        let namespace = meta.namespace.clone().unwrap_or_default();
        queue.add(&Key::new(Kind::TideDatabase, namespace, database));
    }
}

/// What tells this cluster from others: the UID of kube-system, else that of
/// the operator's own namespace.
async fn cluster_id(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let api = Api::<Namespace>::all(client.clone());
    for name in ["kube-system", namespace] {
        match api.get_opt(name).await {
            Ok(Some(found)) => {
                if let Some(uid) = found.metadata.uid {
                    return Ok(uid);
                }
            }
            Ok(None) => {}
            Err(kube::Error::Api(status)) if status.is_forbidden() => {}
            Err(error) => return Err(error).context("the cluster's identity cannot be read"),
        }
    }
    anyhow::bail!(
        "may not read namespace kube-system or {namespace}, by whose UID the cluster is known: set --cluster-id"
    )
}
