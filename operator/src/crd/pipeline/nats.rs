//! NATS as a sink and as a source.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{
    CaSecretRef, CertificateSecretRef, LoginSecretRef, SecretKeyRef, Template, text::plain_rule,
};

/// What a sink and a source of NATS have in common: the connection.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NatsConnection {
    /// Servers, nats://host:port or tls://host:port, several separated by
    /// commas; one of them is connected to.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = ("!self.contains('@')", "must not contain a user name or password: use credentialsSecretRef, nkeySecretRef, tokenSecretRef or login"),
        validation = (r"self.matches('^\\s*((?i:nats|tls)://)?[^,/\\s]+/?\\s*(,\\s*((?i:nats|tls)://)?[^,/\\s]+/?\\s*)*$')", "must be nats://host:port or tls://host:port, or several of these separated by commas")
    )]
    pub url: String,
    /// Credentials file of a user (.creds: JWT and key). At most one of
    /// credentialsSecretRef, nkeySecretRef, tokenSecretRef and login is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretKeyRef>,
    /// Seed of a user's key (SU...).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey_secret_ref: Option<SecretKeyRef>,
    /// Token to log in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
    /// User and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<NatsLogin>,
    /// TLS. An empty object, {}, is TLS with the authorities of the system.
    /// Without this there is TLS where a url is tls:// or the server asks for
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<NatsTls>,
    /// Prefix of the subjects where answers are received; without it _INBOX.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub inbox_prefix: Option<String>,
}

/// At most one way to log in, as `tide._check_nats` has it.
fn login_rule() -> (&'static str, &'static str) {
    (
        "[has(self.credentialsSecretRef), has(self.nkeySecretRef), has(self.tokenSecretRef), has(self.login)].filter(l, l).size() <= 1",
        "credentialsSecretRef, nkeySecretRef, tokenSecretRef and login exclude each other",
    )
}

/// User and password.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NatsLogin {
    /// User name; without it usernameKey of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = plain_rule())]
    pub username: Option<String>,
    /// Secret with the user name and the password.
    pub secret_ref: LoginSecretRef,
}

/// TLS of connections to NATS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NatsTls {
    /// Certificates to trust, PEM; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// Client certificate to log in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<CertificateSecretRef>,
    /// Whether TLS comes before the server's greeting, as servers with
    /// handshake_first want it; without it false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_first: Option<bool>,
}

/// A subject of NATS to deliver to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = login_rule())]
pub struct NatsSink {
    /// Servers, TLS and login.
    #[serde(flatten)]
    pub connection: NatsConnection,
    /// Subject, a template: orders.{event_type}.
    pub subject: Template,
    /// Stream that must take the subject; without it any that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub stream: Option<String>,
    /// Whether a stream is created when none takes the subject; without it
    /// true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_stream: Option<bool>,
    /// Headers to add to each message: names and templates. One that cannot
    /// be made is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: BTreeMap<String, Template>,
    /// exactly-once, the default: after a failure the stream's tail is read so
    /// that nothing is sent twice. at-least-once: what was in flight is sent
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NatsDelivery")]
    pub delivery: Option<NatsDelivery>,
}

/// A subject of NATS to receive.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = login_rule())]
#[x_kube(validation = (
    "!(has(self.jetstream) && !self.jetstream) || !has(self.stream) && !has(self.durable)",
    "stream and durable are of JetStream, but jetstream is false: leave one of them out"
))]
pub struct NatsSource {
    /// Servers, TLS and login.
    #[serde(flatten)]
    pub connection: NatsConnection,
    /// Subject to receive; * and > stand for parts of it.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("!self.matches('\\\\s')", "must not contain spaces"))]
    pub subject: String,
    /// true: read a stream of JetStream, or fail. false: a plain subscription,
    /// which loses what comes while no relay listens. Without it a stream if
    /// the server has JetStream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jetstream: Option<bool>,
    /// Stream to read; without it the one that takes the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub stream: Option<String>,
    /// Whether a stream is created when none takes the subject; without it
    /// true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_stream: Option<bool>,
    /// Name of the durable consumer, which has the position; without it
    /// queueGroup, else pg-tide- and the pipeline's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub durable: Option<String>,
    /// Queue group that shares the messages, with other subscribers too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub queue_group: Option<String>,
}

/// Guarantee of delivery to NATS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NatsDelivery {
    /// By reading the stream's tail after a failure.
    ExactlyOnce,
    /// By sending again.
    AtLeastOnce,
}
