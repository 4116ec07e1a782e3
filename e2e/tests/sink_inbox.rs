//! From an outbox of one database into an inbox of another: each message once,
//! in order, whole; whatever is killed, whatever is removed from the inbox.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_tide_e2e::{
    Bed, Database, OwnBed, Relay, SecretFiles, Signal, assert_each_once, assert_in_order, numbers, unique,
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_mins(1);

/// A database with the outbox `events`, one with the inbox `events`, and the
/// latter's URL as a secret.
struct Scene {
    source: Database,
    target: Arc<Database>,
    secrets: SecretFiles,
}

impl Scene {
    async fn new(stem: &str) -> Self {
        let server = Bed::from_env().postgres;
        let target = Database::fresh(&server, &format!("{stem}_target")).await;
        Self::with_target(stem, target).await
    }

    async fn with_target(stem: &str, target: Database) -> Self {
        let source = Database::fresh(&Bed::from_env().postgres, &format!("{stem}_source")).await;
        source.create_outboxes(&["events"]).await;
        target.run("SELECT tide.inbox_create('events')").await;
        let secrets = SecretFiles::mount(&[("url", &target.url())]);
        Self {
            source,
            target: Arc::new(target),
            secrets,
        }
    }

    /// The pipeline from the outbox to the inbox; `more` is a JSON object.
    async fn connect(&self, pipeline: &str, more: &str) {
        to_inbox(
            &self.source,
            pipeline,
            "events",
            "events",
            &self.secrets.reference("url"),
            more,
        )
        .await;
    }

    /// The payloads of the inbox in the order of their ids.
    async fn arrived(&self) -> Vec<i64> {
        let payloads = self
            .target
            .text("SELECT payload FROM tide.events_inbox ORDER BY id")
            .await;
        numbers(payloads.lines())
    }

    /// Waits for an error in the pipeline's status, and returns it.
    async fn await_error(&self, pipeline: &str, part: &str) -> String {
        let quoted = part.replace('\'', "''");
        let error =
            format!("SELECT last_error FROM tide.relay_pipeline_status WHERE pipeline = '{pipeline}'");
        let found = format!("SELECT coalesce(position('{quoted}' IN ({error})), 0) > 0");
        let come = pg_tide_e2e::answer(SOON, async || {
            (self.source.text(&found).await == "t").then_some(())
        })
        .await;
        let last = self.source.text(&error).await;
        assert!(come.is_some(), "wanted: {part}\ngot: {last}");
        last
    }
}

async fn to_inbox(db: &Database, pipeline: &str, outbox: &str, inbox: &str, url: &str, more: &str) {
    db.run(&format!(
        "SELECT tide.relay_set_outbox('{pipeline}', '{outbox}', 'inbox',
            jsonb_build_object('inbox', '{inbox}', 'url', '{url}') || '{more}')"
    ))
    .await;
}

/// Takes rows out of the inbox as soon as they are there, as a retention of no
/// time would: what is doubled then comes through.
struct Removal {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Removal {
    async fn start(target: &Arc<Database>) -> Self {
        target
            .run("CREATE TABLE removed (n bigint GENERATED ALWAYS AS IDENTITY, payload jsonb)")
            .await;
        let stop = Arc::new(AtomicBool::new(false));
        let (target, end) = (Arc::clone(target), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            loop {
                let last = end.load(Ordering::Relaxed);
                target
                    .run(
                        "WITH gone AS (DELETE FROM tide.events_inbox RETURNING id, payload)
                         INSERT INTO removed (payload) SELECT payload FROM gone ORDER BY id",
                    )
                    .await;
                if last {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stop, task }
    }

    /// Everything that was there, in the order in which it was.
    async fn end(self, target: &Database) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let payloads = target.text("SELECT payload FROM removed ORDER BY n").await;
        numbers(payloads.lines())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_once_in_order_and_whole() {
    let scene = Scene::new("inbox_whole").await;
    scene.connect("p", "{}").await;
    let relay = Relay::start(&scene.source).await;
    scene
        .source
        .run(
            "DO $$ BEGIN
                 FOR n IN 1 .. 20000 LOOP
                     PERFORM tide.outbox_publish('events', jsonb_build_object('n', n, 'price', 42.00),
                         jsonb_build_object('event_type', 'type-' || n % 7, 'tide-id', 'mine'));
                     IF n % 100 = 0 THEN COMMIT; END IF;
                 END LOOP;
                 INSERT INTO tide.events_outbox (payload, headers)
                 VALUES (NULL, '{\"note\": \"ä \\\"quoted\\\"\", \"nested\": {\"a\": [1, null]}}');
             END $$",
        )
        .await;
    scene.source.await_delivered(A_WHILE).await;
    let all = "SELECT count(*) FROM tide.events_inbox";
    assert_eq!(scene.target.number(all).await, 20_001);
    let wrong =
        "SELECT count(*) FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM tide.events_inbox) i
                  WHERE n <= 20000 AND (payload::text <> format('{\"n\": %s, \"price\": 42.00}', n)
                        OR event_id NOT LIKE 'events:%' OR event_id <> headers ->> 'tide-id'
                        OR headers - 'tide-id' <> jsonb_build_object('event_type', 'type-' || n % 7,
                              'tide-outbox', 'events', 'tide-pipeline', 'p'))";
    assert_eq!(scene.target.number(wrong).await, 0);
    let last = "SELECT payload IS NULL, headers ->> 'note', headers -> 'nested', split_part(source, '/', 2)
                  FROM tide.events_inbox ORDER BY id DESC LIMIT 1";
    assert_eq!(
        scene.target.text(last).await,
        r#"t|ä "quoted"|{"a": [1, null]}|events"#
    );
    assert_eq!(
        scene
            .target
            .text("SELECT pending, accepted, duplicates FROM tide.inbox_status('events')")
            .await,
        "20001|20001|0"
    );
    let line = r#"pg_tide_relay_messages_published_total{pipeline="p",direction="forward"} 20001"#;
    relay.await_metric(SOON, line).await;
    // The notes of what is checkpointed go, once no transaction of before is
    // open anywhere on the server.
    let kept = "SELECT coalesce(sum(cardinality(message_ids)), 0) < 10000 FROM tide.inbox_feed_batch";
    let trimmed = pg_tide_e2e::answer(A_WHILE, async || {
        scene.source.publish_number("events", 20_001).await;
        (scene.target.text(kept).await == "t").then_some(())
    })
    .await;
    assert!(trimmed.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_message_is_stored_again_only_when_its_row_is_gone() {
    let scene = Scene::new("inbox_replay").await;
    scene.connect("p", "{}").await;
    let relay = Relay::start(&scene.source).await;
    scene.source.publish_numbers("events", 1, 10, 1).await;
    scene.source.await_delivered(SOON).await;
    scene
        .target
        .run("DELETE FROM tide.events_inbox WHERE (payload -> 'n')::int IN (3, 4)")
        .await;
    scene
        .source
        .run("SELECT tide.relay_replay('p', NULL::bigint, NULL)")
        .await;
    relay.await_log(SOON, &["delivered once more"]).await;
    assert_each_once(&scene.arrived().await, 1..=10);
    assert_eq!(
        scene
            .target
            .text("SELECT accepted, duplicates FROM tide.inbox_status('events')")
            .await,
        "12|8"
    );
    assert_eq!(
        scene
            .target
            .text("SELECT count(*) FROM tide.events_inbox WHERE headers ? 'tide-redelivery'")
            .await,
        "2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_relays_lose_and_double_nothing_although_rows_are_removed_at_once() {
    let scene = Scene::new("inbox_killed").await;
    scene.connect("p", "{}").await;
    let removal = Removal::start(&scene.target).await;
    let mut relays = [
        Relay::start(&scene.source).await,
        Relay::start(&scene.source).await,
    ];
    let publisher = {
        let session = scene.source.session().await;
        tokio::spawn(async move {
            for first in (1..=30_000).step_by(100) {
                session
                    .execute(
                        &format!(
                            "SELECT count(tide.outbox_publish('events', jsonb_build_object('n', n)))
                               FROM generate_series({first}, {first} + 99) n"
                        ),
                        &[],
                    )
                    .await
                    .unwrap();
            }
        })
    };
    let removed = |more: i64| {
        let target = Arc::clone(&scene.target);
        async move {
            let count = "SELECT count(*) FROM removed";
            let wanted = (target.number(count).await + more).min(29_000);
            pg_tide_e2e::await_condition(A_WHILE, "more arrives", async || {
                (target.number(count).await >= wanted).then_some(())
            })
            .await;
        }
    };
    // SIGKILL whoever owns it, in the middle of it.
    for _ in 0..5 {
        removed(2_500).await;
        let owner = scene
            .source
            .text(
                "SELECT m.pid FROM tide.relay_pipeline_status s JOIN tide.relay_member m ON m.name = s.owner",
            )
            .await;
        if let Some(n) = relays.iter().position(|r| r.pid().to_string() == owner) {
            relays[n].kill();
            relays[n] = Relay::start(&scene.source).await;
        }
    }
    publisher.await.unwrap();
    scene.source.await_delivered(A_WHILE).await;
    let got = removal.end(&scene.target).await;
    assert_each_once(&got, 1..=30_000);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_frozen_writes_nothing_when_it_wakes() {
    let scene = Scene::new("inbox_frozen").await;
    scene.connect("p", "{}").await;
    let removal = Removal::start(&scene.target).await;
    let frozen = Relay::start(&scene.source).await;
    scene.source.publish_numbers("events", 1, 2_000, 10).await;
    // In the middle of a backlog, so that it holds messages.
    frozen.signal(Signal::Stop);
    scene.source.publish_numbers("events", 2_001, 8_000, 100).await;
    let survivor = Relay::start(&scene.source).await;
    // What the server does by itself once the host no longer answers.
    scene
        .source
        .run(&format!(
            "SELECT pg_terminate_backend(backend_pid) FROM tide.relay_member WHERE pid = {}",
            frozen.pid()
        ))
        .await;
    scene.source.await_delivered(A_WHILE).await;
    frozen.signal(Signal::Continue);
    scene.source.publish_numbers("events", 8_001, 9_000, 10).await;
    scene.source.await_delivered(A_WHILE).await;
    survivor.await_healthy(SOON, "p", 1).await;
    drop(frozen);
    let got = removal.end(&scene.target).await;
    assert_each_once(&got, 1..=9_000);
    assert_in_order(&got);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_is_waited_for_and_gets_everything_once() {
    let bed = OwnBed::up("inbox-target", &["postgres"], &[]).await;
    let target = Database::fresh(&bed.addresses.postgres, "inbox_crash").await;
    let scene = Scene::with_target("inbox_crash", target).await;
    scene.connect("p", "{}").await;
    let relay = Relay::start(&scene.source).await;
    for round in 0..3 {
        scene
            .source
            .publish_numbers("events", round * 4_000 + 1, round * 4_000 + 4_000, 50)
            .await;
        bed.kill("postgres").await;
        scene.source.publish_number("events", 100_000 + round).await;
        relay.await_log(SOON, &["delivery failed: inbox"]).await;
        bed.start("postgres").await;
    }
    scene.source.await_delivered(A_WHILE).await;
    relay.await_healthy(SOON, "p", 1).await;
    let got = scene.arrived().await;
    assert_each_once(&got, (1..=12_000).chain(100_000..=100_002));
    // It is missed also when there is nothing to deliver.
    bed.kill("postgres").await;
    relay.await_healthy(SOON, "p", 0).await;
    bed.start("postgres").await;
    relay.await_healthy(SOON, "p", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_dead_lettered_alone_and_the_others_keep_their_order() {
    let scene = Scene::new("inbox_poison").await;
    scene.connect("p", "{}").await;
    scene
        .target
        .run("ALTER TABLE tide.events_inbox ADD CONSTRAINT small CHECK ((payload -> 'n')::int NOT IN (1, 37, 38, 2500, 5000))")
        .await;
    scene.source.publish_numbers("events", 1, 5_000, 500).await;
    let relay = Relay::start(&scene.source).await;
    scene.source.await_delivered(A_WHILE).await;
    let got = scene.arrived().await;
    assert_each_once(
        &got,
        (1..=5_000).filter(|n| ![1, 37, 38, 2_500, 5_000].contains(n)),
    );
    assert_in_order(&got);
    let dead = "SELECT string_agg(payload ->> 'n', ',' ORDER BY dlq_id),
                       bool_and(error LIKE 'inbox \"events\" refuses it: new row%violates check constraint \"small\"%')
                  FROM tide.dead_letter WHERE pipeline = 'p'";
    assert_eq!(scene.source.text(dead).await, "1,37,38,2500,5000|t");
    relay.await_healthy(SOON, "p", 1).await;

    scene
        .target
        .run("ALTER TABLE tide.events_inbox DROP CONSTRAINT small")
        .await;
    scene.source.run("SELECT tide.relay_dlq_retry_all('p')").await;
    let left = "SELECT count(*) FROM tide.relay_dlq_list('p')";
    scene.source.await_text(SOON, left, "0").await;
    assert_each_once(&scene.arrived().await, 1..=5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_in_the_target_is_said_and_waited_for() {
    let server = Bed::from_env().postgres;
    let target = Database::empty(&server, "inbox_missing_target").await;
    let source = Database::fresh(&server, "inbox_missing").await;
    source.create_outboxes(&["events"]).await;
    let role = unique("feeder");
    target
        .run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'Sesame-17'"))
        .await;
    let secrets = SecretFiles::mount(&[("password", "wrong-Sesame")]);
    let scene = Scene {
        source,
        target: Arc::new(target),
        secrets,
    };
    // The URL without its login.
    let url = scene.target.url();
    let (_, host) = url.split_once('@').unwrap();
    to_inbox(
        &scene.source,
        "p",
        "events",
        "events",
        &format!("postgres://{host}"),
        &format!(
            r#"{{"user": "{role}", "password": "{}"}}"#,
            scene.secrets.reference("password")
        ),
    )
    .await;
    let relay = Relay::start(&scene.source).await;
    scene.source.publish_numbers("events", 1, 10, 1).await;

    scene.await_error("p", "password authentication failed").await;
    scene.secrets.replace(&[("password", "Sesame-17")]);
    let missing = scene.await_error("p", "schema tide is not installed there").await;
    assert!(missing.contains("pg-tide schema install"), "{missing}");
    let url = scene.target.url();
    let installed = pg_tide_e2e::run_pg_tide(&["schema", "install", "--postgres-url", &url]).await;
    assert!(installed.status.success(), "{installed:?}");
    let denied = scene.await_error("p", "permission denied").await;
    let advice = format!("SELECT tide.inbox_grant_feed('events', '{role}')");
    assert!(denied.contains(&advice), "{denied}");

    // Another inbox first: that right is not enough.
    scene.target.run("SELECT tide.inbox_create('other')").await;
    scene
        .target
        .run(&format!("SELECT tide.inbox_grant_feed('other', '{role}')"))
        .await;
    scene.await_error("p", "inbox \"events\" does not exist").await;
    scene.target.run("SELECT tide.inbox_create('events')").await;
    let denied = scene
        .await_error("p", "may not deliver into inbox \"events\"")
        .await;
    assert!(denied.contains(&advice), "{denied}");
    scene
        .target
        .run(&format!("SELECT tide.inbox_grant_feed('events', '{role}')"))
        .await;

    scene.source.await_delivered(SOON).await;
    assert_eq!(scene.arrived().await, (1..=10).collect::<Vec<_>>());
    relay.await_healthy(SOON, "p", 1).await;

    // Taken back, it stops.
    scene
        .target
        .run(&format!("SELECT tide.inbox_revoke_feed('events', '{role}')"))
        .await;
    scene.source.publish_number("events", 11).await;
    scene
        .await_error("p", "may not deliver into inbox \"events\"")
        .await;
    for secret in ["Sesame-17", "wrong-Sesame"] {
        assert!(!relay.log().contains(secret));
    }
    drop(relay);
    scene
        .target
        .run(&format!(
            "GRANT {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_of_the_same_database_needs_no_url_and_ids_may_be_the_messages_own() {
    let db = Database::fresh(&Bed::from_env().postgres, "inbox_same").await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('events')").await;
    db.run(
        "SELECT tide.relay_set_outbox('p', 'events', 'inbox', '{\"inbox\": \"events\", \"message_id_header\": \"id\"}')",
    )
    .await;
    let _relay = Relay::start(&db).await;
    db.run(
        "SELECT tide.outbox_publish('events', jsonb_build_object('n', n), jsonb_build_object('id', 'order-' || n % 3))
           FROM generate_series(1, 30) n;
         SELECT tide.outbox_publish('events', '{\"n\": 31}')",
    )
    .await;
    db.await_delivered(SOON).await;
    let ids = "SELECT string_agg(split_part(event_id, ':', 1) || '=' || (payload ->> 'n'), ' ' ORDER BY id) FROM tide.events_inbox";
    assert_eq!(db.text(ids).await, "order-1=1 order-2=2 order-0=3 events=31");
    assert_eq!(
        db.text("SELECT accepted, duplicates FROM tide.inbox_status('events')")
            .await,
        "4|27"
    );
}

/// Each side publishes every change of its table, whatever made it; the path
/// that a message has come keeps it from going back.
#[tokio::test(flavor = "multi_thread")]
async fn two_services_keep_a_table_in_step_without_a_loop() {
    let server = Bed::from_env().postgres;
    let (shop, billing) = (
        Database::fresh(&server, "loop_shop").await,
        Database::fresh(&server, "loop_billing").await,
    );
    for db in [&shop, &billing] {
        db.run(include_str!("../../docs/guide/inbox-both-ways.sql")).await;
    }
    let urls = SecretFiles::mount(&[("shop", &shop.url()), ("billing", &billing.url())]);
    for (db, name, other) in [(&shop, "shop", "billing"), (&billing, "billing", "shop")] {
        let more = format!(r#"{{"origin": "{name}", "skip_if_passed": "{other}"}}"#);
        to_inbox(
            db,
            &format!("to-{other}"),
            "customers",
            "customers",
            &urls.reference(other),
            &more,
        )
        .await;
    }
    let _relays = (Relay::start(&shop).await, Relay::start(&billing).await);
    for n in 1..=20 {
        let (db, name) = if n % 2 == 0 {
            (&shop, "shop")
        } else {
            (&billing, "billing")
        };
        db.run(&format!("INSERT INTO customer VALUES ({n}, 'made by {name}')"))
            .await;
    }
    let content = "SELECT string_agg(id || ' ' || name, ',' ORDER BY id) FROM customer";
    let in_step = pg_tide_e2e::answer(A_WHILE, async || {
        for db in [&shop, &billing] {
            db.run("CALL apply_customers()").await;
        }
        let (a, b) = (shop.text(content).await, billing.text(content).await);
        (a == b && a.matches("made by").count() == 20).then_some(())
    })
    .await;
    assert!(
        in_step.is_some(),
        "{}\n{}",
        shop.text(content).await,
        billing.text(content).await
    );
    for db in [&shop, &billing] {
        db.await_delivered(SOON).await;
        // Ten of its own, ten of the other's; none of its own came back.
        assert_eq!(db.text("SELECT count(*) FROM tide.customers_outbox").await, "20");
        assert_eq!(db.text("SELECT count(*) FROM tide.customers_inbox").await, "10");
    }
}
