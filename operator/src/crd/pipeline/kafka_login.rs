//! TLS and SASL of Kafka.

// Fields that hold references end in SecretRef, for users and in what is derived.
#![allow(clippy::struct_field_names)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{CaSecretRef, CertificateSecretRef, LoginSecretRef, SecretKeyRef, text::plain_rule};

/// TLS of connections to Kafka.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.keyPasswordSecretRef) || has(self.clientCertSecretRef)",
    "keyPasswordSecretRef is the password of a client certificate's key: set clientCertSecretRef too"
))]
pub struct KafkaTls {
    /// Certificates to trust, PEM; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// Client certificate to log in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<CertificateSecretRef>,
    /// Password of the client certificate's key, when that is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_password_secret_ref: Option<SecretKeyRef>,
}

/// How to log in to Kafka.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.mechanism == 'OAUTHBEARER' || has(self.secretRef)",
    "PLAIN and SCRAM need secretRef, a Secret with the user name and the password"
))]
#[x_kube(validation = (
    "self.mechanism == 'OAUTHBEARER' || !has(self.oauth)",
    "oauth belongs to mechanism OAUTHBEARER: leave it out, or choose that"
))]
#[x_kube(validation = (
    "self.mechanism != 'OAUTHBEARER' || has(self.oauth)",
    "OAUTHBEARER needs oauth, with tokenUrl, clientId and clientSecretRef"
))]
#[x_kube(validation = (
    "self.mechanism != 'OAUTHBEARER' || !has(self.secretRef) && !has(self.username)",
    "username and secretRef do not go with OAUTHBEARER, whose credentials are in oauth"
))]
pub struct Sasl {
    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER, as the broker's
    /// listener has it.
    pub mechanism: SaslMechanism,
    /// User name; without it usernameKey of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = plain_rule())]
    pub username: Option<String>,
    /// Secret with the user name and the password of PLAIN and SCRAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LoginSecretRef>,
    /// Where OAUTHBEARER gets its tokens (client credentials grant).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuth>,
}

/// Mechanism of SASL.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// User and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Proof of the password.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Proof of the password.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token.
    #[serde(rename = "OAUTHBEARER")]
    OAuthBearer,
}

/// Where tokens come from.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OAuth {
    /// Token endpoint, https://....
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = ("self.matches('^https?://.')", "must begin with https:// (or http://, which shows the client's secret to everybody on the way)"))]
    #[x_kube(validation = ("!self.matches('^https?://[^/]*@')", "must not contain a user name or password: they are clientId and clientSecretRef"))]
    pub token_url: String,
    /// Client id.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = plain_rule())]
    pub client_id: String,
    /// The client's secret.
    pub client_secret_ref: SecretKeyRef,
    /// Scope to ask for; without it none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub scope: Option<String>,
}
