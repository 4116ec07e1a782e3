//! From a broker to an inbox: receive, identify, store, acknowledge.
//!
//! Messages are acknowledged only after their transaction has committed. A
//! crash between the two brings them again; the inbox's keys refuse them.

use tokio_util::sync::CancellationToken;

use super::{Backoff, Shared};
use crate::config::{PipelineSpec, ReverseSpec};
use crate::database::inbox::{self, Batch, Poison, WriteError, Written};
use crate::failure::Failure;
use crate::source::identity::Rules;
use crate::source::nats::{Incoming, NatsSource, headers_json};
use crate::status::{PipelineStatus, State};

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
        let opening = NatsSource::open(&self.reverse.source, &self.spec.name, self.spec.batch_size);
        let mut source = tokio::select! {
            source = opening => source?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let source_ref = match &source.stream {
            Some(stream) => {
                Some(inbox::source_ref(&self.shared.writers, self.reverse.inbox_id, stream).await?)
            }
            None => None,
        };
        if let Some(note) = &source.note {
            tracing::warn!(pipeline = self.spec.name, "{note}");
        }
        self.status.note(source.note.clone());
        self.status.set(State::Running);
        let rules = Rules {
            id_header: self.reverse.source.message_id_header.clone(),
            dedup_path: self.reverse.source.dedup_key.clone(),
            idempotent: self.reverse.idempotent,
        };
        let result = self.receive(&mut source, &rules, source_ref, backoff).await;
        source.close().await;
        result
    }

    async fn receive(
        &self,
        source: &mut NatsSource,
        rules: &Rules,
        source_ref: Option<i32>,
        backoff: &mut Backoff,
    ) -> Result<(), Failure> {
        let mut incoming = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                received = source.next(&mut incoming, self.spec.batch_size) => received?,
            }
            if !self.shared.lease.is_valid() {
                return Err(Failure::lost("the lock connection did not answer in time"));
            }
            self.store(rules, source_ref, &incoming).await?;
            backoff.reset();
            for message in incoming.drain(..) {
                message.ack().await?;
            }
        }
    }

    /// Stores a batch; messages that cannot be stored are put aside.
    async fn store(
        &self,
        rules: &Rules,
        source_ref: Option<i32>,
        incoming: &[Incoming],
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        let mut origin = Vec::new();
        for (n, message) in incoming.iter().enumerate() {
            let payload = &message.message.payload;
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(payload)
                .map_err(|e| e.to_string())
                .and_then(|_| std::str::from_utf8(payload).map_err(|e| e.to_string()));
            match json {
                Ok(text) => {
                    add(&mut batch, rules, source_ref, message, text);
                    origin.push(n);
                }
                Err(reason) => {
                    self.dead_letter(
                        rules,
                        source_ref,
                        message,
                        &format!("the payload is not JSON: {reason}"),
                    )
                    .await?;
                }
            }
        }
        // Halves of a batch that PostgreSQL refuses, until the culprit is alone.
        let mut parts = Vec::from([(0, batch.len())]);
        while let Some((from, to)) = parts.pop() {
            if from == to {
                continue;
            }
            let part = batch.part(from..to);
            match inbox::write(&self.shared.writers, self.spec.id, self.epoch, &part).await {
                Ok(Written { inserted, duplicates }) => {
                    self.status.consumed(inserted);
                    self.status.skipped(duplicates);
                }
                Err(WriteError::Failed(failure)) => return Err(failure),
                Err(WriteError::Refused(reason)) if to - from == 1 => {
                    let message = &incoming[origin[from]];
                    self.dead_letter(
                        rules,
                        source_ref,
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
        source_ref: Option<i32>,
        incoming: &Incoming,
        error: &str,
    ) -> Result<(), Failure> {
        let message = &incoming.message;
        let found = rules.identify(&message.subject, &message.payload, |name| header(message, name));
        tracing::warn!(
            pipeline = self.spec.name,
            subject = message.subject.as_str(),
            sequence = incoming.sequence,
            "dead-lettered: {error}"
        );
        let poison = Poison {
            event_id: found.event_id.as_deref(),
            source: &format!("nats:{}", message.subject),
            source_ref,
            source_seq: incoming.sequence,
            body: &message.payload,
            headers: &headers_json(message.headers.as_ref()),
            error,
        };
        inbox::dead_letter(&self.shared.writers, &self.spec.name, &poison).await?;
        self.status.dead_lettered(1);
        Ok(())
    }
}

/// Appends a message to the batch.
fn add(batch: &mut Batch, rules: &Rules, source_ref: Option<i32>, incoming: &Incoming, text: &str) {
    let message = &incoming.message;
    let found = rules.identify(&message.subject, &message.payload, |name| header(message, name));
    batch.event_ids.push(found.event_id);
    batch.dedup_keys.push(found.dedup_key);
    batch
        .source_refs
        .push(source_ref.filter(|_| incoming.sequence.is_some()));
    batch
        .source_seqs
        .push(incoming.sequence.filter(|_| source_ref.is_some()));
    batch.sources.push(format!("nats:{}", message.subject));
    batch.payloads.push(text.to_owned());
    batch.headers.push(headers_json(message.headers.as_ref()));
}

fn header<'m>(message: &'m async_nats::Message, name: &str) -> Option<&'m str> {
    let headers = message.headers.as_ref()?;
    let exact = headers.get(name);
    exact
        .or_else(|| {
            headers
                .iter()
                .find(|(n, _)| n.to_string().eq_ignore_ascii_case(name))
                .and_then(|(_, values)| values.first())
        })
        .map(async_nats::HeaderValue::as_str)
}
