//! What is published arrives in a JetStream stream: once, in order, whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::time::Duration;

use pg_tide_e2e::nats::{Nats, Stored, values};
use pg_tide_e2e::scene::outbox_and_nats as scene;
use pg_tide_e2e::{Relay, assert_each_once, assert_in_order, await_condition, unique};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

async fn await_count(nats: &Nats, stream: &str, count: u64) {
    await_condition(
        SOON,
        &format!("{count} messages in stream {stream}"),
        async || (nats.count(stream).await >= count).then_some(()),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_delivered_once_in_order_with_headers() {
    let (bed, db, nats, name) = scene("nats_backlog").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.run(
        "DO $$ BEGIN
             FOR n IN 1 .. 20000 LOOP
                 PERFORM tide.outbox_publish('events', jsonb_build_object('n', n, 'price', 42.00),
                     jsonb_build_object('event_type', 'type-' || n % 7));
                 IF n % 100 = 0 THEN COMMIT; END IF;
             END LOOP;
         END $$",
    )
    .await;
    db.to_nats("backlog", "events", &bed.nats, &name, "{}").await;
    let relay = Relay::start(&db).await;
    db.await_delivered(A_WHILE).await;

    let messages = nats.messages(&name).await;
    let got = values(&messages);
    assert_each_once(&got, 1..=20_000);
    assert_in_order(&got);
    let mut ids = BTreeSet::new();
    for (message, n) in messages.iter().zip(&got) {
        assert_eq!(message.payload, format!("{{\"n\": {n}, \"price\": 42.00}}"));
        assert_eq!(
            message.header("event_type"),
            Some(format!("type-{}", n % 7).as_str())
        );
        assert_eq!(message.header("tide-outbox"), Some("events"));
        assert_eq!(message.header("tide-pipeline"), Some("backlog"));
        ids.insert((
            message.header("tide-id").unwrap().to_owned(),
            message.header("Nats-Msg-Id").unwrap().to_owned(),
        ));
    }
    assert_eq!(ids.len(), 20_000, "each message has an id of its own");
    let line = r#"pg_tide_relay_messages_published_total{pipeline="backlog",direction="forward"} 20000"#;
    relay.await_metric(SOON, line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_made_and_nothing_is_lost_before_it_is_there() {
    let (bed, db, nats, name) = scene("nats_new_stream").await;
    db.to_nats("p", "events", &bed.nats, &format!("{name}.created"), "{}")
        .await;
    db.publish_numbers("events", 1, 10, 1).await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    let stream = nats.await_stream_of(&format!("{name}.created"), SOON).await;
    assert_eq!(
        values(&nats.messages(&stream).await),
        (1..=10).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_that_may_not_be_made_is_waited_for() {
    let (bed, db, nats, name) = scene("nats_no_stream").await;
    db.to_nats("p", "events", &bed.nats, &name, r#"{"create_stream": false}"#)
        .await;
    db.publish_numbers("events", 1, 10, 1).await;
    let relay = Relay::start(&db).await;
    let line = relay
        .await_log(SOON, &["no stream takes the subject", &name])
        .await;
    assert!(line.contains("WARN"), "{line}");
    relay.await_healthy(SOON, "p", 0).await;
    assert_eq!(
        db.text("SELECT pending_count FROM tide.outbox_pending").await,
        "10"
    );
    nats.create_stream(&name, &name, |_| {}).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&nats.messages(&name).await), (1..=10).collect::<Vec<_>>());
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_never_delivered_and_an_open_transaction_delays_nobody() {
    let (bed, db, nats, name) = scene("nats_rollback").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.to_nats("p", "events", &bed.nats, &name, "{}").await;
    let _relay = Relay::start(&db).await;
    let publish = |n: i64| format!("SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}));");

    let open = db.session().await;
    open.batch_execute(&format!("BEGIN; {}", publish(1)))
        .await
        .unwrap();
    db.run(&format!("BEGIN; {} ROLLBACK", publish(2))).await;
    db.run(&format!(
        "BEGIN; {} SAVEPOINT a; {} ROLLBACK TO a; {} COMMIT",
        publish(3),
        publish(4),
        publish(5)
    ))
    .await;
    db.publish_numbers("events", 6, 300, 1).await;
    await_count(&nats, &name, 297).await;
    open.batch_execute("COMMIT").await.unwrap();
    await_count(&nats, &name, 298).await;
    db.await_delivered(SOON).await;
    let wanted: Vec<i64> = [3, 5].into_iter().chain(6..=300).chain([1]).collect();
    assert_eq!(values(&nats.messages(&name).await), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_fifty_thousand_publishes_arrives_whole_and_in_order() {
    let (bed, db, nats, name) = scene("nats_large_transaction").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.to_nats("p", "events", &bed.nats, &name, "{}").await;
    let _relay = Relay::start(&db).await;
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(1, 50000) n")
        .await;
    db.await_delivered(A_WHILE).await;
    let got = values(&nats.messages(&name).await);
    assert_each_once(&got, 1..=50_000);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_is_set_aside_whole_and_the_rest_goes_on() {
    let (bed, db, nats, name) = scene("nats_large_message").await;
    // The first is refused by the stream, the second by the server (1 MiB by default).
    nats.create_stream(&name, &name, |config| config.max_message_size = 20_000)
        .await;
    db.to_nats("p", "events", &bed.nats, &name, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 50, 10).await;
    for (n, bytes) in [(51, 50_000), (52, 3_000_000)] {
        db.run(&format!(
            "SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}, 'x', repeat('y', {bytes})), '{{\"h\": \"v\"}}')"
        ))
        .await;
    }
    db.publish_numbers("events", 53, 100, 10).await;
    db.await_delivered(A_WHILE).await;

    assert_eq!(
        values(&nats.messages(&name).await),
        (1..=50).chain(53..=100).collect::<Vec<_>>()
    );
    let whole = "SELECT count(*) FROM tide.dead_letter d JOIN tide.events_outbox m ON m.id = d.message_id
                  WHERE d.pipeline = 'p' AND d.payload = m.payload AND d.headers = m.headers AND d.error LIKE '%large%'";
    assert_eq!(db.text(whole).await, "2");
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_on_one_outbox_each_deliver_everything() {
    let (bed, db, nats, name) = scene("nats_two").await;
    let other = unique("nats_two_b");
    for name in [&name, &other] {
        nats.create_stream(name, name, |_| {}).await;
    }
    db.to_nats("a", "events", &bed.nats, &name, "{}").await;
    db.to_nats("b", "events", &bed.nats, &other, "{}").await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 3000, 7).await;
    db.await_delivered(SOON).await;
    for name in [&name, &other] {
        let got = values(&nats.messages(name).await);
        assert_each_once(&got, 1..=3000);
        assert_in_order(&got);
    }
}

/// One stream for both, so that equal message ids of two pipelines would be
/// taken for duplicates.
#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_into_one_stream_do_not_take_each_other_for_duplicates() {
    let (bed, db, nats, name) = scene("nats_shared").await;
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    db.to_nats("a", "events", &bed.nats, &format!("{name}.a"), "{}")
        .await;
    db.to_nats("b", "events", &bed.nats, &format!("{name}.b"), "{}")
        .await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 500, 7).await;
    db.await_delivered(SOON).await;
    let messages = nats.messages(&name).await;
    for part in ["a", "b"] {
        let subject = format!("{name}.{part}");
        let of_one: Vec<Stored> = messages
            .iter()
            .filter(|m| m.subject == subject)
            .cloned()
            .collect();
        assert_eq!(values(&of_one), (1..=500).collect::<Vec<_>>(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_templated_subject_sends_each_message_to_its_own_subject() {
    let (bed, db, nats, name) = scene("nats_template").await;
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    db.to_nats(
        "p",
        "events",
        &bed.nats,
        &format!("{name}.{{headers.region}}.{{payload.kind}}"),
        "{}",
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n, 'kind', 'k' || n % 3),
                    jsonb_build_object('region', CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END))
           FROM generate_series(1, 300) n",
    )
    .await;
    db.publish_number("events", 301).await;
    db.await_delivered(SOON).await;
    let messages = nats.messages(&name).await;
    let got = values(&messages);
    assert_eq!(got, (1..=300).collect::<Vec<_>>());
    for (message, n) in messages.iter().zip(got) {
        let region = if n % 2 == 0 { "eu" } else { "us" };
        assert_eq!(message.subject, format!("{name}.{region}.k{}", n % 3));
    }
    assert_eq!(
        db.text("SELECT payload FROM tide.dead_letter").await,
        "{\"n\": 301}"
    );
}
