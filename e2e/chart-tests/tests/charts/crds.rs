//! The chart of the CRDs.

use pg_tide_chart_tests::{Chart, Objects, files, read};
use serde_json::{Value, json};

const KINDS: [&str; 4] = ["Inbox", "Outbox", "Pipeline", "TideDatabase"];

/// The CRDs of `crds/`, by kind.
fn originals() -> Vec<(String, Value)> {
    files("crds", ".yaml")
        .into_iter()
        .filter(|name| name != "kustomization.yaml")
        .map(|name| {
            let objects = Objects::parse(&read(&format!("crds/{name}")));
            let [crd] = objects.all() else {
                panic!("{name} has one object")
            };
            (
                crd["spec"]["names"]["kind"].as_str().unwrap().to_owned(),
                crd.clone(),
            )
        })
        .collect()
}

#[test]
fn the_four_kinds_are_there_and_each_is_kept() {
    let objects = Chart::crds().objects();
    let crds = objects.of("CustomResourceDefinition");
    let mut kinds: Vec<&str> = crds
        .iter()
        .map(|c| c["spec"]["names"]["kind"].as_str().unwrap())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, KINDS);
    for crd in crds {
        assert_eq!(
            crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep",
            "{}",
            crd["metadata"]["name"]
        );
    }
}

#[test]
fn they_are_those_of_the_crds_folder_to_the_last_field() {
    let objects = Chart::crds().objects();
    let originals = originals();
    assert_eq!(originals.len(), KINDS.len());
    for (kind, original) in originals {
        let rendered = objects.named(
            "CustomResourceDefinition",
            original["metadata"]["name"].as_str().unwrap(),
        );
        assert_eq!(rendered["spec"], original["spec"], "{kind}");
        let metadata: Vec<&String> = original["metadata"].as_object().unwrap().keys().collect();
        assert_eq!(metadata, ["name"], "{kind}");
    }
}

#[test]
fn labels_and_annotations_are_added_and_cannot_take_the_policy_away() {
    let objects = Chart::crds()
        .set("labels", &json!({"team": "data"}))
        .set(
            "annotations",
            &json!({"note": "hello", "helm.sh/resource-policy": "delete"}),
        )
        .objects();
    for crd in objects.of("CustomResourceDefinition") {
        assert_eq!(crd["metadata"]["labels"]["team"], "data");
        assert_eq!(crd["metadata"]["annotations"]["note"], "hello");
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn roles_of_the_cluster_are_extended_unless_not_wanted() {
    let objects = Chart::crds().objects();
    let view = objects.named("ClusterRole", "pg-tide-view");
    assert_eq!(
        view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"],
        "true"
    );
    assert_eq!(view["rules"][0]["verbs"], json!(["get", "list", "watch"]));
    let edit = objects.named("ClusterRole", "pg-tide-edit");
    assert!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"].is_null());
    let without = Chart::crds().set("aggregateRoles", &json!(false)).objects();
    assert_eq!(without.of("ClusterRole"), Vec::<&Value>::new());
}

#[test]
fn a_misspelt_value_is_refused() {
    let why = Chart::crds().set("aggregateRole", &json!(false)).refusal();
    assert!(
        why.contains("additional properties 'aggregateRole' not allowed"),
        "{why}"
    );
}

#[test]
fn lint_is_content() {
    let lint = Chart::crds().lint();
    assert!(lint.passed, "{}", lint.said);
}

#[test]
fn the_notes_say_what_comes_next() {
    let notes = Chart::crds().release("pg-tide-crds").notes();
    assert!(notes.contains("kubectl explain pipeline.spec"), "{notes}");
    assert!(
        notes.contains("helm install pg-tide-operator charts/pg-tide-operator --namespace pg-tide-system"),
        "{notes}"
    );
}
