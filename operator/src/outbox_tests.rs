#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::sql::observe::Claim;

fn outbox(spec: Value) -> Wanted {
    let outbox: Outbox = serde_json::from_value(json!({
        "apiVersion": "pgtide.dev/v1alpha1", "kind": "Outbox",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": spec,
    }))
    .unwrap();
    let managed = managed();
    validate(&outbox, managed).unwrap()
}

fn managed() -> Managed {
    Managed {
        kind: ObjectKind::Outbox,
        object: "orders".into(),
        cluster: "c".into(),
        namespace: "shop".into(),
        resource: "orders".into(),
        uid: "u".into(),
        reclaim: "Retain".into(),
        adopt: false,
    }
}

fn right(right: &str, role: &str) -> Right {
    Right {
        right: right.into(),
        role: role.into(),
    }
}

/// What the steps of the spec below lead to.
fn settled() -> Catalogue {
    let mut seen = Catalogue::default();
    seen.outboxes.insert(
        "orders".into(),
        OutboxSeen {
            table: "orders_outbox".into(),
            retention_hours: 72,
            enabled: true,
            groups: BTreeMap::from([("kafka".into(), "earliest".into())]),
            rights: BTreeSet::from([right("publish", "app")]),
            ..OutboxSeen::default()
        },
    );
    seen.claims.insert(
        (ObjectKind::Outbox, "orders".into()),
        Claim {
            cluster: "c".into(),
            namespace: "shop".into(),
            resource: "orders".into(),
            uid: "u".into(),
            reclaim: "Retain".into(),
            rights: BTreeSet::from([right("publish", "app")]),
            released: false,
        },
    );
    seen
}

fn spec() -> Value {
    json!({"databaseRef": {"name": "db"}, "retention": "3d", "consumerGroups": [{"name": "kafka"}], "publishers": ["app"]})
}

#[test]
fn everything_is_made_for_a_new_one() {
    let steps = plan(&outbox(spec()), &Catalogue::default());
    let words: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "outbox \"orders\" is managed by this resource",
            "outbox \"orders\" was made",
            "consumer group \"kafka\" was made",
            "role \"app\" may publish to \"orders\"",
            "rights were recorded",
        ]
    );
}

#[test]
fn nothing_is_done_when_all_is_as_it_should_be() {
    assert_eq!(plan(&outbox(spec()), &settled()), []);
}

#[test]
fn each_drift_has_its_step() {
    type Drift = fn(&mut Catalogue);
    let drifts: [(Drift, &str); 6] = [
        (
            |c| c.outboxes.get_mut("orders").unwrap().retention_hours = 1,
            "retention of outbox",
        ),
        (
            |c| c.outboxes.get_mut("orders").unwrap().enabled = false,
            "was enabled",
        ),
        (
            |c| c.outboxes.get_mut("orders").unwrap().groups.clear(),
            "consumer group",
        ),
        (
            |c| c.outboxes.get_mut("orders").unwrap().rights.clear(),
            "may publish",
        ),
        (
            |c| {
                c.outboxes
                    .get_mut("orders")
                    .unwrap()
                    .faults
                    .push("no table".into());
            },
            "was repaired",
        ),
        (|c| c.claims.clear(), "is managed by"),
    ];
    for (drift, words) in drifts {
        let mut seen = settled();
        drift(&mut seen);
        let steps = plan(&outbox(spec()), &seen);
        assert!(
            steps.iter().any(|s| s.to_string().contains(words)),
            "{words}: {steps:?}"
        );
    }
}

#[test]
fn only_rights_that_this_resource_gave_are_taken_back() {
    let mut seen = settled();
    let by_hand = right("publish", "by_hand");
    seen.outboxes.get_mut("orders").unwrap().rights.insert(by_hand);
    let mut without = spec();
    without["publishers"] = json!([]);
    let steps = plan(&outbox(without), &seen);
    assert_eq!(
        steps,
        [
            Step::Revoke(ObjectKind::Outbox, "orders".into(), right("publish", "app")),
            Step::RememberRights(managed(), vec![]),
        ]
    );
}

#[test]
fn a_resource_that_was_made_again_takes_its_object_back() {
    let mut seen = settled();
    seen.claims
        .get_mut(&(ObjectKind::Outbox, "orders".into()))
        .unwrap()
        .uid = "before".into();
    assert_eq!(plan(&outbox(spec()), &seen), [Step::Claim(managed())]);
}

#[test]
fn what_was_kept_for_a_resource_is_claimed_again_with_the_rights_that_were_given() {
    let mut seen = settled();
    let claim = seen.claims.get_mut(&(ObjectKind::Outbox, "orders".into()));
    claim.unwrap().released = true;
    assert_eq!(plan(&outbox(spec()), &seen), [Step::Claim(managed())]);
    let mut without = spec();
    without["publishers"] = json!([]);
    assert_eq!(
        plan(&outbox(without), &seen),
        [
            Step::Claim(managed()),
            Step::Revoke(ObjectKind::Outbox, "orders".into(), right("publish", "app")),
            Step::RememberRights(managed(), vec![]),
        ]
    );
}

#[test]
fn a_table_without_its_row_is_repaired_not_made() {
    let mut seen = settled();
    let outbox_seen = seen.outboxes.get_mut("orders").unwrap();
    *outbox_seen = OutboxSeen {
        faults: vec!["its row is missing".into()],
        ..OutboxSeen::default()
    };
    let steps = plan(&outbox(spec()), &seen);
    assert!(matches!(steps[0], Step::RepairOutbox(_)), "{steps:?}");
    assert!(!steps.iter().any(|s| matches!(s, Step::MakeOutbox(_))));
}
