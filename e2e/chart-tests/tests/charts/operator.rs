//! What the operator's chart makes by default, and names.

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

pub fn container(objects: &Objects) -> &Value {
    &objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
}

pub fn arguments(objects: &Objects) -> Vec<&str> {
    let arguments = container(objects)["args"].as_array().unwrap();
    arguments.iter().map(|a| a.as_str().unwrap()).collect()
}

#[test]
fn by_default_one_pod_serves_all_namespaces() {
    let objects = Chart::operator().objects();
    assert_eq!(
        objects.names(),
        [
            "ClusterRole -/pg-tide-operator",
            "ClusterRoleBinding -/pg-tide-operator",
            "Deployment pg-tide-system/pg-tide-operator",
            "NetworkPolicy pg-tide-system/pg-tide-operator",
            "Role pg-tide-system/pg-tide-operator-own-namespace",
            "RoleBinding pg-tide-system/pg-tide-operator-own-namespace",
            "Service pg-tide-system/pg-tide-operator-metrics",
            "ServiceAccount pg-tide-system/pg-tide-operator",
        ]
    );
    assert_eq!(objects.one("Deployment")["spec"]["replicas"], 1);
    let container = container(&objects);
    assert_eq!(container["command"], json!(["pg-tide-operator"]));
    assert_eq!(
        container["image"],
        format!("ghcr.io/pg-tide/pg-tide:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        arguments(&objects),
        [
            "--metrics-addr=0.0.0.0:8080",
            "--watch-namespaces=",
            &format!(
                "--relay-image=ghcr.io/pg-tide/pg-tide:{}",
                env!("CARGO_PKG_VERSION")
            ),
            "--relay-image-pull-policy=IfNotPresent",
            "--network-policy=true",
            "--monitors=none",
            "--resync=30s",
            "--leader-elect=true",
            "--log-level=info",
            "--log-format=json",
        ]
    );
    assert_eq!(
        container["env"],
        json!([
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ])
    );
}

#[test]
fn the_operator_knows_the_arguments() {
    let source = read("operator/src/args.rs");
    let objects = Chart::operator().set("clusterId", &json!("blue")).objects();
    for argument in arguments(&objects) {
        let name = argument
            .strip_prefix("--")
            .and_then(|a| a.split('=').next())
            .unwrap();
        let variable = format!("\"PG_TIDE_OPERATOR_{}\"", name.replace('-', "_").to_uppercase());
        assert!(source.contains(&variable), "{argument}");
    }
}

#[test]
fn probes_ask_the_port_that_the_operator_listens_on() {
    let objects = Chart::operator().objects();
    let container = container(&objects);
    assert_eq!(
        container["ports"],
        json!([{"name": "metrics", "containerPort": 8080}])
    );
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(
            container[probe]["httpGet"],
            json!({"path": path, "port": "metrics"}),
            "{probe}"
        );
    }
    let service = objects.one("Service");
    assert_eq!(
        service["spec"]["ports"],
        json!([{"name": "metrics", "port": 8080, "targetPort": "metrics"}])
    );
}

#[test]
fn selectors_find_the_pods_whatever_labels_are_added() {
    let mine =
        json!({"app.kubernetes.io/name": "mine", "app.kubernetes.io/instance": "mine", "team": "data"});
    let objects = Chart::operator()
        .set("replicas", &json!(2))
        .set("podLabels", &mine)
        .set("commonLabels", &mine)
        .set("monitors.operator", &json!("pod-monitor"))
        .objects();
    let labels = objects.one("Deployment")["spec"]["template"]["metadata"]["labels"]
        .as_object()
        .unwrap();
    assert_eq!(labels["team"], "data");
    for (kind, selector) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("PodMonitor", "/spec/selector/matchLabels"),
    ] {
        let selector = objects
            .one(kind)
            .pointer(selector)
            .and_then(Value::as_object)
            .unwrap();
        assert!(!selector.is_empty(), "{kind}");
        for (name, value) in selector {
            assert_eq!(labels.get(name), Some(value), "{kind}");
        }
    }
}

#[test]
fn a_service_monitor_selects_the_service() {
    let objects = Chart::operator()
        .set("monitors.operator", &json!("service-monitor"))
        .objects();
    let labels = objects.one("Service")["metadata"]["labels"].as_object().unwrap();
    let selector = &objects.one("ServiceMonitor")["spec"]["selector"]["matchLabels"];
    for (name, value) in selector.as_object().unwrap() {
        assert_eq!(labels.get(name), Some(value));
    }
}

#[test]
fn names_follow_the_release_and_fit() {
    let named = |chart: Chart| {
        let objects = chart.objects();
        objects.one("Deployment")["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(named(Chart::operator()), "pg-tide-operator");
    assert_eq!(named(Chart::operator().release("shop")), "shop-pg-tide-operator");
    let long = "a".repeat(53);
    assert!(named(Chart::operator().release(&long)).len() <= 63);
}

#[test]
fn several_replicas_are_spread_and_kept_by_a_budget() {
    let objects = Chart::operator().set("replicas", &json!(3)).objects();
    let budget = &objects.one("PodDisruptionBudget")["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    let pod = &objects.one("Deployment")["spec"]["template"]["spec"];
    assert_eq!(
        pod["topologySpreadConstraints"][0]["whenUnsatisfiable"],
        "ScheduleAnyway"
    );
    let one = Chart::operator().objects();
    assert!(one.of("PodDisruptionBudget").is_empty());
    assert!(one.one("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"].is_null());
}

#[test]
fn several_replicas_without_an_election_are_refused() {
    let why = Chart::operator()
        .set("replicas", &json!(2))
        .set("leaderElection", &json!(false))
        .refusal();
    assert!(
        why.contains("replicas is 2: more than one needs leaderElection true"),
        "{why}"
    );
}

#[test]
fn without_an_election_nothing_may_touch_leases() {
    let text = Chart::operator()
        .set("leaderElection", &json!(false))
        .text()
        .unwrap();
    assert!(!text.contains("leases"), "{text}");
    assert!(text.contains("--leader-elect=false"), "{text}");
}

#[test]
fn charts_have_the_version_of_the_programs() {
    for chart in ["pg-tide-crds", "pg-tide-operator"] {
        let objects = Objects::parse(&read(&format!("charts/{chart}/Chart.yaml")));
        let chart = &objects.all()[0];
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn every_object_but_those_of_the_cluster_names_its_namespace_and_release() {
    let objects = Chart::operator()
        .set("replicas", &json!(2))
        .set("monitors.operator", &json!("pod-monitor"))
        .set("prometheusRule.enabled", &json!(true))
        .set("grafanaDashboard.enabled", &json!(true))
        .objects();
    for object in objects.all() {
        let metadata = &object["metadata"];
        let cluster = object["kind"].as_str().unwrap().starts_with("Cluster");
        assert_eq!(metadata["namespace"].is_null(), cluster, "{object}");
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/instance"], "pg-tide-operator",
            "{object}"
        );
    }
}

#[test]
fn lint_is_content() {
    for chart in [
        Chart::operator(),
        Chart::operator().set("watchNamespaces", &json!(["shop", "bank"])),
    ] {
        let lint = chart.lint();
        assert!(lint.passed, "{}", lint.said);
    }
}
