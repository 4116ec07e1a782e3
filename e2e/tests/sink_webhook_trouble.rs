//! Webhooks: what becomes of what a receiver answers, of receivers that cannot be
//! reached, and of relays that die.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_tide_e2e::webhooks::{await_count, last_error, scene, to_url, to_webhook, values};
use pg_tide_e2e::{Answer, Received, Receiver, Relay, SecretFiles, assert_each_once};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_dead_lettered_and_can_be_retried() {
    let (db, receiver) = scene("webhook_refused").await;
    to_webhook(&db, &receiver, "/", "{}").await;
    receiver.answer(|r| match values(std::slice::from_ref(r))[0] {
        2 => Answer::status(400).body("no amount"),
        3 => Answer::status(413),
        _ => Answer::status(202),
    });
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 5, 1).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&receiver.received()), [1, 2, 3, 4, 5]);
    let dead = "SELECT string_agg((payload ->> 'n') || ' ' || substr(error, strpos(error, 'the receiver')), ', ' ORDER BY dlq_id) FROM tide.dead_letter";
    assert_eq!(
        db.text(dead).await,
        "2 the receiver refuses it: 400 Bad Request: no amount, 3 the receiver refuses it: 413 Payload Too Large"
    );
    relay.await_healthy(SOON, "p", 1).await;
    receiver.answer(|_| Answer::status(200));
    db.run("SELECT tide.relay_dlq_retry_all('p')").await;
    await_count(&receiver, 7).await;
    let again = receiver.received();
    assert_eq!(values(&again[5..]), [2, 3]);
    // Another id, so that the receiver does not take it for the refused one.
    let redelivery = again[5].header("tide-redelivery");
    assert_eq!(
        again[5].header("webhook-id"),
        format!("{}/{redelivery}", again[1].header("webhook-id"))
    );
    db.await_text(SOON, "SELECT count(*) FROM tide.relay_dlq_list('p')", "0")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_waited_for_where_dead_letters_are_off() {
    let (db, receiver) = scene("webhook_waits").await;
    to_webhook(
        &db,
        &receiver,
        "/",
        r#"{"dead_letter": {"enabled": false}, "ordering": "strict"}"#,
    )
    .await;
    let refuses_two = |r: &Received| match values(std::slice::from_ref(r))[0] {
        2 => Answer::status(422).body("no amount"),
        _ => Answer::status(200),
    };
    receiver.answer(refuses_two);
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 5, 5).await;
    let error = last_error(&db, "422 Unprocessable Entity: no amount").await;
    assert!(error.contains("\"dead_letter.enabled\" is false"), "{error}");
    relay.await_healthy(SOON, "p", 0).await;
    await_count(&receiver, 4).await;
    let mut so_far = values(&receiver.received());
    so_far.dedup();
    assert_eq!(so_far, [1, 2], "nothing is sent past it");
    receiver.answer(|_| Answer::status(200));
    db.await_delivered(SOON).await;
    let requests = receiver.received();
    let mut got = values(&requests);
    got.dedup();
    assert_eq!(got, [1, 2, 3, 4, 5]);
    let ids: BTreeSet<&str> = requests.iter().map(|r| r.header("idempotency-key")).collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "0");

    // Tried once more before it is set aside.
    drop(relay);
    receiver.answer(refuses_two);
    to_webhook(&db, &receiver, "/", r#"{"dead_letter": {"max_retries": 1}}"#).await;
    let before = receiver.count();
    db.run("SELECT tide.outbox_publish('events', '{\"n\": 2}')").await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&receiver.received()[before..]), [2, 2]);
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "1");
}

/// Longer than a broker is given to acknowledge.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_is_waited_for_as_long_as_its_timeout_allows() {
    let (db, receiver) = scene("webhook_slow").await;
    to_webhook(&db, &receiver, "/", r#"{"timeout": "60s"}"#).await;
    receiver.answer(|r| match values(std::slice::from_ref(r))[0] {
        1 => Answer::status(200).after(Duration::from_secs(13)),
        _ => Answer::status(200),
    });
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 20, 20).await;
    db.await_delivered(A_WHILE).await;
    assert_eq!(values(&receiver.received()), (1..=20).collect::<Vec<_>>());
    assert!(!relay.log().contains("delivery failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_under_way_at_a_kill_comes_again_with_the_same_id() {
    let (db, receiver) = scene("webhook_under_way").await;
    to_webhook(&db, &receiver, "/", "{}").await;
    // The answer comes when nobody waits for it any more.
    receiver.answer(|_| Answer::status(200).after(Duration::from_secs(5)));
    let mut relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    await_count(&receiver, 1).await;
    relay.kill();
    receiver.answer(|_| Answer::status(200));
    let _next = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;
    let requests = receiver.received();
    assert_eq!(values(&requests), [1, 1]);
    for name in ["webhook-id", "idempotency-key", "tide-id"] {
        assert_eq!(requests[0].header(name), requests[1].header(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_kept_and_everything_that_may_pass_is_waited_for() {
    let (db, receiver) = scene("webhook_wait").await;
    to_webhook(&db, &receiver, "/", r#"{"timeout": "2s"}"#).await;
    let mut answers = vec![
        Answer::status(429).header("retry-after", "2").body("slowly"),
        Answer::status(308).header("location", "https://elsewhere.example/in"),
        Answer::status(401).body("who are you"),
        Answer::status(404),
        Answer::status(410),
        Answer::status(500),
        Answer::status(200).after(Duration::from_secs(8)),
    ]
    .into_iter();
    receiver.answer(move |_| answers.next().unwrap_or(Answer::status(200)));
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 3, 3).await;
    db.await_delivered(A_WHILE).await;
    let requests = receiver.received();
    let mut got = values(&requests);
    assert!(got.starts_with(&[1; 8]), "{got:?}");
    got.dedup();
    assert_eq!(got, [1, 2, 3]);
    let ids: BTreeSet<&str> = requests.iter().map(|r| r.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3, "the same id at each try");
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_millis(1_950), "{waited:?}");
    let log = relay.log();
    for said in [
        "answers 429 Too Many Requests: slowly",
        "answers 308 Permanent Redirect and points to https://elsewhere.example/in; redirects are never followed",
        "does not let us in: it answers 401 Unauthorized: who are you; check",
        "has nothing at \\\"url\\\": it answers 404 Not Found; change the url",
        "has nothing at \\\"url\\\": it answers 410 Gone; change the url",
        "answers 500 Internal Server Error",
        "no answer within 2000 ms",
    ] {
        let plain = said.replace("\\\"", "\"");
        assert!(log.contains(said) || log.contains(&plain), "{said}\n{log}");
    }
    assert_eq!(db.text("SELECT count(*) FROM tide.dead_letter").await, "0");
    db.await_text(SOON, "SELECT state FROM tide.relay_pipeline_status", "running")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_comes_late_goes_away_and_closes_connections_gets_everything() {
    let (db, receiver) = scene("webhook_away").await;
    to_webhook(&db, &receiver, "/", "{}").await;
    let address = receiver.address();
    drop(receiver);
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 5, 1).await;
    last_error(&db, &format!("cannot connect to {address}")).await;
    let receiver = Receiver::start_at(&address.to_string()).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&receiver.received()), [1, 2, 3, 4, 5]);
    relay.await_healthy(SOON, "p", 1).await;
    // It ends every connection after one request.
    receiver.answer(|_| Answer::status(200).header("connection", "close"));
    db.publish_numbers("events", 6, 100, 5).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&receiver.received()), (1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_however_they_are_written() {
    let (db, receiver) = scene("webhook_private").await;
    db.publish_numbers("events", 1, 2, 1).await;
    let port = receiver.address().port();
    let _relay = Relay::start(&db).await;
    for (host, said) in [
        ("127.0.0.1", "127.0.0.1, a loopback address"),
        ("localhost", "a loopback address"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1, a loopback address"),
        ("[::1]", "::1, a loopback address"),
        ("169.254.169.254", "169.254.169.254, a link-local address"),
        ("10.0.0.7", "10.0.0.7, a private address"),
        ("0.0.0.0", "0.0.0.0, an unspecified address"),
        // Other ways to write 127.0.0.1 that resolvers take.
        ("2130706433", "a loopback address"),
        ("127.1", "a loopback address"),
    ] {
        to_url(
            &db,
            "p",
            &format!("http://{host}:{port}/"),
            r#"{"retry": {"max": 100}}"#,
        )
        .await;
        let error = last_error(&db, said).await;
        assert!(error.contains("set \"allow_private\" to true"), "{host}: {error}");
    }
    assert_eq!(receiver.count(), 0);
    to_webhook(&db, &receiver, "/", "{}").await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&receiver.received()), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_and_what_is_wrong_with_it_is_said() {
    use pg_tide_e2e::certs::Authority;
    let (db, _) = scene("webhook_tls").await;
    let folder = std::env::temp_dir().join(pg_tide_e2e::unique("webhook-tls"));
    let (authority, other) = (Authority::new(&folder, "ca"), Authority::new(&folder, "other"));
    let server = authority.issue("server", &["localhost"]);
    let client = authority.issue("client", &[]);
    let receiver = Receiver::start_tls(&server, Some(&authority)).await;
    let port = receiver.address().port();
    let reference = |path: &std::path::Path| format!("${{file:{}}}", path.display());
    let with = |ca: &std::path::Path, identity: bool| {
        let own = if identity {
            let (cert, key) = (reference(&client.cert), reference(&client.key));
            format!(r#", "tls_cert": "{cert}", "tls_key": "{key}""#)
        } else {
            String::new()
        };
        let ca = reference(ca);
        format!(r#"{{"allow_private": true, "retry": {{"max": 200}}, "tls_ca": "{ca}"{own}}}"#)
    };
    db.publish_numbers("events", 1, 10, 1).await;
    let relay = Relay::start(&db).await;
    let url = format!("https://localhost:{port}/in");
    to_url(&db, "p", &url, &with(&other.ca, true)).await;
    last_error(&db, "not signed by the authority in \"tls_ca\" (wrong CA)").await;
    to_url(
        &db,
        "p",
        &url.replace("localhost", "127.0.0.1"),
        &with(&authority.ca, true),
    )
    .await;
    last_error(
        &db,
        "is not for the host name \"127.0.0.1\" (wrong host name); it is for: localhost",
    )
    .await;
    to_url(&db, "p", &url, &with(&authority.ca, false)).await;
    last_error(
        &db,
        "demands a client certificate; set \"tls_cert\" and \"tls_key\"",
    )
    .await;
    to_url(&db, "p", &url, r#"{"allow_private": true}"#).await;
    last_error(&db, "no authority that the system trusts; set \"tls_ca\"").await;
    let plain = Receiver::start().await;
    let not_tls = format!("https://localhost:{}/in", plain.address().port());
    to_url(&db, "p", &not_tls, &with(&authority.ca, true)).await;
    last_error(&db, "does not speak TLS").await;
    assert_eq!((receiver.count(), plain.count()), (0, 0));

    // The whole URL may be a secret.
    let secrets = SecretFiles::mount(&[("url", &format!("{url}/hunter2"))]);
    to_url(&db, "p", &secrets.reference("url"), &with(&authority.ca, true)).await;
    db.await_delivered(SOON).await;
    let got = receiver.received();
    assert_eq!(values(&got), (1..=10).collect::<Vec<_>>());
    assert_eq!(got[0].target, "/in/hunter2");
    receiver.answer(|_| Answer::status(302).header("location", "https://localhost/in/hunter2/"));
    db.publish_number("events", 11).await;
    last_error(&db, "302 Found and points elsewhere").await;
    assert!(!relay.log().contains("hunter2"));
    std::fs::remove_dir_all(folder).unwrap();
}

/// At least once: after a kill, what was under way comes again, with its id.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_loses_nothing_and_repeats_no_more_than_was_in_flight() {
    let (db, receiver) = scene("webhook_killed").await;
    to_webhook(
        &db,
        &receiver,
        "/",
        r#"{"key": "{id}", "concurrency": 8, "max_in_flight": 40}"#,
    )
    .await;
    receiver.answer(|_| Answer::status(200).after(Duration::from_millis(3)));
    let mut relays = [Relay::start(&db).await, Relay::start(&db).await];
    db.publish_numbers("events", 1, 4_000, 100).await;
    for round in 1..=3 {
        await_count(&receiver, round * 800).await;
        let owner = db
            .text(
                "SELECT m.pid FROM tide.relay_pipeline_status s JOIN tide.relay_member m ON m.name = s.owner",
            )
            .await;
        if let Some(n) = relays.iter().position(|r| r.pid().to_string() == owner) {
            relays[n].kill();
            relays[n] = Relay::start(&db).await;
        }
    }
    db.await_delivered(A_WHILE).await;
    let requests = receiver.received();
    let mut by_id = BTreeMap::<&str, BTreeSet<i64>>::new();
    for request in &requests {
        by_id
            .entry(request.header("webhook-id"))
            .or_default()
            .extend(values(std::slice::from_ref(request)));
    }
    assert!(by_id.values().all(|of_one| of_one.len() == 1));
    let once: Vec<i64> = by_id.into_values().flatten().collect();
    assert_each_once(&once, 1..=4_000);
    let repeated = requests.len() - once.len();
    // Delivered and not yet checkpointed, beside what was in flight.
    assert!(repeated <= 3 * (40 + 400), "{repeated}");
}
