//! What is posted to a relay is in the inbox: once, whole, and only if it may
//! be; everybody else is told what to do.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use pg_tide_e2e::{Bed, Database, Post, Relay, Reply, SecretFiles, await_condition};

const SOON: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
const KEY: &str = "a-key-for-tests";
const IDS: &str = "SELECT event_id, payload->>'n' FROM tide.calls_inbox ORDER BY id";
const PLAIN: &str = r#"{"signature": "none"}"#;

async fn scene(stem: &str) -> Database {
    let db = Database::fresh(&Bed::from_env().postgres, stem).await;
    db.run("SELECT tide.inbox_create('calls')").await;
    db
}

/// A relay that listens, once the pipeline `p` runs.
async fn listening(db: &Database) -> Relay {
    let relay = Relay::options(db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    relay
}

/// A pipeline `p` for requests signed by this key, and a relay.
async fn signed(stem: &str, key: &str) -> (Database, Relay, SecretFiles) {
    let db = scene(stem).await;
    let files = SecretFiles::mount(&[("key", key)]);
    let config = format!(r#"{{"signing_secret": "{}"}}"#, files.reference("key"));
    db.from_webhook("p", "calls", &config, "").await;
    let relay = listening(&db).await;
    (db, relay, files)
}

async fn reply(relay: &Relay, post: Post) -> Reply {
    post.send(relay.webhooks()).await.unwrap()
}

/// The error with this status.
async fn refusal(relay: &Relay, post: Post, status: u16) -> Reply {
    let reply = reply(relay, post).await;
    assert_eq!(reply.status, status, "{reply:?}");
    println!("{status}: {}", reply.error());
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_makes_one_row_however_often_it_comes() {
    let (db, relay, _files) = signed("wh_signed", KEY).await;
    let post = || {
        Post::to("p", r#"{"n": 1, "x": 1.50}"#)
            .header("content-type", "application/json")
            .header("authorization", "Bearer hunter2")
            .header("cookie", "hunter2")
            .header("x-tag", "a")
            .signed("msg_1", &[KEY])
    };
    for _ in 0..3 {
        let reply = reply(&relay, post()).await;
        assert_eq!((reply.status, reply.body.trim()), (200, r#"{"status":"stored"}"#));
    }
    assert_eq!(db.text(IDS).await, "msg_1|1");
    let row = "SELECT source, payload, headers - 'host' - 'webhook-timestamp' FROM tide.calls_inbox";
    assert_eq!(
        db.text(row).await,
        r#"webhook:p|{"n": 1, "x": 1.50}|{"x-tag": "a", "webhook-id": "msg_1", "content-type": "application/json"}"#
    );
    for line in [
        r#"pg_tide_relay_messages_consumed_total{pipeline="p",direction="reverse"} 1"#,
        r#"pg_tide_relay_dedup_skipped_total{pipeline="p"} 2"#,
        r#"pg_tide_relay_webhook_requests_total{pipeline="p",code="200"} 3"#,
        r#"pg_tide_relay_inflight{pipeline="p"} 0"#,
    ] {
        relay.await_metric(SOON, line).await;
    }
    let status =
        "SELECT source, state, messages, duplicates, last_error IS NULL FROM tide.relay_pipeline_status";
    db.await_text(SOON, status, "webhook|running|1|2|t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_sign_well_is_told_why_and_stores_nothing() {
    let (db, relay, _files) = signed("wh_refused", KEY).await;
    let post = || Post::to("p", r#"{"n": 1}"#);
    for (wrong, words) in [
        (post(), "webhook-id is missing"),
        (post().signed("m", &["another-key"]), "does not match"),
        (post().signed_at("m", &[KEY], -301), "s old"),
        (post().signed_at("m", &[KEY], 310), "in the future"),
        (
            post().signed("m", &[KEY]).header("webhook-id", "n"),
            "there once only",
        ),
    ] {
        let error = refusal(&relay, wrong, 401).await.error();
        assert!(error.contains(words) && !error.contains(KEY), "{error}");
    }
    assert_eq!(db.text("SELECT count(*) FROM tide.calls_inbox").await, "0");
    let line = r#"pg_tide_relay_webhook_requests_total{pipeline="p",code="401"} 5"#;
    relay.await_metric(SOON, line).await;
    relay.await_log(SOON, &["WARN", "answered 401"]).await;
    let fine = post().signed_at("m", &["x", KEY], -200);
    assert_eq!(reply(&relay, fine).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_changed_without_a_gap() {
    let db = scene("wh_rotation").await;
    let files = SecretFiles::mount(&[("key", "first-key"), ("next", "whsec_c2Vjb25kLWtleQ==")]);
    let secrets = |names: &[&str]| {
        let list: Vec<String> = names
            .iter()
            .map(|n| format!("\"{}\"", files.reference(n)))
            .collect();
        format!(r#"{{"signing_secret": [{}]}}"#, list.join(","))
    };
    db.from_webhook("p", "calls", &secrets(&["key", "next"]), "")
        .await;
    let relay = listening(&db).await;
    let mut n = 0;
    let mut status = async |key: &'static str| {
        n += 1;
        let post = Post::to("p", &format!("{{\"n\": {n}}}")).signed(&format!("m{n}"), &[key]);
        reply(&relay, post).await.status
    };
    assert_eq!(
        (
            status("first-key").await,
            status("second-key").await,
            status("third-key").await
        ),
        (200, 200, 401)
    );
    // Both in one file, the new one at once, the old one for at most a second.
    files.replace(&[
        ("key", "third-key fourth-key"),
        ("next", "whsec_c2Vjb25kLWtleQ=="),
    ]);
    await_condition(SECOND, "the new key is taken", async || {
        (status("third-key").await == 200).then_some(())
    })
    .await;
    assert_eq!(
        (status("fourth-key").await, status("second-key").await),
        (200, 200)
    );
    await_condition(2 * SECOND, "the old key is not taken any more", async || {
        (status("first-key").await == 401).then_some(())
    })
    .await;
    // One that is named no more goes with the configuration.
    db.from_webhook("p", "calls", &secrets(&["key"]), "").await;
    await_condition(SECOND, "the second key is not taken any more", async || {
        (status("second-key").await == 401).then_some(())
    })
    .await;
    assert_eq!(status("fourth-key").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_senders_are_told_apart_by_what_they_give() {
    let db = scene("wh_plain").await;
    db.run("SELECT tide.inbox_create('others')").await;
    db.from_webhook("p", "calls", PLAIN, "").await;
    let own = r#"{"signature": "none", "message_id_header": "X-Event"}"#;
    db.from_webhook("own", "others", own, "").await;
    let relay = listening(&db).await;
    let post = |n: i64| Post::to("p", &format!("{{\"n\": {n}}}"));
    for (post, times) in [
        (post(1).header("Idempotency-Key", "key-1"), 2),
        (post(2).header("ce-id", "ce-2"), 2),
        (
            Post::to("p", r#"{"id": "ce-3", "source": "s", "data": {}, "n": 3}"#)
                .header("content-type", "application/cloudevents+json; charset=utf-8"),
            2,
        ),
        (post(4).header("webhook-id", "wh-4"), 2),
        (post(5), 3),
        (post(6), 1),
        (post(1).header("Idempotency-Key", "key-1b"), 1),
    ] {
        for _ in 0..times {
            let reply = reply(&relay, post.clone()).await;
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }
    assert_eq!(
        db.text(IDS).await,
        "key-1|1\nce-2|2\nce-3|3\nwh-4|4\ncalls:webhook:seq-1|5\ncalls:webhook:seq-2|6\nkey-1b|1"
    );
    for n in [1, 2] {
        let post = Post::to("own", &format!("{{\"n\": {n}}}"))
            .header("x-event", "e")
            .header("Idempotency-Key", &n.to_string());
        assert_eq!(reply(&relay, post).await.status, 200);
    }
    let ids = "SELECT event_id, payload->>'n' FROM tide.others_inbox";
    assert_eq!(db.text(ids).await, "e|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_has_an_answer_that_helps() {
    let db = scene("wh_answers").await;
    let small = r#"{"signature": "none", "max_body_bytes": 1000, "max_in_flight": 2}"#;
    db.from_webhook("p", "calls", small, "").await;
    db.from_webhook("elsewhere", "calls", PLAIN, ", p_relay_group := 'eu'")
        .await;
    let name = "Weird \"Name\"/ä";
    db.from_webhook(name, "calls", PLAIN, "").await;
    let relay = listening(&db).await;
    let large = format!("\"{}\"", "x".repeat(1_000));
    for (post, status, words) in [
        (Post::path("/", b"{}"), 404, "/webhook/"),
        (Post::path("/webhook/p/q", b"{}"), 404, "/webhook/"),
        (Post::to("unknown", "{}"), 404, "relay group \"default\""),
        (Post::to("elsewhere", "{}"), 404, "relay group"),
        (Post::to("p", "").method("GET"), 405, "only POST"),
        (Post::to("p", &large), 413, "larger than 1000 bytes"),
        (
            Post::to("p", "{}").header("content-encoding", "gzip"),
            415,
            "without Content-Encoding",
        ),
    ] {
        let reply = refusal(&relay, post, status).await;
        assert!(reply.error().contains(words), "{reply:?}");
        assert_eq!(reply.retry_after(), None);
        assert_eq!(reply.headers.contains_key("allow"), status == 405);
    }
    // The largest that is taken; and a name with everything in it.
    let just = format!("\"{}\"", "x".repeat(998));
    assert_eq!(reply(&relay, Post::to("p", &just)).await.status, 200);
    let encoded = Post::to("Weird%20%22Name%22%2F%C3%A4", r#"{"n": 7}"#);
    assert_eq!(reply(&relay, encoded).await.status, 200);
    let source = "SELECT source FROM tide.calls_inbox WHERE payload->>'n' = '7'";
    assert_eq!(db.text(source).await, format!("webhook:{name}"));

    // No more than two at a time.
    let session = db.session().await;
    session
        .batch_execute("BEGIN; SELECT FROM tide.inbox_counter FOR UPDATE")
        .await
        .unwrap();
    let held = [1, 2].map(|n| {
        let (post, address) = (Post::to("p", &format!("{{\"n\": {n}}}")), relay.webhooks());
        tokio::spawn(async move { post.send(address).await.unwrap().status })
    });
    relay
        .await_metric(SOON, r#"pg_tide_relay_inflight{pipeline="p"} 2"#)
        .await;
    let reply = refusal(&relay, Post::to("p", "{}"), 503).await;
    assert_eq!(reply.retry_after(), Some(1));
    session.batch_execute("ROLLBACK").await.unwrap();
    for held in held {
        assert_eq!(held.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_set_aside_with_its_bytes() {
    let db = scene("wh_poison").await;
    let options =
        r#"{"signature": "none", "retry": {"initial": 5}, "filter": {"payload.skip": {"exists": false}}}"#;
    db.from_webhook("p", "calls", options, "").await;
    let strict = r#"{"signature": "none", "dead_letter": {"enabled": false, "max_retries": 0}}"#;
    db.from_webhook("strict", "calls", strict, "").await;
    let relay = listening(&db).await;
    let poison: [&[u8]; 4] = [b"hello", b"", b"{\"n\": \"\xff\xfe\"}", br#"{"n": "\u0000"}"#];
    let posts = poison.map(|bytes| Post::path("/webhook/p", bytes).header("Idempotency-Key", "poison"));
    // Beside good ones, in the same batch or not.
    let good = (1..=50).map(|n| Post::to("p", &format!("{{\"n\": {n}}}")));
    let sent = futures::future::join_all(posts.into_iter().chain(good).map(|post| {
        let address = relay.webhooks();
        async move { post.send(address).await.unwrap().status }
    }))
    .await;
    assert_eq!(sent[..4], [202; 4]);
    assert_eq!(sent[4..], [200; 50]);
    assert_eq!(db.number("SELECT count(*) FROM tide.calls_inbox").await, 50);
    // They said that they are one.
    let letters = "SELECT count(*), min(direction), min(event_id) FROM tide.dead_letter WHERE error <> '' AND body IS NOT NULL";
    assert_eq!(db.text(letters).await, "1|reverse|poison");
    let post = Post::path("/webhook/p", b"hello").header("x-secret", "hunter2");
    assert_eq!(reply(&relay, post).await.status, 202);
    let letter = "SELECT encode(body, 'escape'), error, headers::text LIKE '%hunter%' FROM tide.dead_letter WHERE event_id IS NULL";
    let letter = db.text(letter).await;
    assert!(
        letter.starts_with("hello|the payload is not JSON") && letter.ends_with("|f"),
        "{letter}"
    );
    let status = "SELECT dead_letters FROM tide.pipeline_status s JOIN tide.pipeline USING (pipeline_id) WHERE name = 'p'";
    db.await_text(SOON, status, "2").await;

    let filtered = reply(&relay, Post::to("p", r#"{"skip": 1}"#)).await;
    assert_eq!((filtered.status, filtered.body.contains("filtered")), (200, true));
    for body in ["hello", r#"{"n": "\u0000"}"#] {
        let error = refusal(&relay, Post::to("strict", body), 422).await.error();
        assert!(error.contains("send JSON"), "{error}");
    }
    let ids = "SELECT count(*) FROM tide.dead_letter WHERE pipeline = 'strict'";
    assert_eq!(db.text(ids).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_takes_effect_within_a_second() {
    let db = scene("wh_hot").await;
    let relay = Relay::options(&db).webhooks().start().await;
    let status = async |name: &str| reply(&relay, Post::to(name, "{}")).await;
    let until = async |name: &str, wanted: u16| {
        let began = Instant::now();
        await_condition(SECOND, &format!("{name} is answered {wanted}"), async || {
            (status(name).await.status == wanted).then_some(())
        })
        .await;
        println!("{name}: {wanted} after {:?}", began.elapsed());
    };
    assert_eq!(status("p").await.status, 404);
    db.from_webhook("p", "calls", PLAIN, "").await;
    until("p", 200).await;
    db.run("SELECT tide.relay_disable('p')").await;
    until("p", 503).await;
    let reply = status("p").await;
    assert!(reply.error().contains("disabled") && reply.retry_after() == Some(60));
    db.run("SELECT tide.relay_enable('p')").await;
    until("p", 200).await;
    db.run("UPDATE tide.pipeline SET name = 'q' WHERE name = 'p'")
        .await;
    until("q", 200).await;
    assert_eq!(status("p").await.status, 404);
    db.run("SELECT tide.relay_delete('q')").await;
    until("q", 404).await;
}

/// The fence makes that nothing is stored by an old configuration; senders
/// notice nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_the_pipeline_is_changed() {
    let db = scene("wh_change").await;
    db.from_webhook("p", "calls", PLAIN, "").await;
    let relay = listening(&db).await;
    let address = relay.webhooks();
    let (at, mut now_at) = tokio::sync::watch::channel(0);
    let posting = tokio::spawn(async move {
        let mut answers = Vec::new();
        for n in 0..400 {
            at.send_replace(n);
            let post = Post::to("p", &format!("{{\"n\": {n}}}"));
            answers.push(post.send(address).await.unwrap().status);
        }
        answers
    });
    for round in 0..30 {
        now_at.wait_for(|n| *n >= round * 10).await.unwrap();
        let config = format!(r#"{{"signature": "none", "max_in_flight": {}}}"#, 100 + round);
        db.from_webhook("p", "calls", &config, "").await;
    }
    assert_eq!(posting.await.unwrap(), vec![200; 400]);
    assert_eq!(db.number("SELECT count(*) FROM tide.calls_inbox").await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_listener_the_pipeline_says_what_is_missing() {
    let db = scene("wh_deaf").await;
    let files = SecretFiles::mount(&[("key", KEY)]);
    let missing = format!(r#"{{"signing_secret": "{}"}}"#, files.reference("other"));
    db.from_webhook("p", "calls", PLAIN, "").await;
    db.from_webhook("keyless", "calls", &missing, "").await;
    let deaf = Relay::start(&db).await;
    let error = db
        .await_error(SOON, "p", &["no webhook listener", "--webhook-addr"])
        .await;
    println!("{error}");
    deaf.await_healthy(SOON, "p", 0).await;
    // Another relay of the group listens: that is enough, whoever owns it.
    let other = Relay::options(&db).webhooks().start().await;
    db.await_running(SOON, "p").await;
    assert_eq!(reply(&other, Post::to("p", "{}")).await.status, 200);

    db.await_error(SOON, "keyless", &["cannot read the secret file"])
        .await;
    let refused = refusal(&other, Post::to("keyless", "{}").signed("m", &[KEY]), 503).await;
    assert!(
        refused.error().contains("signing secret") && !refused.body.contains('/'),
        "{refused:?}"
    );
    files.replace(&[("key", KEY), ("other", KEY)]);
    await_condition(SOON, "the secret is there", async || {
        let post = Post::to("keyless", r#"{"n": 1}"#).signed("m", &[KEY]);
        (reply(&other, post).await.status == 200).then_some(())
    })
    .await;
    db.await_running(SOON, "keyless").await;
}

/// The commands of docs/guide/receive-webhooks.md, as they stand there.
#[tokio::test(flavor = "multi_thread")]
async fn the_guide_can_be_followed() {
    let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/receive-webhooks.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let start = format!("```{language}\n");
        let blocks = guide.split(&start).skip(1);
        blocks
            .map(|b| b.split("```").next().unwrap().to_owned())
            .collect()
    };
    let db = Database::fresh(&Bed::from_env().postgres, "wh_guide").await;
    let relay = Relay::options(&db).webhooks().start().await;
    let file = std::env::temp_dir().join(pg_tide_e2e::unique("payments-key"));
    let here = |text: &str| {
        text.replace("/run/secrets/payments-key", file.to_str().unwrap())
            .replace("localhost:8080", &relay.webhooks().to_string())
    };
    let shell = async |script: &str| {
        let script = format!("set -e\n{}", here(script));
        let mut command = tokio::process::Command::new("sh");
        let output = command.args(["-c", &script]).output().await.unwrap();
        assert!(output.status.success(), "{script}\n{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (commands, statements) = (blocks("sh"), blocks("sql"));
    assert!(commands[0].starts_with("pg-tide --postgres-url"));
    shell(&commands[1]).await;
    db.run(&here(&statements[0])).await;
    let answer = await_condition(SECOND, "the pipeline takes requests", async || {
        let answer = shell(&commands[2]).await;
        (!answer.contains("no webhook pipeline")).then_some(answer)
    })
    .await;
    assert!(guide.contains(&format!("```\n{answer}```")), "{answer}");
    let row = db.text(&statements[1]).await;
    assert!(row.contains("webhook:payments-hook|{\"amount\": 7"), "{row}");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_knows_webhooks() {
    let db = scene("wh_cli").await;
    db.from_webhook("p", "calls", PLAIN, "").await;
    let url = db.url();
    let said = async |arguments: &[&str]| {
        let output = pg_tide_e2e::run_pg_tide(arguments).await;
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (_, alone) = said(&["doctor", "--postgres-url", &url]).await;
    assert!(
        alone.contains("--webhook-addr") && alone.contains("not signed"),
        "{alone}"
    );
    let _deaf = Relay::start(&db).await;
    db.await_error(SOON, "p", &["no webhook listener"]).await;
    for command in ["doctor", "status"] {
        let (_, text) = said(&[command, "--postgres-url", &url]).await;
        assert!(text.contains("no webhook listener"), "{command}: {text}");
    }
    let file = std::env::temp_dir().join(pg_tide_e2e::unique("webhooks"));
    for (config, code, words) in [
        (r#"{"signing_secret": ["${env:A}", "${file:/b}"]}"#, 0, ""),
        (
            r#"{"tolerance": "1m"}"#,
            3,
            "if requests are not signed, say so: \"signature\": \"none\"",
        ),
    ] {
        let pipeline = format!(r#"[{{"name": "p", "inbox": "i", "source": "webhook", "config": {config}}}]"#);
        std::fs::write(&file, pipeline).unwrap();
        let (status, text) = said(&["config", "validate", file.to_str().unwrap()]).await;
        assert!(status == Some(code) && text.contains(words), "{status:?} {text}");
    }
    std::fs::remove_file(file).unwrap();
}
