//! Relays of one group share pipelines and replace each other.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{
    Database, Load, Relay, alone, assert_each_once, assert_in_order, await_condition, beside_others, kafka,
    numbers, unique,
};

const SOON: Duration = Duration::from_secs(15);
const TAKEOVER: Duration = Duration::from_secs(2);

/// The process id of the relay that runs a pipeline.
const OWNER: &str =
    "SELECT m.pid FROM tide.relay_pipeline_status s JOIN tide.relay_member m ON m.name = s.owner";

/// The relays that own pipelines, with how many each.
async fn shares(db: &Database) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for pid in db.text(OWNER).await.lines() {
        *shares.entry(pid.to_owned()).or_default() += 1;
    }
    shares
}

async fn await_owner(db: &Database, pid: u32, within: Duration) -> Duration {
    let began = Instant::now();
    db.await_text(within, OWNER, &pid.to_string()).await;
    began.elapsed()
}

/// Which of two relays owns the only pipeline now: (owner, other).
async fn owner_first(db: &Database, a: Relay, b: Relay) -> (Relay, Relay) {
    let pid = await_condition(SOON, "an owner", async || {
        db.text(OWNER).await.parse::<u32>().ok()
    })
    .await;
    if pid == a.pid() { (a, b) } else { (b, a) }
}

/// Messages that a relay has delivered, by its metrics.
async fn delivered_by(relay: &Relay) -> String {
    let lines = relay
        .metric_lines(r#"pg_tide_relay_messages_published_total{pipeline="p""#)
        .await;
    lines.concat()
}

/// Kills the owner; returns how long it takes until the survivor delivers.
async fn kill_and_measure(owner: &mut Relay, survivor: &Relay) -> Duration {
    let before = delivered_by(survivor).await;
    owner.kill();
    let killed = Instant::now();
    await_condition(SOON, "the survivor delivers", async || {
        let now = delivered_by(survivor).await;
        (now != before && !now.ends_with("} 0")).then(|| killed.elapsed())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_of_one_group_share_the_pipelines_evenly() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("share").await;
    for n in 1..=6 {
        db.to_kafka(
            &format!("p{n}"),
            "events",
            &bed.kafka,
            &format!("{topic}_{n}"),
            "{}",
        )
        .await;
    }
    let a = Relay::start(&db).await;
    await_condition(SOON, "the first owns all", async || {
        (shares(&db).await.values().sum::<usize>() == 6).then_some(())
    })
    .await;
    let load = Load::start(&db).await;
    let mut b = Relay::start(&db).await;
    await_condition(SOON, "three each", async || {
        (shares(&db).await.values().eq([&3, &3])).then_some(())
    })
    .await;
    for relay in [&a, &b] {
        relay.await_metric(SOON, "pg_tide_relay_owned_pipelines 3").await;
    }
    load.await_more(200).await;
    assert!(b.terminate(SOON).await.success());
    await_condition(SOON, "the first owns all again", async || {
        shares(&db).await.values().eq([&6]).then_some(())
    })
    .await;
    load.await_more(200).await;
    let all = load.end().await;
    db.await_delivered(SOON).await;
    for n in 1..=6 {
        let records = kafka::records(&bed.kafka, &format!("{topic}_{n}")).await;
        let got = numbers(records.iter().map(|r| r.value.as_str()));
        assert_each_once(&got, 1..=all);
        assert_in_order(&got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_replaced_within_two_seconds_and_kafka_has_everything_once() {
    let _turn = alone().await;
    let (bed, db, topic) = scene("kill_kafka").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, r#"{"compression": "lz4"}"#)
        .await;
    let (a, b) = (Relay::start(&db).await, Relay::start(&db).await);
    let load = Load::start(&db).await;
    kafka::await_records(&bed.kafka, &topic, 200, SOON).await;
    let (mut owner, survivor) = owner_first(&db, a, b).await;
    // Some in one transaction besides, so that much is in flight.
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', -n))) FROM generate_series(1, 2000) n")
        .await;
    let took = kill_and_measure(&mut owner, &survivor).await;
    println!("Kafka: delivering again {took:?} after SIGKILL");
    assert!(took < TAKEOVER, "{took:?}");
    load.await_more(200).await;
    let all = load.end().await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    let got = numbers(records.iter().map(|r| r.value.as_str()));
    assert_each_once(&got, (1..=all).chain((1..=2000).map(|n| -n)));
    let (single, batch): (Vec<i64>, Vec<i64>) = got.iter().partition(|n| **n > 0);
    assert_in_order(&single);
    assert_eq!(batch, (1..=2000).map(|n| -n).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_replaced_within_two_seconds_and_nats_has_everything_once() {
    let _turn = alone().await;
    let (bed, db, name) = scene("kill_nats").await;
    let nats = Nats::connect(&bed.nats).await;
    // The server's own duplicate window is made useless: the relay alone must do it.
    nats.create_stream(&name, &name, |config| {
        config.duplicate_window = Duration::from_millis(100);
    })
    .await;
    db.to_nats("p", "events", &bed.nats, &name, "{}").await;
    let (a, b) = (Relay::start(&db).await, Relay::start(&db).await);
    let load = Load::start(&db).await;
    await_condition(SOON, "200 messages", async || {
        (nats.count(&name).await >= 200).then_some(())
    })
    .await;
    let (mut owner, survivor) = owner_first(&db, a, b).await;
    db.run("SELECT count(tide.outbox_publish('events', jsonb_build_object('n', -n))) FROM generate_series(1, 2000) n")
        .await;
    let took = kill_and_measure(&mut owner, &survivor).await;
    println!("NATS: delivering again {took:?} after SIGKILL");
    assert!(took < TAKEOVER, "{took:?}");
    load.await_more(200).await;
    let all = load.end().await;
    db.await_delivered(SOON).await;
    let messages = nats.messages(&name).await;
    let got = numbers(messages.iter().map(|m| m.payload.as_str()));
    assert_each_once(&got, (1..=all).chain((1..=2000).map(|n| -n)));
    assert_in_order(&got.into_iter().filter(|n| *n > 0).collect::<Vec<_>>());
}

/// Kill upon kill, always the owner, so that takeovers begin at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn owners_killed_one_after_another_lose_and_double_nothing() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("kill_often").await;
    kafka::create_topic(&bed.kafka, &topic, 3, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, r#"{"key": "{payload.n}"}"#)
        .await;
    let load = Load::start(&db).await;
    let mut relays = vec![Relay::start(&db).await, Relay::start(&db).await];
    for round in 0..6 {
        let owner = await_condition(SOON, "a living owner", async || {
            let pid: u32 = db.text(OWNER).await.parse().ok()?;
            relays.iter().position(|r| r.pid() == pid)
        })
        .await;
        // At different points of what an owner does at first.
        load.await_more(round * 15 + 1).await;
        relays.remove(owner).kill();
        relays.push(Relay::options(&db).spawn());
    }
    let all = load.end().await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    assert_each_once(&numbers(records.iter().map(|r| r.value.as_str())), 1..=all);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_over_at_once_and_exits_with_zero() {
    let _turn = alone().await;
    let (bed, db, topic) = scene("sigterm").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let (a, b) = (Relay::start(&db).await, Relay::start(&db).await);
    let load = Load::start(&db).await;
    kafka::await_records(&bed.kafka, &topic, 100, SOON).await;
    let (mut owner, survivor) = owner_first(&db, a, b).await;
    let began = Instant::now();
    let status = owner.terminate(SOON).await;
    let ended = began.elapsed();
    assert!(status.success(), "{status}");
    let handed_over = ended + await_owner(&db, survivor.pid(), SOON).await;
    println!("SIGTERM: ended after {ended:?}, another owner after {handed_over:?}");
    assert!(
        ended < Duration::from_secs(3) && handed_over < Duration::from_secs(4),
        "{ended:?} {handed_over:?}"
    );
    load.await_more(100).await;
    let all = load.end().await;
    db.await_delivered(SOON).await;
    let got = numbers(
        kafka::records(&bed.kafka, &topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    );
    assert_each_once(&got, 1..=all);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_of_another_group_do_not_touch_the_pipelines() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("groups").await;
    db.to_kafka("mine", "events", &bed.kafka, &topic, "{}").await;
    let other = unique("groups_b");
    db.run(&format!(
        "SELECT tide.relay_set_outbox('theirs', 'events', 'kafka',
            jsonb_build_object('brokers', '{}', 'topic', '{other}'), p_relay_group := 'west')",
        bed.kafka
    ))
    .await;
    db.publish_numbers("events", 1, 50, 5).await;
    let west = Relay::options(&db).group("west").start().await;
    // When theirs is through, mine would have been as well.
    let status = "SELECT pipeline, state, owner IS NOT NULL, lag FROM tide.relay_pipeline_status ORDER BY 1";
    db.await_text(SOON, status, "mine|no live relay|f|50\ntheirs|running|t|0")
        .await;
    west.await_metric(SOON, "pg_tide_relay_owned_pipelines 1").await;
    assert!(kafka::records(&bed.kafka, &topic).await.is_empty());

    let _default = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    for topic in [&topic, &other] {
        let got = numbers(
            kafka::records(&bed.kafka, topic)
                .await
                .iter()
                .map(|r| r.value.as_str()),
        );
        assert_eq!(got, (1..=50).collect::<Vec<_>>());
    }
}

/// What an owner would write that lost its pipeline without noticing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_epoch_can_neither_checkpoint_nor_store() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("fence").await;
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db.from_nats("in", "calls", &bed.nats, &topic, "{}", "").await;
    let acquire = |pipeline: &str, member: i32| {
        format!(
            "SELECT tide._acquire(pipeline_id, {member}, 'm{member}') FROM tide.pipeline WHERE name = '{pipeline}'"
        )
    };
    let stale = db.number(&acquire("out", 1)).await;
    let fresh = db.number(&acquire("out", 2)).await;
    assert!(fresh > stale);
    let checkpoint = |epoch: i64| {
        format!(
            "WITH w AS (UPDATE tide.group_cursor SET last_id = 7 WHERE epoch = {epoch} RETURNING 1) SELECT count(*) FROM w"
        )
    };
    assert_eq!(db.number(&checkpoint(stale)).await, 0);
    assert_eq!(
        db.text("SELECT last_id, consumer_id FROM tide.group_cursor")
            .await,
        "0|m2"
    );
    assert_eq!(db.number(&checkpoint(fresh)).await, 1);

    let stale = db.number(&acquire("in", 1)).await;
    let fresh = db.number(&acquire("in", 2)).await;
    let store = |epoch: i64| {
        format!(
            "SELECT inserted FROM tide._inbox_write((SELECT pipeline_id FROM tide.pipeline WHERE name = 'in'), {epoch},
                ARRAY[NULL]::text[], ARRAY[NULL]::bytea[], ARRAY[NULL]::int[], ARRAY[NULL]::bigint[],
                ARRAY['s'], ARRAY['{{}}'], ARRAY['{{}}'])"
        )
    };
    let refusal = db.refusal(&store(stale)).await;
    assert!(refusal.contains("no longer owned"), "{refusal}");
    assert_eq!(db.number("SELECT count(*) FROM tide.calls_inbox").await, 0);
    assert_eq!(db.number(&store(fresh)).await, 1);
}
