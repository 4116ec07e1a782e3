//! docs/reference/crds.md is written from the CRDs: this test fails when it is
//! stale, and writes it when UPDATE_REFERENCE is set.

use std::{fmt::Write as _, path::Path};

use serde_json::Value;

use super::definitions;

const HEAD: &str = "# Resources

<!-- Written by a test: UPDATE_REFERENCE=1 cargo test -p pg-tide-operator crds -->

The kinds of `pgtide.dev/v1alpha1`, as `kubectl explain` has them too. All are namespaced and refer to their own
namespace alone; `kubectl get pgtide` lists them. What is marked with * is required. A field that is not there is
refused: passwords and other secrets are never fields, only names of Secrets are.

- template: a text with `{placeholders}`, as in [pipelines.md](pipelines.md)
- `name[]`: an entry of a list; `name{}`: a value of a map
- as in a pod: see `kubectl explain pod.spec`
";

/// Fields of pods, whose own documentation is elsewhere.
const OF_PODS: [&str; 5] = [
    "affinity",
    "env",
    "resources",
    "tolerations",
    "topologySpreadConstraints",
];

#[test]
fn the_reference_of_the_crds_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/crds.md");
    let text = page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/reference/crds.md is stale. Run: UPDATE_REFERENCE=1 cargo test -p pg-tide-operator crds"
    );
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for definition in definitions() {
        let names = &definition["spec"]["names"];
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let _ = write!(
            page,
            "\n## {}\n\n{} Short name `{}`.\n",
            word(&names["kind"]),
            word(&schema["description"]),
            word(&names["shortNames"][0])
        );
        for part in ["spec", "status"] {
            let _ = write!(
                page,
                "\n### {part}\n\n| field | value | default | meaning |\n|---|---|---|---|\n"
            );
            rows(&schema["properties"][part], "", &mut page);
        }
        let mut refused = Vec::new();
        rules(schema, "", &mut refused);
        let _ = write!(page, "\n### What is refused\n\n| field | message |\n|---|---|\n");
        for (path, message) in refused {
            let _ = writeln!(page, "| `{path}` | {} |", escaped(&message));
        }
    }
    page
}

/// A row for each field, and those of its own fields below it.
fn rows(schema: &Value, above: &str, page: &mut String) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{above}{name}");
        let required = schema["required"]
            .as_array()
            .is_some_and(|r| r.iter().any(|r| r == name));
        let default = match &field["default"] {
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            value => format!("`{value}`"),
        };
        let _ = writeln!(
            page,
            "| `{path}`{} | {} | {default} | {} |",
            if required { " *" } else { "" },
            value(name, field),
            escaped(field["description"].as_str().unwrap_or_default())
        );
        if OF_PODS.contains(&name.as_str()) || name == "conditions" {
            continue;
        }
        rows(field, &format!("{path}."), page);
        rows(&field["items"], &format!("{path}[]."), page);
    }
}

/// What a field may be.
fn value(name: &str, field: &Value) -> String {
    if OF_PODS.contains(&name) {
        return "as in a pod".into();
    }
    if name == "conditions" {
        return "list of conditions".into();
    }
    if let Some(allowed) = field["enum"].as_array() {
        let allowed: Vec<_> = allowed
            .iter()
            .filter_map(Value::as_str)
            .map(|a| format!("`{a}`"))
            .collect();
        return allowed.join(", ");
    }
    match field["type"].as_str().unwrap_or_default() {
        "string" if is_template(field) => "template".into(),
        "string" if field["format"] == "date-time" => "time".into(),
        "string" => "text".into(),
        "integer" => match (field["minimum"].as_i64(), field["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("integer {least} to {most}"),
            _ => "integer".into(),
        },
        "array" if field["items"]["type"] == "object" => "list of objects".into(),
        "array" => format!("list of {}s", value("", &field["items"])),
        "object" if field["additionalProperties"].is_object() => {
            format!("names and {}s", value("", &field["additionalProperties"]))
        }
        other => other.into(),
    }
}

fn is_template(field: &Value) -> bool {
    let rules = field["x-kubernetes-validations"].as_array().into_iter().flatten();
    let mut messages = rules.filter_map(|rule| rule["message"].as_str());
    messages.any(|message| message.starts_with("has unbalanced braces"))
}

/// The rules of a schema and of what is below it.
fn rules(schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    if !is_template(schema) {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let field = rule["fieldPath"]
                .as_str()
                .map_or(path, |f| f.trim_start_matches('.'));
            let field = if field.is_empty() { "metadata.name" } else { field };
            found.push((field.to_owned(), rule["message"].as_str().unwrap().to_owned()));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let dot = if path.is_empty() { "" } else { "." };
        rules(field, &format!("{path}{dot}{name}"), found);
    }
    for (key, brackets) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            rules(&schema[key], &format!("{path}{brackets}"), found);
        }
    }
}

/// Nothing that Markdown would take for a column.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
