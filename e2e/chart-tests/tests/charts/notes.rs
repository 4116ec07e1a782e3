//! What a user reads after `helm install`.

use pg_tide_chart_tests::{Chart, Objects};
use serde_json::json;

const HAVE_CRDS: &str = "--api-versions=pgtide.dev/v1alpha1";

#[test]
fn the_next_steps_are_told() {
    let notes = Chart::operator().argument(HAVE_CRDS).notes();
    assert!(notes.contains("serves all namespaces."), "{notes}");
    assert!(
        notes.contains("kubectl --namespace pg-tide-system rollout status deployment/pg-tide-operator"),
        "{notes}"
    );
    assert!(notes.contains("kubectl get pgtide --all-namespaces"), "{notes}");
    assert!(!notes.contains("CRDs are missing"), "{notes}");
    assert!(notes.lines().count() <= 30, "{notes}");
    assert!(!notes.contains("\n\n\n"), "{notes}");
}

#[test]
fn missing_crds_are_told_with_the_way_out() {
    let notes = Chart::operator().notes();
    assert!(notes.contains("The CRDs are missing."), "{notes}");
    assert!(
        notes.contains("helm install pg-tide-crds charts/pg-tide-crds --namespace pg-tide-system"),
        "{notes}"
    );
}

#[test]
fn commands_go_to_a_namespace_that_is_served() {
    let notes = Chart::operator()
        .argument(HAVE_CRDS)
        .set("watchNamespaces", &json!(["shop", "bank"]))
        .notes();
    assert!(notes.contains("serves namespaces shop, bank."), "{notes}");
    assert!(
        notes.contains("kubectl --namespace shop create secret generic shop-db"),
        "{notes}"
    );
}

#[test]
fn the_manifest_in_them_is_a_database() {
    let notes = Chart::operator().notes();
    let (_, rest) = notes.split_once("<<EOF\n").unwrap();
    let (manifest, _) = rest
        .split_once("\nEOF\n")
        .expect("a terminator that begins its line");
    let objects = Objects::parse(manifest);
    let database = objects.one("TideDatabase");
    assert_eq!(database["apiVersion"], "pgtide.dev/v1alpha1");
}
