//! Which messages a pipeline takes: conditions on headers and payload fields.
//!
//! `{"headers.event_type": ["order.confirmed", "order.cancelled"],
//!   "payload.region": "eu", "headers.tide-path": {"not": "billing"}}`
//!
//! All conditions must hold. A value is a text, a number, true or false, or a
//! list of these; `{"not": …}` holds for every other value and for none;
//! `{"exists": true}` for any value.

use serde_json::{Map, Value};

use super::field;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Header(String),
    Payload(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists(bool),
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter(Vec<(Place, Test)>);

/// What is wrong with a filter, and at which of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilterError {
    pub(crate) key: String,
    pub(crate) reason: String,
}

impl Filter {
    /// Reads a filter from its JSON object.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Self, FilterError> {
        let conditions = object.iter().map(|(key, value)| {
            let wrong = |reason: &str| FilterError {
                key: key.clone(),
                reason: reason.to_owned(),
            };
            let place = match key.split_once('.') {
                Some(("headers", name)) if !name.is_empty() => Place::Header(name.to_owned()),
                Some(("payload", path)) if path.split('.').all(|step| !step.is_empty()) => {
                    Place::Payload(path.split('.').map(str::to_owned).collect())
                }
                _ => return Err(wrong("must be \"headers.NAME\" or \"payload.PATH\"")),
            };
            Ok((place, test(value).ok_or_else(|| {
                wrong("must have a text, a number, true, false, a list of these, {\"not\": …} or {\"exists\": true}")
            })?))
        });
        conditions.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the pipeline takes a message with these headers and payload.
    pub(crate) fn takes<'h>(&self, header: impl Fn(&str) -> Option<&'h str>, payload: &[u8]) -> bool {
        self.0.iter().all(|(place, test)| match place {
            Place::Header(name) => holds(test, header(name)),
            Place::Payload(path) => holds(test, field(payload, path).as_deref()),
        })
    }
}

fn holds(test: &Test, value: Option<&str>) -> bool {
    let among = |values: &[String]| value.is_some_and(|v| values.iter().any(|one| one == v));
    match test {
        Test::In(values) => among(values),
        Test::NotIn(values) => !among(values),
        Test::Exists(wanted) => value.is_some() == *wanted,
    }
}

fn test(value: &Value) -> Option<Test> {
    match value {
        Value::Object(object) => {
            let (name, value) = object.iter().next().filter(|_| object.len() == 1)?;
            match (name.as_str(), value) {
                ("not", value) => values(value).map(Test::NotIn),
                ("exists", Value::Bool(wanted)) => Some(Test::Exists(*wanted)),
                _ => None,
            }
        }
        value => values(value).map(Test::In),
    }
}

fn values(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) if !values.is_empty() => values.iter().map(one).collect(),
        value => one(value).map(|v| vec![v]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn takes(filter: &Value, headers: &[(&str, &str)], payload: &str) -> bool {
        let filter = Filter::read(filter.as_object().unwrap()).unwrap();
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        filter.takes(header, payload.as_bytes())
    }

    #[test]
    fn all_conditions_must_hold() {
        let filter = json!({"headers.type": ["a", "b"], "payload.order.region": "eu", "payload.n": 5});
        let payload = r#"{"order": {"region": "eu"}, "n": 5}"#;
        assert!(takes(&filter, &[("type", "b")], payload));
        assert!(!takes(&filter, &[("type", "c")], payload));
        assert!(!takes(&filter, &[], payload));
        assert!(!takes(
            &filter,
            &[("type", "a")],
            r#"{"order": {"region": "us"}, "n": 5}"#
        ));
        assert!(takes(&json!({}), &[], "not json"));
    }

    #[test]
    fn a_negation_holds_for_a_missing_value() {
        let filter = json!({"headers.tide-path": {"not": ["x", "y"]}});
        assert!(takes(&filter, &[], "{}"));
        assert!(takes(&filter, &[("tide-path", "z")], "{}"));
        assert!(!takes(&filter, &[("tide-path", "y")], "{}"));
        assert!(takes(
            &json!({"payload.a": {"exists": true}}),
            &[],
            r#"{"a": false}"#
        ));
        assert!(takes(
            &json!({"payload.a": {"exists": false}}),
            &[],
            r#"{"a": null}"#
        ));
    }

    #[test]
    fn what_is_no_filter_is_said_by_key() {
        for (filter, key) in [
            (json!({"type": "a"}), "type"),
            (json!({"headers.": "a"}), "headers."),
            (json!({"payload.a..b": "a"}), "payload.a..b"),
            (json!({"headers.a": null}), "headers.a"),
            (json!({"headers.a": []}), "headers.a"),
            (json!({"headers.a": {"is": "b"}}), "headers.a"),
            (json!({"headers.a": {"not": "b", "exists": true}}), "headers.a"),
        ] {
            assert_eq!(Filter::read(filter.as_object().unwrap()).unwrap_err().key, key);
        }
    }
}
