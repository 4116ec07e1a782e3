//! `Pipeline`: from an outbox to a sink, or from a source to an inbox.

mod forward;
mod inbox_sink;
mod kafka;
mod kafka_login;
mod nats;
mod options;
mod reverse;
mod webhook;
mod webhook_source;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use forward::{Encoding, Forward, Ordering, Sink, StdoutDelivery, StdoutSink};
pub use inbox_sink::{InboxDelivery, InboxSink};
pub use kafka::{Acks, Compression, KafkaConnection, KafkaDelivery, KafkaSink, KafkaSource, KafkaStart};
pub use kafka_login::{KafkaTls, OAuth, Sasl, SaslMechanism};
pub use nats::{NatsConnection, NatsDelivery, NatsLogin, NatsSink, NatsSource, NatsTls};
pub use options::{CloudEvents, DeadLetter, Filter, Retry};
pub use reverse::{Reverse, Source};
pub use webhook::{
    WebhookDelivery, WebhookHeader, WebhookHeaderSource, WebhookMethod, WebhookMode, WebhookSink, WebhookTls,
};
pub use webhook_source::{WebhookSignature, WebhookSource};

use super::{
    AdoptionPolicy, DatabaseRef, ReclaimPolicy,
    text::{name_rule, relay_group_rule},
    yes,
};

/// A pipeline that should be there: where it reads, where it delivers, how.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgtide.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    shortname = "pl",
    category = "pgtide",
    namespaced,
    status = "PipelineStatus",
    derive = "PartialEq",
    cel,
    doc = "A pipeline: forward from an Outbox to Kafka, NATS, an inbox, a webhook or standard output, or reverse from Kafka, NATS or webhooks to an Inbox. A change takes effect within a second and restarts nothing.",
    selectable = ".spec.databaseRef.name",
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) == (has(oldSelf.spec.name) ? oldSelf.spec.name : oldSelf.metadata.name)")
        .message("name cannot be changed: make a Pipeline with the new name, and delete this one")
        .field_path(".spec.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Sink", type_ = "string", json_path = ".status.sink"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".status.owner"),
    printcolumn(name = "Rate", type_ = "string", json_path = ".status.rate", priority = 1),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.oldestPendingAt", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.forward) || has(self.reverse)",
    "set forward (from an Outbox to a sink) or reverse (from a source to an Inbox)"
))]
#[x_kube(validation = (
    "!(has(self.forward) && has(self.reverse))",
    "forward and reverse exclude each other: make a Pipeline for each direction"
))]
#[x_kube(validation = (
    "has(self.forward) == has(oldSelf.forward)",
    "the direction cannot be changed: make a Pipeline for the other direction, and delete this one"
))]
pub struct PipelineSpec {
    /// The database of the outbox or inbox. It cannot be changed.
    #[x_kube(validation = ("self == oldSelf", "cannot be changed: make a Pipeline for the other database, and delete this one"))]
    pub database_ref: DatabaseRef,
    /// Name of the pipeline in SQL, in metrics and in headers of messages;
    /// without it metadata.name. It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = name_rule(255))]
    pub name: Option<String>,
    /// The group of relays that runs the pipeline: an id of
    /// spec.relayGroups of the TideDatabase.
    #[serde(default = "default_group")]
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = relay_group_rule())]
    pub relay_group_id: String,
    /// Whether the pipeline runs. false pauses it: its position is kept, and
    /// what is published meanwhile waits.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// When this Pipeline is deleted: Retain keeps its consumer group, which
    /// is its position, so that a Pipeline of the same name goes on where this
    /// one ended; Delete drops the group, unless the Outbox lists it. The
    /// pipeline itself goes either way.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// When the database has a pipeline of this name already, which no
    /// Pipeline made: Never leaves it alone, and this Pipeline is not ready
    /// (AlreadyExists); Adopt takes it over and configures it as said here.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// From an Outbox to a sink. Exactly one of forward and reverse is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// From a source to an Inbox. Exactly one of forward and reverse is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Reverse>,
}

fn default_group() -> String {
    "default".into()
}

/// What is true of the pipeline, as its relay reports it.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// The metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: messages flow now. Reason and message say why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Name of the pipeline in SQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_name: Option<String>,
    /// Where it reads, as outbox/orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where it delivers, as kafka/order-events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// Pod of the relay that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Messages that are not delivered yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// When the oldest of them was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_pending_at: Option<Time>,
    /// Messages delivered per second, as 120/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Messages delivered since its relay took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// Messages that were set aside and wait for somebody
    /// (tide.relay_dlq_list).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
    /// The last error, in the words of the broker where it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Time>,
}

impl Pipeline {
    /// Name of the pipeline in SQL.
    #[must_use]
    pub fn sql_name(&self) -> &str {
        self.spec
            .name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}
