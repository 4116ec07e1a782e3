//! Sinks: where forward pipelines deliver to.
//!
//! In: events in order, each under a ticket of the window. Out: what became of
//! each, in any order. A sink never waits for one acknowledgement before the
//! next message; it fails as a whole when it can no longer say what became of
//! one, and is then opened anew and its broker's tail read.

mod kafka;
mod nats;

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::SinkSpec;
use crate::cursor::{Positions, Ticket};
use crate::encode::{Encoder, Event, EventId, Identity};
use crate::failure::Failure;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the log, at a position of the sink's stream with this number.
    Placed { stream: u32, position: i64 },
    /// Sent; the broker was asked not to say where to (`acks: 0`).
    Unplaced,
    /// The broker had it already.
    Duplicate,
    /// Refused for good: this message, not the sink, is at fault.
    Refused(String),
}

/// An outcome and the message it belongs to.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) ticket: Ticket,
    pub(crate) outcome: Outcome,
}

/// An open sink.
pub(crate) enum Sink {
    Kafka(Box<kafka::KafkaSink>),
    Nats(Box<nats::NatsSink>),
}

macro_rules! each {
    ($self:ident, $sink:ident => $call:expr) => {
        match $self {
            Self::Kafka($sink) => $call,
            Self::Nats($sink) => $call,
        }
    };
}

impl Sink {
    /// Connects and makes sure that the broker answers. `origin` names the
    /// database among all others.
    pub(crate) async fn open(
        spec: &SinkSpec,
        identity: &Identity,
        origin: &str,
        max_in_flight: usize,
    ) -> Result<Self, Failure> {
        Ok(match spec {
            SinkSpec::Kafka(spec) => Self::Kafka(Box::new(
                kafka::KafkaSink::open(spec, identity, origin, max_in_flight).await?,
            )),
            SinkSpec::Nats(spec) => Self::Nats(Box::new(
                nats::NatsSink::open(spec, identity, max_in_flight).await?,
            )),
        })
    }

    /// The encoder for a sink of this kind.
    pub(crate) fn encoder(spec: &SinkSpec, identity: Identity) -> Encoder {
        use crate::encode::DestinationKind;
        match spec {
            SinkSpec::Kafka(s) => {
                Encoder::new(identity, DestinationKind::Topic, s.topic.clone(), s.key.clone())
            }
            SinkSpec::Nats(s) => Encoder::new(identity, DestinationKind::Subject, s.subject.clone(), None),
        }
    }

    /// Ends of the streams that the pipeline is known to write to and for
    /// which `known` has no position yet.
    pub(crate) async fn new_positions(&mut self, known: &Positions) -> Result<Positions, Failure> {
        each!(self, s => s.new_positions(known).await)
    }

    /// Whether messages may be sent to this destination: its positions are known.
    pub(crate) fn is_open(&self, destination: &str) -> bool {
        each!(self, s => s.is_open(destination))
    }

    /// Makes a destination known; returns positions to be checkpointed first.
    pub(crate) async fn open_destination(
        &mut self,
        destination: &str,
        known: &Positions,
    ) -> Result<Positions, Failure> {
        each!(self, s => s.open_destination(destination, known).await)
    }

    /// The ids of this pipeline that lie in the log from these positions on.
    pub(crate) async fn landed(&mut self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        each!(self, s => s.landed(since).await)
    }

    /// Whether messages may be sent now; if not, outcomes must come first.
    pub(crate) fn accepts(&self) -> bool {
        match self {
            Self::Kafka(sink) => sink.accepts(),
            Self::Nats(_) => true,
        }
    }

    /// Hands a message to the client library. `Some` refuses it for good.
    pub(crate) async fn send(
        &mut self,
        ticket: Ticket,
        event: &Event<'_>,
    ) -> Result<Option<String>, Failure> {
        each!(self, s => s.send(ticket, event).await)
    }

    /// Waits until something is known and appends it.
    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        each!(self, s => s.settled(out).await)
    }

    /// Why nothing is acknowledged, where the sink can tell.
    pub(crate) async fn why_stalled(&mut self) -> Option<String> {
        match self {
            Self::Kafka(sink) => Some(sink.why_stalled().await).filter(|why| !why.is_empty()),
            Self::Nats(_) => None,
        }
    }

    /// The name of a stream by its number, as in positions.
    pub(crate) fn stream_name(&self, stream: u32) -> Arc<str> {
        each!(self, s => s.stream_name(stream))
    }

    /// Drops what is still queued and closes the connections.
    pub(crate) async fn close(self) {
        each!(self, s => s.close().await);
    }
}
