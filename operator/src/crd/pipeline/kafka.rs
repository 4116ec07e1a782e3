//! Kafka as a sink and as a source.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KafkaTls, Sasl};
use crate::crd::Template;

/// What a sink and a source of Kafka have in common: the connection.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConnection {
    /// Bootstrap brokers, each host:port.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 300)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = ("self.all(b, !b.contains('@'))", "must not contain a user name or password: log in by sasl, with a Secret"),
        validation = ("self.all(b, !b.matches('[,\\\\s]'))", "each broker is an entry of its own, host:port")
    )]
    pub brokers: Vec<String>,
    /// Client id shown by the broker; without it pg-tide.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub client_id: Option<String>,
    /// TLS. An empty object, {}, is TLS with the authorities of the system;
    /// without this there is no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// How to log in; without it nobody logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Further properties of the client library librdkafka, by their names
    /// there. Those that have a field here, those on which delivery rests and
    /// secrets are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(
        validation = ("self.all(k, !k.matches('(password|secret|oauthbearer\\\\.config|\\\\.pem$)'))", "must not have secrets: use sasl and tls, with Secrets"),
        validation = (delivery_properties().as_str(), "has a property on which delivery rests: brokers, acks, delivery and the consumer group are fields of their own"),
        validation = (own_properties().as_str(), "has a property that is a field of its own: clientId, compression, lingerMs, batchBytes, sasl, tls")
    )]
    #[schemars(schema_with = "properties")]
    pub librdkafka: BTreeMap<String, String>,
}

/// Names and values, of a length that lets rules be checked.
fn properties(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

/// As `tide._check_librdkafka` has them.
fn delivery_properties() -> String {
    refused(&[
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "message.timeout.ms",
        "metadata.broker.list",
        "request.required.acks",
        "transactional.id",
    ])
}

/// As `tide._check_librdkafka` has them.
fn own_properties() -> String {
    refused(&[
        "batch.size",
        "client.id",
        "compression.codec",
        "compression.type",
        "linger.ms",
        "queue.buffering.max.ms",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.keystore.location",
    ])
}

fn refused(keys: &[&str]) -> String {
    format!("self.all(k, !(k in ['{}']))", keys.join("', '"))
}

/// A topic of Kafka to deliver to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!(has(self.delivery) && self.delivery == 'transactional') || !has(self.acks) || self.acks in ['all', '-1']",
    "acks does not go with delivery transactional, which needs all: leave acks out"
))]
pub struct KafkaSink {
    /// Brokers, TLS and login.
    #[serde(flatten)]
    pub connection: KafkaConnection,
    /// Topic, a template: orders, or {payload.region}-orders.
    pub topic: Template,
    /// Record key, a template such as {event_type} or {payload.customer_id}:
    /// records of equal keys go to one partition and keep their order. A
    /// message without the named field is sent without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Template>,
    /// A fixed partition, which must be there; without it the key decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub partition: Option<i32>,
    /// Acknowledgements that a record needs: all (the default) and -1 mean
    /// every in-sync replica; 1 and 0 may lose records and repeat them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Acks")]
    pub acks: Option<Acks>,
    /// Compression of record batches: none (the default), gzip, snappy, lz4
    /// or zstd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Compression")]
    pub compression: Option<Compression>,
    /// Milliseconds to wait for more records before a batch is sent; without
    /// it 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub linger_ms: Option<i32>,
    /// Bytes of a record batch, at most; without it 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 100_000_000))]
    pub batch_bytes: Option<i32>,
    /// Headers to add to each record: names and templates. One that cannot be
    /// made is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: BTreeMap<String, Template>,
    /// exactly-once, the default: after a failure the topic's tail is read so
    /// that nothing is sent twice. transactional: batches in transactions, and
    /// the broker fences a relay that was replaced; consumers need
    /// isolation.level read_committed. at-least-once: what was in flight is
    /// sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KafkaDelivery")]
    pub delivery: Option<KafkaDelivery>,
}

/// Topics of Kafka to receive.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSource {
    /// Brokers, TLS and login.
    #[serde(flatten)]
    pub connection: KafkaConnection,
    /// Topics to receive.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 249)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = ("self.all(t, !t.matches('[,@\\\\s]'))", "each topic is an entry of its own")
    )]
    pub topics: Vec<String>,
    /// Consumer group in Kafka to read as; without it pg-tide- and the
    /// pipeline's name. Its offsets are kept with the inbox; those in Kafka
    /// follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub consumer_group: Option<String>,
    /// Where to begin when neither the inbox nor the group has an offset:
    /// earliest (the default), or latest, which is only what comes from then
    /// on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KafkaStart")]
    pub start: Option<KafkaStart>,
}

/// Acknowledgements that a record needs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Every in-sync replica.
    #[serde(rename = "all")]
    All,
    /// Every in-sync replica.
    #[serde(rename = "-1")]
    MinusOne,
    /// The leader.
    #[serde(rename = "1")]
    One,
    /// Nobody.
    #[serde(rename = "0")]
    Zero,
}

/// Compression of record batches.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Guarantee of delivery to Kafka.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaDelivery {
    /// By reading the topic's tail after a failure.
    ExactlyOnce,
    /// By sending again.
    AtLeastOnce,
    /// By transactions.
    Transactional,
}

/// Where to begin without an offset.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum KafkaStart {
    /// At the oldest record.
    Earliest,
    /// At what comes from then on.
    Latest,
}
