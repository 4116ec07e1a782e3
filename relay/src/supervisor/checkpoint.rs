//! Writes the checkpoints of all pipelines: what has come while the last
//! statement ran goes into the next one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::database::Pool;
use crate::database::cursor::{self, Checkpoint};
use crate::failure::Failure;
use crate::status::Metrics;

type Reply = oneshot::Sender<Result<(), Failure>>;

/// A handle to the writer.
#[derive(Debug, Clone)]
pub(crate) struct Checkpointer {
    requests: mpsc::Sender<(Checkpoint, Reply)>,
}

impl Checkpointer {
    pub(super) fn start(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<Result<(), Failure>>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(1_024);
        tasks.spawn(write_all(pool, metrics, receiver));
        Self { requests }
    }

    /// Hands in a checkpoint; the reply says whether it was written.
    pub(crate) async fn write(&self, checkpoint: Checkpoint) -> oneshot::Receiver<Result<(), Failure>> {
        let (reply, receiver) = oneshot::channel();
        // When the writer is gone, the dropped reply says so.
        let _ = self.requests.send((checkpoint, reply)).await;
        receiver
    }
}

async fn write_all(
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    mut requests: mpsc::Receiver<(Checkpoint, Reply)>,
) -> Result<(), Failure> {
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, 1_024).await > 0 {
        let (checkpoints, replies): (Vec<Checkpoint>, Vec<Reply>) = waiting.drain(..).unzip();
        let written = async {
            let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
            let written = cursor::write(&mut lease.session, &checkpoints).await?;
            lease.done();
            Ok::<_, Failure>(written)
        }
        .await;
        if written.is_err() {
            metrics.checkpoint_errors.inc();
        }
        for (checkpoint, reply) in checkpoints.iter().zip(replies) {
            let result = match &written {
                Ok(groups) if groups.contains(&checkpoint.group_id) => Ok(()),
                Ok(_) => Err(Failure::lost(
                    "another relay owns the pipeline, or its consumer group is gone",
                )),
                Err(failure) => Err(failure.clone()),
            };
            let _ = reply.send(result);
        }
    }
    Ok(())
}
