//! Reads what all relays together have counted of this relay's own webhook
//! pipelines, for its reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::lag::Watched;
use crate::database::{Pool, webhook};
use crate::failure::Failure;
use crate::status::PipelineStatus;

const EVERY: Duration = Duration::from_millis(500);

/// Runs until the task is aborted; failures are logged and tried again.
pub(super) async fn run(pool: Arc<Pool>, watched: Watched) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(EVERY).await;
        let pipelines: HashMap<i32, Arc<PipelineStatus>> = watched.by_id();
        if pipelines.is_empty() {
            continue;
        }
        let ids: Vec<i32> = pipelines.keys().copied().collect();
        match webhook::counts(&pool, &ids).await {
            Ok(counts) => {
                for count in counts {
                    if let Some(status) = pipelines.get(&count.pipeline_id) {
                        status.totals(count.messages, count.duplicates, count.dead_letters);
                    }
                }
            }
            Err(failure) => tracing::debug!("{failure}"),
        }
    }
}
