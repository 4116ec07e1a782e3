//! Receiving from NATS when streams, consumers and messages are not as usual.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source};
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::scene::inbox_and_nats as scene;
use pg_tide_e2e::{Database, OwnBed, Proxy, Relay, assert_each_once, await_condition};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

async fn await_seen(db: &Database, accepted: u64, duplicates: u64) {
    let sql = "SELECT accepted, duplicates FROM tide.inbox_summary";
    db.await_text(SOON, sql, &format!("{accepted}|{duplicates}"))
        .await;
}

async fn publish(nats: &Nats, subject: &str, numbers: std::ops::RangeInclusive<i64>) {
    for n in numbers {
        nats.publish(subject, &format!("{{\"n\": {n}}}")).await;
    }
}

async fn stored(db: &Database) -> Vec<i64> {
    let rows = db
        .text("SELECT payload->>'n' FROM tide.calls_inbox ORDER BY id")
        .await;
    rows.lines().map(|n| n.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_deleted_while_running_is_read_again_when_made_anew() {
    let (bed, db, nats, name) = scene("in_deleted").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, r#"{"create_stream": false}"#, "")
        .await;
    let relay = Relay::start(&db).await;
    publish(&nats, &name, 1..=10).await;
    await_seen(&db, 10, 0).await;
    nats.jetstream.delete_stream(&name).await.unwrap();
    let words = ["no stream takes the subject", "\"create_stream\""];
    db.await_error(SOON, "p", &words).await;
    nats.create_stream(&name, &name, |_| {}).await;
    // Sequences from 1 again, for other messages.
    publish(&nats, &name, 11..=20).await;
    await_seen(&db, 20, 0).await;
    assert_each_once(&stored(&db).await, 1..=20);
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_deleted_by_hand_is_made_again_and_nothing_is_stored_twice() {
    let (bed, db, nats, name) = scene("in_durable_gone").await;
    nats.create_stream(&name, &name, |_| {}).await;
    let more = r#"{"durable": "keeper"}"#;
    // Not idempotent by content: only positions tell what was there.
    db.from_nats("p", "calls", &bed.nats, &name, more, ", p_idempotent := false")
        .await;
    let relay = Relay::start(&db).await;
    publish(&nats, &name, 1..=10).await;
    await_seen(&db, 10, 0).await;
    let stream = nats.jetstream.get_stream(&name).await.unwrap();
    stream.delete_consumer("keeper").await.unwrap();
    relay
        .await_log(SOON, &["the durable consumer or its stream was deleted"])
        .await;
    publish(&nats, &name, 11..=15).await;
    await_seen(&db, 15, 10).await;
    assert_each_once(&stored(&db).await, 1..=15);
    stream.consumer_info("keeper").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_durable_begins_anew_and_nothing_is_stored_twice() {
    let (bed, db, nats, name) = scene("in_durable_change").await;
    nats.create_stream(&name, &name, |_| {}).await;
    let set = async |more: &str| {
        db.from_nats("p", "calls", &bed.nats, &name, more, ", p_idempotent := false")
            .await;
    };
    set(r#"{"durable": "first"}"#).await;
    let _relay = Relay::start(&db).await;
    publish(&nats, &name, 1..=10).await;
    await_seen(&db, 10, 0).await;
    set(r#"{"durable": "second"}"#).await;
    await_seen(&db, 10, 10).await;
    publish(&nats, &name, 11..=12).await;
    await_seen(&db, 12, 10).await;
    // Without a name it is the queue group's.
    set(r#"{"queue_group": "third.group"}"#).await;
    await_seen(&db, 12, 22).await;
    let stream = nats.jetstream.get_stream(&name).await.unwrap();
    for durable in ["first", "second", "third_group"] {
        stream.consumer_info(durable).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_durable_is_left_alone() {
    let (bed, db, nats, name) = scene("in_durable_other").await;
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    let stream = nats.jetstream.get_stream(&name).await.unwrap();
    let make = async |durable: &str, filter: &str, ack_policy: AckPolicy| {
        let config = pull::Config {
            durable_name: Some(durable.to_owned()),
            filter_subject: filter.to_owned(),
            ack_policy,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap();
    };
    make("theirs", &format!("{name}.other"), AckPolicy::Explicit).await;
    make("lax", &format!("{name}.calls"), AckPolicy::None).await;
    // As `nats consumer add` makes it when no filter is given.
    make("whole", "", AckPolicy::Explicit).await;
    let calls = format!("{name}.calls");
    let of = |durable: &str| format!(r#"{{"durable": "{durable}"}}"#);
    db.from_nats("p", "calls", &bed.nats, &calls, &of("theirs"), "")
        .await;
    db.from_nats("q", "calls", &bed.nats, &calls, &of("lax"), "")
        .await;
    let _relay = Relay::start(&db).await;
    let error = db
        .await_error(
            SOON,
            "p",
            &["\"theirs\"", "is of somebody else", "set another \"durable\""],
        )
        .await;
    println!("{error}");
    db.await_error(SOON, "q", &["\"lax\"", "acknowledged"]).await;
    let info = stream.consumer_info("theirs").await.unwrap();
    assert_eq!(info.config.filter_subject, format!("{name}.other"));

    let whole = format!("{name}.>");
    db.run("SELECT tide.relay_delete('p'), tide.relay_delete('q')")
        .await;
    db.from_nats("r", "calls", &bed.nats, &whole, &of("whole"), "")
        .await;
    publish(&nats, &calls, 1..=3).await;
    await_seen(&db, 3, 0).await;
    // The pipeline's own durable follows its subject.
    db.from_nats("s", "calls", &bed.nats, &format!("{name}.other"), &of("own"), "")
        .await;
    db.await_running(SOON, "s").await;
    db.from_nats("s", "calls", &bed.nats, &format!("{name}.more"), &of("own"), "")
        .await;
    await_condition(SOON, "the durable's filter is the new subject", async || {
        let info = stream.consumer_info("own").await.ok()?;
        (info.config.filter_subject == format!("{name}.more")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_on_the_subject_ask_for_one_to_be_named() {
    let (bed, db, nats, name) = scene("in_several").await;
    for part in ["a", "b"] {
        nats.create_stream(&format!("{name}_{part}"), &format!("{name}.{part}"), |_| {})
            .await;
    }
    let subject = format!("{name}.>");
    db.from_nats("p", "calls", &bed.nats, &subject, "{}", "").await;
    let _relay = Relay::start(&db).await;
    let error = db
        .await_error(
            SOON,
            "p",
            &["several streams take the subject", "name one in \"stream\""],
        )
        .await;
    println!("{error}");
    let more = format!(r#"{{"stream": "{name}_b"}}"#);
    db.from_nats("p", "calls", &bed.nats, &subject, &more, "").await;
    publish(&nats, &format!("{name}.a"), 1..=3).await;
    publish(&nats, &format!("{name}.b"), 4..=6).await;
    await_seen(&db, 3, 0).await;
    assert_each_once(&stored(&db).await, 4..=6);
}

/// A named stream may have its messages from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_read() {
    let (bed, db, nats, name) = scene("in_mirror").await;
    let mirror = format!("{name}_mirror");
    nats.create_stream(&name, &name, |_| {}).await;
    nats.jetstream
        .create_stream(Config {
            name: mirror.clone(),
            mirror: Some(Source {
                name: name.clone(),
                ..Source::default()
            }),
            ..Config::default()
        })
        .await
        .unwrap();
    let more = format!(r#"{{"stream": "{mirror}"}}"#);
    db.from_nats("p", "calls", &bed.nats, &name, &more, "").await;
    let _relay = Relay::start(&db).await;
    publish(&nats, &name, 1..=5).await;
    await_seen(&db, 5, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_any_retention_are_emptied_by_what_was_stored() {
    for retention in [RetentionPolicy::WorkQueue, RetentionPolicy::Interest] {
        let (bed, db, nats, name) = scene("in_retention").await;
        nats.create_stream(&name, &name, |config| config.retention = retention)
            .await;
        db.from_nats("p", "calls", &bed.nats, &name, "{}", ", p_batch_size := 20")
            .await;
        let mut relay = Relay::start(&db).await;
        db.await_running(SOON, "p").await;
        publish(&nats, &name, 1..=500).await;
        await_condition(SOON, "some are stored", async || {
            (db.number("SELECT count(*) FROM tide.calls_inbox").await > 50).then_some(())
        })
        .await;
        relay.kill();
        let _relay = Relay::start(&db).await;
        await_condition(A_WHILE, "the stream is empty", async || {
            (nats.count(&name).await == 0).then_some(())
        })
        .await;
        assert_each_once(&stored(&db).await, 1..=500);
        // A work queue has one consumer for a subject.
        if retention == RetentionPolicy::WorkQueue {
            db.run("SELECT tide.inbox_create('others')").await;
            db.from_nats("q", "others", &bed.nats, &name, "{}", "").await;
            let error = db.await_error(SOON, "q", &["making consumer \"q\""]).await;
            println!("{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inbox_of_two_pipelines_has_every_message_once() {
    let (bed, db, nats, name) = scene("in_two_pipelines").await;
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    let not_idempotent = ", p_idempotent := false";
    // Both read b; each reads something of its own as well.
    for (pipeline, subject) in [("p", format!("{name}.*")), ("q", format!("{name}.>"))] {
        db.from_nats(pipeline, "calls", &bed.nats, &subject, "{}", not_idempotent)
            .await;
    }
    let _relay = Relay::start(&db).await;
    publish(&nats, &format!("{name}.b"), 1..=100).await;
    publish(&nats, &format!("{name}.b.c"), 101..=150).await;
    await_seen(&db, 150, 100).await;
    assert_each_once(&stored(&db).await, 1..=150);
    let gapless = "SELECT count(*) FROM tide.calls_inbox i
                     JOIN generate_series(1, 150) n ON i.event_id = 'calls:nats:seq-' || n";
    assert_eq!(db.number(gapless).await, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_comes_several_times_is_kept_as_a_list() {
    let (bed, db, nats, name) = scene("in_headers").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    let _relay = Relay::start(&db).await;
    let mut headers = HeaderMap::new();
    headers.append("tag", "a");
    headers.append("tag", "b");
    headers.append("one", "x");
    nats.client
        .publish_with_headers(name.clone(), headers, "{\"n\": 1}".into())
        .await
        .unwrap();
    await_seen(&db, 1, 0).await;
    assert_eq!(
        db.text("SELECT headers->'tag', headers->>'one' FROM tide.calls_inbox")
            .await,
        r#"["a", "b"]|x"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_stalls_is_noticed_and_left() {
    let (bed, db, nats, name) = scene("in_stall").await;
    nats.create_stream(&name, &name, |_| {}).await;
    let proxy = Proxy::to(bed.nats.trim_start_matches("nats://")).await;
    let url = format!("nats://{}", proxy.address());
    db.from_nats("p", "calls", &url, &name, "{}", "").await;
    let relay = Relay::start(&db).await;
    publish(&nats, &name, 1..=10).await;
    await_seen(&db, 10, 0).await;
    proxy.stall();
    publish(&nats, &name, 11..=20).await;
    relay.await_healthy(A_WHILE, "p", 0).await;
    proxy.go_on();
    db.await_text(A_WHILE, "SELECT accepted FROM tide.inbox_summary", "20")
        .await;
    assert_each_once(&stored(&db).await, 1..=20);
}

/// At most once, but by one of them: a queue group over two relays with
/// databases of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_queue_group_shares_the_messages_between_relays() {
    let own = OwnBed::up("plain-group", &["nats"], &[("TIDE_BED_NATS_JETSTREAM", "0")]).await;
    let nats = Nats::connect(&own.addresses.nats).await;
    let (_, first, _, name) = scene("in_group_a").await;
    let (_, second, _, _) = scene("in_group_b").await;
    let mut relays = Vec::new();
    for db in [&first, &second] {
        let more = r#"{"queue_group": "shared"}"#;
        db.from_nats("p", "calls", &own.addresses.nats, &name, more, "")
            .await;
        relays.push(Relay::start(db).await);
        db.await_running(SOON, "p").await;
    }
    publish(&nats, &name, 1..=300).await;
    await_condition(SOON, "300 messages in both inboxes together", async || {
        let (a, b) = (stored(&first).await, stored(&second).await);
        (a.len() + b.len() >= 300).then_some(())
    })
    .await;
    let (a, b) = (stored(&first).await, stored(&second).await);
    assert!(!a.is_empty() && !b.is_empty(), "{} and {}", a.len(), b.len());
    assert_each_once(&[a, b].concat(), 1..=300);
}
