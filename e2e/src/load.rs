//! Messages published while something happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::{Database, await_condition};

/// Publishes 1, 2, 3, ... one by one until told to stop.
#[derive(Debug)]
pub struct Load {
    published: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Publishes into the outbox `events`.
    pub async fn start(db: &Database) -> Self {
        let (published, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let session = db.session().await;
        let (count, end) = (Arc::clone(&published), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let publish = session
                .prepare("SELECT tide.outbox_publish('events', jsonb_build_object('n', $1::bigint))")
                .await
                .unwrap();
            while !end.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed) + 1;
                session.execute(&publish, &[&n]).await.unwrap();
                count.store(n, Ordering::Relaxed);
            }
        });
        Self {
            published,
            stop,
            task,
        }
    }

    /// How many there are by now.
    pub fn published(&self) -> i64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Waits until so many more are published.
    pub async fn await_more(&self, more: i64) {
        let wanted = self.published() + more;
        await_condition(Duration::from_secs(15), "more is published", async || {
            (self.published() >= wanted).then_some(())
        })
        .await;
    }

    /// Stops, and returns how many there are.
    pub async fn end(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.published.load(Ordering::Relaxed)
    }
}
