//! From a pipeline's row in `tide.pipeline` to a typed specification that
//! cannot be wrong later. No I/O, but for the reading of secrets.

mod common;
mod declared;
mod inbox;
mod kafka;
mod kafka_security;
mod nats;
mod options;
mod pipeline;
mod secret;
mod sinks;
mod tls;
mod webhook;
mod webhook_source;

pub(crate) use common::Ordering;
pub(crate) use declared::Declared;
pub(crate) use inbox::{DatabaseLogin, InboxSinkSpec};
pub(crate) use kafka::{KafkaConnection, KafkaSinkSpec, KafkaSourceSpec, Start};
pub(crate) use kafka_security::{OAuthSpec, Sasl};
pub(crate) use nats::{NatsConnection, NatsLogin, NatsSinkSpec, NatsSourceSpec};
pub(crate) use pipeline::{ForwardSpec, PipelineRow, PipelineSpec, Retry, ReverseSpec, Work};
pub(crate) use secret::{Secret, SecretError, SecretRef};
pub(crate) use sinks::{Delivery, SinkSpec, SourceSpec};
pub(crate) use tls::TlsSpec;
pub(crate) use webhook::{Endpoint, WebhookSinkSpec, WebhookUrl};
pub(crate) use webhook_source::WebhookSourceSpec;
