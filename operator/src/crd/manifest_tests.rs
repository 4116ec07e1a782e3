//! The manifests of tests and samples, without an API server. It is asked by
//! the tests on Kubernetes.

use kube::core::cel::Validator;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Direction, Inbox, Outbox, Pipeline, TideDatabase, definitions, render};

const WRONG: &str = include_str!("../../tests/manifests/wrong.yaml");
const RIGHT: &str = include_str!("../../tests/manifests/right.yaml");
const TUTORIAL: &str = include_str!("../../../config/samples/tutorial.yaml");

/// The manifests of a file.
fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .skip(1)
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// The schemas of the kinds, made once: that takes a while.
struct Schemas(Vec<Value>);

impl Schemas {
    fn new() -> Self {
        Self(definitions())
    }

    /// Which rule a manifest breaks, read as its type, if any.
    fn check(&self, manifest: &Value, before: Option<&Value>) -> Result<(), String> {
        let kind = manifest["kind"].as_str().unwrap();
        let definition = self
            .0
            .iter()
            .find(|d| d["spec"]["names"]["kind"] == kind)
            .unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let before = before.map(|before| through_type(before).unwrap());
        Validator::new()
            .validate(schema, &through_type(manifest)?, before.as_ref())
            .map_err(|e| e.to_string())
    }

    /// All messages of rules.
    fn messages(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.0
            .iter()
            .for_each(|definition| messages(definition, &mut found));
        found
    }
}

/// A manifest with what its type adds.
fn through_type(manifest: &Value) -> Result<Value, String> {
    fn through<T: Serialize + DeserializeOwned>(manifest: &Value) -> Result<Value, String> {
        let read: T = serde_json::from_value(manifest.clone()).map_err(|e| e.to_string())?;
        Ok(serde_json::to_value(read).unwrap())
    }
    match manifest["kind"].as_str().unwrap() {
        "TideDatabase" => through::<TideDatabase>(manifest),
        "Outbox" => through::<Outbox>(manifest),
        "Inbox" => through::<Inbox>(manifest),
        "Pipeline" => through::<Pipeline>(manifest),
        other => panic!("{other}"),
    }
}

fn messages(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            for rule in object
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                found.extend(rule["message"].as_str().map(str::to_owned));
            }
            object.values().for_each(|value| messages(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| messages(value, found)),
        _ => {}
    }
}

#[test]
fn right_manifests_break_no_rule() {
    let schemas = Schemas::new();
    for manifest in documents(RIGHT).iter().chain(&documents(TUTORIAL)) {
        assert_eq!(schemas.check(manifest, None), Ok(()), "{manifest}");
    }
}

#[test]
fn wrong_manifests_break_the_rule_that_they_are_to_break() {
    let schemas = Schemas::new();
    let rules = schemas.messages();
    let cases: Vec<Value> = serde_saphyr::from_str(WRONG).unwrap();
    let mut broken = 0;
    for case in cases {
        let says = case["says"].as_str().unwrap();
        let Some(rule) = rules.iter().find(|rule| says.ends_with(rule.as_str())) else {
            continue;
        };
        let manifest = |spec: &Value| {
            let metadata = if case["metadata"].is_object() {
                case["metadata"].clone()
            } else {
                json!({"name": "a"})
            };
            json!({"apiVersion": "pgtide.dev/v1alpha1", "kind": case["kind"], "metadata": metadata, "spec": spec})
        };
        let ends = match case.get("then") {
            None => schemas.check(&manifest(&case["spec"]), None),
            Some(then) => schemas.check(&manifest(then), Some(&manifest(&case["spec"]))),
        };
        let error = ends.expect_err(case["wrong"].as_str().unwrap());
        assert!(error.contains(rule), "{}: {error}", case["wrong"]);
        broken += 1;
    }
    assert!(broken > 60, "{broken}");
}

/// Every rule has a manifest that breaks it.
#[test]
fn no_rule_is_without_a_wrong_manifest() {
    let mut rules = Schemas::new().messages();
    rules.sort();
    rules.dedup();
    let cases: Vec<Value> = serde_saphyr::from_str(WRONG).unwrap();
    let says: Vec<&str> = cases.iter().map(|case| case["says"].as_str().unwrap()).collect();
    rules.retain(|rule| !says.iter().any(|s| s.ends_with(rule.as_str())));
    assert_eq!(rules, [""; 0]);
}

/// What is written is all known: nothing is lost on the way through the type.
#[test]
fn the_tutorial_is_all_understood() {
    fn contains(whole: &Value, part: &Value, path: &str) {
        match part {
            Value::Object(fields) => {
                for (name, field) in fields {
                    contains(&whole[name], field, &format!("{path}.{name}"));
                }
            }
            Value::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    contains(&whole[number], item, &format!("{path}[{number}]"));
                }
            }
            _ => assert_eq!(whole, part, "{path}"),
        }
    }
    for manifest in documents(TUTORIAL) {
        contains(&through_type(&manifest).unwrap(), &manifest, "");
    }
}

/// As the tutorial has it in SQL.
#[test]
fn the_tutorials_resources_are_the_tutorials_sql() {
    let manifests = documents(TUTORIAL);
    let outbox: Outbox = serde_json::from_value(manifests[1].clone()).unwrap();
    assert_eq!(
        (outbox.sql_name(), outbox.spec.retention.hours()),
        ("orders", Ok(72))
    );
    let inbox: Inbox = serde_json::from_value(manifests[3].clone()).unwrap();
    let kept = (
        inbox.spec.processed_retention.hours(),
        inbox.spec.dead_letter_retention.hours(),
    );
    assert_eq!(
        (inbox.sql_name(), inbox.spec.max_retries, kept),
        ("payments", 5, (Ok(72), Ok(0)))
    );

    let forward = render(&serde_json::from_value(manifests[2].clone()).unwrap()).unwrap();
    assert_eq!(
        (forward.name.as_str(), forward.connector.as_str()),
        ("orders-to-kafka", "kafka")
    );
    assert_eq!(forward.batch_size, 200);
    assert_eq!(
        forward.config,
        json!({
            "brokers": ["kafka:9092"], "topic": "order-events", "acks": "all", "compression": "snappy",
            "key": "{event_type}", "consumer_group": "kafka-relay",
        })
    );
    let reverse = render(&serde_json::from_value(manifests[4].clone()).unwrap()).unwrap();
    assert_eq!(
        (reverse.name.as_str(), reverse.connector.as_str()),
        ("nats-to-payments", "nats")
    );
    assert_eq!(reverse.batch_size, 50);
    let direction = Direction::Reverse {
        inbox_ref: "payments".into(),
        max_retries: 3,
        idempotent: true,
    };
    assert_eq!(reverse.direction, direction);
    assert_eq!(
        reverse.config,
        json!({
            "url": "nats://nats:4222", "subject": "payments.confirmed", "queue_group": "pg-tide-payments",
        })
    );
}
