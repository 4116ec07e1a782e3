//! Sinks and sources by kind, and what their options have in common.

use super::inbox::InboxSinkSpec;
use super::kafka::{KafkaSinkSpec, KafkaSourceSpec};
use super::nats::{NatsSinkSpec, NatsSourceSpec};
use super::options::{OptionError, Options};
use super::webhook::WebhookSinkSpec;
use super::webhook_source::WebhookSourceSpec;
use crate::encode::Encoding;

/// What is promised to a plain consumer across a relay's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The tail of the broker's log is read at takeover; nothing is doubled.
    ExactlyOnce,
    /// What was in flight is sent again.
    AtLeastOnce,
    /// The broker fences an owner that was replaced (Kafka).
    Transactional,
}

impl Delivery {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let allowed = [
            ("exactly-once", Self::ExactlyOnce),
            ("at-least-once", Self::AtLeastOnce),
        ];
        Ok(options.one_of("delivery", &allowed)?.unwrap_or(Self::ExactlyOnce))
    }
}

/// Where a forward pipeline delivers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SinkSpec {
    Kafka(Box<KafkaSinkSpec>),
    Nats(Box<NatsSinkSpec>),
    Inbox(Box<InboxSinkSpec>),
    Webhook(Box<WebhookSinkSpec>),
    /// Lines on standard output.
    Stdout,
}

impl SinkSpec {
    /// Reads the options of a sink of this kind.
    pub(super) fn read(connector: &str, options: &mut Options) -> Result<Self, OptionError> {
        Ok(match connector {
            "kafka" => Self::Kafka(Box::new(KafkaSinkSpec::read(options)?)),
            "nats" => Self::Nats(Box::new(NatsSinkSpec::read(options)?)),
            "inbox" => Self::Inbox(Box::new(InboxSinkSpec::read(options)?)),
            "webhook" => Self::Webhook(Box::new(WebhookSinkSpec::read(options)?)),
            "stdout" => {
                options.one_of("delivery", &[("at-least-once", ())])?;
                Self::Stdout
            }
            other => {
                let allowed = "\"kafka\", \"nats\", \"inbox\", \"webhook\", \"stdout\"";
                return Err(not_allowed("sink", allowed, other));
            }
        })
    }

    /// Refuses an encoding that needs headers of each message's own where there
    /// are none.
    pub(super) fn check_encoding(&self, encoding: &Encoding) -> Result<(), OptionError> {
        let without = match self {
            Self::Kafka(_) | Self::Nats(_) => false,
            Self::Inbox(_) | Self::Stdout => true,
            Self::Webhook(webhook) => webhook.batch,
        };
        if without && matches!(encoding, Encoding::Binary(..)) {
            return Err(OptionError::Bad {
                key: "encoding".into(),
                reason: "\"cloudevents-binary\" needs headers of each message's own; set it to \"cloudevents\", or leave it out"
                    .into(),
            });
        }
        Ok(())
    }

    /// Messages that may be sent and not yet acknowledged, when nothing else is
    /// said. What a webhook has taken of them may be sent again by a new owner.
    pub(super) fn default_in_flight(&self) -> u64 {
        match self {
            Self::Webhook(_) => 1_000,
            _ => 10_000,
        }
    }
}

/// Where a reverse pipeline receives from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SourceSpec {
    Kafka(Box<KafkaSourceSpec>),
    Nats(Box<NatsSourceSpec>),
    /// Requests to the relay's own listener.
    Webhook(Box<WebhookSourceSpec>),
}

impl SourceSpec {
    /// Reads the options of a source of this kind.
    pub(super) fn read(connector: &str, pipeline: &str, options: &mut Options) -> Result<Self, OptionError> {
        Ok(match connector {
            "kafka" => Self::Kafka(Box::new(KafkaSourceSpec::read(pipeline, options)?)),
            "nats" => Self::Nats(Box::new(NatsSourceSpec::read(options)?)),
            "webhook" => Self::Webhook(Box::new(WebhookSourceSpec::read(options)?)),
            other => {
                let allowed = "\"kafka\", \"nats\", \"webhook\"";
                return Err(not_allowed("source", allowed, other));
            }
        })
    }

    /// Refuses ways of telling messages apart that mean nothing here.
    pub(super) fn check_identity(&self, id_header: bool, dedup_key: bool) -> Result<(), OptionError> {
        match self {
            Self::Webhook(webhook) => webhook.check_identity(id_header, dedup_key),
            Self::Kafka(_) | Self::Nats(_) => Ok(()),
        }
    }
}

fn not_allowed(key: &str, allowed: &str, found: &str) -> OptionError {
    OptionError::NotAllowed {
        key: key.into(),
        allowed: allowed.into(),
        found: found.into(),
    }
}
