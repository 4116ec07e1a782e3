//! What arrives on a NATS subject is in the inbox: once, numbered, whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use futures::StreamExt as _;
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::scene::inbox_and_nats as scene;
use pg_tide_e2e::{Database, OwnBed, Relay, assert_each_once, await_condition};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);
const IDS: &str = "SELECT event_id, payload->>'n' FROM tide.calls_inbox ORDER BY id";

async fn await_seen(db: &Database, accepted: u64, duplicates: u64) {
    let sql = "SELECT accepted, duplicates FROM tide.inbox_summary";
    db.await_text(SOON, sql, &format!("{accepted}|{duplicates}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_numbered_from_one_whatever_the_stream_counts() {
    let (bed, db, nats, name) = scene("in_number").await;
    // The stream holds other messages, before and between.
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    let (wanted, other) = (format!("{name}.calls"), format!("{name}.other"));
    for n in 0..5 {
        nats.publish(&other, &format!("{{\"n\": {n}}}")).await;
    }
    nats.publish(&wanted, r#"{"n": 1, "x": 1.50}"#).await;
    nats.publish(&other, r#"{"n": 9}"#).await;
    nats.publish(&wanted, r#"{"n": 2}"#).await;
    db.from_nats("p", "calls", &bed.nats, &wanted, "{}", "").await;
    let relay = Relay::start(&db).await;
    await_seen(&db, 2, 0).await;
    nats.publish(&wanted, r#"{"n": 3}"#).await;
    await_seen(&db, 3, 0).await;
    assert_eq!(
        db.text(IDS).await,
        "calls:nats:seq-1|1\ncalls:nats:seq-2|2\ncalls:nats:seq-3|3"
    );
    assert_eq!(
        db.text("SELECT payload FROM tide.calls_inbox ORDER BY id LIMIT 1")
            .await,
        r#"{"n": 1, "x": 1.50}"#
    );
    let line = r#"pg_tide_relay_messages_consumed_total{pipeline="p",direction="reverse"} 3"#;
    relay.await_metric(SOON, line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_made() {
    let (bed, db, nats, name) = scene("in_new_stream").await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    let _relay = Relay::start(&db).await;
    nats.await_stream_of(&name, SOON).await;
    nats.publish(&name, r#"{"n": 1}"#).await;
    await_seen(&db, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_messages_without_an_id_make_one_row_and_take_one_number() {
    let (bed, db, nats, name) = scene("in_equal").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    let relay = Relay::start(&db).await;
    for n in [1, 1, 2, 1, 2, 3] {
        nats.publish(&name, &format!("{{\"n\": {n}}}")).await;
    }
    await_seen(&db, 3, 3).await;
    // The next batch starts from what the table has, not from memory.
    for n in [3, 4] {
        nats.publish(&name, &format!("{{\"n\": {n}}}")).await;
    }
    await_seen(&db, 4, 4).await;
    assert_eq!(
        db.text(IDS).await,
        "calls:nats:seq-1|1\ncalls:nats:seq-2|2\ncalls:nats:seq-3|3\ncalls:nats:seq-4|4"
    );
    let line = r#"pg_tide_relay_dedup_skipped_total{pipeline="p"} 4"#;
    relay.await_metric(SOON, line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_messages_are_kept_when_the_pipeline_is_not_idempotent() {
    let (bed, db, nats, name) = scene("in_keep").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", ", p_idempotent := false")
        .await;
    let _relay = Relay::start(&db).await;
    for n in [1, 1, 1, 2] {
        nats.publish(&name, &format!("{{\"n\": {n}}}")).await;
    }
    await_seen(&db, 4, 0).await;
    assert_eq!(
        db.text(IDS).await,
        "calls:nats:seq-1|1\ncalls:nats:seq-2|1\ncalls:nats:seq-3|1\ncalls:nats:seq-4|2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_messages_own_id_is_its_event_id() {
    let (bed, db, nats, name) = scene("in_own_id").await;
    // The shortest window that the server allows: it must not do our work.
    nats.create_stream(&name, &name, |config| {
        config.duplicate_window = Duration::from_millis(100);
    })
    .await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    let _relay = Relay::start(&db).await;
    nats.publish_with(&name, ("Nats-Msg-Id", "call-a"), r#"{"n": 1}"#)
        .await;
    nats.publish(&name, r#"{"n": 2}"#).await;
    // Other content under the same id is the same message; equal content under another id is another one.
    nats.publish_with(&name, ("Nats-Msg-Id", "call-b"), r#"{"n": 1}"#)
        .await;
    await_seen(&db, 3, 0).await;
    await_condition(
        SOON,
        "the server has forgotten the id and lets it in again",
        async || {
            nats.publish_with(&name, ("Nats-Msg-Id", "call-a"), r#"{"n": 4}"#)
                .await;
            (nats.count(&name).await > 3).then_some(())
        },
    )
    .await;
    await_seen(&db, 3, 1).await;
    nats.publish(&name, r#"{"n": 5}"#).await;
    await_seen(&db, 4, 1).await;
    assert_eq!(
        db.text(IDS).await,
        "call-a|1\ncalls:nats:seq-1|2\ncall-b|1\ncalls:nats:seq-2|5"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_header_or_payload_path_says_what_is_the_same() {
    let (bed, db, nats, name) = scene("in_key").await;
    nats.create_stream(&name, &format!("{name}.>"), |_| {}).await;
    let (by_header, by_path) = (format!("{name}.header"), format!("{name}.path"));
    db.run("SELECT tide.inbox_create('paths')").await;
    db.from_nats(
        "h",
        "calls",
        &bed.nats,
        &by_header,
        r#"{"message_id_header": "X-Id"}"#,
        "",
    )
    .await;
    db.from_nats(
        "d",
        "paths",
        &bed.nats,
        &by_path,
        r#"{"dedup_key": "payload.call.id"}"#,
        "",
    )
    .await;
    let _relay = Relay::start(&db).await;
    for (id, n) in [("a", 1), ("b", 2), ("a", 3)] {
        nats.publish_with(&by_header, ("X-Id", id), &format!("{{\"n\": {n}}}"))
            .await;
        nats.publish(
            &by_path,
            &format!("{{\"call\": {{\"id\": \"{id}\"}}, \"n\": {n}}}"),
        )
        .await;
    }
    let counts = "SELECT inbox_name, accepted, duplicates FROM tide.inbox_summary ORDER BY 1";
    db.await_text(SOON, counts, "calls|2|1\npaths|2|1").await;
    assert_eq!(db.text(IDS).await, "a|1\nb|2");
    let paths = "SELECT event_id, payload->>'n' FROM tide.paths_inbox ORDER BY id";
    assert_eq!(db.text(paths).await, "paths:nats:seq-1|1\npaths:nats:seq-2|2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_set_aside_with_its_bytes_and_the_stream_goes_on() {
    let (bed, db, nats, name) = scene("in_poison").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    // Not JSON; not UTF-8; JSON that PostgreSQL refuses (a NUL, a number out of all bounds).
    let poison: [&[u8]; 5] = [
        b"hello",
        b"",
        b"{\"n\": \"\xff\xfe\"}",
        b"{\"n\": \"\\u0000\"}",
        b"{\"n\": 1e999999}",
    ];
    nats.publish(&name, r#"{"n": 1}"#).await;
    for bytes in poison {
        nats.publish_bytes(&name, bytes).await;
    }
    nats.publish(&name, r#"{"n": 2}"#).await;
    let relay = Relay::start(&db).await;
    await_seen(&db, 2, 0).await;
    db.await_text(
        SOON,
        "SELECT count(*) FROM tide.dead_letter WHERE direction = 'reverse'",
        "5",
    )
    .await;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|d| char::from(b"0123456789abcdef"[usize::from(d)]))
            .collect::<String>()
    };
    let wanted: Vec<String> = poison.iter().map(|bytes| hex(bytes)).collect();
    let bytes = "SELECT encode(body, 'hex') FROM tide.dead_letter ORDER BY source_seq";
    assert_eq!(db.text(bytes).await, wanted.join("\n"));
    assert_eq!(
        db.text("SELECT count(*) FROM tide.dead_letter WHERE error = '' OR pipeline <> 'p'")
            .await,
        "0"
    );
    nats.publish(&name, r#"{"n": 3}"#).await;
    await_seen(&db, 3, 0).await;
    assert_eq!(
        db.text(IDS).await,
        "calls:nats:seq-1|1\ncalls:nats:seq-2|2\ncalls:nats:seq-3|3"
    );
    relay.await_healthy(SOON, "p", 1).await;
    relay
        .await_metric(SOON, r#"pg_tide_relay_dlq_entries_written_total{pipeline="p"} 5"#)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_long_in_the_storing_are_not_delivered_again() {
    let (bed, db, nats, name) = scene("in_long").await;
    nats.create_stream(&name, &name, |_| {}).await;
    // Longer in all than the ack wait, and than twice.
    let options = r#"{"retry": {"initial": "2s", "max": "2s"}, "dead_letter": {"max_retries": 3}}"#;
    db.from_nats("p", "calls", &bed.nats, &name, options, "").await;
    for payload in [r#"{"n": 1}"#, r#"{"n": 1e999999}"#, r#"{"n": 2}"#] {
        nats.publish(&name, payload).await;
    }
    let _relay = Relay::start(&db).await;
    db.await_text(A_WHILE, "SELECT count(*) FROM tide.dead_letter", "1")
        .await;
    await_seen(&db, 2, 0).await;
    let stream = nats.jetstream.get_stream(&name).await.unwrap();
    let mut consumers = stream.consumers();
    let consumer = consumers.next().await.unwrap().unwrap();
    assert_eq!(consumer.delivered.consumer_sequence, 3, "{consumer:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_in_the_middle_loses_and_doubles_nothing() {
    const ALL: i64 = 5_000;
    let (bed, db, nats, name) = scene("in_kill").await;
    nats.create_stream(&name, &name, |_| {}).await;
    // Equal contents everywhere: only the position in the stream tells redelivered messages from new ones.
    db.from_nats(
        "p",
        "calls",
        &bed.nats,
        &name,
        "{}",
        ", p_idempotent := false, p_batch_size := 20",
    )
    .await;
    for n in 1..=ALL {
        nats.client
            .publish(name.clone(), format!("{{\"n\": {n}}}").into())
            .await
            .unwrap();
    }
    nats.client.flush().await.unwrap();
    let count = "SELECT count(*) FROM tide.calls_inbox";
    for round in 1..=3 {
        let before = db.number(count).await;
        let mut relay = Relay::start(&db).await;
        await_condition(A_WHILE, "some more messages", async || {
            (db.number(count).await > before + 200 * round).then_some(())
        })
        .await;
        relay.kill();
        let after = db.number(count).await;
        println!("killed at {after} of {ALL}");
        assert!(round > 1 || after < ALL, "killed too late to prove anything");
    }
    let _relay = Relay::start(&db).await;
    let pending = async || {
        let mut consumer: async_nats::jetstream::consumer::PullConsumer = nats
            .jetstream
            .get_stream(&name)
            .await
            .unwrap()
            .get_consumer("p")
            .await
            .unwrap();
        let info = consumer.info().await.unwrap();
        info.num_pending + info.num_ack_pending as u64
    };
    await_condition(A_WHILE, "all is acknowledged", async || {
        (pending().await == 0).then_some(())
    })
    .await;
    let rows = db
        .text("SELECT payload->>'n' FROM tide.calls_inbox ORDER BY id")
        .await;
    let got: Vec<i64> = rows.lines().map(|n| n.parse().unwrap()).collect();
    assert_each_once(&got, 1..=ALL);
    let gapless = format!(
        "SELECT count(*) FROM tide.calls_inbox i JOIN generate_series(1, {ALL}) n ON i.event_id = 'calls:nats:seq-' || n"
    );
    assert_eq!(db.number(&gapless).await, ALL, "numbered without gaps");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_inboxes_of_one_subject_each_get_everything() {
    let (bed, db, nats, name) = scene("in_two").await;
    db.run("SELECT tide.inbox_create('others')").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.from_nats("p", "calls", &bed.nats, &name, "{}", "").await;
    db.from_nats("q", "others", &bed.nats, &name, "{}", "").await;
    let _relay = Relay::start(&db).await;
    for n in 1..=200 {
        nats.publish(&name, &format!("{{\"n\": {n}}}")).await;
    }
    db.await_text(
        SOON,
        "SELECT string_agg(accepted::text, ',') FROM tide.inbox_summary",
        "200,200",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_a_plain_subscription_is_used_and_said_so() {
    let own = OwnBed::up("plain-nats", &["nats"], &[("TIDE_BED_NATS_JETSTREAM", "0")]).await;
    let (_, db, _, name) = scene("in_plain").await;
    let nats = Nats::connect(&own.addresses.nats).await;
    db.from_nats("p", "calls", &own.addresses.nats, &name, "{}", "")
        .await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "p", 1).await;
    let line = relay.await_log(SOON, &["WARN", "JetStream"]).await;
    println!("{line}");
    let note = "SELECT coalesce(note LIKE '%JetStream%', false) FROM tide.pipeline_status";
    db.await_text(SOON, note, "t").await;
    for n in [1, 2, 1] {
        nats.publish(&name, &format!("{{\"n\": {n}}}")).await;
    }
    await_seen(&db, 2, 1).await;
    assert_eq!(db.text(IDS).await, "calls:nats:seq-1|1\ncalls:nats:seq-2|2");
}
