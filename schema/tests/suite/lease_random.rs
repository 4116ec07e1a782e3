//! Consumers in SQL at random: every committed message has its effect once,
//! whoever crashes, comes late or gives up.

use std::collections::BTreeSet;

use crate::lease::{LAG, outbox, poll, run_out};
use crate::support::{Database, Session};

/// Pseudo-random, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).unwrap()).unwrap()
    }
}

struct Worker {
    session: Session,
    name: Option<String>,
    lease: Option<Lease>,
}

struct Lease {
    token: String,
    ids: Vec<i64>,
    valid: bool,
}

struct Publisher {
    session: Session,
    /// Numbers of the open transaction.
    open: Option<Vec<i64>>,
}

/// Publishers that commit and roll back as they like, workers that commit,
/// commit in part, crash, come late and give up; one step after another.
struct Scene {
    _database: Database,
    admin: Session,
    publishers: Vec<Publisher>,
    workers: Vec<Worker>,
    committed: BTreeSet<i64>,
    published: i64,
    max_leases: usize,
    dice: Dice,
}

impl Scene {
    async fn new(max_leases: usize, seed: u64) -> Self {
        let (database, admin) = outbox(0).await;
        // The effect of a message, in the order in which effects happened.
        admin
            .run("CREATE TABLE effect (place bigint GENERATED ALWAYS AS IDENTITY, message_id bigint, n bigint)")
            .await;
        let mut publishers = Vec::new();
        let mut workers = Vec::new();
        for n in 0..3 {
            publishers.push(Publisher {
                session: database.session().await,
                open: None,
            });
            workers.push(Worker {
                session: database.session().await,
                name: (n != 1).then(|| format!("worker {n}")),
                lease: None,
            });
        }
        Self {
            _database: database,
            admin,
            publishers,
            workers,
            committed: BTreeSet::new(),
            published: 0,
            max_leases,
            dice: Dice(seed),
        }
    }

    async fn step(&mut self) {
        match self.dice.roll(10) {
            0..=3 => self.publish().await,
            4 | 5 => self.poll().await,
            6 | 7 => self.commit().await,
            8 => self.misfortune().await,
            _ => self.time_passes().await,
        }
    }

    /// Numbers of publisher 1 are 1001, 1002, ... thousands apart.
    async fn publish(&mut self) {
        let which = self.dice.roll(self.publishers.len());
        let deed = self.dice.roll(4);
        let publisher = &mut self.publishers[which];
        match (&mut publisher.open, deed) {
            (None, _) => {
                publisher.session.run("BEGIN").await;
                publisher.open = Some(Vec::new());
            }
            (Some(numbers), 0 | 1) => {
                for _ in 0..=deed * 2 {
                    self.published += 1;
                    let n = i64::try_from(which).unwrap() * 1_000_000 + self.published;
                    publisher
                        .session
                        .run(&format!("SELECT tide.outbox_publish('orders', '{n}')"))
                        .await;
                    numbers.push(n);
                }
            }
            (Some(_), 2) => {
                publisher.session.run("COMMIT").await;
                self.committed.extend(publisher.open.take().unwrap());
            }
            (Some(_), _) => {
                publisher.session.run("ROLLBACK").await;
                publisher.open = None;
            }
        }
    }

    async fn poll(&mut self) {
        let which = self.dice.roll(self.workers.len());
        let (limit, max) = (1 + self.dice.roll(6), self.max_leases);
        let worker = &self.workers[which];
        if worker.lease.is_some() && worker.name.is_none() {
            return;
        }
        let name = worker
            .name
            .as_ref()
            .map_or("NULL".to_owned(), |n| format!("'{n}'"));
        let rows = worker
            .session
            .rows(&format!(
                "SELECT id, lease FROM tide.poll_outbox('g', 'orders', {limit}, '1 hour', {name}, {max})"
            ))
            .await;
        let ids: Vec<i64> = rows
            .iter()
            .map(|row| row.split('|').next().unwrap().parse().unwrap())
            .collect();
        assert!(ids.len() <= limit && ids.is_sorted());
        for (other, worker) in self.workers.iter().enumerate() {
            if let Some(lease) = worker.lease.as_ref().filter(|l| other != which && l.valid) {
                assert!(
                    ids.iter().all(|id| !lease.ids.contains(id)),
                    "{ids:?} are leased to another: {:?}",
                    lease.ids
                );
            }
        }
        if let Some(row) = rows.first() {
            self.workers[which].lease = Some(Lease {
                token: row.split('|').nth(1).unwrap().to_owned(),
                ids,
                valid: true,
            });
        }
    }

    async fn commit(&mut self) {
        let which = self.dice.roll(self.workers.len());
        let (part, undone) = (self.dice.roll(3) == 0, self.dice.roll(5) == 0);
        let worker = &mut self.workers[which];
        let Some(lease) = &mut worker.lease else { return };
        let count = if part {
            1 + self.dice.roll(lease.ids.len())
        } else {
            lease.ids.len()
        };
        let last = lease.ids[count - 1];
        let ids: Vec<String> = lease.ids[..count].iter().map(i64::to_string).collect();
        worker
            .session
            .run(&format!(
                "BEGIN; INSERT INTO effect (message_id, n)
                 SELECT m.id, (m.payload #>> '{{}}')::bigint FROM tide.orders_outbox m WHERE m.id IN ({}) ORDER BY m.id",
                ids.join(", ")
            ))
            .await;
        let commit = format!(
            "SELECT tide.commit_offset('g', 'orders', {last}, '{}')",
            lease.token
        );
        if !lease.valid {
            let error = worker.session.error(&commit).await;
            assert_eq!(error.code().code(), "TD003", "{error}");
            worker.session.run("ROLLBACK").await;
            worker.lease = None;
            return;
        }
        worker.session.run(&commit).await;
        if undone {
            worker.session.run("ROLLBACK").await;
            return;
        }
        worker.session.run("COMMIT").await;
        lease.ids.drain(..count);
        if lease.ids.is_empty() {
            worker.lease = None;
        }
    }

    /// A worker crashes, or gives its lease back.
    async fn misfortune(&mut self) {
        let which = self.dice.roll(self.workers.len());
        let releases = self.dice.roll(2) == 0;
        let worker = &mut self.workers[which];
        let Some(lease) = worker.lease.take() else { return };
        if releases && lease.valid {
            worker
                .session
                .run(&format!(
                    "SELECT tide.release_lease('g', 'orders', '{}')",
                    lease.token
                ))
                .await;
        } else {
            // Whoever had it forgot it; it runs out some time.
            run_out(&self.admin, &lease.token).await;
        }
    }

    async fn time_passes(&mut self) {
        let which = self.dice.roll(self.workers.len());
        if let Some(lease) = &mut self.workers[which].lease {
            run_out(&self.admin, &lease.token).await;
            lease.valid = false;
        }
    }

    async fn check_leases(&self) {
        let broken = self
            .admin
            .rows(
                "SELECT * FROM (SELECT l.*, lag(l.to_id) OVER w AS before, lag(l.round) OVER w AS round_before
                                  FROM tide.consumer_lease l WINDOW w AS (ORDER BY round, from_id)) x
                  WHERE round_before = round AND before <> from_id OR round_before IS NOT NULL AND round_before <> round AND from_id <> 0
                     OR round_before IS NULL AND committed",
            )
            .await;
        assert!(broken.is_empty(), "{broken:?}");
    }

    async fn finish(mut self) {
        for publisher in &mut self.publishers {
            if let Some(numbers) = publisher.open.take() {
                publisher.session.run("COMMIT").await;
                self.committed.extend(numbers);
            }
        }
        self.admin
            .run("UPDATE tide.consumer_lease SET leased_until = '-infinity' WHERE NOT committed")
            .await;
        loop {
            let (got, lease) = poll(&self.admin, "7").await;
            if got.is_empty() {
                break;
            }
            self.admin
                .run(&format!(
                    "BEGIN; INSERT INTO effect (n) VALUES ({}); SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}'); COMMIT",
                    got.join("), (")
                ))
                .await;
        }
        assert_eq!(self.admin.row(LAG).await, "0");
        assert_eq!(
            self.admin.row("SELECT count(*) FROM tide.consumer_lease").await,
            "0"
        );
        let effects: Vec<i64> = self
            .admin
            .rows("SELECT n FROM effect ORDER BY place")
            .await
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        let mut sorted = effects.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, self.committed.into_iter().collect::<Vec<_>>());
        if self.max_leases == 1 {
            for publisher in 0..3 {
                let its: Vec<i64> = effects
                    .iter()
                    .copied()
                    .filter(|n| n / 1_000_000 == publisher)
                    .collect();
                assert!(its.is_sorted(), "{its:?}");
            }
        }
        println!("{} messages", effects.len());
    }
}

#[tokio::test]
async fn every_committed_message_has_its_effect_once_whoever_crashes_or_comes_late() {
    for (max_leases, seed) in [
        (1, 0x5eed_0001),
        (1, 0x5eed_0002),
        (3, 0x5eed_0003),
        (4, 0x5eed_0004),
    ] {
        println!("max_leases {max_leases}, seed {seed:#x}");
        let mut scene = Scene::new(max_leases, seed).await;
        for _ in 0..250 {
            scene.step().await;
            scene.check_leases().await;
        }
        scene.finish().await;
    }
}

/// The same with everybody at once: leases run out by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_side_by_side_share_the_messages_without_losing_or_doubling_one() {
    const MESSAGES: i64 = 300;
    let (database, session) = outbox(0).await;
    session.run("CREATE TABLE effect (n bigint, worker int)").await;
    let mut tasks = Vec::new();
    for publisher in 0..2 {
        let publishing = database.session().await;
        tasks.push(tokio::spawn(async move {
            for n in (1..=MESSAGES).filter(|n| n % 2 == publisher) {
                let end = if n % 7 == 0 {
                    "ROLLBACK; SELECT tide.outbox_publish('orders', 'NNN')"
                } else {
                    "COMMIT"
                };
                publishing
                    .run(
                        &format!("BEGIN; SELECT tide.outbox_publish('orders', 'NNN'); {end}")
                            .replace("NNN", &n.to_string()),
                    )
                    .await;
            }
        }));
    }
    for worker in 0..3 {
        let consuming = database.session().await;
        tasks.push(tokio::spawn(async move {
            let mut dice = Dice(77 + worker);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
            while consuming.number("SELECT count(*) FROM effect").await < MESSAGES {
                assert!(std::time::Instant::now() < deadline, "messages do not come");
                let (got, lease) = poll(&consuming, "5, '400 ms', p_max_leases := 3").await;
                if got.is_empty() || dice.roll(8) == 0 {
                    continue;
                }
                let values = got.iter().map(|n| format!("({n}, {worker})")).collect::<Vec<_>>();
                consuming
                    .run(&format!("BEGIN; INSERT INTO effect VALUES {}", values.join(", ")))
                    .await;
                let commit = format!("SELECT tide.commit_offset('g', 'orders', p_lease := '{lease}')");
                // Late: what was done is undone.
                let end = match consuming.0.batch_execute(&commit).await {
                    Ok(()) => "COMMIT",
                    Err(error) => {
                        assert_eq!(error.code().unwrap().code(), "TD003", "{error:?}");
                        "ROLLBACK"
                    }
                };
                consuming.run(end).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        session
            .row("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM effect")
            .await,
        format!("{MESSAGES}|{MESSAGES}|1|{MESSAGES}")
    );
    assert_eq!(session.row(LAG).await, "0");
}
