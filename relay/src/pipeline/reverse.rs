//! From a broker to an inbox: receive, identify, store, acknowledge.
//!
//! Messages are acknowledged only after their transaction has committed. A
//! crash between the two brings them again; the inbox's keys refuse them.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::streams::{Named, Streams};
use super::{Backoff, Shared, intake};
use crate::config::{PipelineSpec, ReverseSpec};
use crate::database::inbox::{self, Batch, Poison, WriteError, Written};
use crate::failure::Failure;
use crate::sabotage::Protection;
use crate::source::identity::Rules;
use crate::source::{Incoming, Reader, Source};
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
        let reader = Reader {
            pipeline: self.spec.name.clone(),
            first_name: self.spec.first_name.clone(),
            pipeline_id: self.spec.id,
            epoch: self.epoch,
            inbox_id: self.reverse.inbox_id,
            inbox: self.reverse.inbox.clone(),
            origin: Arc::clone(&self.shared.origin),
            batch_size: self.spec.batch_size,
            writers: Arc::clone(&self.shared.writers),
        };
        let opening = Source::open(&self.reverse.source, &reader);
        let mut source = tokio::select! {
            source = opening => source?,
            () = self.stop.cancelled() => return Ok(()),
        };
        if let Some(note) = source.note() {
            tracing::warn!(pipeline = self.spec.name, "{note}");
        }
        self.status.note(source.note());
        self.status.source(None, source.lag());
        self.status.set(State::Running);
        let rules = Rules {
            usual_headers: source.id_headers(),
            id_header: self.reverse.message_id_header.clone(),
            dedup_path: self.reverse.dedup_key.clone(),
            idempotent: self.reverse.idempotent,
        };
        let mut streams = Streams {
            group: source.group().map(str::to_owned),
            ..Streams::default()
        };
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
            if Protection::CommitBeforeAck.is_off() {
                for message in &batch {
                    message.ack_early().await;
                }
            }
            self.name_streams(source, streams, &batch).await?;
            self.store_while_receiving(source, rules, streams, &batch, &mut next, &mut stored)
                .await?;
            let last = batch.iter().rev().find_map(|m| m.position);
            let last = last.and_then(|p| Some((source.stream(p.stream).ok()?.name, p.sequence)));
            self.status.source(last, source.lag());
            std::mem::swap(&mut stored, &mut batch);
            backoff.reset();
        }
    }

    /// Stores a batch while the last one is acknowledged and the next received.
    async fn store_while_receiving(
        &self,
        source: &mut Source,
        rules: &Rules,
        streams: &mut Streams,
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
    async fn store(
        &self,
        rules: &Rules,
        streams: &mut Streams,
        incoming: &[Incoming],
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        let mut origin = Vec::new();
        for (n, message) in incoming.iter().enumerate() {
            let taken = self.reverse.filter.as_ref().is_none_or(|f| {
                let payload = message.payload.as_deref().unwrap_or_default();
                f.takes(|name| message.headers.get(name), payload)
            });
            if !taken {
                self.status.filtered(1);
                continue;
            }
            match intake::json(message) {
                Ok(text) => {
                    intake::add(&mut batch, rules, streams.stored(message.position), message, text);
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
            // Everything before the part is settled already.
            let settled = &incoming[..=origin[to - 1]];
            match self.write(streams, &part, settled).await {
                Ok(()) => refusals.reset(),
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
        // Positions move past what was set aside at the end, too.
        if !streams.moves(incoming).0.next.is_empty() {
            self.write(streams, &Batch::default(), incoming)
                .await
                .map_err(|e| match e {
                    WriteError::Failed(failure) => failure,
                    WriteError::Refused(reason) => Failure::transient(reason),
                })?;
        }
        Ok(())
    }

    /// Stores a part, and with it the positions reached by what is settled then.
    async fn write(
        &self,
        streams: &mut Streams,
        part: &Batch,
        settled: &[Incoming],
    ) -> Result<(), WriteError> {
        let (moves, reached) = streams.moves(settled);
        let group = streams.group.as_deref();
        let written = inbox::write(
            &self.shared.writers,
            self.spec.id,
            self.epoch,
            part,
            group.map(|group| (group, &moves)),
        );
        let Written { inserted, duplicates } = written.await?;
        streams.reach(&reached);
        self.status.consumed(inserted);
        self.status.skipped(duplicates);
        Ok(())
    }

    async fn dead_letter(
        &self,
        rules: &Rules,
        streams: &Streams,
        message: &Incoming,
        error: &str,
    ) -> Result<(), Failure> {
        let found = message.identify(rules);
        let position = streams.stored(message.position);
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
            body: message.payload.as_deref(),
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
            if let Entry::Vacant(entry) = streams.named.entry(position.stream) {
                let stream = source.stream(position.stream)?;
                let inbox_id = self.reverse.inbox_id;
                entry.insert(Named {
                    source_ref: inbox::source_ref(&self.shared.writers, inbox_id, &stream.name).await?,
                    next: stream.next,
                });
            }
        }
        Ok(())
    }
}

/// Acknowledges stored messages; leaves none.
async fn acknowledge(stored: &mut Vec<Incoming>) -> Result<(), Failure> {
    for message in stored.drain(..) {
        message.ack().await?;
    }
    Ok(())
}
