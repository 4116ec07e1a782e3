//! Requests of others as a source.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{SecretKeyRef, text::duration_rule};

/// Requests of others: every relay of the group takes POST
/// /webhook/PIPELINE.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.signature) && self.signature == 'none') || (has(self.signingSecretRefs) && self.signingSecretRefs.size() > 0)",
    "set signingSecretRefs, the senders' keys; if their requests are not signed, say so by signature none, and whoever reaches the relays can send"
))]
#[x_kube(validation = (
    "!(has(self.signature) && self.signature == 'none') || !has(self.signingSecretRefs) && !has(self.tolerance)",
    "signingSecretRefs and tolerance have no meaning with signature none: leave one of them out"
))]
pub struct WebhookSource {
    /// standard, the default: requests are signed after the Standard Webhooks
    /// convention. none: they are not, and whoever reaches the relays can
    /// send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebhookSignature")]
    pub signature: Option<WebhookSignature>,
    /// Keys of the senders, whsec_ and base64 or as they are. Several while
    /// senders change from one to another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub signing_secret_refs: Vec<SecretKeyRef>,
    /// How far the time of a signature may be from the relay's: 1s to 24h;
    /// without it 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = duration_rule(1_000, 86_400_000))]
    pub tolerance: Option<String>,
    /// Bytes of a request's body, at most; without it 1048576.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_body_bytes: Option<i32>,
    /// Requests that are received or stored at the same time in each relay,
    /// at most; further ones are told to come again. Without it 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight: Option<i32>,
    /// For the body of a request to arrive: 100ms to 10m; without it 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = duration_rule(100, 600_000))]
    pub timeout: Option<String>,
}

/// How requests prove who sent them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WebhookSignature {
    /// By the Standard Webhooks convention.
    Standard,
    /// Not at all.
    None,
}
