//! `Outbox`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AdoptionPolicy, DatabaseRef, ReclaimPolicy, Retention,
    text::{name_rule, retention_rule},
    yes,
};

/// An outbox that should be there, with its consumer groups and who may
/// publish.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgtide.dev",
    version = "v1alpha1",
    kind = "Outbox",
    plural = "outboxes",
    shortname = "obx",
    category = "pgtide",
    namespaced,
    status = "OutboxStatus",
    derive = "PartialEq",
    cel,
    doc = "An outbox in a database: applications publish events into it, in the transactions of their data, and Pipelines deliver them.",
    selectable = ".spec.databaseRef.name",
    validation = Rule::new("has(self.spec.name) || size(self.metadata.name) <= 63")
        .message("an outbox has a name of at most 63 bytes: set spec.name, or choose a shorter metadata.name")
        .field_path(".spec.name"),
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) == (has(oldSelf.spec.name) ? oldSelf.spec.name : oldSelf.metadata.name)")
        .message("name cannot be changed: make an Outbox with the new name, and delete this one when it is empty")
        .field_path(".spec.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Retention", type_ = "string", json_path = ".spec.retention"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.databaseRef.name", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct OutboxSpec {
    /// The database that has the outbox. It cannot be changed.
    #[x_kube(validation = ("self == oldSelf", "cannot be changed: make an Outbox for the other database, and delete this one"))]
    pub database_ref: DatabaseRef,
    /// Name of the outbox in SQL, as in tide.outbox_publish('NAME', ...);
    /// without it metadata.name. It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = name_rule(63))]
    pub name: Option<String>,
    /// How long messages are kept once all consumer groups have them: whole
    /// hours or days, such as 72h or 3d. What a group has not had yet is kept
    /// longer.
    #[serde(default = "day")]
    #[x_kube(validation = retention_rule(1, false))]
    pub retention: Retention,
    /// Consumer groups. Each has a position of its own in the outbox; a
    /// Pipeline reads as one of them, and takes a group of its own name when
    /// it names none. A group that is taken out of this list stays in the
    /// database with its position, which keeps messages from being removed,
    /// until somebody drops it (tide.drop_consumer_group).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub consumer_groups: Vec<ConsumerGroupSpec>,
    /// Roles of PostgreSQL that may publish to this outbox
    /// (tide.outbox_grant_publish). They must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub publishers: Vec<String>,
    /// Roles of PostgreSQL that may read this outbox and consume it by SQL
    /// (tide.outbox_grant_consume). They must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub consumers: Vec<String>,
    /// Whether publishing is allowed; false refuses it with an error
    /// (tide.outbox_disable). What is in the outbox is delivered either way.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// When this Outbox is deleted: Retain keeps the outbox and its messages
    /// in the database; Delete drops both, once nothing is pending and no
    /// Pipeline reads from it.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// When the database has an outbox of this name already, which no Outbox
    /// made: Never leaves it alone, and this Outbox is not ready
    /// (AlreadyExists); Adopt takes it over as it is, with its messages. One
    /// that was kept when this Outbox was deleted is taken back in any case.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
}

fn day() -> Retention {
    "24h".into()
}

/// A consumer group of an outbox.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupSpec {
    /// Name of the group, unique in the outbox.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = name_rule(255))]
    pub name: String,
    /// Where a new group begins. earliest: at the oldest message that is
    /// kept; latest: at what is published from then on; none: nowhere, until
    /// tide.commit_offset sets a position. It has no effect on a group that
    /// is there.
    #[serde(default)]
    pub auto_offset_reset: AutoOffsetReset,
}

/// Where a new consumer group begins.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AutoOffsetReset {
    /// At the oldest message that is kept.
    #[default]
    Earliest,
    /// At what is published from then on.
    Latest,
    /// Nowhere, until a position is set.
    None,
}

impl AutoOffsetReset {
    /// As SQL takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
            Self::None => "none",
        }
    }
}

/// What is true of the outbox.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutboxStatus {
    /// The metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: messages can be published and kept. Reason and message say why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Name of the outbox in SQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox_name: Option<String>,
    /// Table of its messages, as tide."orders_outbox".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Messages that some consumer group has not had yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// When the oldest of them was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_pending_at: Option<Time>,
}

impl Outbox {
    /// Name of the outbox in SQL.
    #[must_use]
    pub fn sql_name(&self) -> &str {
        self.spec
            .name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}
