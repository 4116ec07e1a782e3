//! From a source to an inbox.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{DeadLetter, Filter, KafkaSource, NatsSource, Retry, WebhookSource, forward::hundred};
use crate::crd::{ObjectRef, yes};

/// From a source to an inbox.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.source.webhook) || (has(self.source.webhook.signature) && self.source.webhook.signature == 'none') || !has(self.messageIdHeader) && !has(self.dedupKey)",
    "messageIdHeader and dedupKey have no meaning with signed requests, which their header webhook-id tells apart"
))]
pub struct Reverse {
    /// The Inbox to store messages in. It cannot be changed.
    #[x_kube(validation = ("self == oldSelf", "cannot be changed, since the position belongs to the inbox: make a Pipeline for the other Inbox"))]
    pub inbox_ref: ObjectRef,
    /// Where messages come from: exactly one of these.
    pub source: Source,
    /// Messages that one transaction stores, at most.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: i32,
    /// Whether a repeated message that has no id is recognised, by dedupKey
    /// or by its content. Messages with an id are always stored once.
    #[serde(default = "yes")]
    pub idempotent: bool,
    /// Attempts to store a message that the inbox refuses, before it is set
    /// aside as a dead letter.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_retries: i32,
    /// Which messages are stored; the others are acknowledged and dropped.
    /// Keys are headers.NAME and payload.PATH; values are a text, a number,
    /// true or false, a list of these, {not: VALUE} or {exists: true}. All
    /// must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What becomes of a message that cannot be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Pauses after a failure that may pass, such as a broker that is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Header whose value is the message's id; without it Nats-Msg-Id, the
    /// id of CloudEvents, or tide-id. Signed webhooks have webhook-id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub message_id_header: Option<String>,
    /// Path into the payload, as order.id, to what makes two messages without
    /// an id the same; without it their whole content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub dedup_key: Option<String>,
}

const fn three() -> i32 {
    3
}

/// Where messages come from.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.kafka) || has(self.nats) || has(self.webhook)",
    "set one of kafka, nats, webhook"
))]
#[x_kube(validation = (
    "[has(self.kafka), has(self.nats), has(self.webhook)].filter(s, s).size() <= 1",
    "has more than one source: make a Pipeline for each; they may store into the same Inbox"
))]
pub struct Source {
    /// Topics of Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
    /// A subject of NATS: a stream of JetStream, or a plain subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsSource>,
    /// Requests of others. The relay group of the TideDatabase needs webhook,
    /// which opens the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSource>,
}
