//! Pipelines: the stages joined, and what happens between two attempts.

mod backoff;
mod checkpoints;
mod forward;
pub(crate) mod intake;
mod listening;
mod redelivery;
mod refusal;
mod reverse;
mod secrets;
mod sleep;
mod streams;

use std::sync::Arc;

use forward::Ended;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use backoff::Backoff;
pub(crate) use sleep::Connected;

use crate::config::{PipelineSpec, SourceSpec, Work};
use crate::database::Pool;
use crate::database::cursor::Cluster;
use crate::failure::{Class, Failure};
use crate::ownership::Lease;
use crate::source::outbox::{Outboxes, Tick};
use crate::status::{PipelineStatus, State};
use crate::supervisor::checkpoint::Checkpointer;

/// What every pipeline of a relay shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) readers: Arc<Pool>,
    pub(crate) outboxes: Outboxes,
    pub(crate) writers: Arc<Pool>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) ticks: watch::Receiver<Option<Tick>>,
    pub(crate) lease: Lease,
    pub(crate) connected: Connected,
    pub(crate) cluster: Cluster,
    /// Tells the database apart from all others.
    pub(crate) origin: Arc<str>,
    /// Whether a relay of the group listens for webhooks.
    pub(crate) listening: watch::Receiver<bool>,
}

/// Why a pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Asked to stop; what could be finished in time is.
    Stopped,
    /// Another owner, or none that can be sure of it.
    LostOwnership,
}

/// Runs a pipeline until it is told to stop or loses its ownership; failures
/// of any other kind are retried for as long as it takes.
pub(crate) async fn run(
    shared: Shared,
    spec: Arc<PipelineSpec>,
    epoch: i64,
    status: Arc<PipelineStatus>,
    stop: CancellationToken,
) -> Exit {
    let mut backoff = Backoff::new(spec.retry);
    let mut suspect = None;
    let refusals = refusal::Refusals::default();
    let mut woken = false;
    loop {
        let was_asleep = std::mem::take(&mut woken);
        if !was_asleep {
            status.set(State::Starting);
        }
        // An attempt ends in good order when its secrets change, and the next
        // one reads them anew.
        let attempt_stop = stop.child_token();
        let watch = secrets::restart_on_change(&spec.secrets, attempt_stop.clone());
        let result = match &spec.work {
            Work::Forward(forward) => {
                let run = forward::Run {
                    shared: &shared,
                    spec: &spec,
                    forward,
                    refusals: &refusals,
                    epoch,
                    status: &status,
                    stop: &attempt_stop,
                };
                match run.attempt(suspect.take(), &mut backoff, was_asleep).await {
                    Ok(Ended::Stopped) => Ok(()),
                    Ok(Ended::Idle) => run.sleep().await.inspect(|()| woken = true),
                    Err(failure) => Err(failure),
                }
            }
            Work::Reverse(reverse) if let SourceSpec::Webhook(webhook) = &reverse.source => {
                listening::attempt(&shared, webhook, &status, &attempt_stop, &mut backoff).await
            }
            Work::Reverse(reverse) => {
                let run = reverse::Run {
                    shared: &shared,
                    spec: &spec,
                    reverse,
                    epoch,
                    status: &status,
                    stop: &attempt_stop,
                };
                run.attempt(&mut backoff).await
            }
        };
        let failure: Failure = match result {
            Ok(()) if woken && !attempt_stop.is_cancelled() => continue,
            Ok(()) if !stop.is_cancelled() => {
                tracing::info!(pipeline = spec.name, "its secrets changed: connecting anew");
                continue;
            }
            Ok(()) => {
                status.set(State::Stopped);
                return Exit::Stopped;
            }
            Err(failure) => failure,
        };
        if failure.class == Class::LostOwnership {
            tracing::warn!(pipeline = spec.name, "ownership lost: {failure}");
            status.failed(State::Stopped, &failure.message);
            return Exit::LostOwnership;
        }
        suspect = failure.suspect;
        if stop.is_cancelled() {
            status.failed(State::Stopped, &failure.message);
            return Exit::Stopped;
        }
        let (attempt, pause) = backoff.next(&mut rand::rng());
        status.failed(State::Retrying, &failure.message);
        tracing::warn!(
            pipeline = spec.name,
            attempt,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "delivery failed: {failure}; backing off"
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                status.set(State::Stopped);
                return Exit::Stopped;
            }
            // Other secrets may be what it waits for.
            () = attempt_stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        drop(watch);
        if !shared.lease.is_valid() {
            return Exit::LostOwnership;
        }
    }
}
