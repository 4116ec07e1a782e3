//! The options of SQL against the fields of the CRD.

use std::collections::BTreeSet;

use pg_tide_schema::{ConnectorOption, options};
use serde_json::Value;

use super::pipeline;
use crate::crd::{Pipeline, definitions, render, text::duration_rule};

/// Pipelines that say all they can.
const RIGHT: &str = include_str!("../../../../tests/manifests/right.yaml");

/// Options that have no field of their name: where their field is, or why
/// there is none.
const ELSEWHERE: &[(&str, &str)] = &[
    // Follows from tls and sasl.
    ("security_protocol", ""),
    ("tls_ca", "tls.caSecretRef"),
    ("tls_cert", "tls.clientCertSecretRef"),
    ("tls_key", "tls.clientCertSecretRef"),
    ("tls_key_password", "tls.keyPasswordSecretRef"),
    // Follows from tls.
    ("tls_required", ""),
    ("tls_first", "tls.handshakeFirst"),
    ("sasl_mechanism", "sasl.mechanism"),
    ("sasl_username", "sasl.username"),
    ("sasl_password", "sasl.secretRef"),
    ("sasl_oauth_token_url", "sasl.oauth.tokenUrl"),
    ("sasl_oauth_client_id", "sasl.oauth.clientId"),
    ("sasl_oauth_client_secret", "sasl.oauth.clientSecretRef"),
    ("sasl_oauth_scope", "sasl.oauth.scope"),
    ("nats/user", "login.username"),
    ("nats/password", "login.secretRef"),
];

fn keys_of(direction: &str, connector: &str) -> BTreeSet<String> {
    options()
        .into_iter()
        .filter(|o| o.direction == direction && [connector, "*"].contains(&o.connector.as_str()))
        .map(|o| o.key)
        .collect()
}

/// The keys of a config; those below an object that has options of its own
/// are `object.key`.
fn keys_in(config: &Value, known: &BTreeSet<String>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        keys.insert(key.clone());
        if known.iter().any(|k| k.starts_with(&format!("{key}."))) {
            keys.extend(
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, _)| format!("{key}.{k}")),
            );
        }
    }
    keys
}

fn pipelines_that_say_all() -> impl Iterator<Item = Pipeline> {
    RIGHT
        .split("\n---\n")
        .filter(|text| text.contains("\nkind: Pipeline\n"))
        .map(pipeline)
}

/// A new option of the relay makes this fail until the Pipeline has a field
/// for it, here and in right.yaml.
#[test]
fn every_option_of_the_relay_can_be_said_and_no_other() {
    let mut said: BTreeSet<(String, String, String)> = BTreeSet::new();
    for pipeline in pipelines_that_say_all() {
        let rendered = render(&pipeline).unwrap_or_else(|e| panic!("{e:?}\n{pipeline:?}"));
        let direction = if pipeline.spec.forward.is_some() {
            "forward"
        } else {
            "reverse"
        };
        let known = keys_of(direction, &rendered.connector);
        let every = keys_of(direction, "*");
        for key in keys_in(&rendered.config, &known) {
            let connector = if every.contains(&key) {
                "*"
            } else {
                &rendered.connector
            };
            said.insert((direction.to_owned(), connector.to_owned(), key));
        }
    }
    let all: BTreeSet<_> = options()
        .into_iter()
        .map(|o| (o.direction, o.connector, o.key))
        .collect();
    let unsaid: Vec<_> = all.difference(&said).collect();
    assert!(unsaid.is_empty(), "no Pipeline of right.yaml says {unsaid:?}");
    let unknown: Vec<_> = said.difference(&all).collect();
    assert!(unknown.is_empty(), "the relay does not know {unknown:?}");
}

/// The field of an option, its name, and the object that has it.
struct Field {
    path: String,
    schema: Value,
    required: bool,
}

/// The schema of a Pipeline.
fn pipelines() -> Value {
    definitions()[3]["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn field(pipelines: &Value, option: &ConnectorOption) -> Option<Field> {
    let below = match (option.direction.as_str(), option.connector.as_str()) {
        (direction, "*") => direction.to_owned(),
        ("forward", connector) => format!("forward.sink.{connector}"),
        (_, connector) => format!("reverse.source.{connector}"),
    };
    let own = format!("{}/{}", option.connector, option.key);
    let elsewhere = ELSEWHERE
        .iter()
        .find(|(key, _)| *key == own || *key == option.key);
    let name = match elsewhere {
        Some((_, "")) => return None,
        Some((_, name)) => (*name).to_owned(),
        None if option.kind == "secret_list" => format!("{}Refs", camel_case(&option.key)),
        None if option.kind == "secret" => {
            let stem = option.key.strip_suffix("_secret").unwrap_or(&option.key);
            format!("{}SecretRef", camel_case(stem))
        }
        None if (option.direction.as_str(), own.as_str()) == ("reverse", "kafka/topic") => "topics".into(),
        None => camel_case(&option.key),
    };
    let path = format!("spec.{below}.{name}");
    let mut schema = pipelines;
    let mut required = false;
    for part in path.split('.') {
        required = schema["required"]
            .as_array()
            .is_some_and(|r| r.iter().any(|r| r == part));
        schema = &schema["properties"][part];
        assert!(
            schema.is_object(),
            "{} {}: there is no field {path}",
            option.connector,
            option.key
        );
    }
    Some(Field {
        path,
        schema: schema.clone(),
        required,
    })
}

fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        name.push_str(&word[..1].to_uppercase());
        name.push_str(&word[1..]);
    }
    name
}

/// The rules of a field.
fn rules(schema: &Value) -> Vec<&str> {
    let rules = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten();
    rules.filter_map(|rule| rule["rule"].as_str()).collect()
}

#[test]
fn fields_have_the_limits_of_their_options() {
    let unbalanced = r"self.matches('^([^{}]|\\{\\{|\\}\\}|\\{[^{}]*\\})*$')";
    let mut compared = 0;
    let pipelines = pipelines();
    for option in options() {
        let Some(Field {
            path,
            schema,
            required,
        }) = field(&pipelines, &option)
        else {
            continue;
        };
        // A webhook's URL may be a Secret instead.
        assert!(
            !option.required || required || option.key == "url",
            "{path} is not required"
        );
        match option.kind.as_str() {
            "duration" => {
                let number = |n: Option<i64>| u64::try_from(n.unwrap()).unwrap();
                let rule = duration_rule(number(option.minimum), number(option.maximum)).rule;
                assert!(rules(&schema).contains(&rule.as_str()), "{path} has no {rule}");
            }
            "template" => assert!(rules(&schema).contains(&unbalanced), "{path} is no template"),
            "secret" => {
                assert!(schema["properties"]["name"].is_object(), "{path} is no reference");
                assert_eq!(schema["type"], "object", "{path}");
            }
            // Headers of a webhook may come from Secrets, so they are a list.
            "object" if schema["type"] == "array" => assert_eq!(option.key, "headers", "{path}"),
            "boolean" | "integer" | "object" => assert_eq!(schema["type"], option.kind, "{path}"),
            "secret_list" => assert_eq!(schema["items"]["type"], "object", "{path}"),
            "text_list" => assert!(schema["type"] == "array" || option.key == "url", "{path}"),
            _ => {}
        }
        if !option.allowed.is_empty() {
            assert_eq!(schema["enum"], serde_json::json!(option.allowed), "{path}");
            compared += 1;
        }
        if option.kind == "integer" {
            let limits = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
            assert_eq!(limits, (option.minimum, option.maximum), "{path}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}
