use super::*;
use crate::doctor::finding::Severity;

fn found(replicas: usize, in_sync: usize) -> TopicState {
    TopicState::Found(vec![
        Partition {
            replicas,
            in_sync,
            has_leader: true,
        };
        3
    ])
}

fn fine() -> Kafka {
    Kafka {
        at: "k:9092".into(),
        brokers: 3,
        topics: vec![Topic {
            name: "t".into(),
            state: found(3, 3),
            settings: Some(TopicSettings {
                min_insync: 2,
                max_message: 1_048_588,
                compacted: false,
            }),
        }],
        template: None,
        auto_create: Some(false),
        sink: Some(SinkNeeds {
            acks_all: true,
            partition: None,
            keyed: false,
            client_max: 1_000_000,
            largest: Some(2_000),
            unfenced: None,
        }),
    }
}

fn with(edit: impl FnOnce(&mut Kafka, &mut Topic, &mut SinkNeeds)) -> Finding {
    let mut kafka = fine();
    let (mut topic, mut sink) = (kafka.topics.remove(0), kafka.sink.take().unwrap());
    edit(&mut kafka, &mut topic, &mut sink);
    kafka.topics.push(topic);
    kafka.sink = Some(sink);
    let mut findings = kafka.findings("pipeline p");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

fn settings(topic: &mut Topic) -> &mut TopicSettings {
    topic.settings.as_mut().unwrap()
}

#[test]
fn a_good_topic_is_ok() {
    let finding = with(|_, _, _| {});
    assert_eq!(finding.severity, Severity::Ok);
    assert_eq!(
        finding.message,
        "Kafka topic \"t\" at k:9092: 3 partitions, 3 replicas each."
    );
}

#[test]
fn a_missing_topic_is_a_problem_unless_brokers_make_it() {
    let missing = |auto| {
        with(|k, t, _| {
            k.auto_create = auto;
            t.state = TopicState::Missing;
        })
    };
    for (auto, severity) in [
        (Some(true), Severity::Warning),
        (Some(false), Severity::Problem),
        (None, Severity::Problem),
    ] {
        let finding = missing(auto);
        assert_eq!(
            (finding.severity, finding.code),
            (severity, "kafka-topic-missing")
        );
        assert!(finding.hint.unwrap().contains("--create --topic t"));
    }
}

#[test]
fn what_acks_all_promises_is_compared_with_the_replicas() {
    for (state, min_insync, severity, code) in [
        (found(1, 1), 1, Severity::Warning, "kafka-replication-low"),
        (found(1, 1), 2, Severity::Problem, "kafka-min-insync-unreachable"),
        (found(3, 1), 2, Severity::Problem, "kafka-under-replicated"),
        (found(3, 3), 1, Severity::Warning, "kafka-min-insync-low"),
        (found(3, 2), 2, Severity::Ok, "kafka-topic"),
    ] {
        let finding = with(|_, t, _| {
            t.state = state;
            settings(t).min_insync = min_insync;
        });
        assert_eq!((finding.severity, finding.code), (severity, code));
    }
    assert_eq!(with(|_, _, s| s.acks_all = false).code, "kafka-acks");
}

#[test]
fn sizes_are_compared_with_whichever_limit_is_smaller() {
    let finding = with(|_, t, s| {
        s.largest = Some(200_000);
        settings(t).max_message = 100_000;
    });
    assert_eq!(finding.code, "kafka-message-too-large");
    assert!(
        finding.message.contains("195 kB") && finding.message.contains("max.message.bytes"),
        "{finding:?}"
    );
    let finding = with(|_, t, s| {
        s.largest = Some(2_000_000);
        settings(t).max_message = 10_000_000;
    });
    assert!(finding.hint.unwrap().contains("\"message.max.bytes\": 4001024"));
}

#[test]
fn partition_key_and_rights_are_checked() {
    assert_eq!(
        with(|_, _, s| s.partition = Some(3)).code,
        "kafka-partition-missing"
    );
    assert_eq!(with(|_, _, s| s.partition = Some(2)).severity, Severity::Ok);
    assert_eq!(
        with(|_, t, _| settings(t).compacted = true).code,
        "kafka-compacted-without-key"
    );
    assert_eq!(
        with(|_, t, _| t.state = TopicState::Forbidden).code,
        "kafka-topic-forbidden"
    );
    let leaderless = Partition {
        replicas: 3,
        in_sync: 2,
        has_leader: false,
    };
    assert_eq!(
        with(|_, t, _| t.state = TopicState::Found(vec![leaderless])).code,
        "kafka-no-leader"
    );
}

#[test]
fn a_template_without_topics_is_told_as_such() {
    let mut kafka = fine();
    kafka.topics.clear();
    kafka.template = Some("{event_type}".into());
    assert_eq!(kafka.findings("pipeline p")[0].code, "kafka-topic-template");
}

#[test]
fn whose_former_owners_cannot_be_shut_out_is_told() {
    let mut kafka = fine();
    kafka.sink.as_mut().unwrap().unfenced = Some("\"tls_key\" is encrypted".into());
    let findings = kafka.findings("pipeline p");
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert_eq!(findings[0].severity, Severity::Warning);
    assert_eq!(findings[0].code, "kafka-late-requests");
    assert!(
        findings[0].message.contains("encrypted"),
        "{}",
        findings[0].message
    );
}
