//! The relay's main loop: joins its group, looks at locks and configuration
//! many times a second, and starts and stops pipelines accordingly.
//!
//! One database session at a time: when the lock connection is lost, all locks
//! are, and everything begins anew.

pub(crate) mod checkpoint;
mod lag;
mod maintenance;
mod pipelines;
mod session;
mod tick;
mod webhooks;

#[cfg(test)]
pub(crate) use tick::News;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pg_tide_probes::Health;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::source::webhook::Routes;
use crate::status::Metrics;

/// What the relay was started with.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) relay_group: String,
    /// How other relays and people see this one.
    pub(crate) name: String,
    /// Where it listens for webhooks, and which of them it takes.
    pub(crate) webhooks: Option<(SocketAddr, Routes)>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Runs until told to stop.
pub(crate) async fn run(
    database: Database,
    settings: Settings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        health.beat();
        let started = std::time::Instant::now();
        match session::run(&database, &settings, &metrics, &health, &stop).await {
            Ok(()) => break,
            Err(failure) => {
                if let Some((_, routes)) = &settings.webhooks {
                    routes.lost();
                }
                if started.elapsed() > Duration::from_secs(10) {
                    pause = FIRST_PAUSE;
                }
                health.not_ready(failure.message.as_str());
                metrics.owned.set(0);
                let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                tracing::error!(retry_in_ms, "no database session: {failure}");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    health.not_ready("stopped");
}
