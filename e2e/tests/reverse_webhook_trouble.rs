//! Webhooks when something goes wrong: what was answered with success is in
//! the inbox, once, and what was not can be sent again.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use pg_tide_e2e::{
    Bed, Database, OwnBed, Post, Proxy, Relay, RelayOptions, Sender, assert_each_once, await_condition,
    holds, numbers,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);
const PLAIN: &str = r#"{"signature": "none"}"#;
const COUNT: &str = "SELECT count(*) FROM tide.calls_inbox";

async fn on(server: &str, stem: &str, config: &str) -> Database {
    let db = Database::fresh(server, stem).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db.from_webhook("p", "calls", config, "").await;
    db
}

async fn scene(stem: &str, config: &str) -> Database {
    on(&Bed::from_env().postgres, stem, config).await
}

fn numbered(n: i64) -> Post {
    Post::to("p", &format!("{{\"n\": {n}}}")).header("Idempotency-Key", &format!("id-{n}"))
}

async fn stored(db: &Database) -> Vec<i64> {
    let payloads = db.text("SELECT payload FROM tide.calls_inbox ORDER BY id").await;
    numbers(payloads.lines())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_may_go_and_come_back() {
    let own = OwnBed::up("wh-postgres", &["postgres"], &[]).await;
    let db = on(&own.addresses.postgres, "wh_outage", PLAIN).await;
    let relay = Relay::options(&db).webhooks().start().await;
    assert_eq!(numbered(1).send(relay.webhooks()).await.unwrap().status, 200);
    own.kill("postgres").await;
    let mut connection = Sender::connect(relay.webhooks()).await.unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        let reply = connection.send(&numbered(2)).await.unwrap();
        assert_eq!((reply.status, reply.retry_after()), (503, Some(2)), "{reply:?}");
        println!("503 after {:?}: {}", began.elapsed(), reply.error());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // What is not known to it may be there.
    relay.await_log(SOON, &["no database session"]).await;
    let reply = connection.send(&Post::to("unknown", "{}")).await.unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    own.start("postgres").await;
    await_condition(A_WHILE, "it is stored", async || {
        (connection.send(&numbered(2)).await.unwrap().status == 200).then_some(())
    })
    .await;
    assert_eq!(stored(&db).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_starts_before_postgresql_says_so() {
    let url = "postgres://tide:tide@127.0.0.1:1/nowhere";
    let relay = RelayOptions::for_url(url).webhooks().spawn();
    let reply = await_condition(SOON, "a reply", async || {
        Post::to("p", "{}").send(relay.webhooks()).await.ok()
    })
    .await;
    assert_eq!((reply.status, reply.retry_after()), (503, Some(2)), "{reply:?}");
}

/// The commit is done, and its relay dies before it knows.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_commit_and_answer_makes_one_row() {
    let db = scene("wh_kill", PLAIN).await;
    let server = db.url();
    let place = server.split(['@', '/']).nth(3).unwrap();
    let proxy = Proxy::to(place).await;
    let through = server.replace(place, &proxy.address().to_string());
    let mut relay = RelayOptions::for_url(&through).webhooks().start().await;
    db.await_running(SOON, "p").await;
    let address = relay.webhooks();
    assert_eq!(numbered(0).send(address).await.unwrap().status, 200);

    let session = db.session().await;
    session
        .batch_execute("BEGIN; SELECT FROM tide.inbox_counter FOR UPDATE")
        .await
        .unwrap();
    let waiting = tokio::spawn(async move { numbered(1).send(address).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND application_name = 'pg-tide write' AND wait_event_type = 'Lock'";
    db.await_text(SOON, waits, "1").await;
    // The statement is with the server; its answer will not come.
    proxy.stall();
    session.batch_execute("COMMIT").await.unwrap();
    db.await_text(SOON, COUNT, "2").await;
    relay.kill();
    assert!(waiting.await.unwrap().is_err(), "the sender knows nothing");

    let other = Relay::options(&db).webhooks().start().await;
    let reply = numbered(1).send(other.webhooks()).await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(stored(&db).await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_relay_of_the_group_takes_requests() {
    let db = scene("wh_two", PLAIN).await;
    let mut first = Relay::options(&db).webhooks().start().await;
    let second = Relay::options(&db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    for n in 1..=100 {
        for relay in [&first, &second] {
            assert_eq!(numbered(n).send(relay.webhooks()).await.unwrap().status, 200);
        }
    }
    assert_eq!(stored(&db).await, (1..=100).collect::<Vec<_>>());
    // The status is of both.
    let status = "SELECT messages, duplicates FROM tide.relay_pipeline_status";
    db.await_text(SOON, status, "100|100").await;
    // Whoever the owner is: the other goes on at once.
    first.kill();
    for n in 101..=200 {
        assert_eq!(numbered(n).send(second.webhooks()).await.unwrap().status, 200);
    }
    db.await_text(SOON, status, "200|100").await;
    db.await_running(SOON, "p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_at_once_are_all_stored() {
    const ALL: i64 = 2_000;
    const ROUNDS: i64 = 5;
    let db = scene("wh_many", PLAIN).await;
    let relay = Relay::options(&db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    let address = relay.webhooks();
    let connecting = (0..ALL).map(|_| Sender::connect(address));
    let senders = futures::future::join_all(connecting).await;
    let began = Instant::now();
    let mut sending = tokio::task::JoinSet::new();
    for (n, sender) in (0..ALL).zip(senders) {
        let mut sender = sender.unwrap();
        sending.spawn(async move {
            let mut slowest = Duration::ZERO;
            for round in 0..ROUNDS {
                let began = Instant::now();
                let reply = sender.send(&numbered(round * ALL + n)).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
    }
    let slowest = sending.join_all().await.into_iter().max().unwrap();
    let took = began.elapsed();
    println!(
        "{ALL} connections: {} requests in {took:?}, {:.0}/s; the slowest took {slowest:?}",
        ALL * ROUNDS,
        (ALL * ROUNDS) as f64 / took.as_secs_f64()
    );
    assert_each_once(&stored(&db).await, 0..ALL * ROUNDS);
    let transactions = db
        .number("SELECT count(DISTINCT xmin::text) FROM tide.calls_inbox")
        .await;
    println!("{transactions} transactions");
    assert!(transactions < ALL * ROUNDS / 4, "{transactions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_given_up_and_hold_up_nobody() {
    let db = scene(
        "wh_slow",
        r#"{"signature": "none", "timeout": "700ms", "max_in_flight": 60}"#,
    )
    .await;
    let relay = Relay::options(&db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    let address = relay.webhooks();
    // Heads without an end, and bodies that drip.
    let mut headless = TcpStream::connect(address).await.unwrap();
    headless
        .write_all(b"POST /webhook/p HTTP/1.1\r\nhost: a\r\n")
        .await
        .unwrap();
    let mut dripping = tokio::task::JoinSet::new();
    for _ in 0..50 {
        dripping.spawn(async move {
            let began = Instant::now();
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let head = "POST /webhook/p HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";
            write.write_all(head.as_bytes()).await.unwrap();
            let drip = tokio::spawn(async move {
                let mut beat = tokio::time::interval(Duration::from_millis(50));
                while write.write_all(b" ").await.is_ok() {
                    beat.tick().await;
                }
            });
            let mut answer = String::new();
            let _ = read.read_to_string(&mut answer).await;
            drip.abort();
            (answer, began.elapsed())
        });
    }
    let mut n = 0;
    holds(Duration::from_secs(1), "others are served", async || {
        n += 1;
        numbered(n).send(address).await.unwrap().status == 200
    })
    .await;
    for (answer, took) in dripping.join_all().await {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did not arrive within 700ms"), "{answer}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    // Half a body and away.
    let mut gone = TcpStream::connect(address).await.unwrap();
    gone.write_all(b"POST /webhook/p HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{\"n\"")
        .await
        .unwrap();
    drop(gone);
    // A body in pieces, without its size.
    let mut chunked = TcpStream::connect(address).await.unwrap();
    let head =
        "POST /webhook/p HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    for part in [head, "5\r\n{\"n\":\r\n", "3\r\n 0}\r\n", "0\r\n\r\n"] {
        chunked.write_all(part.as_bytes()).await.unwrap();
    }
    let mut answer = String::new();
    chunked.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Who asks before he sends too much is told before.
    let mut asking = TcpStream::connect(address).await.unwrap();
    let head =
        "POST /webhook/p HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5000000\r\n\r\n";
    asking.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    asking.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    relay
        .await_metric(SOON, r#"pg_tide_relay_inflight{pipeline="p"} 0"#)
        .await;
    assert_each_once(&stored(&db).await, 0..=n);
}

/// Senders that send again what was not answered with success, to the next
/// relay, while relays are told to stop one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_loses_nothing_that_it_accepted() {
    let db = scene("wh_drain", r#"{"signature": "none", "timeout": "5s"}"#).await;
    let mut first = Relay::options(&db).webhooks().start().await;
    let mut second = Relay::options(&db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    let addresses = [first.webhooks(), second.webhooks()];
    let next = Arc::new(AtomicI64::new(0));
    let end = Arc::new(AtomicBool::new(false));
    let again = Arc::new(AtomicI64::new(0));
    let mut sending = tokio::task::JoinSet::new();
    for sender in 0..20_usize {
        let (next, end, again) = (Arc::clone(&next), Arc::clone(&end), Arc::clone(&again));
        sending.spawn(async move {
            // In the order of the answers, those that the first relay took.
            let mut taken = Vec::new();
            let mut connection: Option<(usize, Sender)> = None;
            let mut to = sender;
            while !end.load(Ordering::Relaxed) {
                let n = next.fetch_add(1, Ordering::Relaxed);
                loop {
                    if connection.is_none() {
                        let open = Sender::connect(addresses[to % 2]).await.ok();
                        connection = open.map(|open| (to % 2, open));
                    }
                    let Some((at, mut open)) = connection.take() else {
                        to += 1;
                        continue;
                    };
                    match open.send(&numbered(n)).await {
                        Ok(reply) if reply.status == 200 => {
                            taken.push((at, n));
                            connection = Some((at, open));
                            break;
                        }
                        Ok(reply) => assert_eq!(reply.status, 503, "{reply:?}"),
                        Err(_) => {}
                    }
                    again.fetch_add(1, Ordering::Relaxed);
                    to += 1;
                }
            }
            taken
        });
    }
    let progress = async |more: i64| {
        let until = next.load(Ordering::Relaxed) + more;
        await_condition(A_WHILE, "more requests", async || {
            (next.load(Ordering::Relaxed) > until).then_some(())
        })
        .await;
    };
    progress(500).await;
    // One that is in the middle of a body hears of it.
    let mut slow = TcpStream::connect(addresses[0]).await.unwrap();
    slow.write_all(b"POST /webhook/p HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{\"n\"")
        .await
        .unwrap();
    progress(200).await;
    let began = Instant::now();
    assert!(first.terminate(SOON).await.success());
    println!("stopped after {:?}", began.elapsed());
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("is stopping"),
        "{answer}"
    );
    progress(500).await;
    end.store(true, Ordering::Relaxed);
    let taken: Vec<(usize, i64)> = sending.join_all().await.concat();
    let all = next.load(Ordering::Relaxed);
    println!(
        "{} taken by the relay that stopped, {} by the other, {} sent again",
        taken.iter().filter(|(at, _)| *at == 0).count(),
        taken.iter().filter(|(at, _)| *at == 1).count(),
        again.load(Ordering::Relaxed)
    );
    assert!(taken.iter().any(|(at, _)| *at == 0));
    assert_each_once(&stored(&db).await, 0..all);
    assert!(second.terminate(SOON).await.success());
}
