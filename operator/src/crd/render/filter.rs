//! What `tide._check_filter` refuses, told by the resource's own field.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is wrong with the conditions.
pub(super) fn errors(conditions: &BTreeMap<String, Value>) -> Vec<String> {
    conditions
        .iter()
        .filter_map(|(key, value)| {
            if !names_a_place(key) {
                Some(format!(r#""{key}" names no place; write headers.NAME or payload.PATH"#))
            } else if !is_condition(value) {
                Some(format!(
                    r#""{key}" has no usable value; write a text, a number, true, false, a list of these, {{not: ...}} or {{exists: true}}"#
                ))
            } else {
                None
            }
        })
        .collect()
}

fn names_a_place(key: &str) -> bool {
    if let Some(name) = key.strip_prefix("headers.") {
        return !name.is_empty();
    }
    key.strip_prefix("payload.")
        .is_some_and(|path| path.split('.').all(|part| !part.is_empty()))
}

fn is_condition(value: &Value) -> bool {
    match value {
        Value::Object(object) => {
            object.len() == 1
                && object.iter().all(|(key, value)| match key.as_str() {
                    "not" => is_value(value),
                    "exists" => value.is_boolean(),
                    _ => false,
                })
        }
        value => is_value(value),
    }
}

fn is_value(value: &Value) -> bool {
    let scalar = |v: &Value| v.is_string() || v.is_number() || v.is_boolean();
    match value {
        Value::Array(values) => !values.is_empty() && values.iter().all(scalar),
        value => scalar(value),
    }
}
