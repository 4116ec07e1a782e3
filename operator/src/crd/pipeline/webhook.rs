//! An HTTP endpoint as a sink.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{CaSecretRef, CertificateSecretRef, SecretKeyRef, Template, text::duration_rule};

/// An HTTP endpoint to deliver to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.url) || has(self.urlSecretRef)", "set url, or urlSecretRef when the URL is a secret"))]
#[x_kube(validation = ("!(has(self.url) && has(self.urlSecretRef))", "url and urlSecretRef exclude each other"))]
#[x_kube(validation = (
    "!has(self.concurrency) || self.concurrency <= 1 || has(self.key)",
    "concurrency needs key, which says what stays in order, such as {payload.customer_id}, or {id} when each message stands alone"
))]
pub struct WebhookSink {
    /// Where messages are posted to, https://host/path; path and query may
    /// have {placeholders}.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = ("self.matches('(?i)^https?://')", "must begin with https:// or http://"),
        validation = ("!self.matches('^[^/]*//[^/?#]*@')", "must not contain a user name or password: use headers with valueFrom, or urlSecretRef"),
        validation = ("!self.matches('^[^/]*//[^/?#]*[{}]')", "may have placeholders after the host only"),
        validation = ("!self.contains('#')", "has a fragment (#), which is never sent")
    )]
    pub url: Option<Template>,
    /// Key of a Secret with the URL, when it is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyRef>,
    /// POST, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebhookMethod")]
    pub method: Option<WebhookMethod>,
    /// single, the default: a request per message, its body the payload.
    /// batch: a JSON array of up to batchSize messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebhookMode")]
    pub mode: Option<WebhookMode>,
    /// Bytes of a batch's body, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 100_000_000))]
    pub max_bytes: Option<i32>,
    /// Headers of every request. Secrets, such as Authorization, come from a
    /// Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<WebhookHeader>,
    /// Key of the signature (Standard Webhooks), whsec_ and base64 or as it
    /// is; without it requests are not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret_ref: Option<SecretKeyRef>,
    /// For a request and its answer: 100ms to 10m, such as 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = duration_rule(100, 600_000))]
    pub timeout: Option<String>,
    /// Messages of equal keys are sent in order, others at the same time; a
    /// template. Without it all are sent in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Template>,
    /// Requests at the same time, at most; more than one only with key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: Option<i32>,
    /// Whether addresses of private networks, such as those of Services, are
    /// posted to; without it they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
    /// Authorities and client certificate for https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<WebhookTls>,
    /// at-least-once, the only one: what was under way when a relay dies is
    /// sent again, with the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebhookDelivery")]
    pub delivery: Option<WebhookDelivery>,
}

/// A header of every request.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.value) != has(self.valueFrom)", "set exactly one of value and valueFrom"))]
#[x_kube(validation = (
    "!has(self.value) || !self.name.matches('(?i)(auth|token|secret|key|password|signature|credential|cookie)')",
    "the value of this header is a secret: use valueFrom.secretKeyRef"
))]
pub struct WebhookHeader {
    /// Name of the header.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = ("self.matches('^[-A-Za-z0-9!#$%&*+.^_`|~\\']+$')", "is no name of an HTTP header"),
        validation = ("!self.matches('(?i)^(connection|content-encoding|content-length|content-type|expect|host|idempotency-key|te|trailer|transfer-encoding|upgrade|webhook-.*|tide-.*)$')", "is set by pg-tide itself")
    )]
    pub name: String,
    /// Its value, when it is no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    #[x_kube(validation = (r"self.matches('^[\\x20-\\x7e]*$')", "has characters that HTTP does not allow"))]
    #[x_kube(validation = ("!self.startsWith('${')", "is a reference: use valueFrom.secretKeyRef"))]
    pub value: Option<String>,
    /// Where its value is, when it is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_from: Option<WebhookHeaderSource>,
}

/// Where a header's value is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WebhookHeaderSource {
    /// Key of a Secret with the whole value, such as Bearer and a token.
    pub secret_key_ref: SecretKeyRef,
}

/// TLS of requests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WebhookTls {
    /// Certificates to trust, PEM; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// Client certificate to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<CertificateSecretRef>,
}

/// Method of requests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookMethod {
    /// POST.
    #[serde(rename = "POST")]
    Post,
}

/// What a request has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WebhookMode {
    /// One message.
    Single,
    /// Several.
    Batch,
}

/// Guarantee of delivery to a webhook.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookDelivery {
    /// With the same id each time.
    AtLeastOnce,
}
