//! What `pg-tide doctor` finds at the brokers of pipelines.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::time::Duration;

use pg_tide_e2e::doctor::doctor;
use pg_tide_e2e::kafka::create_topic;
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Listener, OwnBed, SecretFiles, SecuredKafka, answer, reference, unique};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn kafka_topics_are_compared_with_what_pipelines_need() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "doctor_kafka").await;
    db.create_outboxes(&["events", "large"]).await;
    db.run("SELECT tide.outbox_publish('large', jsonb_build_object('x', repeat('y', 50000)))")
        .await;
    let topic = unique("doctor");
    let made = async |suffix: &str, settings: &[(&str, &str)]| {
        let name = format!("{topic}_{suffix}");
        create_topic(&bed.kafka, &name, 2, settings).await;
        name
    };
    let plain = made("plain", &[]).await;
    let strict = made("strict", &[("min.insync.replicas", "2")]).await;
    let small = made("small", &[("max.message.bytes", "10000")]).await;
    let compacted = made("compacted", &[("cleanup.policy", "compact")]).await;
    db.to_kafka("plain", "events", &bed.kafka, &plain, "{}").await;
    db.to_kafka("strict", "events", &bed.kafka, &strict, "{}").await;
    db.to_kafka("small", "large", &bed.kafka, &small, "{}").await;
    db.to_kafka("keyless", "events", &bed.kafka, &compacted, "{}")
        .await;
    db.to_kafka("far", "events", &bed.kafka, &plain, "{\"partition\": 2}")
        .await;
    db.to_kafka("hasty", "events", &bed.kafka, &plain, "{\"acks\": \"1\"}")
        .await;
    db.to_kafka(
        "tuned",
        "events",
        &bed.kafka,
        &plain,
        "{\"librdkafka\": {\"socket.keepalive.enable\": \"true\"}}",
    )
    .await;
    db.to_kafka("away", "events", "127.0.0.1:1", &plain, "{}").await;
    db.to_kafka("missing", "events", &bed.kafka, &format!("{topic}_missing"), "{}")
        .await;
    db.to_kafka("template", "events", &bed.kafka, "{event_type}", "{}")
        .await;
    let url = db.url();
    for (pipeline, severity, code, words) in [
        (
            "plain",
            "warning",
            "kafka-replication-low",
            ["single replica", &plain],
        ),
        (
            "strict",
            "problem",
            "kafka-min-insync-unreachable",
            ["min.insync.replicas is 2", &strict],
        ),
        (
            "small",
            "problem",
            "kafka-message-too-large",
            ["48.8 kB", "9.8 kB"],
        ),
        (
            "keyless",
            "problem",
            "kafka-compacted-without-key",
            ["\\\"key\\\"", &compacted],
        ),
        (
            "far",
            "problem",
            "kafka-partition-missing",
            ["partition 2", "0 to 1"],
        ),
        ("hasty", "warning", "kafka-acks", ["acks", "default"]),
        (
            "tuned",
            "warning",
            "kafka-late-requests",
            ["librdkafka", "guarantees.md"],
        ),
        ("away", "problem", "kafka-unreachable", ["127.0.0.1:1", "refused"]),
        (
            "missing",
            "warning",
            "kafka-topic-missing",
            ["auto.create.topics.enable", "--create --topic"],
        ),
        (
            "template",
            "ok",
            "kafka-topic-template",
            ["{event_type}", "depends on the message"],
        ),
    ] {
        doctor(&url, &["--pipeline", pipeline])
            .await
            .has(severity, code, &words);
    }
    // Asking for the topic did not make it.
    doctor(&url, &["--pipeline", "missing"])
        .await
        .has("warning", "kafka-topic-missing", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_streams_are_compared_with_what_pipelines_need() {
    use async_nats::jetstream::consumer::{pull, push};
    use async_nats::jetstream::stream::RetentionPolicy;
    let bed = Bed::from_env();
    let nats = Nats::connect(&bed.nats).await;
    let db = Database::fresh(&bed.postgres, "doctor_nats").await;
    db.create_outboxes(&["events", "large"]).await;
    db.run("SELECT tide.outbox_publish('large', jsonb_build_object('x', repeat('y', 5000)))")
        .await;
    let stem = unique("doctor");
    let name = |suffix: &str| format!("{stem}_{suffix}");
    for (suffix, edit) in [
        (
            "plain",
            (|_| {}) as fn(&mut async_nats::jetstream::stream::Config),
        ),
        ("short", |c| c.duplicate_window = Duration::from_secs(5)),
        ("small", |c| c.max_message_size = 1000),
        ("interest", |c| c.retention = RetentionPolicy::Interest),
        ("queue", |c| c.retention = RetentionPolicy::WorkQueue),
    ] {
        nats.create_stream(&name(suffix), &name(suffix), edit).await;
    }
    for (pipeline, outbox, suffix, more) in [
        ("plain", "events", "plain", "{}".to_owned()),
        ("short", "events", "short", "{}".to_owned()),
        ("small", "large", "small", "{}".to_owned()),
        ("interest", "events", "interest", "{}".to_owned()),
        ("queue", "events", "queue", "{}".to_owned()),
        ("missing", "events", "nowhere", "{}".to_owned()),
        (
            "other",
            "events",
            "nowhere",
            format!("{{\"stream\": \"{}\"}}", name("plain")),
        ),
    ] {
        db.to_nats(pipeline, outbox, &bed.nats, &name(suffix), &more)
            .await;
    }
    db.to_nats("away", "events", "nats://127.0.0.1:1", "s", "{}")
        .await;
    // Consumers that belong to somebody else.
    let stream = nats.jetstream.get_stream(name("plain")).await.unwrap();
    stream
        .create_consumer(push::Config {
            durable_name: Some(name("push")),
            deliver_subject: name("deliver"),
            ..push::Config::default()
        })
        .await
        .unwrap();
    let wide = format!("{}.>", name("wide"));
    nats.create_stream(&name("wide"), &wide, |_| {}).await;
    let stream = nats.jetstream.get_stream(name("wide")).await.unwrap();
    stream
        .create_consumer(pull::Config {
            durable_name: Some(name("filtered")),
            filter_subject: format!("{}.a", name("wide")),
            ..pull::Config::default()
        })
        .await
        .unwrap();
    db.run("SELECT tide.inbox_create('inbox')").await;
    for (pipeline, subject, durable) in [
        ("push", name("plain"), name("push")),
        ("filtered", wide, name("filtered")),
    ] {
        db.from_nats(
            pipeline,
            "inbox",
            &bed.nats,
            &subject,
            &format!("{{\"durable\": \"{durable}\"}}"),
            "",
        )
        .await;
    }
    let url = db.url();
    let plain = name("plain");
    for (pipeline, severity, code, words) in [
        ("plain", "warning", "nats-replicas", ["single replica", &plain]),
        (
            "short",
            "warning",
            "nats-duplicate-window",
            ["5s", "--dupe-window 2m"],
        ),
        (
            "small",
            "problem",
            "nats-message-too-large",
            ["max_msg_size", "1000 B"],
        ),
        (
            "interest",
            "warning",
            "nats-messages-vanish",
            ["has none", "limits"],
        ),
        (
            "queue",
            "warning",
            "nats-retention",
            ["when it is consumed", "limits"],
        ),
        (
            "missing",
            "warning",
            "nats-stream-missing",
            ["the relay will make it", "create_stream"],
        ),
        (
            "other",
            "problem",
            "nats-subject-not-taken",
            ["does not take", &plain],
        ),
        ("away", "problem", "nats-unreachable", ["127.0.0.1:1", "refused"]),
        (
            "push",
            "problem",
            "nats-consumer-unfit",
            ["push consumer", "durable"],
        ),
        (
            "filtered",
            "problem",
            "nats-consumer-filter",
            ["reads the subject", "durable"],
        ),
    ] {
        doctor(&url, &["--pipeline", pipeline])
            .await
            .has(severity, code, &words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_make_nothing_and_offer_nothing_are_told() {
    let shared = Bed::from_env();
    let bed = OwnBed::up(
        "doctor",
        &["kafka", "nats"],
        &[
            ("TIDE_BED_KAFKA_AUTO_CREATE", "false"),
            ("TIDE_BED_NATS_JETSTREAM", "0"),
        ],
    )
    .await;
    let db = Database::fresh(&shared.postgres, "doctor_bare").await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('inbox')").await;
    db.to_kafka("to-kafka", "events", &bed.addresses.kafka, "no-such-topic", "{}")
        .await;
    db.to_nats("to-nats", "events", &bed.addresses.nats, "s", "{}")
        .await;
    db.from_nats("from-nats", "inbox", &bed.addresses.nats, "s", "{}", "")
        .await;
    let url = db.url();
    doctor(&url, &["--pipeline", "to-kafka"]).await.has(
        "problem",
        "kafka-topic-missing",
        &["no-such-topic", "do not make topics by themselves"],
    );
    doctor(&url, &["--pipeline", "to-nats"])
        .await
        .has("problem", "nats-jetstream-off", &["-js"]);
    doctor(&url, &["--pipeline", "from-nats"])
        .await
        .has("warning", "nats-jetstream-off", &["at most once"]);
    // Seen without a broker as well.
    bed.kill("kafka").await;
    let unreachable = answer(SOON, async || {
        let said = doctor(&url, &["--pipeline", "to-kafka"]).await;
        said.findings
            .iter()
            .any(|f| f["code"] == "kafka-unreachable")
            .then_some(())
    });
    assert!(unreachable.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_told_apart() {
    let kafka = SecuredKafka::shared().await;
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_kafka_in").await;
    db.create_outboxes(&["events"]).await;
    let topic = unique("doctor");
    create_topic(kafka.open(), &topic, 1, &[]).await;
    let sasl = |user: &str, password: &str| {
        json!({"security_protocol": "sasl_plaintext", "sasl_mechanism": "PLAIN", "sasl_username": user,
               "sasl_password": kafka.secret(password)})
    };
    let tls = |ca: &Path| json!({"security_protocol": "ssl", "tls_ca": reference(ca)});
    for (pipeline, listener, options) in [
        ("alice", Listener::Sasl, sasl("alice", SecuredKafka::PASSWORD)),
        ("wrong", Listener::Sasl, sasl("alice", "hunter2")),
        ("bob", Listener::Sasl, sasl("bob", SecuredKafka::PASSWORD)),
        ("tls", Listener::Tls, tls(&kafka.ca)),
        ("strange", Listener::Tls, tls(&kafka.strange_ca)),
        ("plain", Listener::Tls, json!({})),
    ] {
        db.to_kafka(
            pipeline,
            "events",
            &kafka.address(listener),
            &topic,
            &options.to_string(),
        )
        .await;
    }
    let url = db.url();
    for (pipeline, severity, code, words) in [
        (
            "alice",
            "warning",
            "kafka-replication-low",
            ["single replica", &topic],
        ),
        (
            "wrong",
            "problem",
            "kafka-authentication",
            ["wrong user or password", "alice"],
        ),
        (
            "bob",
            "problem",
            "kafka-topic-forbidden",
            ["does not let this user see", &topic],
        ),
        (
            "tls",
            "warning",
            "kafka-replication-low",
            ["single replica", &topic],
        ),
        ("strange", "problem", "kafka-tls", ["certificate", "tls_ca"]),
        (
            "plain",
            "problem",
            "kafka-tls",
            ["wants TLS", "security_protocol"],
        ),
    ] {
        let said = doctor(&url, &["--pipeline", pipeline]).await;
        said.has(severity, code, &words);
        assert!(!format!("{said:?}").contains("hunter2"), "{said:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_refuses_is_told_apart() {
    let own = OwnBed::nats(
        "doctor-nats",
        "authorization { users = [
             {user: shop, password: right}
             {user: narrow, password: right, permissions: {publish: \"orders.>\", subscribe: \"_INBOX.>\"}} ] }",
    )
    .await;
    let db = Database::fresh(&Bed::from_env().postgres, "doctor_nats_in").await;
    db.create_outboxes(&["events"]).await;
    let files = SecretFiles::mount(&[("right", "right"), ("wrong", "hunter2")]);
    let (right, wrong) = (files.reference("right"), files.reference("wrong"));
    for (pipeline, user, password) in [
        ("good", "shop", &right),
        ("wrong", "shop", &wrong),
        ("narrow", "narrow", &right),
    ] {
        let options = json!({"user": user, "password": password}).to_string();
        db.to_nats(pipeline, "events", &own.addresses.nats, "orders.new", &options)
            .await;
    }
    let url = db.url();
    for (pipeline, severity, code, word) in [
        ("good", "warning", "nats-stream-missing", "the relay will make it"),
        ("wrong", "problem", "nats-authentication", "refuses the user"),
        ("narrow", "problem", "nats-forbidden", "$JS.API"),
    ] {
        let said = doctor(&url, &["--pipeline", pipeline]).await;
        said.has(severity, code, &[word]);
        assert!(!format!("{said:?}").contains("hunter2"), "{said:#?}");
    }
}
