//! The pipelines of this relay: which are wanted, which run, which have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{PipelineRow, PipelineSpec, SourceSpec, Work};
use crate::database::{Session, report};
use crate::failure::Failure;
use crate::pipeline::{self, Exit, Shared};
use crate::status::{Metrics, PipelineStatus, State};

/// After a panic or a refused acquisition.
const PENALTY: Duration = Duration::from_secs(1);

struct Running {
    epoch: i64,
    /// What it runs with; none when its configuration cannot be used.
    spec: Option<Arc<PipelineSpec>>,
    row: PipelineRow,
    status: Arc<PipelineStatus>,
    stop: CancellationToken,
    /// A task is at work; without one, the lock alone is held.
    busy: bool,
    /// To be given up when the task has ended, instead of started anew.
    leaving: bool,
}

/// See the module's description.
pub(super) struct Pipelines {
    shared: Shared,
    metrics: Arc<Metrics>,
    rows: BTreeMap<i32, PipelineRow>,
    running: BTreeMap<i32, Running>,
    tasks: JoinSet<(i32, i64, Exit)>,
    ended: Vec<(i32, i64, Exit)>,
    /// Those that could not be acquired: when to try again, and what is told of them.
    refused: BTreeMap<i32, (Instant, Arc<PipelineStatus>)>,
}

impl Pipelines {
    pub(super) fn new(shared: Shared, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            rows: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            ended: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes in the enabled pipelines of the group. One whose row changed is
    /// stopped and comes back with the new row, under the same lock and epoch.
    pub(super) fn configure(&mut self, rows: Vec<PipelineRow>) {
        self.rows = rows.into_iter().map(|row| (row.pipeline_id, row)).collect();
        for (_, status) in std::mem::take(&mut self.refused).into_values() {
            status.forget();
        }
        let mut idle = Vec::new();
        for (id, running) in &mut self.running {
            if self
                .rows
                .get(id)
                .is_some_and(|row| running.row.must_restart_for(row))
            {
                tracing::info!(pipeline = running.row.name, "its configuration changed");
                running.stop.cancel();
                if !running.busy {
                    idle.push((*id, running.epoch));
                }
            }
        }
        for (id, epoch) in idle {
            self.ended.push((id, epoch, Exit::Stopped));
        }
    }

    /// Pipelines that somebody in the group should run.
    pub(super) fn wanted(&self) -> Vec<i32> {
        let now = Instant::now();
        self.rows
            .keys()
            .copied()
            .filter(|id| self.refused.get(id).is_none_or(|(until, _)| *until <= now))
            .collect()
    }

    pub(super) fn owned(&self) -> BTreeSet<i32> {
        self.running.keys().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The forward pipelines that can run.
    pub(super) fn forward(&self) -> impl Iterator<Item = &Arc<PipelineStatus>> {
        self.running.values().filter_map(|r| {
            let spec = r.spec.as_ref()?;
            matches!(spec.work, Work::Forward(_)).then_some(&r.status)
        })
    }

    /// The webhook pipelines that can run.
    pub(super) fn webhooks(&self) -> impl Iterator<Item = &Arc<PipelineStatus>> {
        self.running.values().filter_map(|r| {
            let spec = r.spec.as_ref()?;
            let Work::Reverse(reverse) = &spec.work else {
                return None;
            };
            matches!(reverse.source, SourceSpec::Webhook(_)).then_some(&r.status)
        })
    }

    /// Starts an acquired pipeline.
    pub(super) fn start(&mut self, id: i32, epoch: i64) {
        let Some(row) = self.rows.get(&id).cloned() else {
            // Gone since: give the lock back.
            self.ended.push((id, epoch, Exit::Stopped));
            return;
        };
        self.refused.remove(&id);
        self.metrics.ownership_event("acquired");
        let stop = CancellationToken::new();
        match PipelineSpec::read(&row) {
            Ok(spec) => {
                let spec = Arc::new(spec);
                let status = Arc::new(PipelineStatus::of(&self.metrics, &spec, epoch));
                tracing::info!(pipeline = row.name, epoch, "acquired");
                let task = pipeline::run(
                    self.shared.clone(),
                    Arc::clone(&spec),
                    epoch,
                    Arc::clone(&status),
                    stop.clone(),
                );
                self.tasks.spawn(async move { (id, epoch, task.await) });
                let running = Running {
                    epoch,
                    spec: Some(spec),
                    row,
                    status,
                    stop,
                    busy: true,
                    leaving: false,
                };
                self.running.insert(id, running);
            }
            Err(error) => {
                let direction = if row.direction == "forward" {
                    "forward"
                } else {
                    "reverse"
                };
                let status = Arc::new(PipelineStatus::new(
                    &self.metrics,
                    id,
                    &row.name,
                    direction,
                    epoch,
                ));
                tracing::error!(pipeline = row.name, "its configuration cannot be used: {error}");
                status.failed(State::Misconfigured, &error.to_string());
                let running = Running {
                    epoch,
                    spec: None,
                    row,
                    status,
                    stop,
                    busy: false,
                    leaving: false,
                };
                self.running.insert(id, running);
            }
        }
    }

    /// It could not be acquired; others may try, we only after a while.
    pub(super) fn refused(&mut self, id: i32, failure: &Failure) {
        let Some(row) = self.rows.get(&id) else { return };
        let known = self.refused.remove(&id).map(|(_, status)| status);
        let status = known.unwrap_or_else(|| {
            tracing::error!(pipeline = row.name, "cannot be acquired: {failure}");
            let direction = if row.direction == "forward" {
                "forward"
            } else {
                "reverse"
            };
            Arc::new(PipelineStatus::new(&self.metrics, id, &row.name, direction, 0))
        });
        status.failed(State::Misconfigured, &failure.message);
        self.refused.insert(id, (Instant::now() + PENALTY, status));
    }

    /// Asks a pipeline to finish and to be given up.
    pub(super) fn stop(&mut self, id: i32) {
        if let Some(running) = self.running.get_mut(&id) {
            if running.leaving {
                return;
            }
            running.leaving = true;
            running.stop.cancel();
            if !running.busy {
                self.ended.push((id, running.epoch, Exit::Stopped));
            }
        }
    }

    /// Resolves when a task has ended. Pending for ever while none runs.
    pub(super) async fn ended(&mut self) {
        if !self.ended.is_empty() {
            return;
        }
        match self.tasks.join_next().await {
            Some(Ok(ended)) => self.ended.push(ended),
            Some(Err(error)) if error.is_panic() => {
                // Whose it was is found by who is no longer at work.
                tracing::error!("a pipeline's task panicked: {error}");
                self.tasks.abort_all();
                let lost: Vec<_> = self
                    .running
                    .iter()
                    .map(|(id, r)| (*id, r.epoch, Exit::LostOwnership))
                    .collect();
                self.ended.extend(lost);
            }
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    /// Pipelines whose lock is to be given back, with their epochs. One that
    /// was only reconfigured is started again instead.
    pub(super) fn take_ended(&mut self) -> Vec<(i32, i64)> {
        let mut release = Vec::new();
        for (id, epoch, exit) in std::mem::take(&mut self.ended) {
            if self.running.get(&id).is_some_and(|r| r.epoch != epoch) {
                continue;
            }
            let Some(running) = self.running.remove(&id) else {
                release.push((id, epoch));
                continue;
            };
            if exit == Exit::Stopped
                && !running.leaving
                && let Some(row) = self.rows.get(&id)
            {
                if row.name != running.row.name {
                    tracing::info!(pipeline = running.row.name, "it is \"{}\" from now on", row.name);
                    running.status.forget();
                }
                self.start(id, epoch);
                continue;
            }
            self.metrics.ownership_event(if exit == Exit::LostOwnership {
                "lost"
            } else {
                "released"
            });
            tracing::info!(pipeline = running.row.name, epoch, "released");
            running.status.forget();
            release.push((id, epoch));
        }
        release
    }

    /// Writes what changed in the states of the pipelines.
    pub(super) async fn report(&self, session: &mut Session) -> Result<(), Failure> {
        let refused = self.refused.values().map(|(_, status)| status);
        let statuses: Vec<&Arc<PipelineStatus>> =
            self.running.values().map(|r| &r.status).chain(refused).collect();
        let reports: Vec<_> = statuses.iter().filter_map(|s| s.take_report()).collect();
        if reports.is_empty() {
            return Ok(());
        }
        let written = report::write(session, &reports).await;
        if written.is_err() {
            for status in &statuses {
                status.report_failed();
            }
        }
        written
    }

    /// Ends all tasks at once: the locks are gone.
    pub(super) async fn abort(&mut self) {
        self.tasks.shutdown().await;
        for running in std::mem::take(&mut self.running).into_values() {
            running.status.forget();
        }
        self.ended.clear();
    }
}
