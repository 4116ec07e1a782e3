//! NATS as a source: a JetStream durable pull consumer where the server has
//! JetStream, else a plain queue subscription (at most once, said loudly).

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::{FutureExt, StreamExt};

use super::{Ack, Headers, Incoming, Position};
use crate::broker::nats::{self, Connection};
use crate::config::NatsSourceSpec;
use crate::failure::{Failure, with_causes};

/// After so long without an acknowledgement the server delivers again. Short,
/// so that what a dead owner held comes to its successor soon; a redelivered
/// message that was stored already is refused by its position.
const ACK_WAIT: Duration = Duration::from_secs(2);

enum Feed {
    /// The messages, and how many were left behind the last one.
    JetStream(Box<pull::Stream>, u64),
    Plain(async_nats::Subscriber),
}

/// An open source.
pub(crate) struct NatsSource {
    url: String,
    connection: Connection,
    feed: Feed,
    /// Names the stream for the inbox's positions; empty without JetStream.
    stream: Arc<str>,
    note: Option<&'static str>,
}

impl NatsSource {
    pub(crate) async fn open(
        spec: &NatsSourceSpec,
        pipeline: &str,
        batch_size: usize,
    ) -> Result<Self, Failure> {
        let connection = Connection::open(&spec.url, pipeline).await?;
        let context = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .build(connection.client().clone());
        if nats::has_jetstream(&context, &spec.url).await? {
            Self::open_stream(spec, pipeline, batch_size, connection, &context).await
        } else {
            Self::open_plain(spec, connection).await
        }
    }

    async fn open_stream(
        spec: &NatsSourceSpec,
        pipeline: &str,
        batch_size: usize,
        connection: Connection,
        context: &jetstream::Context,
    ) -> Result<Self, Failure> {
        let failed = |what: String, e: &dyn std::error::Error| {
            Failure::transient(format!("nats {}: {what}: {}", spec.url, with_causes(e)))
        };
        let streams = nats::streams_for(
            context,
            &spec.url,
            spec.stream.as_deref(),
            &spec.subject,
            spec.create_stream,
        )
        .await?;
        let [name] = streams.as_slice() else {
            return Err(Failure::transient(format!(
                "nats {}: several streams take the subject \"{}\" ({}); name one in \"stream\"",
                spec.url,
                spec.subject,
                streams.join(", ")
            )));
        };
        let stream = context
            .get_stream(name)
            .await
            .map_err(|e| failed(format!("opening stream \"{name}\""), &e))?;
        let durable = durable_name(spec, pipeline);
        let in_flight = i64::try_from(batch_size.saturating_mul(8))
            .unwrap_or(i64::MAX)
            .clamp(1_000, 50_000);
        let wanted = pull::Config {
            durable_name: Some(durable.clone()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: in_flight,
            filter_subject: spec.subject.clone(),
            description: Some(format!("pg-tide pipeline {pipeline}")),
            ..pull::Config::default()
        };
        let consumer = match stream.get_consumer::<pull::Config>(&durable).await {
            Ok(found) if found.cached_info().config.filter_subject == spec.subject => found,
            _ => stream
                .create_consumer(wanted)
                .await
                .map_err(|e| failed(format!("making consumer \"{durable}\" on stream \"{name}\""), &e))?,
        };
        let messages = consumer
            .stream()
            .max_messages_per_batch(batch_size.saturating_mul(2).clamp(200, 10_000))
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|e| failed(format!("reading stream \"{name}\""), &e))?;
        // A stream made anew under its old name counts from 1 again.
        let created = stream.cached_info().created.unix_timestamp_nanos();
        Ok(Self {
            url: spec.url.clone(),
            connection,
            feed: Feed::JetStream(Box::new(messages), consumer.cached_info().num_pending),
            stream: format!("nats:{name}@{created}").into(),
            note: None,
        })
    }

    async fn open_plain(spec: &NatsSourceSpec, connection: Connection) -> Result<Self, Failure> {
        let client = connection.client();
        let result = match &spec.queue_group {
            Some(group) => client.queue_subscribe(spec.subject.clone(), group.clone()).await,
            None => client.subscribe(spec.subject.clone()).await,
        };
        let subscriber = result.map_err(|e| {
            Failure::transient(format!("nats {}: subscribing: {}", spec.url, with_causes(&e)))
        })?;
        // The server knows the subscription before we call ourselves running.
        client
            .flush()
            .await
            .map_err(|e| Failure::transient(format!("nats {}: {}", spec.url, with_causes(&e))))?;
        Ok(Self {
            url: spec.url.clone(),
            connection,
            feed: Feed::Plain(subscriber),
            stream: Arc::from(""),
            note: Some(
                "the NATS server has no JetStream: messages that arrive while the relay is away are lost (at most once)",
            ),
        })
    }

    pub(crate) fn note(&self) -> Option<&str> {
        self.note
    }

    pub(crate) fn lag(&self) -> Option<u64> {
        match &self.feed {
            Feed::JetStream(_, pending) => Some(*pending),
            Feed::Plain(_) => None,
        }
    }

    pub(crate) fn stream_name(&self, _stream: u32) -> Arc<str> {
        Arc::clone(&self.stream)
    }

    /// Waits for messages and takes what is there, up to `limit`.
    /// Cancel-safe: a message is either in `into` or still to come.
    pub(crate) async fn next(&mut self, into: &mut Vec<Incoming>, limit: usize) -> Result<(), Failure> {
        let first = tokio::select! {
            biased;
            trouble = self.connection.trouble() => return Err(trouble),
            first = Self::one(&mut self.feed, &self.url) => first?,
        };
        into.push(first);
        while into.len() < limit {
            match Self::one(&mut self.feed, &self.url).now_or_never() {
                Some(next) => into.push(next?),
                None => break,
            }
        }
        Ok(())
    }

    async fn one(feed: &mut Feed, url: &str) -> Result<Incoming, Failure> {
        match feed {
            Feed::JetStream(messages, pending) => {
                let message = messages
                    .next()
                    .await
                    .ok_or_else(|| Failure::transient(format!("nats {url}: the consumer ended")))?
                    .map_err(|e| Failure::transient(format!("nats {url}: reading: {}", with_causes(&e))))?;
                let info = message
                    .info()
                    .map_err(|e| Failure::transient(format!("nats {url}: reading: {e}")))?;
                *pending = info.pending;
                let sequence = info.stream_sequence;
                let (message, acker) = message.split();
                let position = Position {
                    stream: 0,
                    sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
                };
                Ok(incoming(message, Some(position), Ack::Nats(Box::new(acker))))
            }
            Feed::Plain(subscriber) => {
                let message = subscriber
                    .next()
                    .await
                    .ok_or_else(|| Failure::transient(format!("nats {url}: the subscription ended")))?;
                Ok(incoming(message, None, Ack::None))
            }
        }
    }

    /// Makes sure that acknowledgements have left before the connection goes.
    pub(crate) async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.client().flush()).await;
    }
}

/// The durable's name: as configured, else the queue group, else the pipeline.
fn durable_name(spec: &NatsSourceSpec, pipeline: &str) -> String {
    let name = spec
        .durable
        .clone()
        .or_else(|| spec.queue_group.clone())
        .unwrap_or_else(|| format!("pg-tide-{pipeline}"));
    name.chars()
        .map(|c| {
            if c.is_whitespace() || ".*>/\\".contains(c) {
                '_'
            } else {
                c
            }
        })
        .collect()
}

fn incoming(message: async_nats::Message, position: Option<Position>, ack: Ack) -> Incoming {
    Incoming {
        kind: "nats",
        subject: message.subject.to_string(),
        payload: message.payload,
        headers: message.headers.as_ref().map(pairs).unwrap_or_default(),
        position,
        ack,
    }
}

fn pairs(headers: &HeaderMap) -> Headers {
    headers
        .iter()
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(move |v| (name.to_string(), v.as_str().to_owned()))
        })
        .collect()
}
