//! Options that connectors have in common.

use std::{borrow::Cow, collections::BTreeMap};

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::{Template, text::duration_rule};

/// Attributes of CloudEvents.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CloudEvents {
    /// Attribute source, a template; without it /pg-tide/{outbox}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Template>,
    /// Attribute type, a template; without it the header event_type, else the
    /// outbox's name.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<Template>,
    /// Attribute subject, a template; without it none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Template>,
}

/// What becomes of a message that is refused for good.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// true, the default: the message is set aside (tide.relay_dlq_list), and
    /// the others go on. false: the pipeline waits until the cause is mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Further attempts before a message is set aside; without it 0 for a
    /// sink, reverse.maxRetries for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_retries: Option<i32>,
}

/// Pauses after a failure that may pass.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// First pause, doubled after each further failure: 1ms to 60s, such as
    /// 250ms; without it 100ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = duration_rule(1, 60_000))]
    pub initial: Option<String>,
    /// Longest pause: 1ms to 1h, such as 30s; without it 3s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = duration_rule(1, 3_600_000))]
    pub max: Option<String>,
}

/// Conditions on headers and payload, of which all must hold.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct Filter(pub BTreeMap<String, Value>);

/// Values are of any type, which a structural schema cannot say more about.
impl JsonSchema for Filter {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Filter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 64,
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}
