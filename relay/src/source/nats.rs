//! NATS as a source: a JetStream durable pull consumer where the server has
//! JetStream, else a plain queue subscription (at most once, said loudly).

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt};

use super::{Ack, Headers, Incoming, Position};
use crate::broker::nats::{self, Connection, Wanted};
use crate::config::NatsSourceSpec;
use crate::failure::Failure;

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
    connection: Connection,
    feed: Feed,
    /// Names the stream for the inbox's positions; empty without JetStream.
    stream: Arc<str>,
    note: Option<String>,
}

impl NatsSource {
    pub(crate) async fn open(
        spec: &NatsSourceSpec,
        pipeline: &str,
        batch_size: usize,
    ) -> Result<Self, Failure> {
        let connection = Connection::open(&spec.connection, pipeline).await?;
        let context = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .build(connection.client().clone());
        let plain = match (spec.jetstream, spec.needs_jetstream()) {
            (Some(false), _) => Some("a plain subscription is configured"),
            // Whether there is JetStream shows when the stream is asked for.
            (_, Some(_)) => None,
            _ => {
                connection
                    .unless_trouble(nats::lacks_jetstream(&connection, &context))
                    .await?
            }
        };
        match plain {
            Some(why) => Self::open_plain(spec, connection, why).await,
            None => Self::open_stream(spec, pipeline, batch_size, connection, &context).await,
        }
    }

    async fn open_stream(
        spec: &NatsSourceSpec,
        pipeline: &str,
        batch_size: usize,
        connection: Connection,
        context: &jetstream::Context,
    ) -> Result<Self, Failure> {
        let wanted = Wanted {
            named: spec.stream.as_deref(),
            subject: &spec.subject,
            create: spec.create_stream,
            for_reading: true,
        };
        let streams = nats::streams_for(&connection, context, wanted).await?;
        let [name] = streams.as_slice() else {
            return Err(connection.failed(format_args!(
                "several streams take the subject \"{}\" ({}); name one in \"stream\"",
                spec.subject,
                streams.join(", ")
            )));
        };
        let opening = async {
            let stream = context
                .get_stream(name)
                .await
                .map_err(|e| connection.failure(&format!("opening stream \"{name}\""), &e))?;
            let consumer = durable(spec, pipeline, batch_size, &connection, &stream).await?;
            let messages = consumer
                .stream()
                .max_messages_per_batch(batch_size.saturating_mul(2).clamp(200, 10_000))
                .expires(Duration::from_secs(30))
                .heartbeat(Duration::from_secs(5))
                .messages()
                .await
                .map_err(|e| connection.failure(&format!("reading stream \"{name}\""), &e))?;
            Ok((stream, consumer.cached_info().num_pending, messages))
        };
        let (stream, pending, messages) = connection.unless_trouble(opening).await?;
        // A stream made anew under its old name counts from 1 again.
        let created = stream.cached_info().created.unix_timestamp_nanos();
        Ok(Self {
            connection,
            feed: Feed::JetStream(Box::new(messages), pending),
            stream: format!("nats:{name}@{created}").into(),
            note: None,
        })
    }

    async fn open_plain(spec: &NatsSourceSpec, connection: Connection, why: &str) -> Result<Self, Failure> {
        let client = connection.client();
        let subscribing = async {
            let result = match &spec.queue_group {
                Some(group) => client.queue_subscribe(spec.subject.clone(), group.clone()).await,
                None => client.subscribe(spec.subject.clone()).await,
            };
            let subscriber = result.map_err(|e| connection.failure("subscribing", &e))?;
            // The server knows the subscription before we call ourselves running.
            client
                .flush()
                .await
                .map_err(|e| connection.failure("subscribing", &e))?;
            Ok(subscriber)
        };
        let subscriber = connection.unless_trouble(subscribing).await?;
        Ok(Self {
            connection,
            feed: Feed::Plain(subscriber),
            stream: Arc::from(""),
            note: Some(format!(
                "{why} (no JetStream): messages that arrive while the relay is away are lost (at most once)"
            )),
        })
    }

    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
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
            first = Self::one(&mut self.feed, &self.connection) => first?,
        };
        into.push(first);
        while into.len() < limit {
            match Self::one(&mut self.feed, &self.connection).now_or_never() {
                Some(next) => into.push(next?),
                None => break,
            }
        }
        Ok(())
    }

    async fn one(feed: &mut Feed, connection: &Connection) -> Result<Incoming, Failure> {
        match feed {
            Feed::JetStream(messages, pending) => {
                let message = messages
                    .next()
                    .await
                    .ok_or_else(|| connection.failed("the consumer ended"))?
                    .map_err(|e| reading(connection, &e))?;
                let info = message.info().map_err(|e| connection.failure("reading", &*e))?;
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
                    .ok_or_else(|| connection.failed("the subscription ended"))?;
                Ok(incoming(message, None, Ack::None))
            }
        }
    }

    /// Makes sure that acknowledgements have left before the connection goes.
    pub(crate) async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.client().flush()).await;
    }
}

fn reading(connection: &Connection, error: &pull::MessagesError) -> Failure {
    match error.kind() {
        pull::MessagesErrorKind::ConsumerDeleted => connection
            .failed("the durable consumer or its stream was deleted; it is looked for, and made again, at the next attempt"),
        pull::MessagesErrorKind::MissingHeartbeat => {
            connection.failed("the server has stopped answering (missed heartbeats)")
        }
        _ => connection.failure("reading", error),
    }
}

/// The pipeline's consumer: the one that is there, if it gives what the
/// pipeline wants and in its way, else a new one.
async fn durable(
    spec: &NatsSourceSpec,
    pipeline: &str,
    batch_size: usize,
    connection: &Connection,
    stream: &Stream,
) -> Result<Consumer<pull::Config>, Failure> {
    let name = durable_name(spec, pipeline);
    let in_flight = i64::try_from(batch_size.saturating_mul(8))
        .unwrap_or(i64::MAX)
        .clamp(1_000, 50_000);
    let wanted = pull::Config {
        durable_name: Some(name.clone()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: in_flight,
        filter_subject: spec.subject.clone(),
        description: Some(durable_description(pipeline)),
        ..pull::Config::default()
    };
    let stream_config = &stream.cached_info().config;
    let found = match stream.consumer_info(&name).await {
        Ok(info) => Some(info.config),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
        Err(error) => return Err(connection.failure(&format!("asking for consumer \"{name}\""), &error)),
    };
    if let Some(found) = found {
        let refused = |what: &str| {
            Err(connection.failed(format_args!(
                "consumer \"{name}\" of stream \"{}\" {what}; set another \"durable\", or delete that consumer",
                stream_config.name
            )))
        };
        if found.deliver_subject.is_some() {
            return refused("pushes its messages to a subject; a pull consumer is needed");
        }
        if found.ack_policy != AckPolicy::Explicit {
            return refused("does not want each message acknowledged (ack policy explicit)");
        }
        let everything = found.filter_subject.is_empty() && stream_config.subjects == [spec.subject.as_str()];
        if found.filter_subject == spec.subject || everything {
            return stream
                .get_consumer(&name)
                .await
                .map_err(|e| connection.failed(format_args!("asking for consumer \"{name}\": {e}")));
        }
        // The pipeline's subject was changed; another's consumer is left alone.
        if found.description != wanted.description {
            return refused(&format!(
                "is of somebody else, for the subject \"{}\", not \"{}\"",
                found.filter_subject, spec.subject
            ));
        }
    }
    stream.create_consumer(wanted).await.map_err(|e| {
        connection.failure(
            &format!("making consumer \"{name}\" on stream \"{}\"", stream_config.name),
            &e,
        )
    })
}

/// How a durable says whose it is.
pub(crate) fn durable_description(pipeline: &str) -> String {
    format!("pg-tide pipeline {pipeline}")
}

/// The durable's name: as configured, else the queue group, else the pipeline.
pub(crate) fn durable_name(spec: &NatsSourceSpec, pipeline: &str) -> String {
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
