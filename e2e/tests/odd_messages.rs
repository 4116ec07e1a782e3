//! Messages and names that are seldom: each arrives as it was published, or is
//! set aside with a reason, and what comes behind it goes on.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Bed, Database, Relay, kafka, unique};

const SOON: Duration = Duration::from_secs(30);

/// From an outbox to a topic and a subject, and from there into an inbox, all
/// of them with names that need quoting everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn odd_payloads_headers_and_names_go_through_both_ways() {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "odd").await;
    let (topic, stream) = (unique("odd"), unique("odd"));
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&stream, &stream, |_| {}).await;
    let weird = "Weird \"Name\" % ''ü";
    db.run(&format!(
        "SELECT tide.outbox_create('{weird}'); SELECT tide.inbox_create('{weird}')"
    ))
    .await;
    db.to_kafka(
        &format!("k {weird}"),
        weird,
        &bed.kafka,
        &topic,
        r#"{"key": "{key}"}"#,
    )
    .await;
    db.to_nats(&format!("n {weird}"), weird, &bed.nats, &stream, "{}")
        .await;
    db.run(&format!(
        "SELECT tide.relay_set_inbox('i {weird}', '{weird}', jsonb_build_object('url', '{}', 'subject', '{stream}', 'durable', 'odd'))",
        bed.nats
    ))
    .await;

    let payloads = ["null", "\"\"", "{}", "[]", "0", "\" \"", "\"ü\\u0001\\n\""];
    for payload in payloads {
        db.run(&format!("SELECT tide.outbox_publish('{weird}', '{payload}')"))
            .await;
    }
    // A key of 64 KiB, a thousand headers, a line break, an empty header.
    db.run(&format!(
        "SELECT tide.outbox_publish('{weird}', '\"large key\"', jsonb_build_object('key', repeat('k', 65536)));
         SELECT tide.outbox_publish('{weird}', '\"thousand\"', (SELECT jsonb_object_agg('h' || n, n) FROM generate_series(1, 1000) n));
         SELECT tide.outbox_publish('{weird}', '\"empty\"', '{{\"key\": \"\", \"e\": \"\"}}');
         SELECT tide.outbox_publish('{weird}', '\"break\"', '{{\"b\": \"a\\r\\nevil: yes\"}}');
         SELECT tide.outbox_publish('{weird}', '\"name\"', '{{\"a b:c\": \"x\"}}');
         SELECT tide.outbox_publish('{weird}', '\"last\"')"
    ))
    .await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;

    // Kafka takes all of it as it is.
    let rest = ["large key", "thousand", "empty", "break", "name", "last"].map(|p| format!("\"{p}\""));
    let records = kafka::await_records(&bed.kafka, &topic, 13, SOON).await;
    let mut values: Vec<&str> = records.iter().map(|r| r.value.as_str()).collect();
    let mut wanted: Vec<&str> = payloads
        .iter()
        .copied()
        .chain(rest.iter().map(String::as_str))
        .collect();
    values.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(values, wanted);
    let record = |value: &str| records.iter().find(|r| r.value == value).unwrap();
    assert_eq!(record("\"large key\"").key.as_ref().unwrap().len(), 65_536);
    assert_eq!(record("\"empty\"").key.as_deref(), Some(""));
    assert_eq!(record("\"last\"").key, None);
    assert_eq!(record("\"thousand\"").header("h1000"), Some("1000"));
    assert_eq!(record("\"break\"").header("b"), Some("a\r\nevil: yes"));

    // NATS does not; what it takes is in the inbox, in order.
    let errors = "SELECT payload #>> '{}', error FROM tide.dead_letter ORDER BY message_id";
    assert_eq!(
        db.text(errors).await,
        "large key|its headers are larger than JetStream allows (64 KiB)\n\
         break|NATS does not allow line breaks in the header \"b\"\n\
         name|NATS does not allow the header name \"a b:c\""
    );
    let table = db
        .text("SELECT format('tide.%I', table_name) FROM tide.inbox")
        .await;
    let stored = format!("SELECT payload FROM {table} ORDER BY id");
    let wanted = [&payloads[..], &["\"thousand\"", "\"empty\"", "\"last\""]]
        .concat()
        .join("\n");
    db.await_text(SOON, &stored, &wanted).await;
    let headers =
        format!("SELECT count(*) FROM {table} i, jsonb_object_keys(i.headers) h WHERE h ~ '^h[0-9]+$'");
    assert_eq!(db.text(&headers).await, "1000");
}
