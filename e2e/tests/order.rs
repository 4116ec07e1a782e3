//! Open and overlapping transactions: nobody waits for another's, nothing is
//! lost, and the order of each key is kept.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pg_tide_e2e::kafka::{self, Record, values};
use pg_tide_e2e::scene::outbox as scene;
use pg_tide_e2e::{Relay, assert_each_once, assert_in_order};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_delays_nobody_else_and_is_delivered_when_it_commits() {
    let (bed, db, topic) = scene("kafka_open").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let _relay = Relay::start(&db).await;

    let open = db.session().await;
    open.batch_execute("BEGIN; SELECT tide.outbox_publish('events', '{\"n\": 0}')")
        .await
        .unwrap();
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    let mut last = 0;
    while last < 100 || began.elapsed() < Duration::from_secs(3) {
        last += 1;
        let published = Instant::now();
        db.publish_number("events", last).await;
        slowest = slowest.max(published.elapsed());
        if last % 20 == 0 {
            let count = usize::try_from(last).unwrap();
            let records = kafka::await_records(&bed.kafka, &topic, count, Duration::from_secs(5)).await;
            assert_eq!(values(&records), (1..=last).collect::<Vec<_>>());
        }
    }
    println!(
        "{last} events passed one that stayed open for {:?}; the slowest publish took {slowest:?}",
        began.elapsed()
    );
    assert!(slowest < Duration::from_secs(1), "a publish waited {slowest:?}");
    let all = usize::try_from(last).unwrap();
    kafka::await_records(&bed.kafka, &topic, all, SOON).await;
    assert_eq!(
        db.text("SELECT pending_count FROM tide.outbox_pending").await,
        "0",
        "what is open does not count"
    );

    open.batch_execute("COMMIT").await.unwrap();
    let records = kafka::await_records(&bed.kafka, &topic, all + 1, SOON).await;
    let got = values(&records);
    assert_each_once(&got, 0..=last);
    assert_eq!(got.last(), Some(&0));
    db.await_delivered(SOON).await;
}

/// Each worker takes its key's row lock, so that per key the transactions
/// follow one another; some have their xid long before, some publish to a
/// second key or to no key before they wait for the lock.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_transactions_keep_the_order_of_each_key() {
    const WORKERS: usize = 8;
    const EACH: usize = 120;
    let (bed, db, topic) = scene("kafka_causal").await;
    kafka::create_topic(&bed.kafka, &topic, 3, &[]).await;
    db.run("CREATE TABLE counter (key int PRIMARY KEY, n int NOT NULL); INSERT INTO counter SELECT k, 0 FROM generate_series(0, 3) k")
        .await;
    db.to_kafka("p", "events", &bed.kafka, &topic, r#"{"key": "{payload.key}"}"#)
        .await;
    let relay = Relay::start(&db).await;

    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let session = db.session().await;
        workers.push(tokio::spawn(async move {
            for turn in 0..EACH {
                let key = (worker + turn) % 4;
                let before = match (worker + turn) % 3 {
                    0 => "SELECT pg_current_xact_id();",
                    1 => "SELECT tide.outbox_publish('events', '{\"key\": \"other\", \"n\": 0}');",
                    _ => "",
                };
                session
                    .batch_execute(&format!(
                        "BEGIN; {before}
                         UPDATE counter SET n = n + 1 WHERE key = {key};
                         SELECT tide.outbox_publish('events', jsonb_build_object('key', key, 'n', n))
                           FROM counter WHERE key = {key};
                         COMMIT"
                    ))
                    .await
                    .unwrap();
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    db.await_delivered(A_WHILE).await;
    let mut by_key = BTreeMap::<String, Vec<i64>>::new();
    for record in kafka::records(&bed.kafka, &topic).await {
        by_key
            .entry(record.key.clone().unwrap())
            .or_default()
            .push(values(&[record])[0]);
    }
    for key in ["0", "1", "2", "3"] {
        let got = &by_key[key];
        let each = i64::try_from(WORKERS * EACH / 4).unwrap();
        assert_eq!(got, &(1..=each).collect::<Vec<_>>(), "key {key}");
    }
    assert_eq!(by_key["other"].len(), WORKERS * EACH / 3);
    drop(relay);
}

/// The same by hand: the transaction with the older xid takes the later id,
/// and the one with the earlier id commits last.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_xid_with_a_late_id_and_an_early_id_with_a_late_commit_are_not_lost() {
    let (bed, db, topic) = scene("kafka_xid").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    let _relay = Relay::start(&db).await;
    let (old_xid, early_id) = (db.session().await, db.session().await);
    old_xid
        .batch_execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    early_id
        .batch_execute("BEGIN; SELECT tide.outbox_publish('events', '{\"n\": 1}')")
        .await
        .unwrap();
    for n in 2..=50 {
        db.publish_number("events", n).await;
    }
    kafka::await_records(&bed.kafka, &topic, 49, SOON).await;
    old_xid
        .batch_execute("SELECT tide.outbox_publish('events', '{\"n\": 51}')")
        .await
        .unwrap();
    db.publish_number("events", 52).await;
    kafka::await_records(&bed.kafka, &topic, 50, SOON).await;
    old_xid.batch_execute("COMMIT").await.unwrap();
    kafka::await_records(&bed.kafka, &topic, 51, SOON).await;
    early_id.batch_execute("COMMIT").await.unwrap();
    let got = values(&kafka::await_records(&bed.kafka, &topic, 52, SOON).await);
    assert_eq!(got, (2..=50).chain([52, 51, 1]).collect::<Vec<_>>());
    db.await_delivered(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_keep_their_order_over_many_partitions() {
    let (bed, db, topic) = scene("kafka_partitions").await;
    kafka::create_topic(&bed.kafka, &topic, 4, &[]).await;
    db.to_kafka(
        "p",
        "events",
        &bed.kafka,
        &topic,
        r#"{"key": "{headers.customer}"}"#,
    )
    .await;
    db.run(
        "SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n), jsonb_build_object('customer', n % 20)))
           FROM generate_series(1, 4000) n",
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.await_delivered(SOON).await;
    let records = kafka::records(&bed.kafka, &topic).await;
    assert_each_once(&values(&records), 1..=4000);
    let partitions: BTreeSet<i32> = records.iter().map(|r| r.partition).collect();
    assert!(partitions.len() > 1, "all in partition {partitions:?}");
    for customer in 0..20 {
        let of_one: Vec<Record> = records
            .iter()
            .filter(|r| r.key.as_deref() == Some(&customer.to_string()))
            .cloned()
            .collect();
        assert_eq!(
            of_one.iter().map(|r| r.partition).collect::<BTreeSet<_>>().len(),
            1
        );
        assert_in_order(&values(&of_one));
    }
}

/// The tick reads a sequence and then a snapshot; in a transaction with one
/// snapshot for all its statements these would come in the wrong order.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_database_that_hurt_are_none_of_the_relays() {
    let (bed, db, topic) = scene("kafka_defaults").await;
    db.to_kafka("p", "events", &bed.kafka, &topic, "{}").await;
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
        "idle_session_timeout = '1s'",
    ] {
        let name = db.text("SELECT quote_ident(current_database())").await;
        db.run(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let relay = Relay::start(&db).await;
    let publishers: Vec<_> = (0..4)
        .map(|part| {
            let url = db.url();
            tokio::spawn(async move {
                let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls);
                let (client, connection) = connecting.await.unwrap();
                tokio::spawn(connection);
                // It is the relay that must bear it.
                client
                    .batch_execute("SET idle_session_timeout = 0")
                    .await
                    .unwrap();
                for n in part * 500 + 1..=part * 500 + 500 {
                    let publish = format!("SELECT tide.outbox_publish('events', '{{\"n\": {n}}}')");
                    // A serializable publisher may have to try again.
                    while client.batch_execute(&publish).await.is_err() {}
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let records = kafka::await_records(&bed.kafka, &topic, 2_000, A_WHILE).await;
    assert_each_once(&values(&records), 1..=2_000);
    assert!(!relay.log().contains("WARN"), "{}", relay.log());
}
