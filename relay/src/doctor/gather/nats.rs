//! Asks a NATS server about a pipeline's streams, without making any.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::stream::{DiscardPolicy, Info, RetentionPolicy};
use futures::TryStreamExt;

use crate::broker::nats::{self, Connection};
use crate::config::NatsConnection;
use crate::doctor::nats::{Consumer, Direction, Nats, Retention, Stream};
use crate::doctor::pipelines::Refusal;
use crate::failure::Failure;

/// What to ask for.
pub(in crate::doctor) struct Question {
    pub(in crate::doctor) subject: String,
    pub(in crate::doctor) stream: Option<String>,
    pub(in crate::doctor) create_stream: bool,
    /// For a source: its durable consumer's name and description, and whether a
    /// plain subscription will do. None for a sink.
    pub(in crate::doctor) source: Option<SourceQuestion>,
    /// The largest message of late, for a sink.
    pub(in crate::doctor) largest: Option<i64>,
}

/// What a source wants besides.
pub(in crate::doctor) struct SourceQuestion {
    pub(in crate::doctor) durable: String,
    pub(in crate::doctor) description: String,
    pub(in crate::doctor) may_be_plain: bool,
}

pub(in crate::doctor) async fn look(options: &NatsConnection, question: Question) -> Result<Nats, Refusal> {
    let looking = async {
        let connection = Connection::open(options, "doctor").await?;
        let asking = ask(&connection, options, question);
        connection.unless_trouble(asking).await
    };
    looking.await.map_err(refused)
}

/// Whether the server lets us in.
pub(in crate::doctor) async fn reach(options: &NatsConnection) -> Result<(), Refusal> {
    Connection::open(options, "doctor")
        .await
        .map(drop)
        .map_err(refused)
}

fn refused(failure: Failure) -> Refusal {
    Refusal::nats(failure.message)
}

async fn ask(connection: &Connection, options: &NatsConnection, question: Question) -> Result<Nats, Failure> {
    let info = connection.client().server_info();
    let context = jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .build(connection.client().clone());
    let mut streams = Vec::new();
    let mut clustered = false;
    let mut add = |info: &Info| {
        clustered |= info.cluster.as_ref().is_some_and(|c| c.name.is_some());
        streams.push(stream(info, &question));
    };
    let mut jetstream = true;
    if let Some(name) = &question.stream {
        // By name alone, for users who may not list all.
        match context.get_stream(name).await {
            Ok(stream) => add(stream.cached_info()),
            Err(error) if nats::is_missing(&error) => {}
            Err(error) => {
                jetstream = nats::lacks_jetstream(connection, &context).await?.is_none();
                if jetstream {
                    return Err(connection.failure(&format!("asking for stream \"{name}\""), &error));
                }
            }
        }
    } else {
        jetstream = nats::lacks_jetstream(connection, &context).await?.is_none();
        let mut all = context.streams();
        while jetstream
            && let Some(info) = all
                .try_next()
                .await
                .map_err(|e| connection.failure("listing streams", &e))?
        {
            if covers(&info, &question) {
                add(&info);
            }
        }
    }
    let consumer = match (&question.source, streams.as_slice()) {
        (Some(source), [only]) => find_consumer(&context, only, &question.subject, source).await,
        _ => None,
    };
    Ok(Nats {
        at: options.to_string(),
        subject: question.subject,
        named: question.stream,
        create_stream: question.create_stream,
        clustered,
        max_payload: i64::try_from(info.max_payload).unwrap_or(i64::MAX),
        jetstream,
        streams,
        direction: match question.source {
            Some(source) => Direction::Source {
                consumer,
                may_be_plain: source.may_be_plain,
            },
            None => Direction::Sink {
                largest: question.largest,
            },
        },
    })
}

/// Whether a stream takes the subject; one that is read may have its messages
/// from elsewhere, when it is named.
fn covers(info: &Info, question: &Question) -> bool {
    let config = &info.config;
    let brought = config.mirror.is_some() || config.sources.as_ref().is_some_and(|s| !s.is_empty());
    config
        .subjects
        .iter()
        .any(|s| nats::overlaps(s, &question.subject))
        || question.source.is_some() && question.stream.is_some() && brought
}

fn stream(info: &Info, question: &Question) -> Stream {
    let config = &info.config;
    let reached = |limit: i64, number: u64| limit > 0 && number >= u64::try_from(limit).unwrap_or(u64::MAX);
    Stream {
        name: config.name.clone(),
        subjects: config.subjects.clone(),
        covers: covers(info, question),
        retention: match config.retention {
            RetentionPolicy::Limits => Retention::Limits,
            RetentionPolicy::Interest => Retention::Interest,
            RetentionPolicy::WorkQueue => Retention::WorkQueue,
        },
        replicas: config.num_replicas,
        duplicate_window: config.duplicate_window,
        max_message: (config.max_message_size > 0).then(|| i64::from(config.max_message_size)),
        consumers: info.state.consumer_count,
        full: config.discard == DiscardPolicy::New
            && (reached(config.max_messages, info.state.messages)
                || reached(config.max_bytes, info.state.bytes)),
        sealed: config.sealed,
    }
}

async fn find_consumer(
    context: &jetstream::Context,
    on: &Stream,
    subject: &str,
    source: &SourceQuestion,
) -> Option<Consumer> {
    let stream = context.get_stream_no_info(&on.name).await.ok()?;
    let config = stream.consumer_info(&source.durable).await.ok()?.config;
    let everything = config.filter_subject.is_empty() && on.subjects == [subject];
    Some(Consumer {
        name: source.durable.clone(),
        fits: everything || config.filter_subject == subject,
        filter: config.filter_subject,
        ours: config.description.as_deref() == Some(&source.description),
        unfit: if config.deliver_subject.is_some() {
            Some("is a push consumer")
        } else if config.ack_policy != AckPolicy::Explicit {
            Some("does not want each message acknowledged")
        } else {
            None
        },
    })
}
