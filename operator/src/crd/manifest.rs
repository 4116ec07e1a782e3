//! The CRDs as YAML.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

use super::{Inbox, Outbox, Pipeline, TideDatabase};

/// The CRDs, in the order in which people read them.
#[must_use]
pub fn definitions() -> Vec<Value> {
    [TideDatabase::crd(), Outbox::crd(), Inbox::crd(), Pipeline::crd()]
        .iter()
        .map(definition)
        .collect()
}

/// The CRDs as files: name and content.
#[must_use]
pub fn manifests() -> Vec<(String, String)> {
    definitions()
        .iter()
        .map(|definition| {
            let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
            (format!("{plural}.yaml"), document(definition))
        })
        .collect()
}

/// The CRDs as one stream.
#[must_use]
pub fn yaml() -> String {
    manifests().into_iter().map(|(_, text)| text).collect()
}

fn document(value: &Value) -> String {
    // A tree of texts, numbers and lists cannot fail.
    let text = serde_saphyr::to_string(value).unwrap_or_default();
    format!("---\n{}\n", text.trim_end())
}

fn definition(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).unwrap_or_default();
    if let Some(versions) = crd["spec"]["versions"].as_array_mut() {
        for version in versions {
            tidy(&mut version["schema"]["openAPIV3Schema"]);
        }
    }
    crd
}

/// What a Quantity of Kubernetes looks like.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Makes a generated schema one that reads well, and that treats null as an
/// absent value, which is then defaulted.
fn tidy(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("nullable");
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        quantity(schema);
    }
    for key in ["minimum", "maximum"] {
        whole(schema, key);
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = joined(text);
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            tidy(inner);
        }
    }
}

/// The documentation of a Quantity is longer than a manifest; its form
/// says more.
fn quantity(schema: &mut Map<String, Value>) {
    if schema
        .get("description")
        .and_then(Value::as_str)
        .is_some_and(|d| d.starts_with("Quantity is"))
    {
        schema.remove("description");
        schema.insert("pattern".into(), QUANTITY.into());
    }
    schema.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
}

/// 1, not 1.0.
fn whole(schema: &mut Map<String, Value>, key: &str) {
    let number = schema
        .get(key)
        .and_then(Value::as_f64)
        .filter(|n| n.fract() == 0.0);
    #[allow(clippy::cast_possible_truncation)] // bounds of integers
    if let Some(number) = number {
        schema.insert(key.to_owned(), json!(number as i64));
    }
}

/// Lines of a comment as a paragraph; empty lines stay.
fn joined(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "))
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_files_in_crds_are_fresh() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
        for (name, text) in manifests() {
            let path = folder.join(&name);
            if std::env::var_os("UPDATE_REFERENCE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == text,
                "crds/{name} is stale. Run: UPDATE_REFERENCE=1 cargo test -p pg-tide-operator crds"
            );
        }
    }

    #[test]
    fn the_yaml_says_what_the_types_say() {
        for (definition, (name, text)) in definitions().into_iter().zip(manifests()) {
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, definition, "{name}");
        }
    }

    #[test]
    fn kubectl_apply_can_keep_each_whole_in_an_annotation() {
        for definition in definitions() {
            assert!(
                definition.to_string().len() < 200_000,
                "{}",
                definition["metadata"]["name"]
            );
        }
    }

    /// Every field says what it is for.
    #[test]
    fn every_field_is_documented() {
        fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let described = field["description"].as_str().is_some_and(|d| !d.is_empty());
                // Quantities are said by their form.
                if !described && field.get("x-kubernetes-int-or-string").is_none() {
                    missing.push(path.clone());
                }
                walk(&path, field, missing);
            }
            for key in ["items", "additionalProperties"] {
                if schema[key].is_object() {
                    walk(&format!("{path}[]"), &schema[key], missing);
                }
            }
        }
        let mut missing = Vec::new();
        for definition in definitions() {
            let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
            walk(
                kind,
                &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
                &mut missing,
            );
        }
        assert_eq!(missing, [""; 0]);
    }
}
