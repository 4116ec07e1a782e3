//! Every option of the relay can be said by a Pipeline, and with the same
//! limits.

mod options;

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// A Pipeline from its YAML.
fn pipeline(yaml: &str) -> Pipeline {
    serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

/// The same, from what is below spec.
fn with_spec(spec: &str) -> Pipeline {
    let spec = spec.replace('\n', "\n  ");
    pipeline(&format!(
        "apiVersion: pgtide.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: p}}\nspec:\n  databaseRef: {{name: shop}}\n  {spec}"
    ))
}

#[test]
fn the_tutorials_pipelines_become_what_the_tutorial_writes_in_sql() {
    let forward = with_spec(
        r#"
forward:
  outboxRef: {name: orders}
  consumerGroup: kafka-relay
  batchSize: 200
  sink:
    kafka: {brokers: ["kafka:9092"], topic: order-events, acks: all, compression: snappy, key: "{event_type}"}"#,
    );
    let rendered = render(&forward).unwrap();
    assert_eq!(
        rendered,
        Rendered {
            name: "p".into(),
            direction: Direction::Forward {
                outbox_ref: "orders".into(),
                consumer_group: Some("kafka-relay".into()),
            },
            connector: "kafka".into(),
            config: json!({
                "brokers": ["kafka:9092"], "topic": "order-events", "acks": "all", "compression": "snappy",
                "key": "{event_type}", "consumer_group": "kafka-relay",
            }),
            batch_size: 200,
            enabled: true,
            relay_group: "default".into(),
            secrets: BTreeSet::new(),
            source_text: "outbox/orders".into(),
            sink_text: "kafka/order-events".into(),
        }
    );

    let reverse = with_spec(
        r#"
name: nats to "payments"
reverse:
  inboxRef: {name: payments}
  batchSize: 50
  source:
    nats: {url: "nats://nats:4222", subject: payments.confirmed, queueGroup: pg-tide-payments}"#,
    );
    let rendered = render(&reverse).unwrap();
    assert_eq!(rendered.name, r#"nats to "payments""#);
    let direction = Direction::Reverse {
        inbox_ref: "payments".into(),
        max_retries: 3,
        idempotent: true,
    };
    assert_eq!(rendered.direction, direction);
    assert_eq!(
        rendered.config,
        json!({"url": "nats://nats:4222", "subject": "payments.confirmed", "queue_group": "pg-tide-payments"})
    );
    assert_eq!((rendered.batch_size, rendered.connector.as_str()), (50, "nats"));
    assert_eq!(rendered.source_text, "nats/payments.confirmed");
    assert_eq!(rendered.sink_text, "inbox/payments");
}

#[test]
fn secrets_are_files_and_are_all_named() {
    let rendered = render(&with_spec(
        r"
forward:
  outboxRef: {name: orders}
  sink:
    kafka:
      brokers: [kafka:9093]
      topic: orders
      tls: {caSecretRef: {name: ca}, clientCertSecretRef: {name: client}}
      sasl: {mechanism: PLAIN, secretRef: {name: my.user, passwordKey: pass_word}}",
    ))
    .unwrap();
    let config = &rendered.config;
    assert_eq!(config["security_protocol"], "sasl_ssl");
    assert_eq!(config["tls_ca"], "${file:/etc/pg-tide/secrets/ca_ca.crt}");
    assert_eq!(
        config["sasl_password"],
        "${file:/etc/pg-tide/secrets/my.user_pass_word}"
    );
    let files: Vec<String> = rendered.secrets.iter().map(file_name).collect();
    assert_eq!(
        files,
        [
            "ca_ca.crt",
            "client_tls.crt",
            "client_tls.key",
            "my.user_pass_word",
            "my.user_username"
        ]
    );
}

#[test]
fn tls_and_login_decide_how_brokers_are_spoken_to() {
    let protocol = |more: &str| {
        let spec = format!(
            "forward:\n  outboxRef: {{name: o}}\n  sink:\n    kafka: {{brokers: [k], topic: t, {more}}}"
        );
        render(&with_spec(&spec)).unwrap().config["security_protocol"].clone()
    };
    let sasl = "sasl: {mechanism: PLAIN, secretRef: {name: s}}";
    assert_eq!(protocol("acks: all"), json!(null));
    assert_eq!(protocol("tls: {}"), "ssl");
    assert_eq!(protocol(sasl), "sasl_plaintext");
    assert_eq!(protocol(&format!("tls: {{}}, {sasl}")), "sasl_ssl");
}

#[test]
fn what_has_no_schema_is_checked_here() {
    let wrong = render(&with_spec(
        r"
forward:
  outboxRef: {name: orders}
  filter:
    event_type: order.made
    payload.a..b: 1
    payload.total: {above: 3}
    headers.list: []
    headers.right: {not: [a, 1, true]}
    payload.there: {exists: true}
  sink:
    nats: {url: 'nats://n:4222', subject: orders, login: {username: '${file:/etc/pg-tide/database/uri}', secretRef: {name: s}}}",
    ))
    .unwrap_err();
    assert_eq!(
        wrong,
        [
            r#"spec.forward.filter: "event_type" names no place; write headers.NAME or payload.PATH"#,
            r#"spec.forward.filter: "headers.list" has no usable value; write a text, a number, true, false, a list of these, {not: ...} or {exists: true}"#,
            r#"spec.forward.filter: "payload.a..b" names no place; write headers.NAME or payload.PATH"#,
            r#"spec.forward.filter: "payload.total" has no usable value; write a text, a number, true, false, a list of these, {not: ...} or {exists: true}"#,
            "spec.forward: user must be the text itself; refer to a Secret by the field for that",
        ]
    );
}

#[test]
fn a_file_never_leaves_its_folder() {
    let with = |secret: &str, key: &str| {
        let spec = format!(
            "forward:\n  outboxRef: {{name: o}}\n  sink:\n    webhook: {{url: 'https://h', signingSecretRef: {{name: '{secret}', key: '{key}'}}}}"
        );
        render(&with_spec(&spec))
    };
    assert!(with("s", "k").is_ok());
    for (secret, key) in [("a_b", "k"), ("s", "../../uri"), ("s", "a}b"), ("s/..", "k")] {
        let wrong = with(secret, key).unwrap_err();
        assert!(wrong[0].contains("there can be no key"), "{wrong:?}");
    }
    let wrong = with(&"s".repeat(150), &"k".repeat(150)).unwrap_err();
    assert!(wrong[0].contains("301 characters, at most 253"), "{wrong:?}");
}

#[test]
fn neither_direction_and_no_sink_are_errors_and_not_panics() {
    assert_eq!(
        render(&with_spec("enabled: true")).unwrap_err(),
        ["spec: set exactly one of forward and reverse"]
    );
    assert_eq!(
        render(&with_spec("forward: {outboxRef: {name: o}, sink: {}}")).unwrap_err(),
        ["spec.forward.sink: set exactly one of kafka, nats, inbox, webhook, stdout"]
    );
    assert_eq!(
        render(&with_spec("reverse: {inboxRef: {name: o}, source: {}}")).unwrap_err(),
        ["spec.reverse.source: set exactly one of kafka, nats, webhook"]
    );
}
