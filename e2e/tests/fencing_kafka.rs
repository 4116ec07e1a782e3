//! Nothing of an earlier owner, or of an earlier connection, comes into a topic
//! late: not after a freeze, not out of the network's buffers.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_e2e::kafka::{self, values};
use pg_tide_e2e::{
    Bed, Database, Load, OwnBed, Proxy, Relay, Signal, assert_each_once, assert_in_order, await_condition,
    unique,
};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_mins(1);
const PENDING: &str = "SELECT pending_count FROM tide.outbox_pending";
const OWNER: &str =
    "SELECT DISTINCT m.pid FROM tide.relay_pipeline_status s JOIN tide.relay_member m ON m.name = s.owner";

/// A broker beside which there is a way through a proxy, on which it is
/// advertised as the proxy.
async fn broker_behind_a_proxy(name: &str) -> (OwnBed, Proxy) {
    let way = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let properties = std::env::temp_dir().join(unique("tide-proxied"));
    let map = "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT\n";
    std::fs::write(&properties, map).unwrap();
    let settings = [
        ("TIDE_BED_KAFKA_LISTENERS", format!("PROXIED://{own}")),
        (
            "TIDE_BED_KAFKA_ADVERTISED",
            format!("PROXIED://{}", way.local_addr().unwrap()),
        ),
        ("TIDE_BED_KAFKA_PROPERTIES", properties.display().to_string()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let bed = OwnBed::up(name, &["kafka"], &settings).await;
    std::fs::remove_file(&properties).unwrap();
    (bed, Proxy::listening_on(way, &own.to_string()))
}

/// The topic holds each number once, in order.
async fn assert_all(brokers: &str, topic: &str, last: i64) {
    let got = values(&kafka::records(brokers, topic).await);
    assert_each_once(&got, 1..=last);
    assert_in_order(&got);
}

/// A pipeline through a proxy, which has stalled.
struct Scene {
    own: OwnBed,
    proxy: Proxy,
    db: Database,
    topic: String,
}

impl Scene {
    /// A relay has delivered 100 messages; 100 more come to it when the network
    /// carries nothing.
    async fn with_requests_on_their_way(name: &str) -> (Relay, Self) {
        let (own, proxy) = broker_behind_a_proxy(&format!("kafka-{name}")).await;
        let db = Database::fresh(&Bed::from_env().postgres, &format!("kafka_{name}")).await;
        let topic = unique(name);
        db.create_outboxes(&["events"]).await;
        db.to_kafka("p", "events", &proxy.address().to_string(), &topic, "{}")
            .await;
        let relay = Relay::start(&db).await;
        db.publish_numbers("events", 1, 100, 10).await;
        db.await_delivered(SOON).await;
        proxy.stall();
        db.publish_numbers("events", 101, 200, 10).await;
        let scene = Self {
            own,
            proxy,
            db,
            topic,
        };
        (relay, scene)
    }

    /// All have come, another way.
    async fn all_but_what_is_late(&self) {
        self.db.await_text(A_WHILE, PENDING, "0").await;
        assert_all(&self.own.addresses.kafka, &self.topic, 200).await;
        assert!(self.proxy.held() > 0, "nothing is late");
    }

    async fn what_is_late_doubles_nothing(&self) {
        self.proxy.go_on();
        await_condition(SOON, "what was late is there", async || {
            (self.proxy.held() == 0).then_some(())
        })
        .await;
        self.db.publish_numbers("events", 201, 210, 10).await;
        self.db.await_delivered(SOON).await;
        assert_all(&self.own.addresses.kafka, &self.topic, 210).await;
    }
}

/// The network keeps what it was given for longer than the relay waits for an
/// acknowledgement, and delivers it after the messages have come another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_late_doubles_nothing() {
    let (relay, scene) = Scene::with_requests_on_their_way("late").await;
    let (db, proxy) = (&scene.db, &scene.proxy);
    let silent =
        "SELECT state = 'retrying' AND last_error ~ 'no acknowledgement for 10 s|no broker can be reached'
                    FROM tide.relay_pipeline_status";
    db.await_text(SOON, silent, "t").await;
    relay.await_healthy(SOON, "p", 0).await;
    proxy.go_on_anew();
    scene.all_but_what_is_late().await;
    relay.await_healthy(SOON, "p", 1).await;
    scene.what_is_late_doubles_nothing().await;
}

/// The same with an owner that is dead by then: its requests lie in the network
/// while the next one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_a_dead_owner_that_arrives_late_is_refused() {
    let (mut first, scene) = Scene::with_requests_on_their_way("dead").await;
    let (db, proxy) = (&scene.db, &scene.proxy);
    await_condition(SOON, "a request is on its way", async || {
        (proxy.held() > 0).then_some(())
    })
    .await;
    first.kill();
    proxy.go_on_anew();
    let _second = Relay::start(db).await;
    scene.all_but_what_is_late().await;
    scene.what_is_late_doubles_nothing().await;
}

/// An owner is frozen in the middle of sending, replaced, and wakes up.
async fn frozen_owners(stem: &str, options: &str) {
    let bed = Bed::from_env();
    let db = Database::fresh(&bed.postgres, stem).await;
    db.create_outboxes(&["events"]).await;
    let topic = unique(stem);
    kafka::create_topic(&bed.kafka, &topic, 1, &[]).await;
    db.to_kafka("p", "events", &bed.kafka, &topic, options).await;
    let load = Load::start(&db).await;
    let (a, b) = (Relay::start(&db).await, Relay::start(&db).await);
    for _ in 0..3 {
        let pid: u32 = await_condition(SOON, "an owner", async || db.text(OWNER).await.parse().ok()).await;
        let (owner, other) = if pid == a.pid() { (&a, &b) } else { (&b, &a) };
        load.await_more(200).await;
        owner.signal(Signal::Stop);
        // As the server does with the session of a host that vanished.
        db.run(&format!(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN tide.relay_member m ON m.pid = {pid}
              WHERE l.locktype = 'advisory' AND l.classid = 1953064045 AND l.objid = m.member_id
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ))
        .await;
        db.await_text(SOON, OWNER, &other.pid().to_string()).await;
        other.await_healthy(SOON, "p", 1).await;
        load.await_more(200).await;
        owner.signal(Signal::Continue);
        load.await_more(200).await;
    }
    let last = load.end().await;
    db.await_delivered(A_WHILE).await;
    assert_all(&bed.kafka, &topic, last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_that_wakes_up_doubles_nothing() {
    frozen_owners("frozen", "{}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_of_transactions_that_wakes_up_doubles_nothing() {
    frozen_owners("tx_frozen", r#"{"delivery": "transactional"}"#).await;
}
