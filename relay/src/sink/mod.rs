//! Sinks: where forward pipelines deliver to.
//!
//! In: events in order, each under a ticket of the window. Out: what became of
//! each, in any order. A sink never waits for one acknowledgement before the
//! next message; it fails as a whole when it can no longer say what became of
//! one, and is then opened anew and its broker's tail read.

pub(crate) mod inbox;
pub(crate) mod kafka;
mod nats;
mod stdout;
mod suspects;
pub(crate) mod webhook;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Retry, SinkSpec, WebhookUrl};
use crate::cursor::{Positions, Ticket};
use crate::database::Pool;
use crate::database::cursor::Cluster;
use crate::encode::{Encoder, Encoding, Event, EventId, Identity, Template};
use crate::failure::Failure;
use crate::sabotage::Protection;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the log, at a position of the sink's stream with this number.
    Placed { stream: u32, position: i64 },
    /// Sent; the broker was asked not to say where to (`acks: 0`).
    Unplaced,
    /// The broker had it already.
    Duplicate,
    /// Refused for good: this message, or one that was sent with it, is at fault.
    Refused(String),
    /// Refused for good, and it is known to be this message.
    Rejected(String),
}

/// An outcome and the message it belongs to.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) ticket: Ticket,
    pub(crate) outcome: Outcome,
}

/// How a sink fares that tries again by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// Something is put off, and why.
    Trouble(String),
    Recovered,
}

/// Why nothing is acknowledged, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stall {
    /// The sink does all that can be done itself, and better than a new one.
    Waiting(String),
    /// Nothing more is to be expected of it.
    Over(String),
}

/// What a sink is opened with beside its own options.
pub(crate) struct Opening<'a> {
    pub(crate) identity: &'a Identity,
    /// Names the database among all others.
    pub(crate) origin: &'a str,
    pub(crate) encoding: &'a Encoding,
    pub(crate) max_in_flight: usize,
    pub(crate) batch_size: usize,
    pub(crate) retry: Retry,
    /// Under which the pipeline is owned.
    pub(crate) epoch: i64,
    /// Where the pipeline lives.
    pub(crate) cluster: Cluster,
    pub(crate) home: &'a Pool,
}

/// An open sink.
pub(crate) enum Sink {
    Kafka(Box<kafka::KafkaSink>),
    Nats(Box<nats::NatsSink>),
    Inbox(Box<inbox::InboxSink>),
    Webhook(Box<webhook::WebhookSink>),
    Stdout(stdout::StdoutSink),
}

impl Sink {
    /// Connects and makes sure that the other side answers.
    pub(crate) async fn open(spec: &SinkSpec, opening: &Opening<'_>) -> Result<Self, Failure> {
        let (identity, max_in_flight) = (opening.identity, opening.max_in_flight);
        Ok(match spec {
            SinkSpec::Kafka(spec) => Self::Kafka(Box::new(
                kafka::KafkaSink::open(spec, identity, opening.origin, max_in_flight).await?,
            )),
            SinkSpec::Nats(spec) => Self::Nats(Box::new(
                nats::NatsSink::open(spec, identity, max_in_flight).await?,
            )),
            SinkSpec::Inbox(spec) => Self::Inbox(Box::new(inbox::InboxSink::open(spec, opening).await?)),
            SinkSpec::Webhook(spec) => Self::Webhook(Box::new(webhook::WebhookSink::open(spec, opening)?)),
            SinkSpec::Stdout => Self::Stdout(stdout::StdoutSink::open(identity)),
        })
    }

    /// Whether it has threads of its own that cost something without work.
    pub(crate) fn is_heavy(&self) -> bool {
        match self {
            Self::Kafka(s) => s.is_heavy(),
            Self::Nats(_) | Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => false,
        }
    }

    /// The encoder for a sink of this kind.
    pub(crate) fn encoder(spec: &SinkSpec, identity: Identity) -> Encoder {
        use crate::encode::DestinationKind;
        match spec {
            SinkSpec::Kafka(s) => {
                Encoder::new(identity, DestinationKind::Topic, s.topic.clone(), s.key.clone())
            }
            SinkSpec::Nats(s) => Encoder::new(identity, DestinationKind::Subject, s.subject.clone(), None),
            SinkSpec::Webhook(s) => {
                let (kind, target) = match &s.url {
                    WebhookUrl::Plain(endpoint) => (DestinationKind::Url, endpoint.target.clone()),
                    WebhookUrl::Secret(_) => (DestinationKind::Only, Template::default()),
                };
                Encoder::new(identity, kind, target, s.key.clone())
            }
            SinkSpec::Inbox(_) | SinkSpec::Stdout => {
                Encoder::new(identity, DestinationKind::Only, Template::default(), None)
            }
        }
    }

    /// Ends of the streams that the pipeline is known to write to and for
    /// which `known` has no position yet.
    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        match self {
            Self::Kafka(s) => s.new_positions(known).await,
            Self::Nats(s) => s.new_positions(known).await,
            Self::Inbox(s) => Ok(s.new_positions(known)),
            Self::Webhook(_) | Self::Stdout(_) => Ok(Positions::new()),
        }
    }

    /// Whether messages may be sent to this destination: its positions are known.
    pub(crate) fn is_open(&self, destination: &str) -> bool {
        match self {
            Self::Kafka(s) => s.is_open(destination),
            Self::Nats(_) | Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => true,
        }
    }

    /// Makes a destination known; returns positions to be checkpointed first.
    pub(crate) async fn open_destination(
        &mut self,
        destination: &str,
        known: &Positions,
    ) -> Result<Positions, Failure> {
        match self {
            Self::Kafka(s) => s.open_destination(destination, known).await,
            Self::Nats(_) | Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => Ok(Positions::new()),
        }
    }

    /// The ids of this pipeline that lie in the log from these positions on,
    /// once none was added for `quiet`, or for longer where that is usual.
    pub(crate) async fn landed(
        &mut self,
        since: &Positions,
        quiet: Duration,
    ) -> Result<HashSet<EventId>, Failure> {
        if Protection::TailScan.is_off() {
            return Ok(HashSet::new());
        }
        match self {
            Self::Kafka(s) => s.landed(since, quiet).await,
            // The stream itself refuses what it has, for minutes.
            Self::Nats(s) => s.landed(since).await,
            Self::Inbox(s) => s.landed(since).await,
            Self::Webhook(_) | Self::Stdout(_) => Ok(HashSet::new()),
        }
    }

    /// A checkpoint with these positions of the low-water mark is written:
    /// nothing before them will be asked for.
    pub(crate) fn checkpointed(&mut self, low_water: &Positions) {
        if let Self::Inbox(s) = self {
            s.checkpointed(low_water);
        }
    }

    /// Whether messages may be sent now; if not, outcomes must come first.
    pub(crate) fn accepts(&self) -> bool {
        match self {
            Self::Kafka(sink) => sink.accepts(),
            Self::Nats(_) | Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => true,
        }
    }

    /// Hands a message over. `Some` refuses it for good.
    pub(crate) async fn send(
        &mut self,
        ticket: Ticket,
        event: &Event<'_>,
    ) -> Result<Option<String>, Failure> {
        match self {
            Self::Kafka(s) => return s.send(ticket, event).await,
            Self::Nats(s) => return s.send(ticket, event).await,
            Self::Inbox(s) => s.send(ticket, event),
            Self::Webhook(s) => return Ok(s.send(ticket, event)),
            Self::Stdout(s) => s.send(ticket, event),
        }
        Ok(None)
    }

    /// Waits until something is known and appends it; returns without anything
    /// to say that there is nothing yet, and that this is in order.
    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        match self {
            Self::Kafka(s) => s.settled(out).await,
            Self::Nats(s) => s.settled(out).await,
            Self::Inbox(s) => s.settled(out).await,
            Self::Webhook(s) => s.settled(out).await,
            Self::Stdout(s) => s.settled(out).await,
        }
    }

    /// How a sink fares that tries again by itself, when that changed.
    pub(crate) fn news(&mut self) -> Option<News> {
        match self {
            Self::Webhook(s) => s.news(),
            Self::Kafka(s) => s.news(),
            Self::Nats(_) | Self::Inbox(_) | Self::Stdout(_) => None,
        }
    }

    /// Why nothing is acknowledged, where the sink can tell, and whether to
    /// wait on.
    pub(crate) async fn stalled(&mut self) -> Stall {
        match self {
            Self::Kafka(sink) => sink.stalled().await,
            Self::Nats(_) | Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => Stall::Over(String::new()),
        }
    }

    /// The name of a stream by its number, as in positions.
    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        match self {
            Self::Kafka(s) => s.stream_name(stream),
            Self::Nats(s) => s.stream_name(stream),
            Self::Inbox(s) => s.stream_name(),
            Self::Webhook(_) | Self::Stdout(_) => Arc::from(""),
        }
    }

    /// Drops what is still queued and closes the connections.
    pub(crate) async fn close(self) {
        match self {
            Self::Kafka(s) => s.close().await,
            Self::Nats(s) => s.close().await,
            Self::Inbox(_) | Self::Webhook(_) | Self::Stdout(_) => {}
        }
    }
}
