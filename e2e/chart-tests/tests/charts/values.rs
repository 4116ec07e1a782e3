//! Each value of values.yaml changes what it says, and nothing is missing.

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

use crate::operator::{arguments, container};

/// Where a value shows.
enum Shows {
    /// At this JSON pointer of the only object of its kind.
    At(&'static str, &'static str, Value),
    /// Among the operator's arguments.
    Argument(&'static str),
    /// In the container, at this pointer.
    Container(&'static str, Value),
    /// In the pod's specification, at this pointer.
    Pod(&'static str, Value),
    /// There is no object of this kind.
    Gone(&'static str),
}
use Shows::{Argument, At, Container, Gone, Pod};

const TEMPLATE: &str = "/spec/template/spec";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The values to set, the first of which the case is about; where it shows.
fn cases() -> Vec<(Vec<(&'static str, Value)>, Shows)> {
    let one = |path, value, shows| (vec![(path, value)], shows);
    let two = |path, value, other, its, shows| (vec![(path, value), (other, its)], shows);
    let labelled = json!({"team": "data"});
    vec![
        one(
            "watchNamespaces",
            json!(["a", "b"]),
            Argument("--watch-namespaces=a,b"),
        ),
        one("clusterId", json!("blue"), Argument("--cluster-id=blue")),
        one("resync", json!("2m"), Argument("--resync=2m")),
        one("leaderElection", json!(false), Argument("--leader-elect=false")),
        one("log.level", json!("debug"), Argument("--log-level=debug")),
        one(
            "log.level",
            json!("info,pg_tide_operator=debug"),
            Argument("--log-level=info,pg_tide_operator=debug"),
        ),
        one("log.format", json!("text"), Argument("--log-format=text")),
        one(
            "relay.image.repository",
            json!("r.example/x"),
            Argument("--relay-image=r.example/x:0.2.0"),
        ),
        one(
            "relay.image.tag",
            json!("9"),
            Argument("--relay-image=ghcr.io/pg-tide/pg-tide:9"),
        ),
        one(
            "relay.image.digest",
            json!(DIGEST),
            Argument(
                "--relay-image=ghcr.io/pg-tide/pg-tide@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ),
        ),
        one(
            "relay.image.pullPolicy",
            json!("Never"),
            Argument("--relay-image-pull-policy=Never"),
        ),
        one(
            "relay.networkPolicy",
            json!(false),
            Argument("--network-policy=false"),
        ),
        one(
            "monitors.operator",
            json!("pod-monitor"),
            At("PodMonitor", "/spec/podMetricsEndpoints/0/interval", json!("30s")),
        ),
        one(
            "monitors.relays",
            json!("pod-monitor"),
            Argument("--monitors=pod-monitor"),
        ),
        two(
            "monitors.labels",
            labelled.clone(),
            "monitors.operator",
            json!("service-monitor"),
            At("ServiceMonitor", "/metadata/labels/team", json!("data")),
        ),
        two(
            "monitors.labels",
            json!({"team": "data", "release": "prometheus"}),
            "monitors.relays",
            json!("pod-monitor"),
            Argument("--monitor-labels=release=prometheus,team=data"),
        ),
        two(
            "monitors.interval",
            json!("5s"),
            "monitors.relays",
            json!("pod-monitor"),
            Argument("--monitor-interval=5s"),
        ),
        two(
            "monitors.interval",
            json!("5s"),
            "monitors.operator",
            json!("service-monitor"),
            At("ServiceMonitor", "/spec/endpoints/0/interval", json!("5s")),
        ),
        one(
            "prometheusRule.enabled",
            json!(true),
            At("PrometheusRule", "/spec/groups/0/name", json!("pg-tide")),
        ),
        two(
            "prometheusRule.labels",
            labelled.clone(),
            "prometheusRule.enabled",
            json!(true),
            At("PrometheusRule", "/metadata/labels/team", json!("data")),
        ),
        one(
            "grafanaDashboard.enabled",
            json!(true),
            At("ConfigMap", "/metadata/labels/grafana_dashboard", json!("1")),
        ),
        two(
            "grafanaDashboard.labels",
            labelled.clone(),
            "grafanaDashboard.enabled",
            json!(true),
            At("ConfigMap", "/metadata/labels/team", json!("data")),
        ),
        two(
            "grafanaDashboard.annotations",
            labelled.clone(),
            "grafanaDashboard.enabled",
            json!(true),
            At("ConfigMap", "/metadata/annotations/team", json!("data")),
        ),
        one(
            "image.repository",
            json!("r.example/x"),
            Container("/image", json!("r.example/x:0.2.0")),
        ),
        one(
            "image.repository",
            json!("r.example/x"),
            Argument("--relay-image=r.example/x:0.2.0"),
        ),
        one(
            "image.tag",
            json!("9"),
            Container("/image", json!("ghcr.io/pg-tide/pg-tide:9")),
        ),
        one(
            "image.tag",
            json!("9"),
            Argument("--relay-image=ghcr.io/pg-tide/pg-tide:9"),
        ),
        one(
            "image.digest",
            json!(DIGEST),
            Container("/image", json!(format!("ghcr.io/pg-tide/pg-tide@{DIGEST}"))),
        ),
        one(
            "image.digest",
            json!(DIGEST),
            Argument(
                "--relay-image=ghcr.io/pg-tide/pg-tide@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ),
        ),
        two(
            "relay.image.tag",
            json!("9"),
            "image.digest",
            json!(DIGEST),
            Argument("--relay-image=ghcr.io/pg-tide/pg-tide:9"),
        ),
        one(
            "image.pullPolicy",
            json!("Always"),
            Container("/imagePullPolicy", json!("Always")),
        ),
        one(
            "image.pullPolicy",
            json!("Always"),
            Argument("--relay-image-pull-policy=Always"),
        ),
        one(
            "imagePullSecrets",
            json!([{"name": "registry"}]),
            Pod("/imagePullSecrets", json!([{"name": "registry"}])),
        ),
        one("replicas", json!(2), At("Deployment", "/spec/replicas", json!(2))),
        one(
            "replicas",
            json!(2),
            At("PodDisruptionBudget", "/spec/maxUnavailable", json!(1)),
        ),
        one("replicas", json!(0), At("Deployment", "/spec/replicas", json!(0))),
        one(
            "resources.requests.cpu",
            json!("1"),
            Container("/resources/requests/cpu", json!("1")),
        ),
        one(
            "resources.requests.memory",
            json!("1Gi"),
            Container("/resources/requests/memory", json!("1Gi")),
        ),
        one(
            "resources.limits.memory",
            json!("1Gi"),
            Container("/resources/limits/memory", json!("1Gi")),
        ),
        one(
            "extraEnv",
            json!([{"name": "A", "value": "1"}]),
            Container("/env/2", json!({"name": "A", "value": "1"})),
        ),
        one(
            "extraVolumes",
            json!([{"name": "ca", "secret": {"secretName": "ca"}}]),
            Pod("/volumes/0/secret/secretName", json!("ca")),
        ),
        one(
            "extraVolumeMounts",
            json!([{"name": "ca", "mountPath": "/ca"}]),
            Container("/volumeMounts/0/mountPath", json!("/ca")),
        ),
        one(
            "podLabels",
            labelled.clone(),
            At("Deployment", "/spec/template/metadata/labels/team", json!("data")),
        ),
        one(
            "podAnnotations",
            labelled.clone(),
            At(
                "Deployment",
                "/spec/template/metadata/annotations/team",
                json!("data"),
            ),
        ),
        one(
            "priorityClassName",
            json!("high"),
            Pod("/priorityClassName", json!("high")),
        ),
        one(
            "nodeSelector",
            json!({"disk": "fast"}),
            Pod("/nodeSelector", json!({"disk": "fast"})),
        ),
        one(
            "tolerations",
            json!([{"operator": "Exists"}]),
            Pod("/tolerations", json!([{"operator": "Exists"}])),
        ),
        one(
            "affinity",
            json!({"nodeAffinity": {"a": "b"}}),
            Pod("/affinity", json!({"nodeAffinity": {"a": "b"}})),
        ),
        one(
            "topologySpreadConstraints",
            json!([{"maxSkew": 3}]),
            Pod("/topologySpreadConstraints", json!([{"maxSkew": 3}])),
        ),
        one(
            "terminationGracePeriodSeconds",
            json!(3),
            Pod("/terminationGracePeriodSeconds", json!(3)),
        ),
        one(
            "podSecurityContext",
            json!({"fsGroup": 7}),
            Pod("/securityContext/fsGroup", json!(7)),
        ),
        one(
            "securityContext",
            json!({"runAsUser": 7}),
            Container("/securityContext/runAsUser", json!(7)),
        ),
        two(
            "serviceAccount.create",
            json!(false),
            "serviceAccount.name",
            json!("mine"),
            Gone("ServiceAccount"),
        ),
        one(
            "serviceAccount.name",
            json!("mine"),
            Pod("/serviceAccountName", json!("mine")),
        ),
        one(
            "serviceAccount.name",
            json!("mine"),
            At("ClusterRoleBinding", "/subjects/0/name", json!("mine")),
        ),
        one(
            "serviceAccount.annotations",
            labelled.clone(),
            At("ServiceAccount", "/metadata/annotations/team", json!("data")),
        ),
        one("rbac.create", json!(false), Gone("ClusterRole")),
        one("metricsService.enabled", json!(false), Gone("Service")),
        one(
            "metricsService.labels",
            labelled.clone(),
            At("Service", "/metadata/labels/team", json!("data")),
        ),
        one(
            "metricsService.annotations",
            labelled.clone(),
            At("Service", "/metadata/annotations/team", json!("data")),
        ),
        one("networkPolicy.enabled", json!(false), Gone("NetworkPolicy")),
        one(
            "networkPolicy.metricsFrom",
            json!([{"podSelector": {}}]),
            At(
                "NetworkPolicy",
                "/spec/ingress/0/from",
                json!([{"podSelector": {}}]),
            ),
        ),
        one(
            "networkPolicy.egress",
            json!([{"to": []}]),
            At("NetworkPolicy", "/spec/policyTypes", json!(["Ingress", "Egress"])),
        ),
        one(
            "networkPolicy.egress",
            json!([{"to": []}]),
            At("NetworkPolicy", "/spec/egress", json!([{"to": []}])),
        ),
        one(
            "commonLabels",
            labelled.clone(),
            At("NetworkPolicy", "/metadata/labels/team", json!("data")),
        ),
        one(
            "commonLabels",
            labelled,
            At("Deployment", "/spec/template/metadata/labels/team", json!("data")),
        ),
        one(
            "nameOverride",
            json!("tide"),
            At("Service", "/spec/selector/app.kubernetes.io~1name", json!("tide")),
        ),
        one(
            "fullnameOverride",
            json!("tide"),
            At("Deployment", "/metadata/name", json!("tide")),
        ),
    ]
}

#[test]
fn each_value_shows() {
    let before = Chart::operator().objects();
    for (values, shows) in cases() {
        let mut chart = Chart::operator();
        for (path, value) in &values {
            chart = chart.set(path, value);
        }
        let after = chart.objects();
        match shows {
            At(kind, pointer, expected) => {
                assert_eq!(after.one(kind).pointer(pointer), Some(&expected), "{values:?}");
                let had = before.of(kind).first().and_then(|object| object.pointer(pointer));
                assert_ne!(had, Some(&expected), "{values:?} is the default");
            }
            Argument(expected) => {
                assert!(
                    arguments(&after).contains(&expected),
                    "{values:?}: {:?}",
                    arguments(&after)
                );
                assert!(
                    !arguments(&before).contains(&expected),
                    "{values:?} is the default"
                );
            }
            Container(pointer, expected) => {
                assert_eq!(container(&after).pointer(pointer), Some(&expected), "{values:?}");
                assert_ne!(container(&before).pointer(pointer), Some(&expected), "{values:?}");
            }
            Pod(pointer, expected) => {
                let pod = |objects: &Objects| {
                    objects
                        .one("Deployment")
                        .pointer(&format!("{TEMPLATE}{pointer}"))
                        .cloned()
                };
                assert_eq!(pod(&after), Some(expected.clone()), "{values:?}");
                assert_ne!(pod(&before), Some(expected), "{values:?}");
            }
            Gone(kind) => {
                assert!(after.of(kind).is_empty(), "{values:?}");
                assert!(!before.of(kind).is_empty(), "{values:?}");
            }
        }
    }
}

#[test]
fn no_value_is_left_out() {
    let values = Objects::parse(&read("charts/pg-tide-operator/values.yaml"));
    let mut all = vec![];
    leaves("", &values.all()[0], &mut all);
    assert!(all.len() > 40, "{all:?}");
    let cases = cases();
    for path in all {
        let tried = cases.iter().any(|(values, _)| {
            let subject = values[0].0;
            path == subject || path.starts_with(&format!("{subject}."))
        });
        assert!(tried, "{path} is in no case");
    }
}

fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
    match value.as_object() {
        Some(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                leaves(&path, value, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}
