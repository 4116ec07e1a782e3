//! `TideDatabase`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CaSecretRef, CertificateSecretRef, UriSecretRef, text::relay_group_rule, yes};

/// A database of PostgreSQL, its schema tide and the relays that serve it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgtide.dev",
    version = "v1alpha1",
    kind = "TideDatabase",
    plural = "tidedatabases",
    shortname = "tdb",
    category = "pgtide",
    namespaced,
    status = "TideDatabaseStatus",
    derive = "PartialEq",
    cel,
    doc = "A database of PostgreSQL where outboxes and inboxes are, and the relays that serve it.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name of a TideDatabase has at most 63 characters: it becomes a label of what is made for it"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Schema", type_ = "integer", json_path = ".status.schemaVersion"),
    printcolumn(name = "Relays", type_ = "string", json_path = ".status.relays"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TideDatabaseSpec {
    /// How the operator, and without relayConnection the relays too, connect.
    pub connection: Connection,
    /// How the relays connect, when not as the operator does: as a role that
    /// is a member of tide_relay and may do no more than relays need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_connection: Option<Connection>,
    /// TLS of connections to PostgreSQL; what the URL says counts for what is
    /// not set here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DatabaseTls>,
    /// What is done about the schema tide.
    #[serde(default)]
    pub schema: SchemaPolicy,
    /// Relays. Each group is a Deployment, and runs the Pipelines whose
    /// relayGroupId is its id. Without this list there is one group, default,
    /// of two relays.
    #[serde(default = "default_groups")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub relay_groups: Vec<RelayGroup>,
}

fn default_groups() -> Vec<RelayGroup> {
    vec![RelayGroup::default()]
}

/// Where the URL of the database is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Key of a Secret with a URL, postgres://user:password@host:5432/database.
    /// The Secret of a CloudNativePG application works as it is.
    pub secret_ref: UriSecretRef,
}

/// TLS of connections to PostgreSQL.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.caSecretRef) || !has(self.mode) || self.mode in ['require', 'verify-ca', 'verify-full']",
    "caSecretRef needs a mode that checks the server's certificate: verify-full or verify-ca"
))]
#[x_kube(validation = (
    "!has(self.clientCertSecretRef) || !has(self.mode) || self.mode != 'disable'",
    "clientCertSecretRef does not go with mode disable"
))]
pub struct DatabaseTls {
    /// disable: no TLS. allow: TLS if the server insists. prefer: TLS if the
    /// server has it. require: TLS, and
    /// the server's certificate is checked only when caSecretRef is set.
    /// verify-ca: the certificate must come from a trusted authority.
    /// verify-full: it must also be for the host that is connected to.
    /// Without it verify-full when caSecretRef is set, else as the URL says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TlsMode")]
    pub mode: Option<TlsMode>,
    /// Certificates to trust, PEM; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// Client certificate to log in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<CertificateSecretRef>,
}

/// How much of TLS is asked for, as libpq's sslmode.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS if the server insists.
    Allow,
    /// TLS if the server has it.
    Prefer,
    /// TLS.
    Require,
    /// TLS, and a certificate from a trusted authority.
    VerifyCa,
    /// TLS, and a certificate for the host.
    VerifyFull,
}

impl TlsMode {
    /// As libpq's sslmode has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// What is done about the schema tide.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SchemaPolicy {
    /// Whether the operator installs the schema tide and upgrades it. false:
    /// this is done elsewhere (pg-tide schema install, CREATE EXTENSION), and
    /// the resource is not ready until it is.
    #[serde(default = "yes")]
    pub manage: bool,
}

impl Default for SchemaPolicy {
    fn default() -> Self {
        Self { manage: true }
    }
}

/// Relays of one Deployment.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RelayGroup {
    /// Id, which Pipelines name as relayGroupId. It becomes part of the
    /// Deployment's name.
    #[serde(default = "default_id")]
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = relay_group_rule())]
    pub id: String,
    /// Relays. Pipelines are spread over them, and when one dies the others
    /// take over its Pipelines. 0 stops delivery.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 32))]
    pub replicas: i32,
    /// CPU and memory of each relay, as of any container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that nodes must have to run these relays.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that these relays tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Affinity of the pods, as in any pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods are spread over nodes and zones; without it, over nodes as
    /// far as possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Name of the pods' PriorityClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Labels to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Image of the relays; without it the operator's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// What the relays log: error, warn, info, debug, trace, or a filter such
    /// as info,pg_tide=debug.
    #[serde(default = "info")]
    #[schemars(length(min = 1, max = 256))]
    pub log_level: String,
    /// Environment variables to add. Names that begin with PG_TIDE_ belong to
    /// the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = ("self.all(e, !e.name.startsWith('PG_TIDE_'))", "names that begin with PG_TIDE_ are set by the operator")
    )]
    pub env: Vec<EnvVar>,
    /// Seconds that a relay may take to hand over its Pipelines when it is
    /// stopped.
    #[serde(default = "thirty")]
    #[schemars(range(min = 5, max = 3600))]
    pub termination_grace_period_seconds: i64,
    /// The port for webhooks that are received. It is closed without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<RelayWebhook>,
}

fn default_id() -> String {
    "default".into()
}

fn info() -> String {
    "info".into()
}

const fn two() -> i32 {
    2
}

const fn thirty() -> i64 {
    30
}

impl Default for RelayGroup {
    fn default() -> Self {
        Self {
            id: default_id(),
            replicas: two(),
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            priority_class_name: None,
            pod_labels: BTreeMap::new(),
            pod_annotations: BTreeMap::new(),
            image_pull_secrets: Vec::new(),
            image: None,
            log_level: info(),
            env: Vec::new(),
            termination_grace_period_seconds: thirty(),
            webhook: None,
        }
    }
}

/// Where relays receive webhooks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RelayWebhook {
    /// Whether webhooks are received; a Service leads to the relays' port.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Port of the relays and of the Service.
    #[serde(default = "webhook_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
}

const fn webhook_port() -> i32 {
    8080
}

/// What is true of the database and its relays.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TideDatabaseStatus {
    /// The metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the database answers, its schema is right and every group has a
    /// relay that works. Reason and message say why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Version of the schema tide in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i32>,
    /// Release of pg-tide that this version came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_release: Option<String>,
    /// Version of PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Where the database is, host:port/database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Relays that report to the database and relays that should, as 2/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relays: Option<String>,
    /// The groups of relays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub relay_groups: Vec<RelayGroupStatus>,
}

/// What is true of a group of relays.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RelayGroupStatus {
    /// Id of the group.
    pub id: String,
    /// Pods of its Deployment.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Relays that report to the database.
    #[serde(default)]
    pub live_relays: i32,
    /// Pipelines of this group.
    #[serde(default)]
    pub pipelines: i32,
}
