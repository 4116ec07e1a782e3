//! NATS JetStream: publishes are pipelined, their acknowledgements awaited in
//! order. The message id (`Nats-Msg-Id`) is the same whoever sends it, so the
//! stream's duplicate window refuses what the reading of the tail missed.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};

use super::{Outcome, Settled};
use crate::broker::nats::{self, Connection};
use crate::config::{Delivery, NatsSinkSpec};
use crate::cursor::{Positions, Ticket};
use crate::encode::{Event, EventId, Identity, added};
use crate::failure::{Failure, with_causes};

const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// See the Kafka sink's tail: requests of a dead owner may still arrive.
const SETTLE: Duration = Duration::from_millis(150);

type AckFuture = Pin<Box<dyn Future<Output = (Ticket, Result<PublishAck, PublishError>)> + Send>>;

/// See the module's description.
pub(crate) struct NatsSink {
    spec: NatsSinkSpec,
    identity: Identity,
    connection: Connection,
    context: jetstream::Context,
    /// Streams that take the pipeline's subjects.
    streams: Vec<Arc<str>>,
    by_name: HashMap<String, u32>,
    waiting: FuturesOrdered<AckFuture>,
}

impl NatsSink {
    pub(crate) async fn open(
        spec: &NatsSinkSpec,
        identity: &Identity,
        max_in_flight: usize,
    ) -> Result<Self, Failure> {
        let connection = Connection::open(&spec.url, &identity.pipeline).await?;
        let context = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            // The window bounds what is in flight.
            .max_ack_inflight(max_in_flight + 1_000)
            .build(connection.client().clone());
        let pattern = spec.subject_pattern();
        let streams = nats::streams_for(
            &context,
            &spec.url,
            spec.stream.as_deref(),
            &pattern,
            spec.create_stream,
        )
        .await?;
        let mut sink = Self {
            spec: spec.clone(),
            identity: identity.clone(),
            connection,
            context,
            streams: Vec::new(),
            by_name: HashMap::new(),
            waiting: FuturesOrdered::new(),
        };
        for name in streams {
            sink.number(&name);
        }
        Ok(sink)
    }

    fn number(&mut self, stream: &str) -> u32 {
        if let Some(number) = self.by_name.get(stream) {
            return *number;
        }
        let number = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.streams.push(Arc::from(stream));
        self.by_name.insert(stream.to_owned(), number);
        number
    }

    fn failure(&self, what: &str, error: &dyn std::error::Error) -> Failure {
        Failure::transient(format!("nats {}: {what}: {}", self.spec.url, with_causes(error)))
    }

    /// The last sequence of a stream; none when the stream is gone.
    async fn last_sequence(&mut self, stream: &str) -> Result<Option<i64>, Failure> {
        match self.context.get_stream(stream).await {
            Ok(stream) => Ok(Some(
                i64::try_from(stream.cached_info().state.last_sequence).unwrap_or(i64::MAX),
            )),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failure("asking for the stream", &error)),
        }
    }

    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        let mut new = Positions::new();
        for name in self.streams.clone() {
            if !known.contains_key(&*name)
                && let Some(last) = self.last_sequence(&name).await?
            {
                new.insert(name.to_string(), last + 1);
            }
        }
        Ok(new)
    }

    pub(crate) async fn landed(&mut self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        let mut landed = HashSet::new();
        if self.spec.delivery == Delivery::AtLeastOnce {
            return Ok(landed);
        }
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
    async fn read_from(&mut self, name: &str, from: i64) -> Result<(Vec<EventId>, i64), Failure> {
        let stream = self
            .context
            .get_stream(name)
            .await
            .map_err(|e| self.failure("asking for the stream", &e))?;
        let last = i64::try_from(stream.cached_info().state.last_sequence).unwrap_or(i64::MAX);
        let start = u64::try_from(from.max(1))
            .unwrap_or(1)
            .max(stream.cached_info().state.first_sequence);
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: start,
            },
            replay_policy: ReplayPolicy::Instant,
            headers_only: true,
            ..OrderedConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(|e| self.failure("reading the end of the stream", &e))?;
        let mut messages = consumer
            .messages()
            .await
            .map_err(|e| self.failure("reading the end of the stream", &e))?;
        let mut found = Vec::new();
        let mut at = from;
        while at <= last {
            let next = tokio::time::timeout(ACK_TIMEOUT, messages.next())
                .await
                .map_err(|_| {
                    Failure::transient(format!(
                        "nats {}: reading the end of the stream: no answer",
                        self.spec.url
                    ))
                })?;
            let Some(message) = next else { break };
            let message = message.map_err(|e| self.failure("reading the end of the stream", &e))?;
            let info = message
                .info()
                .map_err(|e| self.failure("reading the end of the stream", &*e))?;
            at = i64::try_from(info.stream_sequence).unwrap_or(i64::MAX) + 1;
            let pending = info.pending;
            if let Some(id) = message.headers.as_ref().and_then(|h| own_id(h, &self.identity)) {
                found.push(id);
            }
            if pending == 0 {
                at = at.max(last + 1);
            }
        }
        Ok((found, at))
    }

    pub(crate) async fn send(
        &mut self,
        ticket: Ticket,
        event: &Event<'_>,
    ) -> Result<Option<String>, Failure> {
        let headers = match self.headers(event) {
            Ok(headers) => headers,
            Err(reason) => return Ok(Some(reason)),
        };
        let message = PublishMessage::build()
            .headers(headers)
            .payload(event.payload.clone());
        match self
            .context
            .send_publish(event.destination.to_owned(), message)
            .await
        {
            Ok(ack) => {
                self.waiting
                    .push_back(ack.into_future().map(move |result| (ticket, result)).boxed());
                Ok(None)
            }
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Ok(Some(
                "the message is larger than the server allows (max_payload)".into(),
            )),
            Err(error) => Err(self.failure("publishing", &error)),
        }
    }

    fn headers(&self, event: &Event<'_>) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            let name_read: HeaderName = name
                .parse()
                .map_err(|_| format!("NATS does not allow the header name \"{name}\""))?;
            let value: HeaderValue = value
                .parse()
                .map_err(|_| format!("NATS does not allow line breaks in the header \"{name}\""))?;
            headers.append(name_read, value);
            Ok::<_, String>(())
        };
        for (name, value) in event.headers.iter() {
            add(name, value.unwrap_or_default())?;
        }
        let mut message_id = format!("{}/{}", self.identity.pipeline, event.tide_id);
        if let Some(redelivery) = event.redelivery {
            // The stream must not take it for the first delivery.
            let _ = write!(message_id, "/{redelivery}");
            add(added::REDELIVERY, &redelivery.to_string())?;
        }
        add("Nats-Msg-Id", &message_id)?;
        add(added::ID, event.tide_id)?;
        add(added::OUTBOX, &self.identity.outbox)?;
        add(added::PIPELINE, &self.identity.pipeline)?;
        Ok(headers)
    }

    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        let first = if self.waiting.is_empty() {
            return Err(self.connection.trouble().await);
        } else {
            tokio::select! {
                biased;
                ack = self.waiting.next() => ack,
                trouble = self.connection.trouble() => return Err(trouble),
            }
        };
        let mut next = first;
        while let Some((ticket, result)) = next {
            let settled = self.outcome(ticket, result)?;
            out.push(settled);
            next = self.waiting.next().now_or_never().flatten();
        }
        Ok(())
    }

    fn outcome(
        &mut self,
        ticket: Ticket,
        result: Result<PublishAck, PublishError>,
    ) -> Result<Settled, Failure> {
        let outcome = match result {
            Ok(ack) if ack.duplicate => Outcome::Duplicate,
            Ok(ack) => Outcome::Placed {
                stream: self.number(&ack.stream),
                position: i64::try_from(ack.sequence).unwrap_or(i64::MAX),
            },
            Err(error) if with_causes(&error).contains("message size exceeds") => {
                Outcome::Refused("the message is larger than the stream allows (max_msg_size)".into())
            }
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                return Err(Failure::transient(format!(
                    "nats {}: no stream takes the subject \"{}\"; create one, or set \"create_stream\"",
                    self.spec.url,
                    self.spec.subject.text()
                )));
            }
            Err(error) => return Err(self.failure("publishing", &error)),
        };
        Ok(Settled { ticket, outcome })
    }

    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        self.streams
            .get(stream as usize)
            .cloned()
            .unwrap_or_else(|| Arc::from(""))
    }

    #[expect(clippy::unused_async, reason = "the same shape as the other sinks")]
    pub(crate) async fn close(self) {
        drop(self);
    }
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::ErrorCode;
    use jetstream::context::GetStreamErrorKind;
    matches!(error.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
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
