//! Delivery to NATS when the stream or the server is not as it should be.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use pg_tide_e2e::nats::{Nats, values};
use pg_tide_e2e::scene::outbox_and_nats as scene;
use pg_tide_e2e::{
    OwnBed, Proxy, Relay, Signal, assert_each_once, assert_in_order, await_condition, holds, numbers,
};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

async fn await_count(nats: &Nats, stream: &str, count: u64) {
    await_condition(SOON, &format!("{count} messages in {stream}"), async || {
        (nats.count(stream).await >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_deleted_while_running_is_waited_for_and_filled_when_made_anew() {
    let (bed, db, nats, name) = scene("edge_deleted").await;
    nats.create_stream(&name, &name, |_| {}).await;
    db.to_nats("p", "events", &bed.nats, &name, r#"{"create_stream": false}"#)
        .await;
    let mut relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 50, 1).await;
    await_count(&nats, &name, 50).await;
    db.await_delivered(SOON).await;

    nats.jetstream.delete_stream(&name).await.unwrap();
    db.publish_numbers("events", 51, 60, 1).await;
    db.await_error(SOON, "p", &["no stream takes the subject", &name])
        .await;
    assert_eq!(
        db.text("SELECT pending_count FROM tide.outbox_pending").await,
        "10"
    );
    nats.create_stream(&name, &name, |_| {}).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&nats.messages(&name).await), (51..=60).collect::<Vec<_>>());

    // Its sequences began anew, also for what is known of the log's end.
    db.publish_numbers("events", 61, 500, 10).await;
    await_count(&nats, &name, 100).await;
    relay.kill();
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    let got = values(&nats.messages(&name).await);
    assert_each_once(&got, 51..=500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_waited_for_and_said_to_be_full() {
    let (bed, db, nats, name) = scene("edge_full").await;
    nats.create_stream(&name, &name, |config| {
        config.max_messages = 5;
        config.discard = DiscardPolicy::New;
    })
    .await;
    db.to_nats("p", "events", &bed.nats, &name, "{}").await;
    let _relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 20, 1).await;
    let error = db
        .await_error(SOON, "p", &["is full", "maximum messages exceeded"])
        .await;
    println!("{error}");
    holds(
        Duration::from_secs(1),
        "five messages and no dead letter",
        async || {
            nats.count(&name).await == 5 && db.text("SELECT count(*) FROM tide.dead_letter").await == "0"
        },
    )
    .await;
    let mut stream = nats.jetstream.get_stream(&name).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_messages = -1;
    nats.jetstream.update_stream(config).await.unwrap();
    db.await_delivered(SOON).await;
    let got = values(&nats.messages(&name).await);
    assert_each_once(&got, 1..=20);
    assert_in_order(&got);
    db.await_running(SOON, "p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_over_several_streams_survives_a_crash() {
    let (bed, db, nats, name) = scene("edge_several").await;
    let streams = [format!("{name}_a"), format!("{name}_b")];
    for (stream, kind) in streams.iter().zip(["a", "b"]) {
        nats.create_stream(stream, &format!("{name}.{kind}"), |config| {
            // The shortest window there is: it must not do our work.
            config.duplicate_window = Duration::from_millis(100);
        })
        .await;
    }
    db.to_nats(
        "p",
        "events",
        &bed.nats,
        &format!("{name}.{{payload.kind}}"),
        "{}",
    )
    .await;
    let mut relay = Relay::start(&db).await;
    let publish = |first: i64, last: i64| {
        format!(
            "SELECT count(tide.outbox_publish('events',
                jsonb_build_object('n', n, 'kind', CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END)))
               FROM generate_series({first}, {last}) n"
        )
    };
    db.run(&publish(1, 4_000)).await;
    await_count(&nats, &streams[0], 500).await;
    relay.kill();
    let _relay = Relay::start(&db).await;
    db.run(&publish(4_001, 4_100)).await;
    db.await_delivered(A_WHILE).await;
    for (stream, rest) in streams.iter().zip([0, 1]) {
        let got = values(&nats.messages(stream).await);
        assert_each_once(&got, (1..=4_100).filter(|n| n % 2 == rest));
        assert_in_order(&got);
    }
}

/// A work queue takes no second consumer: its end is read in another way.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_any_retention_are_delivered_to_across_a_crash() {
    for retention in [RetentionPolicy::WorkQueue, RetentionPolicy::Interest] {
        let (bed, db, nats, name) = scene("edge_retention").await;
        nats.create_stream(&name, &name, |config| {
            config.retention = retention;
            config.duplicate_window = Duration::from_millis(100);
        })
        .await;
        // Somebody who will want the messages, and takes none yet.
        let stream = nats.jetstream.get_stream(&name).await.unwrap();
        let reader = async_nats::jetstream::consumer::pull::Config {
            durable_name: Some("reader".into()),
            ..Default::default()
        };
        stream.create_consumer(reader).await.unwrap();
        db.to_nats("p", "events", &bed.nats, &name, "{}").await;
        let mut relay = Relay::start(&db).await;
        db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n))) FROM generate_series(1, 3000) n")
            .await;
        await_count(&nats, &name, 300).await;
        relay.kill();
        let relay = Relay::start(&db).await;
        db.await_delivered(A_WHILE).await;
        assert_eq!(nats.count(&name).await, 3_000, "{retention:?}");
        relay.await_healthy(SOON, "p", 1).await;
        let mut got = Vec::new();
        for sequence in 1..=3_000 {
            let message = stream.get_raw_message(sequence).await.unwrap();
            got.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        let got = numbers(got.iter().map(String::as_str));
        assert_each_once(&got, 1..=3_000);
        assert_in_order(&got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_stream_is_used_or_refused_by_name() {
    let (bed, db, nats, name) = scene("edge_named").await;
    let made = format!("{name}_made");
    nats.create_stream(&name, &format!("{name}.a"), |_| {}).await;
    let of = |stream: &str| format!(r#"{{"stream": "{stream}"}}"#);
    db.to_nats("right", "events", &bed.nats, &format!("{name}.a"), &of(&name))
        .await;
    db.to_nats("wrong", "events", &bed.nats, &format!("{name}.b"), &of(&name))
        .await;
    db.to_nats("made", "events", &bed.nats, &format!("{name}.c"), &of(&made))
        .await;
    let _relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    await_count(&nats, &name, 1).await;
    await_count(&nats, &made, 1).await;
    let words =
        [&format!("stream \"{name}\" does not take the subject \"{name}.b\" (it takes: {name}.a)") as &str];
    db.await_error(SOON, "wrong", &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_stalls_is_noticed_and_left() {
    let (bed, db, nats, name) = scene("edge_stall").await;
    nats.create_stream(&name, &name, |_| {}).await;
    let proxy = Proxy::to(bed.nats.trim_start_matches("nats://")).await;
    let url = format!("nats://{}", proxy.address());
    db.to_nats("p", "events", &url, &name, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 1).await;
    db.await_delivered(SOON).await;
    // In the middle of things, and then for new connections.
    proxy.stall();
    db.publish_numbers("events", 101, 200, 10).await;
    relay.await_healthy(A_WHILE, "p", 0).await;
    let error = db.await_error(A_WHILE, "p", &["no answer within 5 s"]).await;
    println!("{error}");
    proxy.go_on();
    db.await_delivered(A_WHILE).await;
    relay.await_healthy(SOON, "p", 1).await;
    let got = values(&nats.messages(&name).await);
    assert_each_once(&got, 1..=200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_lame_duck_mode_is_left_before_it_ends() {
    let own = OwnBed::nats(
        "lame-duck",
        "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"5s\"",
    )
    .await;
    let (_, db, _, name) = scene("edge_duck").await;
    let url = &own.addresses.nats;
    db.to_nats("p", "events", url, &name, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_numbers("events", 1, 100, 1).await;
    db.await_delivered(SOON).await;
    own.signal("nats", Signal::User2);
    let line = relay.await_log(SOON, &["the server is shutting down"]).await;
    println!("{line}");
    db.publish_numbers("events", 101, 200, 10).await;
    own.stop("nats").await;
    own.start("nats").await;
    db.await_delivered(SOON).await;
    let nats = Nats::connect(url).await;
    let stream = nats.await_stream_of(&name, SOON).await;
    let got = values(&nats.messages(&stream).await);
    assert_each_once(&got, 1..=200);
    assert_in_order(&got);
}
