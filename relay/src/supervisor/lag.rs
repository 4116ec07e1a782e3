//! Measures how far the relay's own forward pipelines are behind.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::database::{Pool, report};
use crate::failure::Failure;
use crate::status::PipelineStatus;

/// The counts are exact and cost as much as the backlog is long: they are
/// taken so seldom that they are a hundredth of the time at most.
const EVERY: Duration = Duration::from_secs(5);
const PART: u32 = 100;

/// The statuses of pipelines that run and are looked at from here.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched(Arc<Mutex<Vec<Weak<PipelineStatus>>>>);

impl Watched {
    pub(super) fn set<'a>(&self, statuses: impl Iterator<Item = &'a Arc<PipelineStatus>>) {
        *self.0.lock() = statuses.map(Arc::downgrade).collect();
    }

    pub(super) fn by_id(&self) -> HashMap<i32, Arc<PipelineStatus>> {
        let statuses = self.0.lock();
        statuses
            .iter()
            .filter_map(Weak::upgrade)
            .map(|s| (s.id(), s))
            .collect()
    }
}

/// Runs until the task is aborted; failures are logged and tried again.
pub(super) async fn run(pool: Arc<Pool>, watched: Watched) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(EVERY).await;
        let began = Instant::now();
        let pipelines = watched.by_id();
        if pipelines.is_empty() {
            continue;
        }
        let ids: Vec<i32> = pipelines.keys().copied().collect();
        match report::lags(&pool, &ids).await {
            Ok(lags) => {
                for (id, messages, seconds) in lags {
                    if let Some(status) = pipelines.get(&id) {
                        status.lag(messages, Some(seconds));
                    }
                }
            }
            Err(failure) => tracing::debug!("{failure}"),
        }
        drop(pipelines);
        tokio::time::sleep((began.elapsed() * PART).saturating_sub(EVERY)).await;
    }
}
