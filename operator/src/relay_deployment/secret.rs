//! One Secret with everything that relays read from files. A Pipeline that
//! names another Secret adds a key here; a volume of its own would mean new
//! pods.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::{Child, ChildKind, Plan};

/// Says what the keys are, to whoever looks at the Secret.
pub const SOURCES_ANNOTATION: &str = "pgtide.dev/keys";

pub(super) fn build(plan: &Plan<'_>) -> Child {
    let data: Map<String, Value> = plan
        .files
        .iter()
        .map(|(name, content)| (name.clone(), json!(ByteString(content.clone()))))
        .collect();
    let mut metadata = plan.metadata();
    metadata["annotations"] = json!({
        SOURCES_ANNOTATION: "copied by pg-tide-operator: database-* from spec.connection and spec.tls of the TideDatabase, <secret>_<key> from the Secrets that Pipelines name",
    });
    plan.child(
        ChildKind::Secret,
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": data,
        }),
    )
}
