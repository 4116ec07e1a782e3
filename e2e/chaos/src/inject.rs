//! The faults at work.

use std::sync::Arc;
use std::time::Duration;

use pg_tide_e2e::{Relay, Signal, Way};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fault::{Kind, Target};
use crate::plan::{Step, When};
use crate::timing::Millis;
use crate::world::{PATIENCE, World};

/// Drain and what comes with it.
const ENDING: Duration = Duration::from_secs(30);

/// A fault as it was.
#[derive(Debug, Clone, Serialize)]
pub struct Injected {
    /// What.
    pub kind: Kind,
    /// The moment of the break, in milliseconds of the run.
    pub began: Millis,
    /// When it was mended.
    pub ended: Millis,
    /// Pipelines that the relay in question ran.
    pub pipelines: Vec<String>,
}

/// Runs faults against a world.
pub struct Injector {
    world: Arc<World>,
    postgres: Arc<Mutex<()>>,
    broker: Arc<Mutex<()>>,
    pipelines: Arc<Mutex<()>>,
    running: JoinSet<Option<Injected>>,
    done: Vec<Injected>,
}

impl Injector {
    /// For a world in which nothing is broken.
    pub fn new(world: &Arc<World>) -> Self {
        Self {
            world: Arc::clone(world),
            postgres: Arc::default(),
            broker: Arc::default(),
            pipelines: Arc::default(),
            running: JoinSet::new(),
            done: Vec::new(),
        }
    }

    /// Goes through a plan until the deadline.
    pub async fn follow(&mut self, plan: impl Iterator<Item = Step>, deadline: Option<Instant>) {
        for step in plan {
            match step.when {
                When::Alone(pause) => {
                    self.settle().await;
                    sleep(pause).await;
                }
                When::Among(pause) => sleep(pause).await,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let target = match step.kind.target() {
                Target::Relays => None,
                Target::Postgres => Some(&self.postgres),
                Target::Broker => Some(&self.broker),
                Target::Pipelines => Some(&self.pipelines),
            };
            let (world, turn) = (Arc::clone(&self.world), target.cloned());
            self.running.spawn(async move {
                let _turn = match turn {
                    Some(turn) => Some(turn.lock_owned().await),
                    None => None,
                };
                inject(&world, step).await
            });
            // A fault that panics ends the run at once.
            while let Some(ended) = self.running.try_join_next() {
                self.done
                    .extend(ended.expect("a fault can be brought about and mended"));
            }
        }
        self.settle().await;
    }

    async fn settle(&mut self) {
        while let Some(ended) = self.running.join_next().await {
            self.done
                .extend(ended.expect("a fault can be brought about and mended"));
        }
    }

    /// All faults that were.
    pub fn done(self) -> Vec<Injected> {
        let mut done = self.done;
        done.sort_by_key(|fault| fault.began);
        done
    }
}

/// Breaks something, and mends it. Nothing when nobody is there to be broken.
async fn inject(world: &World, step: Step) -> Option<Injected> {
    let (began, pipelines) = match step.kind.target() {
        Target::Relays => break_relay(world, step).await?,
        Target::Postgres => (break_postgres(world, step).await, Vec::new()),
        Target::Broker => (break_broker(world, step).await, Vec::new()),
        Target::Pipelines => (change_pipeline(world, step).await, Vec::new()),
    };
    Some(Injected {
        kind: step.kind,
        began,
        ended: world.now(),
        pipelines,
    })
}

async fn break_relay(world: &World, step: Step) -> Option<(Millis, Vec<String>)> {
    match step.kind {
        Kind::RollingRestart => {
            let began = world.now();
            for pid in world.pids().await {
                let new = world.start_relay().await;
                world.give(new).await;
                if let Some(mut old) = world.take(Some(pid), step.pick).await {
                    end(&mut old).await;
                    world.retire(old).await;
                }
                sleep(step.lasts).await;
            }
            return Some((began, Vec::new()));
        }
        Kind::ScaleRelays => {
            let began = world.now();
            for _ in 0..2 {
                let new = world.start_relay().await;
                world.give(new).await;
            }
            sleep(step.lasts).await;
            for turn in 0..2 {
                if let Some(mut old) = world.take(None, step.pick.wrapping_add(turn)).await {
                    end(&mut old).await;
                    world.retire(old).await;
                }
            }
            return Some((began, Vec::new()));
        }
        _ => {}
    }
    let owner = world.owner(step.pick).await;
    let mut relay = world.take(owner, step.pick).await?;
    let pipelines = world.owned_by(relay.pid()).await;
    let began = world.now();
    let relay = match step.kind {
        Kind::KillRelay | Kind::StopRelay => {
            if step.kind == Kind::KillRelay {
                relay.kill();
            } else {
                end(&mut relay).await;
            }
            world.retire(relay).await;
            sleep(step.lasts).await;
            world.start_relay().await
        }
        Kind::LateCheckpoint => late_checkpoint(world, step, relay).await,
        Kind::FreezeRelay | Kind::ZombieRelay => {
            relay.signal(Signal::Stop);
            if step.kind == Kind::ZombieRelay {
                world.as_superuser(&end_lock_session(relay.pid())).await;
            }
            sleep(step.lasts).await;
            relay.signal(Signal::Continue);
            relay
        }
        _ => {
            let host = Arc::clone(relay.host()?);
            let (postgres, broker) = world.ports();
            match step.kind {
                Kind::CutFromPostgres => host.cut(Way::Both, &[postgres]),
                Kind::CutFromBroker => host.cut(Way::Both, &[broker]),
                Kind::OneWay => {
                    let way = if step.pick.is_multiple_of(2) {
                        Way::Out
                    } else {
                        Way::In
                    };
                    let port = if step.pick & 2 == 0 { postgres } else { broker };
                    host.cut(way, &[port]);
                }
                Kind::SlowNetwork => host.slow(512),
                _ => host.cut(Way::Both, &[postgres, broker]),
            }
            sleep(step.lasts).await;
            host.mend();
            relay
        }
    };
    world.give(relay).await;
    Some((began, pipelines))
}

/// What an owner wrote last, and what says that all was well when it ended,
/// reaches PostgreSQL when another has delivered more and died.
async fn late_checkpoint(world: &World, step: Step, mut owner: Relay) -> Relay {
    let (postgres, _) = world.ports();
    if let Some(host) = owner.host() {
        host.cut(Way::Both, &[postgres]);
    }
    owner.signal(Signal::Term);
    world.as_superuser(&end_lock_session(owner.pid())).await;
    sleep(step.lasts).await;
    let mut others = 0;
    while let Some(mut other) = world.take(None, step.pick).await {
        other.kill();
        world.retire(other).await;
        others += 1;
    }
    if let Some(host) = owner.host().cloned() {
        host.mend();
        await_end(&mut owner).await;
        // Its kernel delivers what it wrote before the end of the connection.
        world.await_no_session_from(host.address()).await;
    }
    world.retire(owner).await;
    for _ in 0..others {
        let new = world.start_relay().await;
        world.give(new).await;
    }
    world.start_relay().await
}

/// SIGTERM, and waits until it is gone.
async fn end(relay: &mut Relay) {
    relay.signal(Signal::Term);
    await_end(relay).await;
}

async fn await_end(relay: &mut Relay) {
    let deadline = Instant::now() + ENDING;
    while relay.ended().is_none() {
        assert!(
            Instant::now() < deadline,
            "relay {} does not end within {ENDING:?}",
            relay.pid()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the session on which a relay has its locks.
fn end_lock_session(pid: u32) -> String {
    format!(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
          WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objsubid = 2
            AND l.classid::bigint = {MEMBERS}
            AND l.objid::bigint IN (SELECT m.member_id FROM tide.relay_member m WHERE m.pid = {pid})",
        MEMBERS = 0x7469_646d
    )
}

async fn break_postgres(world: &World, step: Step) -> Millis {
    let began = world.now();
    match step.kind {
        Kind::EndLockSession => {
            if let Some(pid) = world.owner(step.pick).await {
                world.as_superuser(&end_lock_session(pid)).await;
            }
        }
        Kind::EndSessions => {
            world
                .as_superuser(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE application_name LIKE 'pg-tide%' AND datname = current_database()",
                )
                .await;
        }
        kind => {
            if kind == Kind::KillPostgres {
                world.bed.kill("postgres").await;
            } else {
                world.bed.signal("postgres", Signal::Quit);
                // Returns when it is gone.
                world.bed.stop("postgres").await;
            }
            sleep(step.lasts).await;
            world.start_server("postgres").await;
        }
    }
    began
}

async fn break_broker(world: &World, step: Step) -> Millis {
    let (began, broker) = (world.now(), world.broker());
    if step.kind == Kind::KillBroker {
        world.bed.kill(broker).await;
        sleep(step.lasts).await;
        world.start_server(broker).await;
    } else {
        world.bed.signal(broker, Signal::Stop);
        sleep(step.lasts).await;
        world.bed.signal(broker, Signal::Continue);
    }
    began
}

async fn change_pipeline(world: &World, step: Step) -> Millis {
    let began = world.now();
    let destination = &world.destinations[step.pick as usize % world.destinations.len()];
    if step.kind == Kind::Toggle {
        insist(
            world,
            &format!("SELECT tide.relay_disable('{}')", destination.name),
        )
        .await;
        sleep(step.lasts).await;
        insist(
            world,
            &format!("SELECT tide.relay_enable('{}')", destination.name),
        )
        .await;
    } else {
        insist(world, &world.forward(destination, 20 + step.pick % 400)).await;
    }
    began
}

/// Runs SQL until PostgreSQL has taken it.
async fn insist(world: &World, sql: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match world.db.try_text(sql).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{sql}: {error}"),
        }
        sleep_until(Instant::now() + Duration::from_millis(100)).await;
    }
}
