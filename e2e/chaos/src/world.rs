//! What is broken and watched: servers of its own, relays on hosts of their
//! own where this machine can have them, pipelines in both directions.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{Database, Host, Network, OwnBed, Relay, RelayOptions, get, kafka};
use tokio::sync::Mutex;

use crate::fault::Sink;
use crate::timing::Millis;
use crate::transaction::{self, OUTBOXES};

/// Partitions of each topic.
pub const PARTITIONS: i32 = 3;
/// The inbox, and the topic or stream that leads to it.
pub const INCOMING: &str = "incoming";
/// For whatever has to come back by itself.
pub const PATIENCE: Duration = Duration::from_secs(90);
const STARTS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where a forward pipeline leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Pipeline, and topic or stream.
    pub name: String,
    /// Number of the outbox that it reads.
    pub outbox: i32,
}

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Where pipelines lead to.
    pub sink: Sink,
    /// Relays at rest.
    pub relays: usize,
    /// Publishers.
    pub publishers: u32,
    /// A folder for logs.
    pub output: PathBuf,
    /// A protection that the relays do without.
    pub sabotage: Option<String>,
}

/// See the module's description. Fields are dropped in their order.
pub struct World {
    /// Those that no fault has in hand.
    relays: Mutex<Vec<Relay>>,
    hosts: Mutex<Vec<Arc<Host>>>,
    /// The database with outboxes and inbox.
    pub db: Database,
    /// The servers.
    pub bed: OwnBed,
    network: Option<Network>,
    /// How it was made.
    pub setting: Setting,
    /// Where forward pipelines lead to.
    pub destinations: Vec<Destination>,
    started: AtomicU32,
    began: Instant,
}

impl World {
    /// Servers, schema, pipelines, relays; returns when all relays are ready.
    pub async fn up(setting: Setting) -> Self {
        let network = match Network::obstacle() {
            None => Some(Network::up()),
            Some(obstacle) => {
                eprintln!("chaos: no network namespaces here, so no faults of the network: {obstacle}");
                None
            }
        };
        let broker = if setting.sink.is_kafka() { "kafka" } else { "nats" };
        let address = network.as_ref().map(|n| n.address().to_string());
        let mut settings = vec![("TIDE_BED_NATS_SYNC", "always")];
        settings.extend(address.as_deref().map(|address| ("TIDE_BED_HOST", address)));
        let bed = OwnBed::up("chaos", &["postgres", broker], &settings).await;
        let db = Database::fresh(&bed.addresses.postgres, "chaos").await;
        let mut destinations: Vec<Destination> = (0..OUTBOXES)
            .map(|outbox| Destination {
                name: format!("out{outbox}"),
                outbox,
            })
            .collect();
        // Two pipelines of one outbox.
        destinations.push(Destination {
            name: "fan".into(),
            outbox: 0,
        });
        let world = Self {
            relays: Mutex::default(),
            hosts: Mutex::default(),
            db,
            bed,
            network,
            setting,
            destinations,
            started: AtomicU32::new(0),
            began: Instant::now(),
        };
        world.prepare().await;
        for _ in 0..world.setting.relays {
            let relay = world.start_relay().await;
            world.give(relay).await;
        }
        world
    }

    async fn prepare(&self) {
        self.db.run(&transaction::schema(self.setting.publishers)).await;
        for outbox in 0..OUTBOXES {
            self.db
                .run(&format!("SELECT tide.outbox_create('events{outbox}')"))
                .await;
        }
        self.db
            .run(&format!("SELECT tide.inbox_create('{INCOMING}')"))
            .await;
        let addresses = &self.bed.addresses;
        let names = self.destinations.iter().map(|d| d.name.as_str());
        if self.setting.sink.is_kafka() {
            for topic in names.chain([INCOMING]) {
                kafka::create_topic(&addresses.kafka, topic, PARTITIONS, &[]).await;
            }
        } else {
            let nats = Nats::connect(&addresses.nats).await;
            for stream in names.chain([INCOMING]) {
                nats.create_stream(stream, stream, |_| {}).await;
            }
        }
        for destination in &self.destinations {
            self.db.run(&self.forward(destination, 100)).await;
        }
        let retry = r#"{"retry": {"max": 1000}}"#;
        let arguments = ", p_idempotent := false";
        if self.setting.sink.is_kafka() {
            self.db
                .from_kafka("in", INCOMING, &addresses.kafka, INCOMING, retry, arguments)
                .await;
        } else {
            self.db
                .from_nats("in", INCOMING, &addresses.nats, INCOMING, retry, arguments)
                .await;
        }
    }

    /// SQL that makes a forward pipeline, or gives it another batch size.
    pub fn forward(&self, destination: &Destination, batch_size: u32) -> String {
        let Destination { name, outbox } = destination;
        let addresses = &self.bed.addresses;
        let (sink, config) = match self.setting.sink {
            Sink::Nats => (
                "nats",
                format!(r#""url": "{}", "subject": "{name}""#, addresses.nats),
            ),
            kafka => {
                let delivery = if kafka == Sink::Transactional {
                    "transactional"
                } else {
                    "exactly-once"
                };
                (
                    "kafka",
                    format!(
                        r#""brokers": "{}", "topic": "{name}", "key": "{{payload.k}}", "delivery": "{delivery}""#,
                        addresses.kafka
                    ),
                )
            }
        };
        format!(
            "SELECT tide.relay_set_outbox('{name}', 'events{outbox}', '{sink}',
                '{{{config}, \"retry\": {{\"max\": 1000}}}}', p_batch_size := {batch_size})"
        )
    }

    /// Milliseconds since it was made.
    pub fn now(&self) -> Millis {
        Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// The instant of its making.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether its relays have hosts of their own.
    pub fn has_network(&self) -> bool {
        self.network.is_some()
    }

    /// The name of its broker in the bed.
    pub fn broker(&self) -> &'static str {
        if self.setting.sink.is_kafka() {
            "kafka"
        } else {
            "nats"
        }
    }

    /// The ports of PostgreSQL and of the broker.
    pub fn ports(&self) -> (u16, u16) {
        let addresses = &self.bed.addresses;
        let broker = match self.setting.sink {
            Sink::Nats => &addresses.nats,
            Sink::Kafka | Sink::Transactional => &addresses.kafka,
        };
        (port(&addresses.postgres), port(broker))
    }

    /// Starts a server again, and waits longer than the bed does where a machine
    /// is busy with other things.
    pub async fn start_server(&self, server: &str) {
        let mut complaint = String::new();
        for _ in 0..STARTS {
            match self.bed.try_start(server).await {
                Ok(()) => return,
                Err(error) => complaint = error,
            }
        }
        panic!("{complaint}");
    }

    /// Starts a relay and waits until it is ready, however long PostgreSQL is
    /// away.
    pub async fn start_relay(&self) -> Relay {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.setting.output.join(format!("relay-{number}.log"));
        let mut options = RelayOptions::for_url(&self.db.url()).log(&log);
        if let Some(host) = self.host().await {
            options = options.on(&host);
        }
        if let Some(protection) = &self.setting.sabotage {
            options = options.environment("PG_TIDE_SABOTAGE", protection);
        }
        let mut relay = options.spawn();
        let deadline = Instant::now() + PATIENCE;
        while !matches!(get(relay.address(), "/readyz").await, Ok((200, _))) {
            let ended = relay.ended();
            assert!(
                ended.is_none(),
                "a relay ended by itself ({ended:?}): {}",
                log.display()
            );
            assert!(
                Instant::now() < deadline,
                "a relay is not ready: {}",
                log.display()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        relay
    }

    async fn host(&self) -> Option<Arc<Host>> {
        let network = self.network.as_ref()?;
        let used = self.hosts.lock().await.pop();
        Some(used.unwrap_or_else(|| Arc::new(network.host())))
    }

    /// Takes the host of a relay that is gone back into use.
    pub async fn retire(&self, relay: Relay) {
        if let Some(host) = relay.host() {
            self.hosts.lock().await.push(Arc::clone(host));
        }
    }

    /// Puts a relay among those that work.
    pub async fn give(&self, relay: Relay) {
        self.relays.lock().await.push(relay);
    }

    /// Takes a relay in hand: that of a process id, else any.
    pub async fn take(&self, pid: Option<u32>, pick: u32) -> Option<Relay> {
        let mut relays = self.relays.lock().await;
        let found = pid.and_then(|pid| relays.iter().position(|r| r.pid() == pid));
        let any = (pick as usize).checked_rem(relays.len());
        Some(relays.remove(found.or(any)?))
    }

    /// Process ids of the relays that no fault has in hand.
    pub async fn pids(&self) -> Vec<u32> {
        self.relays.lock().await.iter().map(Relay::pid).collect()
    }

    /// A relay that ended by itself, if one did.
    pub async fn ended(&self) -> Option<String> {
        let mut relays = self.relays.lock().await;
        relays.iter_mut().find_map(|r| {
            r.ended()
                .map(|status| format!("relay {} ended by itself: {status}", r.pid()))
        })
    }

    /// The process that runs some pipeline, if PostgreSQL can be asked.
    pub async fn owner(&self, pick: u32) -> Option<u32> {
        let sql = "SELECT m.pid FROM tide.relay_pipeline_state s
                     JOIN tide.relay_member m ON m.name = s.owner ORDER BY s.pipeline";
        let text = self.db.try_text(sql).await.ok()?;
        let owners: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        owners.get((pick as usize).checked_rem(owners.len())?).copied()
    }

    /// The forward pipelines that a process runs.
    pub async fn owned_by(&self, pid: u32) -> Vec<String> {
        let sql = format!(
            "SELECT s.pipeline FROM tide.relay_pipeline_state s JOIN tide.relay_member m ON m.name = s.owner
              WHERE m.pid = {pid} AND s.direction = 'forward'"
        );
        let text = self.db.try_text(&sql).await.unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until PostgreSQL has no session from this address any more.
    pub async fn await_no_session_from(&self, address: Ipv4Addr) {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{address}'");
        let deadline = Instant::now() + PATIENCE;
        while self.db.try_text(&sql).await.as_deref() != Ok("0") {
            assert!(Instant::now() < deadline, "sessions from {address} do not end");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Has PostgreSQL's superuser run this, if it can be reached.
    pub async fn as_superuser(&self, sql: &str) {
        let url = self.db.url().replacen("tide:tide@", "postgres:postgres@", 1);
        if let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            // It may be the very session that is ended, or the server be killed.
            let _ = client.batch_execute(sql).await;
        }
    }
}

fn port(url: &str) -> u16 {
    let after = url.rsplit_once(':').map_or("", |(_, after)| after);
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_port_is_found_in_each_kind_of_address() {
        for url in [
            "postgres://a:b@10.0.0.1:123/x",
            "10.0.0.1:123",
            "nats://10.0.0.1:123",
        ] {
            assert_eq!(super::port(url), 123);
        }
    }
}
