//! What the operator may do: exactly what the guide lists, and where.

use std::collections::BTreeSet;

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

/// A rule in words: group, resources, names, verbs.
type Rule = (String, String, String, String);

const PG_TIDE: &str = "tidedatabases, outboxes, inboxes, pipelines";
const MANAGE: &str = "get, list, watch, create, patch, delete";

/// Where resources are served.
const SERVED: [(&str, &str, &str); 11] = [
    ("pgtide.dev", PG_TIDE, "get, list, watch, patch"),
    (
        "pgtide.dev",
        "tidedatabases/status, outboxes/status, inboxes/status, pipelines/status",
        "patch",
    ),
    (
        "pgtide.dev",
        "tidedatabases/finalizers, outboxes/finalizers, inboxes/finalizers, pipelines/finalizers",
        "update",
    ),
    ("", "secrets", "get, list, watch"),
    ("", "secrets", "create, patch, delete"),
    ("", "serviceaccounts, services", MANAGE),
    ("apps", "deployments", MANAGE),
    ("policy", "poddisruptionbudgets", MANAGE),
    ("networking.k8s.io", "networkpolicies", MANAGE),
    ("events.k8s.io", "events", "create, patch"),
    ("", "namespaces", "get"),
];

/// When relays have monitors.
const MONITORS: (&str, &str, &str) = ("monitoring.coreos.com", "podmonitors", MANAGE);

fn served() -> Vec<Rule> {
    SERVED.iter().map(|rule| rule_of(rule, "")).collect()
}

fn own_namespace() -> Vec<Rule> {
    vec![
        rule_of(&("coordination.k8s.io", "leases", "create"), ""),
        rule_of(
            &("coordination.k8s.io", "leases", "get, update, patch"),
            "pg-tide-operator",
        ),
    ]
}

fn rule_of((group, resources, verbs): &(&str, &str, &str), names: &str) -> Rule {
    (
        (*group).into(),
        (*resources).into(),
        names.into(),
        (*verbs).into(),
    )
}

fn rules(role: &Value) -> Vec<Rule> {
    let list = |value: &Value| {
        let items: Vec<&str> = value
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| v.as_str().unwrap())
            .collect();
        items.join(", ")
    };
    let rules = role["rules"].as_array().unwrap().iter();
    rules
        .map(|rule| {
            (
                list(&rule["apiGroups"]),
                list(&rule["resources"]),
                list(&rule["resourceNames"]),
                list(&rule["verbs"]),
            )
        })
        .collect()
}

/// Who is bound to what: the role's kind and name, by the binding's namespace.
fn bindings(objects: &Objects) -> Vec<(String, String, String)> {
    let mut found = vec![];
    for binding in [objects.of("RoleBinding"), objects.of("ClusterRoleBinding")].concat() {
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "pg-tide-operator", "namespace": "pg-tide-system"}])
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.push((
            text(&binding["metadata"]["namespace"]),
            text(&binding["roleRef"]["kind"]),
            text(&binding["roleRef"]["name"]),
        ));
    }
    found.sort();
    found
}

#[test]
fn for_all_namespaces_there_is_one_cluster_role() {
    let objects = Chart::operator().objects();
    assert_eq!(rules(objects.one("ClusterRole")), served());
    assert_eq!(rules(objects.one("Role")), own_namespace());
    let own = |kind: &str, name: &str, namespace: &str| (namespace.into(), kind.into(), name.into());
    assert_eq!(
        bindings(&objects),
        [
            own("ClusterRole", "pg-tide-operator", ""),
            own("Role", "pg-tide-operator-own-namespace", "pg-tide-system"),
        ]
    );
}

#[test]
fn for_some_namespaces_there_is_a_role_in_each_and_nothing_for_the_cluster() {
    let objects = Chart::operator()
        .set("watchNamespaces", &json!(["shop", "bank"]))
        .objects();
    for object in objects.all() {
        let kind = object["kind"].as_str().unwrap();
        assert!(!kind.starts_with("Cluster"), "{kind}");
    }
    for role in objects.of("Role") {
        let namespace = role["metadata"]["namespace"].as_str().unwrap();
        if namespace == "pg-tide-system" {
            let mut expected = own_namespace();
            expected.push(rule_of(&("", "namespaces", "get"), ""));
            assert_eq!(rules(role), expected);
        } else {
            assert_eq!(rules(role), served(), "{namespace}");
        }
    }
    let bound = |namespace: &str, name: &str| (namespace.into(), "Role".into(), name.into());
    assert_eq!(
        bindings(&objects),
        [
            bound("bank", "pg-tide-operator"),
            bound("pg-tide-system", "pg-tide-operator-own-namespace"),
            bound("shop", "pg-tide-operator"),
        ]
    );
    let text = Chart::operator()
        .set("watchNamespaces", &json!(["shop", "bank"]))
        .text()
        .unwrap();
    assert!(text.contains("- --watch-namespaces=shop,bank\n"), "{text}");
}

#[test]
fn the_operators_own_namespace_may_be_served_as_well() {
    let objects = Chart::operator()
        .set("watchNamespaces", &json!(["pg-tide-system"]))
        .objects();
    let names: BTreeSet<String> = objects
        .names()
        .into_iter()
        .filter(|n| n.starts_with("Role "))
        .collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [
            "Role pg-tide-system/pg-tide-operator",
            "Role pg-tide-system/pg-tide-operator-own-namespace"
        ]
    );
}

#[test]
fn monitors_are_managed_only_when_asked_for() {
    let with = Chart::operator()
        .set("monitors.relays", &json!("pod-monitor"))
        .objects();
    let mut expected = served();
    expected.push(rule_of(&MONITORS, ""));
    assert_eq!(rules(with.one("ClusterRole")), expected);
}

#[test]
fn nothing_is_granted_by_a_wildcard() {
    for chart in [
        Chart::operator(),
        Chart::operator().set("watchNamespaces", &json!(["shop"])),
        Chart::operator().set("monitors.relays", &json!("pod-monitor")),
        Chart::crds(),
    ] {
        let objects = chart.objects();
        for role in [objects.of("Role"), objects.of("ClusterRole")].concat() {
            for (group, resources, names, verbs) in rules(role) {
                let all = format!("{group} {resources} {names} {verbs}");
                assert!(!all.contains('*'), "{all}");
            }
            assert!(role["aggregationRule"].is_null());
        }
    }
}

#[test]
fn each_rule_has_its_reason_above_it() {
    let text = Chart::operator()
        .set("watchNamespaces", &json!(["shop"]))
        .set("monitors.relays", &json!("pod-monitor"))
        .text()
        .unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate() {
        // One reason for leases, which take two rules.
        if line.starts_with("- apiGroups:") && lines[at + 1] != "resources: [leases]" {
            assert!(lines[at - 1].starts_with("# "), "{} {}", line, lines[at + 1]);
            seen += 1;
        }
    }
    assert_eq!(seen, 13);
}

#[test]
fn an_administrator_may_make_the_roles_instead() {
    let objects = Chart::operator().set("rbac.create", &json!(false)).objects();
    for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        assert!(objects.of(kind).is_empty(), "{kind}");
    }
}

/// The guide's tables have `| group | resources | verbs | why |`; the core
/// group is written `core`.
#[test]
fn the_guide_lists_these_rules_and_no_others() {
    let guide = read("docs/guide/install-kubernetes.md");
    let (_, section) = guide
        .split_once("## What the operator may do")
        .expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let listed: BTreeSet<Rule> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<String> = line
                .split('|')
                .map(|cell| cell.replace('`', "").trim().to_owned())
                .collect();
            assert!(cells[4].len() > 10, "a reason: {line}");
            let (verbs, names) = match cells[3].split_once(" of ") {
                Some((verbs, name)) => (verbs.to_owned(), name.to_owned()),
                None => (cells[3].clone(), String::new()),
            };
            (
                if cells[1] == "core" {
                    String::new()
                } else {
                    cells[1].clone()
                },
                cells[2].clone(),
                names,
                verbs,
            )
        })
        .collect();
    let mut granted: BTreeSet<Rule> = served().into_iter().chain(own_namespace()).collect();
    granted.insert(rule_of(&MONITORS, ""));
    assert_eq!(listed, granted);
}
