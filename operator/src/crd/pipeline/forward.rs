//! From an outbox to a sink.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CloudEvents, DeadLetter, Filter, InboxSink, KafkaSink, NatsSink, Retry, WebhookSink};
use crate::crd::{ObjectRef, text::name_rule};

/// From an outbox to a sink.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.cloudevents) || has(self.encoding) && self.encoding != 'raw'",
    "cloudevents has no meaning with encoding raw: set encoding to cloudevents or cloudevents-binary"
))]
#[x_kube(validation = (
    "!(has(self.encoding) && self.encoding == 'cloudevents-binary') || !(has(self.sink.inbox) || has(self.sink.stdout) || (has(self.sink.webhook) && has(self.sink.webhook.mode) && self.sink.webhook.mode == 'batch'))",
    "encoding cloudevents-binary needs headers of each message's own, which this sink has not: set encoding to cloudevents"
))]
pub struct Forward {
    /// The Outbox to read. It cannot be changed.
    #[x_kube(validation = ("self == oldSelf", "cannot be changed, since the position belongs to the outbox: make a Pipeline for the other Outbox"))]
    pub outbox_ref: ObjectRef,
    /// Consumer group whose position the pipeline moves; no other pipeline
    /// may have it. Without it the only free group of the outbox, else one of
    /// the pipeline's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = name_rule(255))]
    pub consumer_group: Option<String>,
    /// Messages that the first read of an attempt takes; later reads grow to
    /// about 2 MiB.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: i32,
    /// Where messages are delivered to: exactly one of these.
    pub sink: Sink,
    /// Messages sent and not yet acknowledged, at most; without it 10000, or
    /// 1000 for a webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight: Option<i32>,
    /// raw, the default: the value is the payload as published. cloudevents: a
    /// JSON envelope of CloudEvents 1.0 around it. cloudevents-binary: the
    /// attributes of CloudEvents as headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Encoding")]
    pub encoding: Option<Encoding>,
    /// Attributes of CloudEvents, with an encoding that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudevents: Option<CloudEvents>,
    /// Which messages are sent; the others count as delivered. Keys are
    /// headers.NAME and payload.PATH; values are a text, a number, true or
    /// false, a list of these, {not: VALUE} or {exists: true}. All must hold.
    /// As {headers.event_type: [order.made, order.paid], payload.region: eu}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// relaxed, the default: a refused message is set aside and later ones of
    /// its key go on. strict: later ones of its key are set aside behind it,
    /// and a message without a key makes the pipeline wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Ordering")]
    pub ordering: Option<Ordering>,
    /// What becomes of a message that the sink refuses for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Pauses after a failure that may pass, such as a broker that is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

pub(super) const fn hundred() -> i32 {
    100
}

/// Where messages are delivered to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.kafka) || has(self.nats) || has(self.inbox) || has(self.webhook) || has(self.stdout)",
    "set one of kafka, nats, inbox, webhook, stdout"
))]
#[x_kube(validation = (
    "[has(self.kafka), has(self.nats), has(self.inbox), has(self.webhook), has(self.stdout)].filter(s, s).size() <= 1",
    "has more than one sink: make a Pipeline for each, and each delivers every message"
))]
pub struct Sink {
    /// A topic of Kafka, or several by a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
    /// A subject of NATS, stored by JetStream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsSink>,
    /// An inbox, of this database or another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox: Option<InboxSink>,
    /// An HTTP endpoint that takes POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSink>,
    /// Standard output of the relay, a line of JSON per message: for trying
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<StdoutSink>,
}

/// Standard output of the relay.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StdoutSink {
    /// at-least-once, the only one: standard output cannot be read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StdoutDelivery")]
    pub delivery: Option<StdoutDelivery>,
}

/// Guarantee of standard output.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum StdoutDelivery {
    /// It cannot be read again.
    AtLeastOnce,
}

/// What a message's value is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The payload as published.
    Raw,
    /// A JSON envelope around it.
    CloudEvents,
    /// The payload, with the attributes as headers.
    #[serde(rename = "cloudevents-binary")]
    CloudEventsBinary,
}

/// What becomes of messages behind one that was refused.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// They go on.
    Relaxed,
    /// Those of its key wait.
    Strict,
}
