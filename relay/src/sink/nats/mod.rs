//! NATS JetStream: publishes are pipelined, their acknowledgements awaited in
//! order. The message id (`Nats-Msg-Id`) is the same whoever sends it, so the
//! stream's duplicate window refuses what the reading of the tail missed.

mod tail;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tail::Tail;

use super::{Outcome, Settled};
use crate::broker::nats::{self, Connection, Wanted};
use crate::config::{Delivery, NatsSinkSpec};
use crate::cursor::{Positions, Ticket};
use crate::encode::{Event, EventId, Identity, added};
use crate::failure::{Failure, with_causes};

const ACK_TIMEOUT: Duration = Duration::from_secs(5);

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
        let connection = Connection::open(&spec.connection, &identity.pipeline).await?;
        let context = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            // The window bounds what is in flight.
            .max_ack_inflight(max_in_flight + 1_000)
            .build(connection.client().clone());
        let pattern = spec.subject_pattern();
        let wanted = Wanted {
            named: spec.stream.as_deref(),
            subject: &pattern,
            create: spec.create_stream,
            for_reading: false,
        };
        let streams = nats::streams_for(&connection, &context, wanted).await?;
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

    fn tail(&self) -> Tail<'_> {
        Tail {
            connection: &self.connection,
            context: &self.context,
            identity: &self.identity,
        }
    }

    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        let tail = self.tail();
        self.connection
            .unless_trouble(tail.ends(&self.streams, known))
            .await
    }

    pub(crate) async fn landed(&mut self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        if self.spec.delivery == Delivery::AtLeastOnce {
            return Ok(HashSet::new());
        }
        let tail = self.tail();
        self.connection.unless_trouble(tail.landed(since)).await
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
            Err(error) => Err(self.connection.failure("publishing", &error)),
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
            Err(error) => return self.refused(ticket, &error),
        };
        Ok(Settled { ticket, outcome })
    }

    /// What a publish that was not taken means: for this message, or for all.
    fn refused(&self, ticket: Ticket, error: &PublishError) -> Result<Settled, Failure> {
        let subject = self.spec.subject.text();
        if error.kind() == PublishErrorKind::StreamNotFound {
            return Err(self.connection.failed(format_args!(
                "no stream takes the subject \"{subject}\"; create one, or set \"create_stream\""
            )));
        }
        let text = with_causes(error);
        let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<jetstream::Error>());
        let too_large = match cause.map(jetstream::Error::error_code) {
            Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
                Some("the message is larger than the stream allows (max_msg_size)")
            }
            Some(ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
                Some("its headers are larger than JetStream allows (64 KiB)")
            }
            _ => None,
        };
        if let Some(reason) = too_large {
            return Ok(Settled {
                ticket,
                outcome: Outcome::Refused(reason.into()),
            });
        }
        if let Some(cause) = cause
            && cause.error_code() == ErrorCode::STREAM_STORE_FAILED
            && text.contains("exceeded")
        {
            return Err(self.connection.failed(format_args!(
                "the stream of \"{subject}\" is full ({cause}; it discards new messages): waiting for room; raise its limits or take messages off"
            )));
        }
        Err(self.connection.failure("publishing", error))
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
