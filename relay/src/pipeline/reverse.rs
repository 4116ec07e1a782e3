//! From a broker to an inbox: receive, identify, store, acknowledge.
//!
//! Messages are acknowledged only after their transaction has committed. A
//! crash between the two brings them again; the inbox's keys refuse them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Shared};
use crate::config::{PipelineSpec, ReverseSpec};
use crate::database::inbox::{self, Batch, Poison, WriteError, Written};
use crate::failure::Failure;
use crate::source::identity::Rules;
use crate::source::{Incoming, Position, Source};
use crate::status::{PipelineStatus, State};

/// For how long a batch is filled up under load.
const LINGER: Duration = Duration::from_millis(3);
/// A batch of so many is a sign of load.
const MANY: usize = 32;

/// Messages that are long in the storing are told to be in work so often.
const HOLD_EVERY: Duration = Duration::from_millis(700);

/// One pipeline's run.
pub(super) struct Run<'a> {
    pub(super) shared: &'a Shared,
    pub(super) spec: &'a PipelineSpec,
    pub(super) reverse: &'a ReverseSpec,
    pub(super) epoch: i64,
    pub(super) status: &'a PipelineStatus,
    pub(super) stop: &'a CancellationToken,
}

impl Run<'_> {
    /// Receives until told to stop (`Ok`) or something fails.
    pub(super) async fn attempt(&self, backoff: &mut Backoff) -> Result<(), Failure> {
        let opening = Source::open(&self.reverse.source, &self.spec.name, self.spec.batch_size);
        let mut source = tokio::select! {
            source = opening => source?,
            () = self.stop.cancelled() => return Ok(()),
        };
        if let Some(note) = source.note() {
            tracing::warn!(pipeline = self.spec.name, "{note}");
        }
        self.status.note(source.note().map(str::to_owned));
        self.status.source(None, source.lag());
        self.status.set(State::Running);
        let rules = Rules {
            id_header: self.reverse.message_id_header.clone(),
            dedup_path: self.reverse.dedup_key.clone(),
            idempotent: self.reverse.idempotent,
        };
        let mut streams = Streams::new();
        let result = self.receive(&mut source, &rules, &mut streams, backoff).await;
        source.close().await;
        result
    }

    async fn receive(
        &self,
        source: &mut Source,
        rules: &Rules,
        streams: &mut Streams,
        backoff: &mut Backoff,
    ) -> Result<(), Failure> {
        let limit = self.spec.batch_size;
        let mut batch: Vec<Incoming> = Vec::new();
        let mut next: Vec<Incoming> = Vec::new();
        // Stored; acknowledged while the next batch is stored, or in the quiet.
        let mut stored: Vec<Incoming> = Vec::new();
        let mut many = false;
        loop {
            if self.stop.is_cancelled() {
                return acknowledge(&mut stored).await;
            }
            if next.is_empty() {
                acknowledge(&mut stored).await?;
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Ok(()),
                    received = source.next(&mut next, limit) => received?,
                }
            }
            // Under load a fuller batch is worth a moment; a lone message is not
            // kept waiting.
            let deadline = Instant::now() + LINGER;
            while many && next.len() < limit && !self.stop.is_cancelled() {
                let room = limit - next.len();
                match tokio::time::timeout_at(deadline, source.next(&mut next, room)).await {
                    Ok(received) => received?,
                    Err(_) => break,
                }
            }
            many = next.len() >= MANY.min(limit);
            std::mem::swap(&mut batch, &mut next);
            if !self.shared.lease.is_valid() {
                return Err(Failure::lost("the lock connection did not answer in time"));
            }
            self.name_streams(source, streams, &batch).await?;
            self.store_while_receiving(source, rules, streams, &batch, &mut next, &mut stored)
                .await?;
            let last = batch.iter().rev().find_map(|m| m.position);
            self.status.source(
                last.map(|p| (source.stream_name(p.stream), p.sequence)),
                source.lag(),
            );
            std::mem::swap(&mut stored, &mut batch);
            backoff.reset();
        }
    }

    /// Stores a batch while the last one is acknowledged and the next received.
    async fn store_while_receiving(
        &self,
        source: &mut Source,
        rules: &Rules,
        streams: &Streams,
        batch: &[Incoming],
        next: &mut Vec<Incoming>,
        last: &mut Vec<Incoming>,
    ) -> Result<(), Failure> {
        let storing = async {
            let (stored, acknowledged) = tokio::join!(self.store(rules, streams, batch), acknowledge(last));
            stored.and(acknowledged)
        };
        tokio::pin!(storing);
        let mut failed = None;
        let mut hold_at = Instant::now() + HOLD_EVERY;
        loop {
            let room = self.spec.batch_size - next.len();
            tokio::select! {
                biased;
                // A batch is finished, whatever becomes of the source.
                stored = &mut storing => return stored.and(failed.map_or(Ok(()), Err)),
                received = source.next(next, room), if room > 0 && failed.is_none() => failed = received.err(),
                () = tokio::time::sleep_until(hold_at) => {
                    for message in batch.iter().chain(&*next) {
                        message.hold().await;
                    }
                    hold_at = Instant::now() + HOLD_EVERY;
                }
            }
        }
    }

    /// Stores a batch; messages that cannot be stored are put aside.
    async fn store(&self, rules: &Rules, streams: &Streams, incoming: &[Incoming]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        let mut origin = Vec::new();
        for (n, message) in incoming.iter().enumerate() {
            let payload = &message.payload;
            let taken = self
                .reverse
                .filter
                .as_ref()
                .is_none_or(|f| f.takes(|name| message.headers.get(name), payload));
            if !taken {
                self.status.filtered(1);
                continue;
            }
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(payload)
                .map_err(|e| e.to_string())
                .and_then(|_| std::str::from_utf8(payload).map_err(|e| e.to_string()));
            match json {
                Ok(text) => {
                    add(&mut batch, rules, streams, message, text);
                    origin.push(n);
                }
                Err(reason) if !self.reverse.dead_letter.enabled => {
                    return Err(Failure::transient(format!(
                        "a message is not JSON and the pipeline waits, as \"dead_letter.enabled\" is false: {reason}"
                    )));
                }
                Err(reason) => {
                    self.dead_letter(
                        rules,
                        streams,
                        message,
                        &format!("the payload is not JSON: {reason}"),
                    )
                    .await?;
                }
            }
        }
        // Halves of a batch that PostgreSQL refuses, until the culprit is alone.
        let mut parts = Vec::from([(0, batch.len())]);
        // Of the message that is alone.
        let mut refusals = Backoff::new(self.spec.retry);
        while let Some((from, to)) = parts.pop() {
            if from == to {
                continue;
            }
            let part = batch.part(from..to);
            match inbox::write(&self.shared.writers, self.spec.id, self.epoch, &part).await {
                Ok(Written { inserted, duplicates }) => {
                    refusals.reset();
                    self.status.consumed(inserted);
                    self.status.skipped(duplicates);
                }
                Err(WriteError::Failed(failure)) => return Err(failure),
                Err(WriteError::Refused(reason)) if to - from == 1 => {
                    // The cause may be mended meanwhile.
                    let (attempt, pause) = refusals.next(&mut rand::rng());
                    if attempt <= self.reverse.dead_letter.max_retries {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = self.stop.cancelled() => return Err(Failure::transient(reason)),
                        }
                        parts.push((from, to));
                        continue;
                    }
                    refusals.reset();
                    if !self.reverse.dead_letter.enabled {
                        return Err(Failure::transient(format!(
                            "the inbox refuses a message and the pipeline waits, as \"dead_letter.enabled\" is false: {reason}"
                        )));
                    }
                    let message = &incoming[origin[from]];
                    self.dead_letter(
                        rules,
                        streams,
                        message,
                        &format!("the inbox refuses it: {reason}"),
                    )
                    .await?;
                }
                Err(WriteError::Refused(_)) => {
                    let middle = usize::midpoint(from, to);
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
            }
        }
        Ok(())
    }

    async fn dead_letter(
        &self,
        rules: &Rules,
        streams: &Streams,
        message: &Incoming,
        error: &str,
    ) -> Result<(), Failure> {
        let found = rules.identify(&message.subject, &message.payload, |name| {
            message.headers.get(name)
        });
        let position = stored_position(streams, message.position);
        tracing::warn!(
            pipeline = self.spec.name,
            subject = message.subject,
            sequence = position.map(|(_, sequence)| sequence),
            "dead-lettered: {error}"
        );
        let poison = Poison {
            event_id: found.event_id.as_deref(),
            source: &message.source(),
            source_ref: position.map(|(source, _)| source),
            source_seq: position.map(|(_, sequence)| sequence),
            body: &message.payload,
            headers: &message.headers.json(),
            error,
        };
        inbox::dead_letter(&self.shared.writers, &self.spec.name, &poison).await?;
        self.status.dead_lettered(1);
        Ok(())
    }

    /// Gives each stream of a batch its number in the inbox.
    async fn name_streams(
        &self,
        source: &Source,
        streams: &mut Streams,
        batch: &[Incoming],
    ) -> Result<(), Failure> {
        for position in batch.iter().filter_map(|m| m.position) {
            if let std::collections::hash_map::Entry::Vacant(entry) = streams.entry(position.stream) {
                let name = source.stream_name(position.stream);
                entry.insert(inbox::source_ref(&self.shared.writers, self.reverse.inbox_id, &name).await?);
            }
        }
        Ok(())
    }
}

/// Numbers of the source's streams in the inbox.
type Streams = HashMap<u32, i32>;

fn stored_position(streams: &Streams, position: Option<Position>) -> Option<(i32, i64)> {
    let position = position?;
    Some((*streams.get(&position.stream)?, position.sequence))
}

/// Acknowledges stored messages; leaves none.
async fn acknowledge(stored: &mut Vec<Incoming>) -> Result<(), Failure> {
    for message in stored.drain(..) {
        message.ack().await?;
    }
    Ok(())
}

/// Appends a message to the batch.
fn add(batch: &mut Batch, rules: &Rules, streams: &Streams, message: &Incoming, text: &str) {
    let found = rules.identify(&message.subject, &message.payload, |name| {
        message.headers.get(name)
    });
    let position = stored_position(streams, message.position);
    batch.event_ids.push(found.event_id);
    batch.dedup_keys.push(found.dedup_key);
    batch.source_refs.push(position.map(|(source, _)| source));
    batch.source_seqs.push(position.map(|(_, sequence)| sequence));
    batch.sources.push(message.source());
    batch.payloads.push(text.to_owned());
    batch.headers.push(message.headers.json());
}
