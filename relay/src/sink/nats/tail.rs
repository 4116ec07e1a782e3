//! The end of a stream's log: where it is, and what of a pipeline lies there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::{HeaderMap, HeaderValue};
use futures::StreamExt;

use super::ACK_TIMEOUT;
use crate::broker::nats::{self, Connection};
use crate::cursor::Positions;
use crate::encode::{EventId, Identity, added};
use crate::failure::Failure;

/// See the Kafka sink's tail: requests of a dead owner may still arrive.
const SETTLE: Duration = Duration::from_millis(150);

/// Reads streams' ends.
pub(super) struct Tail<'a> {
    pub(super) connection: &'a Connection,
    pub(super) context: &'a Context,
    pub(super) identity: &'a Identity,
}

impl Tail<'_> {
    /// The last sequence of a stream; none when the stream is gone.
    async fn last_sequence(&self, stream: &str) -> Result<Option<i64>, Failure> {
        match self.context.get_stream(stream).await {
            Ok(stream) => Ok(Some(
                i64::try_from(stream.cached_info().state.last_sequence).unwrap_or(i64::MAX),
            )),
            Err(error) if nats::is_missing(&error) => Ok(None),
            Err(error) => Err(self.connection.failure("asking for the stream", &error)),
        }
    }

    /// Ends of the streams for which `known` has no position.
    pub(super) async fn ends(&self, streams: &[Arc<str>], known: &Positions) -> Result<Positions, Failure> {
        let mut new = Positions::new();
        for name in streams {
            if !known.contains_key(&**name)
                && let Some(last) = self.last_sequence(name).await?
            {
                new.insert(name.to_string(), last + 1);
            }
        }
        Ok(new)
    }

    /// Ids of this pipeline's messages from these positions on, once nothing
    /// more comes.
    pub(super) async fn landed(&self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        let mut landed = HashSet::new();
        for (stream, position) in since {
            let mut next = *position;
            let mut quiet_since = Instant::now();
            loop {
                let Some(last) = self.last_sequence(stream).await? else {
                    break;
                };
                if last >= next {
                    let (found, after) = self.read_from(stream, next).await?;
                    next = after;
                    if !found.is_empty() {
                        landed.extend(found);
                        quiet_since = Instant::now();
                    }
                } else if quiet_since.elapsed() >= SETTLE {
                    break;
                } else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        Ok(landed)
    }

    /// Ids of this pipeline from a sequence on, and the next sequence.
    async fn read_from(&self, name: &str, from: i64) -> Result<(Vec<EventId>, i64), Failure> {
        let stream = self
            .context
            .get_stream(name)
            .await
            .map_err(|e| self.connection.failure("asking for the stream", &e))?;
        let info = stream.cached_info();
        let last = i64::try_from(info.state.last_sequence).unwrap_or(i64::MAX);
        let first = i64::try_from(info.state.first_sequence).unwrap_or(i64::MAX);
        let start = from.max(first).max(1);
        let found = if info.config.retention == RetentionPolicy::WorkQueue {
            self.read_singly(&stream, start, last).await?
        } else {
            self.read_in_order(&stream, start, last).await?
        };
        Ok((found, last.saturating_add(1).max(from)))
    }

    async fn read_in_order(&self, stream: &Stream, from: i64, last: i64) -> Result<Vec<EventId>, Failure> {
        let failed = |e: &dyn std::error::Error| self.connection.failure("reading the end of the stream", e);
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: u64::try_from(from).unwrap_or(1),
            },
            replay_policy: ReplayPolicy::Instant,
            headers_only: true,
            ..OrderedConfig::default()
        };
        let mut found = Vec::new();
        if from > last {
            return Ok(found);
        }
        let consumer = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
        let mut messages = consumer.messages().await.map_err(|e| failed(&e))?;
        loop {
            let next = tokio::time::timeout(ACK_TIMEOUT, messages.next())
                .await
                .map_err(|_| self.connection.failed("reading the end of the stream: no answer"))?;
            let Some(message) = next else { break };
            let message = message.map_err(|e| failed(&e))?;
            let info = message.info().map_err(|e| failed(&*e))?;
            let at = i64::try_from(info.stream_sequence).unwrap_or(i64::MAX);
            let pending = info.pending;
            found.extend(message.headers.as_ref().and_then(|h| own_id(h, self.identity)));
            if at >= last || pending == 0 {
                break;
            }
        }
        Ok(found)
    }

    /// For a work queue, which has no consumers but its one: each message is
    /// asked for by its sequence. Those taken off the queue meanwhile are known
    /// to the stream's duplicate window alone.
    async fn read_singly(&self, stream: &Stream, from: i64, last: i64) -> Result<Vec<EventId>, Failure> {
        let mut found = Vec::new();
        let sequences = (from..=last).filter_map(|sequence| u64::try_from(sequence).ok());
        let mut answers = futures::stream::iter(sequences)
            .map(|sequence| stream.get_raw_message(sequence))
            .buffered(64);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(message) => found.extend(own_id(&message.headers, self.identity)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(self.connection.failure("reading the end of the stream", &error)),
            }
        }
        Ok(found)
    }
}

/// The id of a message that this pipeline sent.
fn own_id(headers: &HeaderMap, identity: &Identity) -> Option<EventId> {
    if headers.get(added::PIPELINE)?.as_str() != identity.pipeline
        || headers.get(added::OUTBOX)?.as_str() != identity.outbox
    {
        return None;
    }
    let redelivery = headers.get(added::REDELIVERY).map(HeaderValue::as_str);
    EventId::parse(headers.get(added::ID)?.as_str(), redelivery)
}
