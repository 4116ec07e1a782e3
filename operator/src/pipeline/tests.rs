#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::crd::PipelineStatus;
use crate::runtime::conditions::holds;
use crate::sql::observe::{Claim, OutboxSeen, Report, Reports};
use crate::status::Difference;

fn settings() -> PipelineSettings {
    PipelineSettings {
        name: "p".into(),
        direction: Direction::Forward {
            outbox: "orders".into(),
            group: "p".into(),
        },
        connector: "kafka".into(),
        config: json!({"topic": "t", "consumer_group": "p"}),
        batch_size: 200,
        enabled: true,
        relay_group: "default".into(),
    }
}

fn managed() -> Managed {
    Managed {
        kind: ObjectKind::Pipeline,
        object: "p".into(),
        cluster: "c".into(),
        namespace: "shop".into(),
        resource: "p".into(),
        uid: "u".into(),
        reclaim: "Retain".into(),
        adopt: false,
    }
}

/// What the settings lead to.
fn settled() -> Catalogue {
    let mut seen = Catalogue::default();
    let outbox = OutboxSeen {
        groups: BTreeMap::from([("p".into(), "earliest".into())]),
        ..OutboxSeen::default()
    };
    seen.outboxes.insert("orders".into(), outbox);
    seen.pipelines.insert(
        "p".into(),
        PipelineSeen {
            outbox: Some("orders".into()),
            inbox: None,
            connector: "kafka".into(),
            consumer_group: Some("p".into()),
            config: json!({"consumer_group": "p", "topic": "t"}),
            batch_size: 200,
            enabled: true,
            relay_group: "default".into(),
            max_retries: 3,
            idempotent: true,
        },
    );
    let claim = Claim {
        cluster: "c".into(),
        namespace: "shop".into(),
        resource: "p".into(),
        uid: "u".into(),
        reclaim: "Retain".into(),
        rights: std::collections::BTreeSet::new(),
        released: false,
    };
    seen.claims.insert((ObjectKind::Pipeline, "p".into()), claim);
    seen
}

#[test]
fn nothing_is_done_when_all_is_as_it_should_be() {
    assert_eq!(plan(&settings(), &managed(), &settled()), []);
}

#[test]
fn a_new_one_is_claimed_gets_a_group_of_its_own_and_is_set() {
    let steps = plan(&settings(), &managed(), &Catalogue::default());
    assert!(
        matches!(
            steps.as_slice(),
            [Step::Claim(_), Step::MakeGroup(..), Step::SetPipeline(_)]
        ),
        "{steps:?}"
    );
}

#[test]
fn each_difference_sets_it_again() {
    type Change = fn(&mut PipelineSeen);
    let changes: [Change; 7] = [
        |p| p.config = json!({}),
        |p| p.batch_size = 1,
        |p| p.enabled = false,
        |p| p.relay_group = "other".into(),
        |p| p.connector = "nats".into(),
        |p| p.consumer_group = Some("other".into()),
        |p| p.outbox = Some("other".into()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut seen = settled();
        change(seen.pipelines.get_mut("p").unwrap());
        assert_eq!(
            plan(&settings(), &managed(), &seen),
            [Step::SetPipeline(settings())],
            "change {number}"
        );
    }
}

fn pipeline(enabled: bool) -> Pipeline {
    serde_json::from_value(json!({
        "apiVersion": "pgtide.dev/v1alpha1", "kind": "Pipeline",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {
            "databaseRef": {"name": "db"}, "enabled": enabled,
            "forward": {"outboxRef": {"name": "orders"}, "sink": {"kafka": {"brokers": ["k:9092"], "topic": "t"}}},
        },
    }))
    .unwrap()
}

fn seen(report: Report) -> Result<Arc<View>, Problem> {
    let mut reports = Reports::default();
    reports.pipelines.insert("p".into(), report);
    Ok(Arc::new(View {
        reports: Arc::new(reports),
        ..View::default()
    }))
}

fn report(value: Value) -> Report {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Report {
        state: text("state").unwrap(),
        owner: text("owner"),
        last_error: text("error"),
        ..Report::default()
    }
}

fn ready(status: &PipelineStatus) -> (&str, &str, &str) {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    (&ready.status, &ready.reason, &ready.message)
}

#[test]
fn ready_says_what_the_relay_reports() {
    for (enabled, value, status, reason, words) in [
        (
            true,
            json!({"state": "running", "owner": "pod-1"}),
            "True",
            "Running",
            "",
        ),
        (
            true,
            json!({"state": "retrying", "owner": "pod-1", "error": "no broker at k:9092"}),
            "False",
            "DeliveryFailing",
            "no broker at k:9092",
        ),
        (
            true,
            json!({
                "state": "retrying", "owner": "pod-1",
                "error": "kafka k:9092: cannot read the secret file /etc/pg-tide/secrets/ca_ca.crt: No such file or directory (os error 2)",
            }),
            "False",
            "Starting",
            "the kubelet has yet to bring the Secret",
        ),
        (
            true,
            json!({"state": "misconfigured", "owner": "pod-1", "error": "no such file"}),
            "False",
            "Misconfigured",
            "no such file",
        ),
        (
            true,
            json!({"state": "starting", "owner": "pod-1"}),
            "Unknown",
            "Starting",
            "",
        ),
        (
            true,
            json!({"state": "no live relay"}),
            "False",
            "NoLiveRelay",
            "1 of 2 pods",
        ),
        (true, json!({"state": "unowned"}), "False", "NoOwner", ""),
        (
            false,
            json!({"state": "disabled"}),
            "False",
            "Paused",
            "spec.enabled",
        ),
    ] {
        let status_now = status::of(
            &pipeline(enabled),
            &seen(report(value.clone())),
            Some((1, 2)),
            Timestamp::UNIX_EPOCH,
        );
        let (is, why, message) = ready(&status_now);
        assert_eq!((is, why), (status, reason), "{value}");
        assert!(message.contains(words), "{value}: {message}");
        assert_eq!(holds(&status_now.conditions, "Paused"), !enabled);
    }
}

#[test]
fn a_database_that_is_away_is_not_ready_for_its_own_reason() {
    let found = Err(Problem::new("AuthenticationFailed", "wrong password"));
    let status_now = status::of(&pipeline(true), &found, None, Timestamp::UNIX_EPOCH);
    let (is, why, message) = ready(&status_now);
    assert_eq!((is, why), ("False", "DatabaseUnavailable"));
    assert!(
        message.contains("AuthenticationFailed: wrong password"),
        "{message}"
    );
}

#[test]
fn only_what_somebody_must_know_is_written_at_once() {
    let of =
        |found: &Result<Arc<View>, Problem>| status::of(&pipeline(true), found, None, Timestamp::UNIX_EPOCH);
    let running = of(&seen(report(json!({"state": "running", "owner": "pod-1"}))));
    assert_eq!(status::difference(None, &running), Difference::Material);
    assert_eq!(
        status::difference(Some(&running), &running.clone()),
        Difference::None
    );
    let mut faster = running.clone();
    faster.rate = Some("7/s".into());
    assert_eq!(status::difference(Some(&running), &faster), Difference::Figures);
    let failing = of(&seen(report(
        json!({"state": "retrying", "owner": "pod-1", "error": "gone"}),
    )));
    assert_eq!(status::difference(Some(&running), &failing), Difference::Material);
    assert_eq!(
        status::warnings(Some(&running), &failing),
        [("DeliveryFailing", "gone".to_owned())]
    );
    assert_eq!(status::warnings(Some(&failing), &failing), []);
}
