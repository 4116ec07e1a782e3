//! What lies in Kafka topics is in the inbox: once, numbered, whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::kafka::{self, Producer, committed, create_topic};
use pg_tide_e2e::{
    Bed, Database, OwnBed, Relay, Signal, assert_each_once, assert_in_order, await_condition, numbers, unique,
};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureRecord, Producer as _};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_mins(1);
const COUNT: &str = "SELECT count(*) FROM tide.calls_inbox";
const ROWS: &str = "SELECT event_id, payload->>'n' FROM tide.calls_inbox ORDER BY id";

/// A database with the inbox `calls`, a topic, and a producer.
async fn scene(stem: &str, partitions: i32) -> (Bed, Database, String, Producer) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let topic = unique(stem);
    create_topic(&bed.kafka, &topic, partitions, &[]).await;
    let producer = Producer::connect(&bed.kafka, &[]);
    (bed, db, topic, producer)
}

/// The numbers in the inbox, in the order of their ids.
async fn stored(db: &Database) -> Vec<i64> {
    let rows = db
        .text("SELECT payload FROM tide.calls_inbox WHERE payload ? 'n' ORDER BY id")
        .await;
    numbers(rows.lines())
}

/// Ids made by us have no gap.
async fn assert_gapless(db: &Database, last: i64) {
    let gapless = format!(
        "SELECT count(*) FROM tide.calls_inbox i JOIN generate_series(1, {last}) n ON i.event_id = 'calls:kafka:seq-' || n"
    );
    assert_eq!(db.number(&gapless).await, last, "numbered without gaps");
}

async fn await_committed(bed: &Bed, group: &str, topic: &str, partition: i32, offset: i64) {
    let what = format!("group {group} has committed {offset} in {topic}/{partition}");
    await_condition(SOON, &what, async || {
        (committed(&bed.kafka, group, topic, partition).await == Some(offset)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_several_partitions_comes_once_and_each_in_order() {
    let (bed, db, topic, producer) = scene("kin_backlog", 3).await;
    producer.send_numbers(&topic, 1, 3_000, 3).await;
    db.from_kafka(
        "p",
        "calls",
        &bed.kafka,
        &topic,
        r#"{"consumer_group": "g-backlog"}"#,
        ", p_batch_size := 200",
    )
    .await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "3000").await;
    producer.send_numbers(&topic, 3_001, 3_010, 3).await;
    db.await_text(SOON, COUNT, "3010").await;
    let all = stored(&db).await;
    assert_each_once(&all, 1..=3_010);
    for partition in 0..3 {
        let one: Vec<i64> = all.iter().copied().filter(|n| n % 3 == partition).collect();
        assert_in_order(&one);
    }
    assert_gapless(&db, 3_010).await;
    let sources = format!("SELECT DISTINCT source = 'kafka:{topic}' FROM tide.calls_inbox");
    assert_eq!(db.text(&sources).await, "t");
    // Ordinary tools see how far we are.
    for (partition, offset) in [(0, 1_003), (1, 1_004), (2, 1_003)] {
        await_committed(&bed, "g-backlog", &topic, partition, offset).await;
    }
    let positions = "SELECT string_agg(next_offset::text, ' ' ORDER BY description)
                       FROM tide.inbox_position JOIN tide.inbox_source USING (source_ref)";
    assert_eq!(db.text(positions).await, "1003 1004 1003");
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_and_ids_come_along_and_poison_is_set_aside() {
    let (bed, db, topic, producer) = scene("kin_whole", 1).await;
    let send = async |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, &[u8])]| {
        let mut all = OwnedHeaders::new();
        for (key, value) in headers {
            all = all.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let mut record = FutureRecord::to(&topic).headers(all).partition(0);
        record.key = key;
        record.payload = value;
        producer.send(record).await;
    };
    send(Some(b"k1"), Some(br#"{"n": 1}"#), &[("h", b"a"), ("h", b"b")]).await;
    // The same content under another key is another message; under the same key it is not.
    send(Some(b"k2"), Some(br#"{"n": 1}"#), &[]).await;
    send(Some(b"k2"), Some(br#"{"n": 1}"#), &[]).await;
    send(Some(b"\xff\x00"), Some(br#"{"n": 2}"#), &[("ce_id", b"ce-7")]).await;
    send(None, Some(br#"{"n": 3}"#), &[("tide-id", b"orders:7:99")]).await;
    send(None, Some(br#"{"n": 3}"#), &[("tide-id", b"orders:7:99")]).await;
    // Records without a value, twice the same: deletions, both of them.
    send(Some(b"k1"), None, &[]).await;
    send(Some(b"k1"), None, &[]).await;
    send(None, Some(b"hello"), &[]).await;
    send(None, Some(b""), &[]).await;
    send(None, Some(b"{\"n\": \"\\u0000\"}"), &[]).await;
    db.from_kafka("p", "calls", &bed.kafka, &topic, "{}", "").await;
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, "SELECT count(*) FROM tide.dead_letter", "3")
        .await;
    let rows = "SELECT event_id, payload, headers->>'tide-key', headers->>'tide-key-base64', headers->>'h'
                  FROM tide.calls_inbox ORDER BY id";
    let wanted = [
        r#"calls:kafka:seq-1|{"n": 1}|k1||["a", "b"]"#,
        r#"calls:kafka:seq-2|{"n": 1}|k2||"#,
        r#"ce-7|{"n": 2}||/wA=|"#,
        r#"orders:7:99|{"n": 3}|||"#,
        "calls:kafka:seq-3||k1||",
        "calls:kafka:seq-4||k1||",
    ];
    db.await_text(SOON, rows, &wanted.join("\n")).await;
    // The position is past the poison at the end: nothing is read again.
    await_committed(&bed, "pg-tide-p", &topic, 0, 11).await;
    assert_eq!(db.text("SELECT next_offset FROM tide.inbox_position").await, "11");
    let dead = "SELECT string_agg(encode(body, 'hex'), ' ' ORDER BY source_seq) FROM tide.dead_letter";
    assert_eq!(db.text(dead).await, "68656c6c6f  7b226e223a20225c7530303030227d");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_in_the_middle_loses_and_doubles_nothing() {
    const ALL: i64 = 6_000;
    let (bed, db, topic, producer) = scene("kin_kill", 3).await;
    producer.send_numbers(&topic, 1, ALL, 3).await;
    db.from_kafka(
        "p",
        "calls",
        &bed.kafka,
        &topic,
        "{}",
        ", p_idempotent := false, p_batch_size := 20",
    )
    .await;
    for round in 1..=3 {
        let before = db.number(COUNT).await;
        let mut relay = Relay::start(&db).await;
        await_condition(A_WHILE, "some more messages", async || {
            (db.number(COUNT).await > before + 200 * round).then_some(())
        })
        .await;
        relay.kill();
        let after = db.number(COUNT).await;
        println!("killed at {after} of {ALL}");
        assert!(round > 1 || after < ALL, "killed too late to prove anything");
    }
    let started = std::time::Instant::now();
    let _relay = Relay::start(&db).await;
    db.await_text(A_WHILE, COUNT, &ALL.to_string()).await;
    println!("the last relay took {:?}", started.elapsed());
    assert_each_once(&stored(&db).await, 1..=ALL);
    assert_gapless(&db, ALL).await;
    assert_eq!(db.text("SELECT duplicates FROM tide.inbox_summary").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_takes_over_at_once() {
    const ALL: i64 = 20_000;
    let (bed, db, topic, producer) = scene("kin_takeover", 4).await;
    db.from_kafka(
        "p",
        "calls",
        &bed.kafka,
        &topic,
        "{}",
        ", p_idempotent := false, p_batch_size := 50",
    )
    .await;
    let first = Relay::start(&db).await;
    first.await_healthy(SOON, "p", 1).await;
    let second = Relay::start(&db).await;
    let owner = "SELECT member_name FROM tide.pipeline_owner WHERE released_at IS NULL";
    producer.send_numbers(&topic, 1, ALL / 2, 4).await;
    // Whoever owns it now is killed in the middle of it.
    await_condition(SOON, "the first messages", async || {
        (db.number(COUNT).await > 500).then_some(())
    })
    .await;
    let (mut victim, survivor) = if db.text(owner).await.ends_with(&format!("-{}", first.pid())) {
        (first, second)
    } else {
        (second, first)
    };
    victim.kill();
    let killed = std::time::Instant::now();
    let before = db.number(COUNT).await;
    await_condition(SOON, "the survivor stores", async || {
        (db.number(COUNT).await > before).then_some(())
    })
    .await;
    println!("taken over after {:?}", killed.elapsed());
    assert!(
        killed.elapsed() < Duration::from_secs(8),
        "the group waited for the dead member"
    );
    producer.send_numbers(&topic, ALL / 2 + 1, ALL, 4).await;
    db.await_text(A_WHILE, COUNT, &ALL.to_string()).await;
    assert_each_once(&stored(&db).await, 1..=ALL);
    assert_gapless(&db, ALL).await;
    survivor.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_offset_protects_when_rows_are_gone_and_kafkas_offset_is_set_back() {
    let (bed, db, topic, producer) = scene("kin_reset", 1).await;
    let group = unique("g");
    let config =
        format!("{{\"consumer_group\": \"{group}\", \"librdkafka\": {{\"session.timeout.ms\": 6000}}}}");
    db.from_kafka("p", "calls", &bed.kafka, &topic, &config, "").await;
    producer.send_numbers(&topic, 1, 50, 1).await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "50").await;
    await_committed(&bed, &group, &topic, 0, 50).await;
    db.run("SELECT tide.relay_disable('p')").await;
    relay.await_log(SOON, &["released"]).await;
    // Retention, as fast as it gets.
    db.run("DELETE FROM tide.calls_inbox").await;
    kafka::set_committed(&bed.kafka, &group, &topic, 0, 0).await;
    producer.send_numbers(&topic, 51, 60, 1).await;
    db.run("SELECT tide.relay_enable('p')").await;
    db.await_text(SOON, COUNT, "10").await;
    relay
        .await_log(SOON, &["WARN", "was set back to 0", "relay_forget_position"])
        .await;
    assert_each_once(&stored(&db).await, 51..=60);
    await_committed(&bed, &group, &topic, 0, 60).await;

    // Wanted once more: forgotten here, set back there.
    db.run("SELECT tide.relay_disable('p')").await;
    db.await_text(
        SOON,
        "SELECT count(*) FROM tide.pipeline_owner WHERE released_at IS NULL",
        "0",
    )
    .await;
    kafka::set_committed(&bed.kafka, &group, &topic, 0, 20).await;
    assert_eq!(db.text("SELECT tide.relay_forget_position('p')").await, "1");
    db.run("SELECT tide.relay_enable('p')").await;
    db.await_text(SOON, COUNT, "40").await;
    assert_each_once(&stored(&db).await, 21..=60);
    // What the inbox still had was refused.
    db.await_text(SOON, "SELECT duplicates FROM tide.inbox_summary", "10")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_said_loudly_and_nothing_of_it_is_dropped() {
    let (bed, db, topic, producer) = scene("kin_anew", 1).await;
    db.from_kafka("p", "calls", &bed.kafka, &topic, "{}", "").await;
    producer.send_numbers(&topic, 1, 20, 1).await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "20").await;
    // The new topic has more records than the old one before the relay sees
    // it: librdkafka would go on in the middle of it.
    relay.signal(Signal::Stop);
    kafka::delete_topic(&bed.kafka, &topic).await;
    await_condition(SOON, "the topic can be made anew", async || {
        kafka::records(&bed.kafka, &topic).await.is_empty().then_some(())
    })
    .await;
    create_topic(&bed.kafka, &topic, 1, &[]).await;
    Producer::connect(&bed.kafka, &[])
        .send_numbers(&topic, 101, 150, 1)
        .await;
    relay.signal(Signal::Continue);
    let line = relay
        .await_log(A_WHILE, &["deleted and made anew", "relay_forget_position('p'"])
        .await;
    println!("{line}");
    relay.await_healthy(SOON, "p", 0).await;
    assert_eq!(db.number(COUNT).await, 20, "nothing is taken from the middle");
    let forget = format!("SELECT tide.relay_forget_position('p', '{topic}', p_as_new := true)");
    assert_eq!(db.text(&forget).await, "1");
    db.await_text(SOON, COUNT, "70").await;
    assert_each_once(&stored(&db).await, (1..=20).chain(101..=150));
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_topic_made_anew_while_no_relay_ran_is_found() {
    let (bed, db, topic, producer) = scene("kin_short", 1).await;
    db.from_kafka("p", "calls", &bed.kafka, &topic, "{}", "").await;
    producer.send_numbers(&topic, 1, 20, 1).await;
    let mut relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "20").await;
    relay.terminate(SOON).await;
    kafka::delete_topic(&bed.kafka, &topic).await;
    await_condition(SOON, "the topic can be made anew", async || {
        kafka::records(&bed.kafka, &topic).await.is_empty().then_some(())
    })
    .await;
    create_topic(&bed.kafka, &topic, 1, &[]).await;
    Producer::connect(&bed.kafka, &[])
        .send_numbers(&topic, 101, 105, 1)
        .await;
    let relay = Relay::start(&db).await;
    let line = relay
        .await_log(SOON, &["ends at offset 5, but the inbox has it up to 20"])
        .await;
    println!("{line}");
    db.run("SELECT tide.relay_forget_position('p', p_as_new := true)")
        .await;
    db.await_text(SOON, COUNT, "25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_means_from_now_on_and_new_partitions_from_their_beginning() {
    let (bed, db, topic, producer) = scene("kin_latest", 1).await;
    producer.send_numbers(&topic, 1, 10, 1).await;
    let config = r#"{"start": "latest", "librdkafka": {"topic.metadata.refresh.interval.ms": 1000}}"#;
    db.from_kafka("p", "calls", &bed.kafka, &topic, config, "").await;
    let mut relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "p", 1).await;
    relay.terminate(SOON).await;
    // What comes before the first message was stored is no longer «before now».
    producer.send_numbers(&topic, 11, 12, 1).await;
    let _relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "2").await;
    kafka::add_partitions(&bed.kafka, &topic, 2).await;
    Producer::connect(&bed.kafka, &[])
        .send_numbers(&topic, 13, 20, 2)
        .await;
    db.await_text(A_WHILE, COUNT, "10").await;
    assert_each_once(&stored(&db).await, 11..=20);
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_are_not_stored() {
    let (bed, db, topic, _) = scene("kin_aborted", 1).await;
    let producer = Producer::connect(&bed.kafka, &[("transactional.id", &topic)]);
    let client = producer.client().clone();
    let blocking = async |work: fn(&rdkafka::producer::FutureProducer)| {
        let client = client.clone();
        tokio::task::spawn_blocking(move || work(&client)).await.unwrap();
    };
    blocking(|c| c.init_transactions(Duration::from_secs(10)).unwrap()).await;
    db.from_kafka("p", "calls", &bed.kafka, &topic, "{}", "").await;
    let _relay = Relay::start(&db).await;
    for (first, commit) in [(1, true), (11, false), (21, true)] {
        blocking(|c| c.begin_transaction().unwrap()).await;
        producer.send_numbers(&topic, first, first + 9, 1).await;
        if commit {
            blocking(|c| c.commit_transaction(Duration::from_secs(10)).unwrap()).await;
        } else {
            blocking(|c| c.abort_transaction(Duration::from_secs(10)).unwrap()).await;
        }
    }
    db.await_text(SOON, COUNT, "20").await;
    assert_each_once(&stored(&db).await, (1..=10).chain(21..=30));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_shared_with_another_consumer_come_once_to_either() {
    let (bed, db, topic, producer) = scene("kin_shared", 4).await;
    let group = unique("g");
    let config = format!("{{\"consumer_group\": \"{group}\"}}");
    db.from_kafka(
        "p",
        "calls",
        &bed.kafka,
        &topic,
        &config,
        ", p_idempotent := false, p_batch_size := 50",
    )
    .await;
    let relay = Relay::start(&db).await;
    relay.await_healthy(SOON, "p", 1).await;
    // A user's own consumer joins while messages flow, takes its share,
    // commits, and leaves.
    let mut consuming = tokio::task::spawn_blocking({
        let (brokers, group, topic) = (bed.kafka.clone(), group.clone(), topic.clone());
        move || consume_some(&brokers, &group, &topic, 200)
    });
    let mut last = 0;
    let theirs = loop {
        producer.send_numbers(&topic, last + 1, last + 100, 4).await;
        last += 100;
        if let Ok(theirs) = tokio::time::timeout(Duration::from_millis(50), &mut consuming).await {
            break theirs.unwrap();
        }
    };
    producer.send_numbers(&topic, last + 1, last + 500, 4).await;
    last += 500;
    let ours = last - i64::try_from(theirs.len()).unwrap();
    println!("we took {ours}, the other consumer {}", theirs.len());
    await_condition(A_WHILE, "all the rest is stored", async || {
        (db.number(COUNT).await >= ours).then_some(())
    })
    .await;
    let mut all = stored(&db).await;
    all.extend(&theirs);
    assert_each_once(&all, 1..=last);
}

/// Reads as a member of a group until it has so many, commits, and leaves.
fn consume_some(brokers: &str, group: &str, topic: &str, count: usize) -> Vec<i64> {
    use rdkafka::Message as _;
    use rdkafka::consumer::{CommitMode, Consumer as _};
    let consumer = kafka::member(brokers, group, &[("enable.auto.offset.store", "true")]);
    consumer.subscribe(&[topic]).unwrap();
    let mut got = Vec::new();
    let began = std::time::Instant::now();
    while got.len() < count {
        assert!(began.elapsed() < A_WHILE, "only {} messages", got.len());
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let payload = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            got.extend(numbers([payload.as_str()]));
        }
    }
    consumer.commit_consumer_state(CommitMode::Sync).unwrap();
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_costs_nothing_but_time() {
    let own = OwnBed::up("kin-broker", &["kafka"], &[]).await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "kin_broker").await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let (brokers, topic) = (own.addresses.kafka.clone(), unique("kin_broker"));
    create_topic(&brokers, &topic, 2, &[]).await;
    db.from_kafka("p", "calls", &brokers, &topic, "{}", ", p_idempotent := false")
        .await;
    let relay = Relay::start(&db).await;
    let producer = Producer::connect(&brokers, &[]);
    producer.send_numbers(&topic, 1, 500, 2).await;
    db.await_text(SOON, COUNT, "500").await;
    own.kill("kafka").await;

    relay.await_healthy(A_WHILE, "p", 0).await;
    let error = "SELECT last_error LIKE '%no broker can be reached%' FROM tide.relay_pipeline_status";
    db.await_text(SOON, error, "t").await;
    own.start("kafka").await;
    producer.send_numbers(&topic, 501, 1_000, 2).await;
    db.await_text(A_WHILE, COUNT, "1000").await;
    assert_each_once(&stored(&db).await, 1..=1_000);

    assert_gapless(&db, 1_000).await;
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_in_mid_stream_loses_and_doubles_nothing() {
    const ALL: i64 = 25_000;
    let own = OwnBed::up("kin-hang", &["kafka"], &[]).await;
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, "kin_hang").await;
    db.run("SELECT tide.inbox_create('calls')").await;
    let (brokers, topic) = (own.addresses.kafka.clone(), unique("kin_hang"));
    create_topic(&brokers, &topic, 3, &[]).await;
    Producer::connect(&brokers, &[("batch.num.messages", "20")])
        .send_numbers(&topic, 1, ALL, 3)
        .await;
    // At most 500 a second are stored, so that some always wait in the client
    // library; what it drops there is lost. A broker that does not answer is
    // soon given up on.
    db.run(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
         CREATE TRIGGER slow AFTER INSERT ON tide.calls_inbox FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    )
    .await;
    // The partitions stay its own meanwhile: an assignment would mend it all.
    let config = r#"{"librdkafka": {"socket.timeout.ms": 1600, "session.timeout.ms": 45000, "queued.min.messages": 3000}}"#;
    let arguments = ", p_idempotent := false, p_batch_size := 10";
    db.from_kafka("p", "calls", &brokers, &topic, config, arguments)
        .await;
    let relay = Relay::options(&db)
        .environment("PG_TIDE_LOG_LEVEL", "info,pg_tide=debug")
        .start()
        .await;
    // Or it was connecting anew when the broker stopped.
    let signs = ["looking whether any broker answers", "no broker can be reached"];
    let looks = || -> usize {
        let log = relay.log();
        signs.iter().map(|sign| log.matches(sign).count()).sum()
    };
    for _ in 0..3 {
        let before = db.number(COUNT).await;
        await_condition(A_WHILE, "some more messages", async || {
            (db.number(COUNT).await > before + 100).then_some(())
        })
        .await;
        let looked = looks();
        own.signal("kafka", Signal::Stop);
        await_condition(
            A_WHILE,
            "the relay looks whether any broker answers",
            async || (looks() > looked).then_some(()),
        )
        .await;
        // It goes on while the relay still looks.
        tokio::time::sleep(Duration::from_millis(800)).await;
        own.signal("kafka", Signal::Continue);
        println!("went on at {} of {ALL}", db.number(COUNT).await);
    }
    let before = db.number(COUNT).await;
    await_condition(A_WHILE, "some more messages", async || {
        (db.number(COUNT).await > before + 100).then_some(())
    })
    .await;
    // And once for so long that it is noticed.
    own.signal("kafka", Signal::Stop);
    relay.await_healthy(A_WHILE, "p", 0).await;
    let error = "SELECT last_error LIKE '%no broker can be reached%' FROM tide.relay_pipeline_status";
    db.await_text(SOON, error, "t").await;
    let there = db.number(COUNT).await;
    println!("hung at {there} of {ALL}");
    assert!(there < ALL, "too fast to prove anything");
    own.signal("kafka", Signal::Continue);
    db.await_text(3 * A_WHILE, COUNT, &ALL.to_string()).await;
    assert_each_once(&stored(&db).await, 1..=ALL);
    assert_gapless(&db, ALL).await;
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_of_one_group_share_partitions_and_a_missing_topic_is_named() {
    let (bed, db, topic, producer) = scene("kin_two", 4).await;
    let config = format!("{{\"consumer_group\": \"{}\"}}", unique("g"));
    for pipeline in ["p", "q"] {
        db.from_kafka(
            pipeline,
            "calls",
            &bed.kafka,
            &topic,
            &config,
            ", p_idempotent := false",
        )
        .await;
    }
    let missing = unique("no_such_topic");
    db.from_kafka("lost", "calls", &bed.kafka, &missing, "{}", "")
        .await;
    let relay = Relay::start(&db).await;
    producer.send_numbers(&topic, 1, 2_000, 4).await;
    db.await_text(A_WHILE, COUNT, "2000").await;
    assert_each_once(&stored(&db).await, 1..=2_000);
    assert_gapless(&db, 2_000).await;
    let error = "SELECT last_error FROM tide.relay_pipeline_status WHERE pipeline = 'lost'";
    let wanted = format!(
        "kafka {}: topic \"{missing}\" does not exist; create it, or set another \"topic\"",
        bed.kafka
    );
    db.await_text(SOON, error, &wanted).await;
    relay.await_healthy(SOON, "p", 1).await;
    relay.await_healthy(SOON, "q", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_set_back_reads_again_what_it_lacks() {
    let (bed, db, topic, producer) = scene("kin_back", 1).await;
    db.from_kafka("p", "calls", &bed.kafka, &topic, "{}", "").await;
    producer.send_numbers(&topic, 1, 30, 1).await;
    let mut relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "30").await;
    await_committed(&bed, "pg-tide-p", &topic, 0, 30).await;
    relay.terminate(SOON).await;
    // As after a restore of a backup.
    db.run("DELETE FROM tide.calls_inbox WHERE source_seq >= 10; UPDATE tide.inbox_position SET next_offset = 10, last_time = NULL")
        .await;
    let relay = Relay::start(&db).await;
    db.await_text(SOON, COUNT, "30").await;
    relay
        .await_log(SOON, &["WARN", "the database was set back"])
        .await;
    assert_eq!(
        db.text(ROWS).await.lines().last().unwrap(),
        "calls:kafka:seq-50|30"
    );
}
