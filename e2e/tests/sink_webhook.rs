//! Webhooks: what a receiver gets, and in which order.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use pg_tide_e2e::webhooks::{await_count, in_batches, last_error, scene, to_url, to_webhook, values};
use pg_tide_e2e::{Answer, Received, Relay, SecretFiles, assert_each_once, assert_in_order, await_condition};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

/// Signatures as Python's standard library makes them.
fn signature_by_python(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let program = "import base64, hashlib, hmac, sys\n\
                   secret, id, timestamp, body = sys.argv[1:]\n\
                   key = base64.b64decode(secret.removeprefix('whsec_')) if secret.startswith('whsec_') else secret.encode()\n\
                   signed = hmac.new(key, f'{id}.{timestamp}.{body}'.encode(), hashlib.sha256)\n\
                   print('v1,' + base64.b64encode(signed.digest()).decode())";
    let output = Command::new("python3")
        .args(["-c", program, secret, id, timestamp, body])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_signed_request_with_its_payload_as_it_was_published() {
    let (db, receiver) = scene("webhook_signed").await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let secrets = SecretFiles::mount(&[("signing", secret), ("authorization", "Bearer Sesame-31")]);
    let more = format!(
        r#"{{"signing_secret": "{}", "headers": {{"Authorization": "{}", "X-Source": "shop"}}}}"#,
        secrets.reference("signing"),
        secrets.reference("authorization")
    );
    to_webhook(&db, &receiver, "/in/{headers.kind}?id={payload.n}", &more).await;
    let relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', '{\"n\": 1, \"price\": 42.00, \"text\": \"ä\"}', '{\"kind\": \"a/b\", \"event_type\": \"order ü\"}');
         SELECT tide.outbox_publish('events', '{\"n\": 2}', '{\"kind\": \"x\"}')",
    )
    .await;
    db.await_delivered(SOON).await;
    let got = receiver.received();
    assert_eq!(got.len(), 2);
    let first = &got[0];
    assert_eq!(first.body, r#"{"n": 1, "text": "ä", "price": 42.00}"#);
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("POST", "/in/a%2Fb?id=1")
    );
    let id = db
        .text("SELECT 'events:' || id || ':' || (extract(epoch FROM created_at) * 1000000)::bigint FROM tide.events_outbox ORDER BY id LIMIT 1")
        .await;
    for name in ["webhook-id", "idempotency-key", "tide-id"] {
        assert_eq!(first.header(name), id);
    }
    for (name, value) in [
        ("tide-outbox", "events"),
        ("tide-pipeline", "p"),
        ("tide-header-event-type", "order %C3%BC"),
        ("authorization", "Bearer Sesame-31"),
        ("x-source", "shop"),
        ("content-type", "application/json"),
        ("host", &receiver.address().to_string()),
    ] {
        assert_eq!(first.header(name), value);
    }
    for request in &got {
        let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
        let by_python = signature_by_python(secret, id, timestamp, &request.body);
        assert_eq!(request.header("webhook-signature"), by_python);
    }
    assert_eq!(got[0].connection, got[1].connection, "one connection for all");

    // Another key, beside the old one until every receiver has it.
    secrets.replace(&[
        ("signing", &format!("{secret}\nplain-key")),
        ("authorization", "Bearer Sesame-32"),
    ]);
    relay.await_log(SOON, &["its secrets changed"]).await;
    db.run("SELECT tide.outbox_publish('events', '{\"n\": 3}', '{\"kind\": \"x\"}')")
        .await;
    await_count(&receiver, 3).await;
    let third = &receiver.received()[2];
    assert_eq!(third.header("authorization"), "Bearer Sesame-32");
    let signed = |key: &str| {
        signature_by_python(
            key,
            third.header("webhook-id"),
            third.header("webhook-timestamp"),
            &third.body,
        )
    };
    assert_eq!(
        third.header("webhook-signature"),
        format!("{} {}", signed(secret), signed("plain-key"))
    );
    for secret in ["Sesame", "MfKQ9r8", "plain-key"] {
        assert!(!relay.log().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_everything_is_sent_in_order_one_after_the_other() {
    let (db, receiver) = scene("webhook_order").await;
    to_webhook(&db, &receiver, "/", "{}").await;
    // Every seventh has to come again, every second slowly.
    let mut seen = BTreeSet::new();
    receiver.answer(move |r| {
        let n = values(std::slice::from_ref(r))[0];
        if n % 7 == 0 && seen.insert(n) {
            return Answer::status(503);
        }
        Answer::status(200).after(Duration::from_millis(u64::try_from(n % 2).unwrap()))
    });
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 1_000, 10).await;
    db.await_delivered(A_WHILE).await;
    let mut got = values(&receiver.received());
    assert_eq!(receiver.most_at_once(), 1);
    // A repetition comes before anything else.
    got.dedup();
    assert_eq!(got, (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_keep_their_order_and_a_failing_one_does_not_stop_the_others() {
    let (db, receiver) = scene("webhook_keys").await;
    to_webhook(
        &db,
        &receiver,
        "/",
        r#"{"key": "{payload.customer}", "concurrency": 4}"#,
    )
    .await;
    let (give_up, blocked) = (
        Instant::now() + Duration::from_mins(2),
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)),
    );
    let switch = std::sync::Arc::clone(&blocked);
    receiver.answer(move |r| {
        let stuck = r.body.contains("\"customer\": 3,") || r.body.contains("\"customer\": 3}");
        if stuck && switch.load(std::sync::atomic::Ordering::Relaxed) && Instant::now() < give_up {
            Answer::status(500).body("not now")
        } else {
            Answer::status(200).after(Duration::from_millis(2))
        }
    });
    let relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n, 'customer', n % 20))
           FROM generate_series(1, 600) n",
    )
    .await;
    let customer = |r: &Received| {
        serde_json::from_str::<serde_json::Value>(&r.body).unwrap()["customer"]
            .as_i64()
            .unwrap()
    };
    // The lanes of others are done although one message is stuck, and nothing
    // but that one is sent again.
    await_condition(SOON, "other customers are served", async || {
        let served: BTreeSet<i64> = receiver.received().iter().map(&customer).collect();
        (served.len() >= 14 && receiver.count() > 300).then_some(())
    })
    .await;
    let error = last_error(&db, "500 Internal Server Error: not now").await;
    assert!(error.starts_with("webhook http://127.0.0.1:"), "{error}");
    relay.await_healthy(SOON, "p", 0).await;
    blocked.store(false, std::sync::atomic::Ordering::Relaxed);
    db.await_delivered(A_WHILE).await;
    relay.await_healthy(SOON, "p", 1).await;
    let mut by_customer = BTreeMap::<i64, Vec<i64>>::new();
    for request in receiver.received() {
        let of_one = by_customer.entry(customer(&request)).or_default();
        of_one.extend(values(std::slice::from_ref(&request)));
    }
    for (customer, mut got) in by_customer {
        let count = got.len();
        got.dedup();
        assert_in_order(&got);
        assert_eq!(got.len(), 30);
        assert!(customer == 3 || count == 30, "customer {customer}: {count}");
    }
    assert!(
        (2..=4).contains(&receiver.most_at_once()),
        "{}",
        receiver.most_at_once()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_an_array_and_the_message_at_fault_is_found_in_it() {
    let (db, receiver) = scene("webhook_batch").await;
    to_webhook(&db, &receiver, "/", r#"{"mode": "batch", "max_bytes": 8000}"#).await;
    receiver.answer(|r| {
        let got = in_batches(std::slice::from_ref(r));
        if got.iter().any(|n| [17, 250].contains(n)) {
            Answer::status(422).body("seventeen\nis not taken")
        } else {
            Answer::status(200).after(Duration::from_millis(5))
        }
    });
    db.publish_numbers("events", 1, 400, 100).await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let requests = receiver.received();
    let sizes: Vec<usize> = requests
        .iter()
        .map(|r| in_batches(std::slice::from_ref(r)).len())
        .collect();
    assert!(
        sizes.iter().all(|s| *s <= 50) && sizes.iter().any(|s| *s > 10),
        "{sizes:?}"
    );
    assert!(requests.iter().all(|r| r.body.len() <= 8_000));
    let taken: Vec<Received> = requests
        .iter()
        .filter(|r| {
            !in_batches(std::slice::from_ref(r))
                .iter()
                .any(|n| [17, 250].contains(n))
        })
        .cloned()
        .collect();
    let got = in_batches(&taken);
    assert_each_once(&got, (1..=400).filter(|n| ![17, 250].contains(n)));
    assert_in_order(&got);
    let dead = "SELECT payload ->> 'n', error FROM tide.dead_letter ORDER BY dlq_id LIMIT 1";
    assert_eq!(
        db.text(dead).await,
        format!(
            "17|webhook http://{}: the receiver refuses it: 422 Unprocessable Entity: seventeen is not taken",
            receiver.address()
        )
    );
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "2");
    let first: serde_json::Value = serde_json::from_str(&taken[0].body).unwrap();
    assert_eq!(first[0]["headers"]["event_type"], "number");
    assert!(first[0]["tide-id"].as_str().unwrap().starts_with("events:1:"));
    assert!(taken[0].header("webhook-id").starts_with("batch-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_cloud_events_where_that_is_asked_for() {
    let (db, receiver) = scene("webhook_cloudevents").await;
    for (pipeline, more) in [
        ("structured", r#"{"encoding": "cloudevents"}"#),
        ("binary", r#"{"encoding": "cloudevents-binary"}"#),
        ("batch", r#"{"encoding": "cloudevents", "mode": "batch"}"#),
    ] {
        let url = format!("http://{}/{pipeline}", receiver.address());
        let more = format!(r#"{{"allow_private": true}}' || '{more}"#);
        to_url(&db, pipeline, &url, &more).await;
    }
    let _relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', '{\"n\": 1}', '{\"event_type\": \"order ü\", \"a\": \"b\"}')",
    )
    .await;
    await_count(&receiver, 3).await;
    let mut got = receiver.received();
    got.sort_by(|a, b| a.target.cmp(&b.target));
    let [batch, binary, structured] = &got[..] else {
        panic!("{got:?}");
    };
    let envelope: serde_json::Value = serde_json::from_str(&structured.body).unwrap();
    assert_eq!(
        structured.header("content-type"),
        "application/cloudevents+json; charset=UTF-8"
    );
    assert_eq!(envelope["id"], structured.header("tide-id"));
    assert_eq!(
        (&envelope["type"], &envelope["data"]["n"]),
        (&"order ü".into(), &1.into())
    );
    assert_eq!(binary.body, r#"{"n": 1}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "order%20%C3%BC"),
        ("ce-source", "/pg-tide/events"),
        ("tide-header-a", "b"),
    ] {
        assert_eq!(binary.header(name), value);
    }
    assert_eq!(
        batch.header("content-type"),
        "application/cloudevents-batch+json; charset=UTF-8"
    );
    let events: serde_json::Value = serde_json::from_str(&batch.body).unwrap();
    assert_eq!(events[0]["data"]["n"], 1);
    assert_eq!(events[0]["specversion"], "1.0");
}
