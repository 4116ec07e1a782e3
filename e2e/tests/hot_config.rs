//! Configuration by SQL takes effect within a second, and a broken pipeline
//! stops no other.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{
    Bed, Post, Relay, alone, assert_each_once, assert_in_order, await_condition, beside_others, holds, kafka,
    numbers, unique,
};

const SOON: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
const STATES: &str = "SELECT pipeline, state FROM tide.relay_pipeline_status ORDER BY 1";

async fn values(bed: &Bed, topic: &str) -> Vec<i64> {
    numbers(
        kafka::records(&bed.kafka, topic)
            .await
            .iter()
            .map(|r| r.value.as_str()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pipeline_is_picked_up_within_a_second() {
    let _turn = alone().await;
    let (bed, db, topic) = scene("hot_new").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&topic, &topic, |_| {}).await;
    nats.publish(&topic, r#"{"n": 1}"#).await;
    db.publish_number("events", 1).await;
    let _relay = Relay::start(&db).await;

    let began = Instant::now();
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    db.await_text(SOON, STATES, "out|running").await;
    let forward = began.elapsed();
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    let delivered = began.elapsed();

    let began = Instant::now();
    db.from_nats("in", "calls", &bed.nats, &topic, "{}", "").await;
    db.await_text(SOON, "SELECT count(*) FROM tide.calls_inbox", "1")
        .await;
    let reverse = began.elapsed();
    println!(
        "running after {forward:?}, in Kafka after {delivered:?}; another one's message in its inbox after {reverse:?}"
    );
    assert!(forward < SECOND && reverse < SECOND, "{forward:?} {reverse:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_topic_takes_effect_within_a_second() {
    let _turn = alone().await;
    let (bed, db, topic) = scene("hot_topic").await;
    let other = unique("hot_topic_b");
    for topic in [&topic, &other] {
        kafka::create_topic(&bed.kafka, topic, 1, &[]).await;
    }
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let _relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;

    let began = Instant::now();
    db.to_kafka("p", "events", &bed.kafka, &other, "{}").await;
    let mut n = 1;
    let took = await_condition(SOON, "a message in the other topic", async || {
        n += 1;
        db.publish_number("events", n).await;
        (!kafka::records(&bed.kafka, &other).await.is_empty()).then(|| began.elapsed())
    })
    .await;
    println!("in the other topic after {took:?}");
    assert!(took < SECOND, "{took:?}");
    db.await_delivered(SOON).await;
    // Each once, the first ones in the old topic and all later ones in the new.
    let mut got = values(&bed, &topic).await;
    got.extend(values(&bed, &other).await);
    assert_eq!(got, (1..=n).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_waits_enabled_goes_on_deleted_is_gone() {
    let _turn = alone().await;
    let (bed, db, topic) = scene("hot_switch").await;
    let control = unique("hot_switch_b");
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.to_kafka("control", "events", &bed.kafka, &control, "{}").await;
    let relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    db.await_delivered(SOON).await;

    let began = Instant::now();
    db.run("SELECT tide.relay_disable('p')").await;
    db.await_text(SOON, STATES, "control|running\np|disabled").await;
    println!("disabled after {:?}", began.elapsed());
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    db.publish_numbers("events", 2, 50, 1).await;
    let lags = "SELECT group_name, lag FROM tide.consumer_lag ORDER BY 1";
    db.await_text(SOON, lags, "control|0\np|49").await;
    assert_eq!(values(&bed, &topic).await, [1]);

    let began = Instant::now();
    db.run("SELECT tide.relay_enable('p')").await;
    db.await_text(SOON, STATES, "control|running\np|running").await;
    println!("enabled and running after {:?}", began.elapsed());
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    db.await_text(SOON, lags, "control|0\np|0").await;
    assert_eq!(values(&bed, &topic).await, (1..=50).collect::<Vec<_>>());

    db.run("SELECT tide.relay_delete('p')").await;
    relay
        .await_metric(SECOND, "pg_tide_relay_owned_pipelines 1")
        .await;
    assert_eq!(db.text(STATES).await, "control|running");
    let lines = await_condition(SOON, "no health is told of a pipeline that is gone", async || {
        let lines = relay.metric_lines("pg_tide_relay_pipeline_healthy").await;
        lines.iter().all(|l| !l.contains("\"p\"")).then_some(lines)
    })
    .await;
    assert_eq!(lines, [r#"pg_tide_relay_pipeline_healthy{pipeline="control"} 1"#]);
    db.publish_number("events", 51).await;
    db.await_delivered(SOON).await;
    assert_eq!(values(&bed, &topic).await, (1..=50).collect::<Vec<_>>());
    assert_eq!(values(&bed, &control).await, (1..=51).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pipeline_does_not_disturb_another() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("hot_undisturbed").await;
    let other = unique("hot_undisturbed_b");
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    db.to_kafka("q", "events", &bed.kafka, &other, "{}").await;
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, STATES, "p|running\nq|running").await;
    let before = "SELECT w.epoch FROM tide.pipeline_owner w JOIN tide.pipeline p USING (pipeline_id) WHERE p.name = 'q'";
    let epoch = db.text(before).await;
    for round in 0..5 {
        db.to_kafka(
            "p",
            "events",
            &bed.kafka,
            &topic,
            &format!("{{\"linger_ms\": {round}}}"),
        )
        .await;
        db.publish_numbers("events", round * 20 + 1, round * 20 + 20, 1)
            .await;
    }
    db.await_delivered(SOON).await;
    assert_eq!(db.text(before).await, epoch, "q was not acquired anew");
    for topic in [&topic, &other] {
        assert_eq!(values(&bed, topic).await, (1..=100).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipeline_does_not_stop_another() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("hot_broken").await;
    db.run("SELECT tide.inbox_create('calls')").await;
    // Nobody listens on port 1; the topic's name is not allowed; nor is there such a NATS server.
    db.to_kafka("no-broker", "events", "127.0.0.1:1", &topic, "{}")
        .await;
    db.to_kafka("bad-topic", "events", &bed.kafka, "no such/topic", "{}")
        .await;
    db.to_nats("no-nats", "events", "nats://127.0.0.1:1", &topic, "{}")
        .await;
    db.from_nats("no-source", "calls", "nats://127.0.0.1:1", &topic, "{}", "")
        .await;
    db.to_kafka("good", "events", &bed.kafka, &topic, "{}").await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "good", 1).await;
    let broken = ["no-broker", "bad-topic", "no-nats", "no-source"];
    for pipeline in broken {
        relay
            .await_log(SOON, &["WARN", "backing off", &format!("\"{pipeline}\"")])
            .await;
        relay.await_healthy(SOON, pipeline, 0).await;
    }
    let lag = "SELECT lag FROM tide.consumer_lag WHERE group_name = 'good'";
    let mut last = 0;
    // While they retry: each of these is delivered without delay.
    holds(Duration::from_secs(3), "the good pipeline delivers", async || {
        last += 1;
        db.publish_number("events", last).await;
        db.await_text(SECOND, lag, "0").await;
        true
    })
    .await;
    assert_eq!(values(&bed, &topic).await, (1..=last).collect::<Vec<_>>());
    for pipeline in broken {
        relay.await_healthy(SECOND, pipeline, 0).await;
        let attempts = relay
            .log()
            .lines()
            .filter(|l| l.contains(&format!("\"{pipeline}\"")) && l.contains("backing off"))
            .count();
        assert!(
            (1..=12).contains(&attempts),
            "{pipeline} was tried {attempts} times in about 3 s: that is no backoff"
        );
    }
    let status = "SELECT pipeline, state, last_error IS NOT NULL FROM tide.relay_pipeline_status ORDER BY 1";
    let wanted = "bad-topic|retrying|t\ngood|running|f\nno-broker|retrying|t\nno-nats|retrying|t\nno-source|retrying|t";
    db.await_text(SOON, status, wanted).await;

    // Mended by SQL, it catches up.
    let mended = unique("hot_mended");
    db.to_kafka("no-broker", "events", &bed.kafka, &mended, "{}")
        .await;
    kafka::await_records(&bed.kafka, &mended, usize::try_from(last).unwrap(), SOON).await;
    assert_eq!(values(&bed, &mended).await, (1..=last).collect::<Vec<_>>());
    relay.await_healthy(SOON, "no-broker", 1).await;
}

/// A row that `tide.relay_set_outbox` would not have let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_cannot_be_read_is_told_and_stops_no_other() {
    let _turn = beside_others().await;
    let (bed, db, topic) = scene("hot_unreadable").await;
    db.to_kafka("bad", "events", &bed.kafka, &topic, "{}").await;
    db.to_kafka("good", "events", &bed.kafka, &topic, "{}").await;
    db.run("UPDATE tide.pipeline SET config = config || '{\"topik\": 1}' WHERE name = 'bad'")
        .await;
    let relay = Relay::start(&db).await;
    db.publish_number("events", 1).await;
    kafka::await_records(&bed.kafka, &topic, 1, SOON).await;
    let line = relay.await_log(SOON, &["\"bad\"", "topik"]).await;
    assert!(
        line.contains("did you mean \\\"topic\\\"") || line.contains("did you mean \"topic\""),
        "{line}"
    );
    relay.await_healthy(SOON, "bad", 0).await;
    relay.await_healthy(SOON, "good", 1).await;
}

/// Another name, in the middle of work: nothing is lost or doubled, not even
/// when the relay dies before it has noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_pipeline_goes_on_under_its_new_name() {
    const ALL: i64 = 6_000;
    let _turn = alone().await;
    let (bed, db, topic) = scene("hot_rename").await;
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&topic, &topic, |_| {}).await;
    db.to_kafka("out", "events", &bed.kafka, &topic, "{}").await;
    db.run(&format!(
        "SELECT tide.relay_set_inbox('in', 'calls', jsonb_build_object('url', '{}', 'subject', '{topic}'))",
        bed.nats
    ))
    .await;
    let mut relay = Relay::start(&db).await;
    db.await_text(SOON, STATES, "in|running\nout|running").await;
    for n in 1..=50 {
        nats.publish(&topic, &format!("{{\"n\": {n}}}")).await;
    }
    db.await_text(SOON, "SELECT count(*) FROM tide.calls_inbox", "50")
        .await;

    let began = Instant::now();
    db.run("SELECT tide.relay_rename('in', 'in 2'), tide.relay_rename('out', 'out 2')")
        .await;
    db.await_text(SOON, STATES, "in 2|running\nout 2|running").await;
    for name in ["in 2", "out 2"] {
        relay.await_healthy(SOON, name, 1).await;
    }
    println!("renamed after {:?}", began.elapsed());
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    let lines = relay.metric_lines("pg_tide_relay_pipeline_healthy").await;
    assert_eq!(lines.len(), 2, "the old names are gone: {lines:?}");
    for n in 51..=60 {
        nats.publish(&topic, &format!("{{\"n\": {n}}}")).await;
    }
    db.await_text(
        SOON,
        "SELECT accepted, duplicates FROM tide.inbox_summary",
        "60|0",
    )
    .await;

    // Renamed and killed, again and again, while much is under way.
    let publishing = db.publish_numbers("events", 1, ALL, 20);
    let renaming = async {
        for round in 3..=5_usize {
            let at = round * 500;
            kafka::await_records(&bed.kafka, &topic, at, SOON).await;
            db.run(&format!(
                "SELECT tide.relay_rename('out {}', 'out {round}')",
                round - 1
            ))
            .await;
            relay.kill();
            relay = Relay::start(&db).await;
        }
    };
    tokio::join!(publishing, renaming);
    db.await_delivered(SOON).await;
    let got = values(&bed, &topic).await;
    assert_each_once(&got, 1..=ALL);
    assert_in_order(&got);
    db.await_text(SOON, STATES, "in 2|running\nout 5|running").await;
}

/// How long one message takes through a pipeline that nobody touches, while
/// others are added, changed, switched, renamed and deleted all the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_others_does_not_delay_a_pipeline() {
    const ROUNDS: usize = 10;
    let _turn = alone().await;
    let (bed, db, topic) = scene("hot_latency").await;
    for topic in [&topic, &format!("{topic}_p")] {
        kafka::create_topic(&bed.kafka, topic, 1, &[]).await;
    }
    db.run("SELECT tide.inbox_create('calls')").await;
    db.to_kafka("q", "events", &bed.kafka, &topic, "{}").await;
    db.from_webhook("hook", "calls", r#"{"signature": "none"}"#, "")
        .await;
    let relay = Relay::options(&db).webhooks().start().await;
    db.await_text(SOON, STATES, "hook|running\nq|running").await;
    let offset = "SELECT coalesce(max(committed_offset), 0) FROM tide.consumer_lag WHERE group_name = 'q'";
    let mut n = 0;
    // From the publication to the checkpoint that has it; and a request to its answer.
    let mut sample = async || {
        n += 1;
        let began = Instant::now();
        let id = db
            .text(&format!(
                "SELECT tide.outbox_publish('events', jsonb_build_object('n', {n}))"
            ))
            .await;
        await_condition(SOON, "it is delivered", async || {
            (db.number(offset).await >= id.parse().unwrap()).then_some(())
        })
        .await;
        let forward = began.elapsed();
        let began = Instant::now();
        let post = Post::to("hook", &format!("{{\"n\": {n}}}"));
        assert_eq!(post.send(relay.webhooks()).await.unwrap().status, 200);
        (forward, began.elapsed())
    };
    let summary = |name: &str, mut times: Vec<Duration>| {
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{name}: median {median:?}, worst {worst:?} of {}", times.len());
        median
    };
    let mut quiet = Vec::new();
    for _ in 0..30 {
        quiet.push(sample().await);
    }
    let changes = db.session().await;
    let changing = async {
        let mut took = [const { Vec::new() }; 6];
        for _ in 0..ROUNDS {
            let set = |linger: u32| {
                format!(
                    "SELECT tide.relay_set_outbox('p', 'events', 'kafka', '{{\"brokers\": \"{}\", \"topic\": \"{topic}_p\", \"linger_ms\": {linger}}}')",
                    bed.kafka
                )
            };
            let steps = [
                (set(1), "p", "running"),
                (set(2), "p", "running"),
                ("SELECT tide.relay_disable('p')".to_owned(), "p", "disabled"),
                ("SELECT tide.relay_enable('p')".to_owned(), "p", "running"),
                ("SELECT tide.relay_rename('p', 'p2')".to_owned(), "p2", "running"),
                ("SELECT tide.relay_delete('p2')".to_owned(), "p2", ""),
            ];
            for (step, (sql, name, state)) in steps.into_iter().enumerate() {
                let began = Instant::now();
                changes.batch_execute(&sql).await.unwrap();
                // Since then: what was so before does not count.
                let asked = format!(
                    "SELECT coalesce((SELECT state FROM tide.relay_pipeline_status WHERE pipeline = '{name}'
                        AND (state_since >= (SELECT updated_at FROM tide.pipeline WHERE name = '{name}') OR state = 'disabled')), '')"
                );
                let looking = async || {
                    if state.is_empty() {
                        let line = "pg_tide_relay_owned_pipelines 2".to_owned();
                        let owned = relay.metric_lines("pg_tide_relay_owned").await;
                        return owned.contains(&line).then_some(());
                    }
                    let row = changes.query_one(&asked, &[]).await.unwrap();
                    (row.get::<_, String>(0) == state).then_some(())
                };
                await_condition(SOON, &sql, looking).await;
                took[step].push(began.elapsed());
            }
        }
        took
    };
    tokio::pin!(changing);
    let mut busy = Vec::new();
    let took = loop {
        tokio::select! {
            took = &mut changing => break took,
            times = sample() => busy.push(times),
        }
    };
    // Beside others on the machine the worst says little: the usual one counts.
    let names = ["added", "changed", "disabled", "enabled", "renamed", "deleted"];
    for (name, took) in names.into_iter().zip(took) {
        let median = summary(name, took);
        assert!(median < SECOND, "{name}: {median:?}");
    }
    let (forward, requests): (Vec<_>, Vec<_>) = quiet.into_iter().unzip();
    let forward_quiet = summary("to Kafka, in quiet", forward);
    let requests_quiet = summary("a webhook, in quiet", requests);
    let (forward, requests): (Vec<_>, Vec<_>) = busy.into_iter().unzip();
    let forward = summary("to Kafka, while another is changed", forward);
    let requests = summary("a webhook, while another is changed", requests);
    for (quiet, busy) in [(forward_quiet, forward), (requests_quiet, requests)] {
        assert!(
            busy < quiet * 3 + Duration::from_millis(100),
            "{quiet:?} {busy:?}"
        );
    }
    let epochs =
        "SELECT count(DISTINCT epoch) FROM tide.relay_pipeline_status WHERE pipeline IN ('q', 'hook')";
    assert_eq!(db.text(epochs).await, "2");
}
