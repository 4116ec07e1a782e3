//! Kafka as a source: a member of a consumer group whose offsets are kept in
//! the inbox, in the transactions that store the messages; Kafka's own
//! committed offsets follow (docs/design/from-kafka.md).
//!
//! A thread of its own serves librdkafka: it reads, and in the callbacks of a
//! rebalance it asks inbox and brokers where each partition begins.

mod claim;
mod context;
mod plan;
mod reader;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

pub(crate) use claim::Claim;

use super::{Incoming, Reader, Stream};
use crate::config::KafkaSourceSpec;
use crate::failure::Failure;
use context::Shared;
use reader::Chunk;

/// Chunks between the thread and the pipeline.
const CHUNKS: usize = 4;
/// For the last commit and the way out of the group.
const CLOSE: Duration = Duration::from_secs(1);

/// An open source.
pub(crate) struct KafkaSource {
    shared: Arc<Shared>,
    chunks: mpsc::Receiver<Chunk>,
    pending: VecDeque<Incoming>,
    failed: Option<Failure>,
    /// Resolves when the thread has ended.
    ended: oneshot::Receiver<()>,
    /// Tells the thread when the source is dropped.
    open: DropGuard,
}

impl KafkaSource {
    /// Joins the group; returns when it has given out its partitions.
    pub(crate) async fn open(spec: &KafkaSourceSpec, reader: &Reader) -> Result<Self, Failure> {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (end, ended) = oneshot::channel();
        let shared = Arc::new(Shared::new(spec, reader));
        let mut assigned = shared.assigned.subscribe();
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("kafka-source".into())
            .spawn(move || {
                reader::run(&thread, &sender);
                let _ = end.send(());
            })
            .map_err(|e| Failure::transient(format!("starting a thread: {e}")))?;
        let mut source = Self {
            open: shared.closing.clone().drop_guard(),
            shared,
            chunks,
            pending: VecDeque::new(),
            failed: None,
            ended,
        };
        tokio::select! {
            biased;
            _ = assigned.wait_for(|assigned| *assigned) => {}
            chunk = source.chunks.recv() => source.keep(chunk),
        }
        match source.failed.take() {
            Some(failure) => Err(failure),
            None => Ok(source),
        }
    }

    pub(crate) fn note(&self) -> Option<String> {
        self.shared.note.lock().clone()
    }

    pub(crate) fn group(&self) -> &str {
        &self.shared.spec.consumer_group
    }

    /// Records that are not settled, as of the last look at the ends.
    pub(crate) fn lag(&self) -> u64 {
        self.shared.claims.lock().lag()
    }

    pub(crate) fn stream(&self, stream: u32) -> Result<Stream, Failure> {
        let claim = self.shared.claims.lock().of_stream(stream);
        claim
            .map(|claim| Stream {
                name: Arc::clone(&claim.name),
                next: Some(claim.next),
            })
            .ok_or_else(|| self.shared.failure("a message of a partition that is gone"))
    }

    fn keep(&mut self, chunk: Option<Chunk>) {
        match chunk {
            Some(Ok(messages)) => self.pending.extend(messages),
            Some(Err(failure)) => self.failed = Some(failure),
            None => self.failed = Some(self.shared.failure("the consumer's thread ended")),
        }
    }

    /// Waits for messages and takes what is there, up to `limit`.
    /// Cancel-safe: a message is either in `into` or still to come.
    pub(crate) async fn next(&mut self, into: &mut Vec<Incoming>, limit: usize) -> Result<(), Failure> {
        if self.pending.is_empty() && self.failed.is_none() {
            let chunk = self.chunks.recv().await;
            self.keep(chunk);
        }
        while self.pending.len() < limit && self.failed.is_none() {
            match self.chunks.try_recv() {
                Ok(chunk) => self.keep(Some(chunk)),
                Err(_) => break,
            }
        }
        if self.pending.is_empty()
            && let Some(failure) = self.failed.take()
        {
            return Err(failure);
        }
        let count = limit.min(self.pending.len());
        into.extend(self.pending.drain(..count));
        Ok(())
    }

    /// Lets the thread commit what is settled, and leave.
    pub(crate) async fn close(self) {
        let Self {
            chunks, ended, open, ..
        } = self;
        drop((chunks, open));
        let _ = tokio::time::timeout(CLOSE, ended).await;
    }
}
