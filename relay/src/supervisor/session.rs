//! One database session of the relay: from joining the group to leaving it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_tide_probes::Health;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::checkpoint::Checkpointer;
use super::pipelines::Pipelines;
use super::{Settings, lag, maintenance, tick, webhooks};
use crate::database::ownership::{self as store, Member, View};
use crate::database::{Database, Pool, Profile, Session, cursor};
use crate::failure::Failure;
use crate::ownership::{Lease, assign};
use crate::pipeline::{Connected, Shared};
use crate::source::outbox::Outboxes;
use crate::source::webhook::Routes;
use crate::status::Metrics;

/// Between two looks at locks and configuration. A killed relay's locks are
/// free as soon as its socket is closed, so this is how long nobody notices.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that takes longer says that the connection is dead.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1_800);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Everything that is in flight must be settled within this at SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Refuses to work with a schema that this release does not know.
async fn check_schema(session: &Session, at: &str) -> Result<(), Failure> {
    let status = match pg_tide_schema::status(&session.client).await {
        Ok(status) => status,
        // The schema's own hint, to let the role see it, would only lead to the next refusal.
        Err(pg_tide_schema::Error::Forbidden { role, what, .. }) => {
            return Err(Failure::transient(format!(
                "PostgreSQL at {at}: role \"{role}\" may not {what}: run GRANT tide_relay TO {role}"
            )));
        }
        Err(pg_tide_schema::Error::Sql(error)) => {
            return Err(Failure::postgres(
                &format!("PostgreSQL at {at}: looking at schema tide"),
                &error,
            ));
        }
        Err(error) => return Err(Failure::transient(format!("PostgreSQL at {at}: {error}"))),
    };
    match status {
        Some(status) if status.is_current() => Ok(()),
        Some(status) => Err(Failure::transient(format!(
            "PostgreSQL at {at}: schema tide has version {} (release {}), this relay works with version {}: {}; \
             the relay goes on by itself then",
            status.version,
            status.release,
            pg_tide_schema::VERSION,
            status.remedy()
        ))),
        None => Err(Failure::transient(format!(
            "PostgreSQL at {at}: schema tide is not installed: run \"pg-tide schema install\" or CREATE EXTENSION pg_tide"
        ))),
    }
}

/// Runs one session. `Ok` when told to stop, a failure when it was lost.
pub(super) async fn run(
    database: &Database,
    settings: &Settings,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let (notice_sender, mut notices) = mpsc::channel(16);
    let mut session = database
        .connect(Profile::Lock, Some(notice_sender))
        .await
        .map_err(|e| Failure::transient(e.to_string()))?;
    check_schema(&session, &database.at()).await?;
    let member = store::join(
        &mut session,
        &settings.relay_group,
        &settings.name,
        env!("CARGO_PKG_VERSION"),
        settings
            .webhooks
            .as_ref()
            .map(|(address, _)| address.to_string())
            .as_deref(),
    )
    .await?;
    let cluster = cursor::cluster(&mut session).await?;
    let origin = cursor::origin(&mut session, cluster).await?;
    tracing::info!(
        database = database.at(),
        relay_group = settings.relay_group,
        member = member.name,
        "joined the relay group"
    );

    let mut background = JoinSet::new();
    let (tick_sender, ticks) = watch::channel(None);
    let busy = tick::Demand::default();
    background.spawn(tick::run(database.clone(), tick_sender, busy.clone()));
    let writers = Arc::new(Pool::new(database.clone(), Profile::Write, 4));
    background.spawn(maintenance::run(Arc::clone(&writers)));
    let watched = lag::Watched::default();
    background.spawn(lag::run(Arc::clone(&writers), watched.clone()));
    let watched_webhooks = lag::Watched::default();
    background.spawn(webhooks::run(Arc::clone(&writers), watched_webhooks.clone()));
    let (listening_sender, listening) = watch::channel(false);
    let checkpointer = Checkpointer::start(Arc::clone(&writers), Arc::clone(metrics), &mut background);
    let shared = Shared {
        readers: Arc::new(Pool::new(database.clone(), Profile::Read, 3)),
        outboxes: Outboxes::new(Arc::clone(metrics)),
        writers,
        checkpointer,
        ticks,
        lease: Lease::new(),
        connected: Connected::new(),
        cluster,
        origin,
        listening,
    };
    let mut pipelines = Pipelines::new(shared.clone(), Arc::clone(metrics));
    let mut work = Work {
        session,
        member,
        settings,
        metrics,
        config_version: -1,
        schema_version: pg_tide_schema::VERSION,
        busy,
        watched,
        watched_webhooks,
        listening: listening_sender,
        reported_at: Instant::now(),
        heartbeat_at: Instant::now(),
    };

    let result = loop {
        let looked_at = Instant::now();
        let look = tokio::time::timeout(LOOK_TIMEOUT, work.look(&mut pipelines, &shared.lease, looked_at));
        match look.await {
            Ok(Ok(())) => health.ready(),
            Ok(Err(failure)) => break Err(failure),
            Err(_) => {
                break Err(Failure::transient("the lock connection did not answer in time"));
            }
        }
        health.beat();
        if looked_at.elapsed() > Duration::from_millis(500) {
            tracing::debug!(ms = looked_at.elapsed().as_millis(), "a slow look at the locks");
        }
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            notice = notices.recv() => {
                if notice.is_none() {
                    break Err(Failure::transient("the lock connection was closed"));
                }
                while notices.try_recv().is_ok() {}
            }
            () = pipelines.ended() => {}
            Some(ended) = background.join_next() => {
                let failure = ended.ok().and_then(Result::err);
                break Err(failure.unwrap_or_else(|| Failure::transient("a background task ended")));
            }
            () = tokio::time::sleep_until((looked_at + LOOK_EVERY).into()) => {}
        }
    };
    match &result {
        Ok(()) => {
            tracing::info!("stopping: finishing what is in flight");
            work.shut_down(&mut pipelines, &shared.lease).await;
        }
        Err(_) => pipelines.abort().await,
    }
    background.abort_all();
    result
}

struct Work<'a> {
    session: Session,
    member: Member,
    settings: &'a Settings,
    metrics: &'a Arc<Metrics>,
    config_version: i64,
    schema_version: i32,
    busy: tick::Demand,
    watched: lag::Watched,
    watched_webhooks: lag::Watched,
    listening: watch::Sender<bool>,
    reported_at: Instant,
    heartbeat_at: Instant,
}

impl Work<'_> {
    /// One look, and what follows from it.
    async fn look(
        &mut self,
        pipelines: &mut Pipelines,
        lease: &Lease,
        looked_at: Instant,
    ) -> Result<(), Failure> {
        let view = store::look(&mut self.session, &self.settings.relay_group, &self.member).await?;
        if !view.alive {
            return Err(Failure::transient(
                "the member lock is gone from this session; is a pooler in transaction mode in between? \
                 The relay needs a direct connection or a pooler in session mode",
            ));
        }
        lease.renew(looked_at);
        self.listening.send_if_modified(|there| {
            let before = std::mem::replace(there, view.listening);
            before != view.listening
        });
        let routes = self.settings.webhooks.as_ref().map(|(_, routes)| routes);
        let stale = routes.is_some_and(Routes::take_stale);
        if stale || view.config_version != self.config_version {
            let mut rows = store::pipelines(&mut self.session, &self.settings.relay_group).await?;
            if let Some(routes) = routes {
                routes.configure(&rows);
            }
            rows.retain(|row| row.enabled);
            pipelines.configure(rows);
            self.config_version = view.config_version;
            self.look_at_version().await;
        }
        self.release_ended(pipelines).await?;
        self.divide(pipelines, &view).await?;
        self.busy.set(pipelines.forward().next().is_some());
        self.metrics
            .owned
            .set(i64::try_from(pipelines.owned().len()).unwrap_or(i64::MAX));
        if self.reported_at.elapsed() >= REPORT_EVERY {
            self.reported_at = Instant::now();
            self.watched.set(pipelines.forward());
            self.watched_webhooks.set(pipelines.webhooks());
            pipelines.report(&mut self.session).await?;
        }
        if self.heartbeat_at.elapsed() >= HEARTBEAT_EVERY {
            self.heartbeat_at = Instant::now();
            store::heartbeat(&mut self.session, &self.member).await?;
        }
        Ok(())
    }

    /// Says it when the schema was upgraded beyond this release under it. An
    /// upgrade leaves to relays of the release before what they use, so this
    /// one goes on; only a new session would be refused.
    async fn look_at_version(&mut self) {
        if let Ok(Some(status)) = pg_tide_schema::status(&self.session.client).await
            && status.version != self.schema_version
        {
            self.schema_version = status.version;
            tracing::warn!(
                "schema tide was brought to version {} (release {}) while this relay, which knows version {}, runs: \
                 it goes on, but will be refused when it connects again; replace it by the newer release",
                status.version,
                status.release,
                pg_tide_schema::VERSION
            );
        }
    }

    /// Takes what is ours and free, and hands over what is another's.
    async fn divide(&mut self, pipelines: &mut Pipelines, view: &View) -> Result<(), Failure> {
        let wanted = pipelines.wanted();
        let division = assign(&view.members, &wanted);
        let locked: BTreeSet<i32> = view.locked.iter().copied().collect();
        let mine = |id: &i32| division.get(id) == Some(&self.member.id);
        for id in pipelines.owned() {
            if !division.contains_key(&id) || !mine(&id) {
                pipelines.stop(id);
            }
        }
        let owned = pipelines.owned();
        let free: Vec<i32> = wanted
            .iter()
            .copied()
            .filter(|id| mine(id) && !owned.contains(id) && !locked.contains(id))
            .collect();
        if free.is_empty() {
            return Ok(());
        }
        let got = store::try_lock(&mut self.session, &free).await?;
        if got.is_empty() {
            return Ok(());
        }
        match store::acquire(&mut self.session, &got, &self.member).await {
            Ok(acquired) => {
                for (id, epoch) in acquired {
                    pipelines.start(id, epoch);
                }
            }
            // One that cannot be acquired must not stop the others.
            Err(_) => {
                for id in got {
                    match store::acquire(&mut self.session, &[id], &self.member).await {
                        Ok(acquired) => acquired
                            .into_iter()
                            .for_each(|(id, epoch)| pipelines.start(id, epoch)),
                        Err(failure) => {
                            pipelines.refused(id, &failure);
                            store::unlock(&mut self.session, id, None).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn release_ended(&mut self, pipelines: &mut Pipelines) -> Result<(), Failure> {
        for (id, epoch) in pipelines.take_ended() {
            store::unlock(&mut self.session, id, Some(epoch)).await?;
        }
        Ok(())
    }

    async fn shut_down(&mut self, pipelines: &mut Pipelines, lease: &Lease) {
        for id in pipelines.owned() {
            pipelines.stop(id);
        }
        let deadline = Instant::now() + SHUTDOWN;
        while !pipelines.is_empty() && Instant::now() < deadline {
            let _ = tokio::time::timeout(Duration::from_millis(100), pipelines.ended()).await;
            // The locks stay ours until the last one is done.
            let looked_at = Instant::now();
            if store::heartbeat(&mut self.session, &self.member).await.is_err() {
                break;
            }
            lease.renew(looked_at);
            if self.release_ended(pipelines).await.is_err() {
                break;
            }
        }
        if !pipelines.is_empty() {
            tracing::warn!("stopped before everything in flight was settled; the next owner finds out");
        }
        pipelines.abort().await;
        let _ = pipelines.report(&mut self.session).await;
        let _ = store::leave(&self.session, &self.member).await;
        tracing::info!("left the relay group");
    }
}
