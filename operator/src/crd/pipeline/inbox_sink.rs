//! An inbox as a sink.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{
    SecretKeyRef,
    text::{name_rule, plain_rule},
};

/// An inbox to deliver to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!(has(self.url) && has(self.urlSecretRef))", "url and urlSecretRef exclude each other"))]
#[x_kube(validation = (
    "has(self.url) || has(self.urlSecretRef) || !(has(self.user) || has(self.userSecretRef) || has(self.passwordSecretRef))",
    "user and password are for the database in url: set url or urlSecretRef, or leave them out"
))]
#[x_kube(validation = ("!(has(self.user) && has(self.userSecretRef))", "user and userSecretRef exclude each other"))]
pub struct InboxSink {
    /// Name of the inbox in SQL.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = name_rule(63))]
    pub inbox: String,
    /// Database of the inbox, postgres://user@host:port/database, without a
    /// password. Without url and urlSecretRef the inbox is in the database of
    /// the outbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = (r"!self.matches('(?i)^postgres(ql)?://[^/?#]*:[^/?#]*@') && !self.matches('(?i)(^|[\\s?&])(ssl)?password\\s*=')", "must not contain a password: use passwordSecretRef, or urlSecretRef for the whole URL"),
        validation = (r"self.matches('(?i)^postgres(ql)?://.') || self.matches('(?i)(^|\\s)host(addr)?\\s*=')", "must be postgres://user@host:port/database, or host=... dbname=... user=...")
    )]
    pub url: Option<String>,
    /// Key of a Secret with the whole URL, its password in it or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyRef>,
    /// Role to log in as, when not in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = plain_rule())]
    pub user: Option<String>,
    /// Key of a Secret with that role's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_secret_ref: Option<SecretKeyRef>,
    /// Password of that role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyRef>,
    /// Header whose value is the event id; without it, or without that
    /// header, the message's tide-id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub message_id_header: Option<String>,
    /// Name of this side, added to the header tide-path of what is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub origin: Option<String>,
    /// Names of sides; a message whose tide-path has one of them came from
    /// there, and is not delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = ("self.all(n, !n.matches('[,@]'))", "each name is an entry of its own, without commas and @")
    )]
    pub skip_if_passed: Vec<String>,
    /// exactly-once, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "InboxDelivery")]
    pub delivery: Option<InboxDelivery>,
}

/// Guarantee of delivery to an inbox.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum InboxDelivery {
    /// Every event is one row.
    ExactlyOnce,
}
