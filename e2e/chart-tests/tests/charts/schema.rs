//! Values that are wrong are refused, in words that say where.

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

#[test]
fn wrong_values_are_refused() {
    let cases = [
        ("replica", json!(2), "additional properties 'replica' not allowed"),
        (
            "watchNamespace",
            json!("shop"),
            "additional properties 'watchNamespace' not allowed",
        ),
        (
            "image.pullpolicy",
            json!("Always"),
            "at '/image': additional properties 'pullpolicy' not allowed",
        ),
        (
            "image.pullPolicy",
            json!("Sometimes"),
            "at '/image/pullPolicy': value must be one of 'Always'",
        ),
        (
            "image.repository",
            json!(""),
            "at '/image/repository': minLength: got 0, want 1",
        ),
        (
            "image.digest",
            json!("sha256:12"),
            "at '/image/digest': 'sha256:12' does not match pattern",
        ),
        (
            "log.level",
            json!("loud"),
            "at '/log/level': 'loud' does not match pattern",
        ),
        (
            "log.format",
            json!("xml"),
            "at '/log/format': value must be one of 'json', 'text'",
        ),
        ("resync", json!("30"), "at '/resync': '30' does not match pattern"),
        (
            "resync",
            json!("500ms"),
            "at '/resync': '500ms' does not match pattern",
        ),
        (
            "log.level",
            json!("info,x=loud"),
            "at '/log/level': 'info,x=loud' does not match pattern",
        ),
        ("resync", json!(30), "at '/resync': got number, want string"),
        (
            "replicas",
            json!("two"),
            "at '/replicas': got string, want integer",
        ),
        ("replicas", json!(-1), "at '/replicas': minimum: got -1, want 0"),
        (
            "watchNamespaces",
            json!("shop,bank"),
            "at '/watchNamespaces': got string, want array",
        ),
        (
            "watchNamespaces",
            json!(["Shop"]),
            "at '/watchNamespaces/0': 'Shop' does not match pattern",
        ),
        (
            "watchNamespaces",
            json!(["a", "a"]),
            "at '/watchNamespaces': items at 0 and 1 are equal",
        ),
        (
            "monitors.relays",
            json!("service-monitor"),
            "at '/monitors/relays': value must be one of",
        ),
        (
            "monitors.operator",
            json!(true),
            "at '/monitors/operator': value must be one of",
        ),
        (
            "imagePullSecrets",
            json!(["registry"]),
            "at '/imagePullSecrets/0': got string, want object",
        ),
        (
            "podLabels.replicas",
            json!(2),
            "at '/podLabels/replicas': got number, want string",
        ),
        (
            "extraEnv",
            json!([{"nam": "A"}]),
            "at '/extraEnv/0': missing property 'name'",
        ),
        (
            "affinity.node",
            json!({}),
            "at '/affinity': additional properties 'node' not allowed",
        ),
        (
            "resources.limit",
            json!({}),
            "at '/resources': additional properties 'limit' not allowed",
        ),
        (
            "serviceAccount.nam",
            json!("x"),
            "at '/serviceAccount': additional properties 'nam' not allowed",
        ),
        (
            "networkPolicy.from",
            json!([]),
            "at '/networkPolicy': additional properties 'from' not allowed",
        ),
    ];
    for (path, value, expected) in cases {
        let why = Chart::operator().set(path, &value).refusal();
        assert!(
            why.contains(expected),
            "{path}={value}: expected {expected:?} in: {why}"
        );
    }
}

#[test]
fn what_needs_something_else_says_so() {
    let why = Chart::operator()
        .set("monitors.operator", &json!("service-monitor"))
        .set("metricsService.enabled", &json!(false))
        .refusal();
    assert!(
        why.contains("monitors.operator is service-monitor: that needs metricsService.enabled true"),
        "{why}"
    );
    let why = Chart::operator()
        .set("serviceAccount.create", &json!(false))
        .refusal();
    assert!(
        why.contains("serviceAccount.name is needed when serviceAccount.create is false"),
        "{why}"
    );
}

/// Each name of values.yaml is in the schema, and each name of the schema is
/// in values.yaml, where its comment is.
#[test]
fn the_schema_and_the_values_have_the_same_names() {
    for chart in ["pg-tide-operator", "pg-tide-crds"] {
        let values = Objects::parse(&read(&format!("charts/{chart}/values.yaml")));
        let schema: Value =
            serde_json::from_str(&read(&format!("charts/{chart}/values.schema.json"))).unwrap();
        compare("", &values.all()[0], &schema);
    }
}

fn compare(path: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let is_list_of_claims = path == "/resources";
    assert_eq!(schema["additionalProperties"], false, "{path}");
    for (name, value) in values.as_object().unwrap() {
        let property = properties
            .get(name)
            .unwrap_or_else(|| panic!("{path}/{name} is not in the schema"));
        compare(&format!("{path}/{name}"), value, property);
    }
    // helm gives global to charts that are part of another; Kubernetes' own types are not listed in values.yaml.
    if is_list_of_claims || path == "/affinity" {
        return;
    }
    for name in properties.keys().filter(|name| *name != "global") {
        assert!(!values[name].is_null(), "{path}/{name} is not in values.yaml");
    }
}

#[test]
fn charts_may_be_parts_of_another() {
    for chart in [Chart::operator(), Chart::crds()] {
        chart.set("global", &json!({"registry": "x"})).objects();
    }
}
