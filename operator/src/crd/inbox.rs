//! `Inbox`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    AdoptionPolicy, DatabaseRef, ReclaimPolicy, Retention,
    text::{name_rule, retention_rule},
};

/// An inbox that should be there, and who may process it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgtide.dev",
    version = "v1alpha1",
    kind = "Inbox",
    plural = "inboxes",
    shortname = "ibx",
    category = "pgtide",
    namespaced,
    status = "InboxStatus",
    derive = "PartialEq",
    cel,
    doc = "An inbox in a database: Pipelines store incoming messages in it, each once, and applications process them.",
    selectable = ".spec.databaseRef.name",
    validation = Rule::new("has(self.spec.name) || size(self.metadata.name) <= 63")
        .message("an inbox has a name of at most 63 bytes: set spec.name, or choose a shorter metadata.name")
        .field_path(".spec.name"),
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) == (has(oldSelf.spec.name) ? oldSelf.spec.name : oldSelf.metadata.name)")
        .message("name cannot be changed: make an Inbox with the new name, and delete this one when it is empty")
        .field_path(".spec.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Dead", type_ = "integer", json_path = ".status.deadLetters"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.databaseRef.name", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct InboxSpec {
    /// The database that has the inbox. It cannot be changed.
    #[x_kube(validation = ("self == oldSelf", "cannot be changed: make an Inbox for the other database, and delete this one"))]
    pub database_ref: DatabaseRef,
    /// Name of the inbox in SQL, as in tide.inbox_claim('NAME', ...); without
    /// it metadata.name. It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = name_rule(63))]
    pub name: Option<String>,
    /// Failures of processing (tide.inbox_mark_failed) after which a message
    /// is a dead letter.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_retries: i32,
    /// How long processed messages are kept, and with them the knowledge of
    /// duplicates: whole hours or days, such as 72h or 3d.
    #[serde(default = "three_days")]
    #[x_kube(validation = retention_rule(0, false))]
    pub processed_retention: Retention,
    /// How long dead letters are kept: whole hours or days, such as 720h or
    /// 30d, or forever.
    #[serde(default = "forever")]
    #[x_kube(validation = retention_rule(1, true))]
    pub dead_letter_retention: Retention,
    /// Roles of PostgreSQL that may read and process the messages
    /// (tide.inbox_grant_process). They must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub processors: Vec<String>,
    /// When this Inbox is deleted: Retain keeps the inbox and its messages in
    /// the database; Delete drops both, once nothing is pending and no
    /// Pipeline stores into it.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// When the database has an inbox of this name already, which no Inbox
    /// made: Never leaves it alone, and this Inbox is not ready
    /// (AlreadyExists); Adopt takes it over as it is, with its messages. One
    /// that was kept when this Inbox was deleted is taken back in any case.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
}

const fn three() -> i32 {
    3
}

fn three_days() -> Retention {
    "72h".into()
}

fn forever() -> Retention {
    "forever".into()
}

/// What is true of the inbox.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InboxStatus {
    /// The metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: messages can be stored and processed. Reason and message say why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Name of the inbox in SQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox_name: Option<String>,
    /// Table of its messages, as tide."payments_inbox".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Messages that are neither processed nor dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// When the oldest of them was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_pending_at: Option<Time>,
    /// Processed messages that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processed: Option<i64>,
    /// Messages whose processing failed more often than maxRetries allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
}

impl Inbox {
    /// Name of the inbox in SQL.
    #[must_use]
    pub fn sql_name(&self) -> &str {
        self.spec
            .name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}
