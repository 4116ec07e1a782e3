//! Publishers: applications that run their transactions and note how each
//! ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, NoTls};

use crate::check::Outcome;
use crate::transaction::{Fate, Transaction, Transactions};

/// Messages in a transaction, on average.
const MESSAGES: u32 = 9;
const RECONNECT: Duration = Duration::from_millis(50);

/// Publishers at work.
pub struct Publishers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(u32, Vec<Outcome>)>,
}

/// How publishers work.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Seed of their transactions.
    pub seed: u64,
    /// How many; of these, some are slow.
    pub publishers: u32,
    /// Those that leave their transactions open for long.
    pub slow: u32,
    /// Messages a second of all together.
    pub rate: u32,
}

impl Pace {
    /// Whether a publisher is slow: the last ones are.
    pub fn is_slow(&self, publisher: u32) -> bool {
        publisher >= self.publishers - self.slow
    }
}

impl Publishers {
    /// Starts them on a database.
    pub fn start(url: &str, pace: &Pace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let fast = pace.publishers - pace.slow;
        let interval = Duration::from_secs(1) * MESSAGES * fast / pace.rate;
        for publisher in 0..pace.publishers {
            let slow = pace.is_slow(publisher);
            let plan = Transactions::new(pace.seed, publisher, slow);
            let (url, stop) = (url.to_owned(), Arc::clone(&stop));
            let interval = if slow { Duration::from_millis(50) } else { interval };
            tasks.spawn(async move { (publisher, publish(&url, plan, interval, &stop).await) });
        }
        Self { stop, tasks }
    }

    /// Tells them to stop, and returns how each one's transactions ended.
    pub async fn end(self) -> Vec<Vec<Outcome>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = self.tasks.join_all().await;
        all.sort_by_key(|(publisher, _)| *publisher);
        all.into_iter().map(|(_, outcomes)| outcomes).collect()
    }
}

async fn publish(url: &str, plan: Transactions, interval: Duration, stop: &AtomicBool) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut session = None;
    let mut pace = tokio::time::interval(interval);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for transaction in plan {
        pace.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let client = match session.take() {
            Some(client) => client,
            None => connect(url).await,
        };
        let outcome = run(&client, &transaction).await;
        if outcome == Outcome::Unknown {
            settle_prepared(url, &transaction).await;
        } else {
            session = Some(client);
        }
        outcomes.push(outcome);
    }
    outcomes
}

/// A session, however long it takes to get one.
async fn connect(url: &str) -> Client {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn run(client: &Client, transaction: &Transaction) -> Outcome {
    let mut statements = vec![transaction.body()];
    if transaction.open_for.is_zero() && transaction.fate != Fate::Prepared {
        // In one go.
        statements[0].push_str(&transaction.end()[0]);
    } else {
        statements.extend(transaction.end());
    }
    for (number, statement) in statements.iter().enumerate() {
        if number == 1 {
            tokio::time::sleep(transaction.open_for).await;
        }
        if let Err(error) = client.batch_execute(statement).await {
            let refused = error.as_db_error().is_some_and(|e| {
                // Ended sessions (57P) say nothing of what became of a commit.
                !e.code().code().starts_with("57P")
            });
            if refused && client.batch_execute("ROLLBACK").await.is_ok() {
                eprintln!("chaos: PostgreSQL refuses a transaction: {error:?}");
                return Outcome::RolledBack;
            }
            return Outcome::Unknown;
        }
    }
    match transaction.fate {
        Fate::Rollback => Outcome::RolledBack,
        Fate::Commit | Fate::Prepared => Outcome::Committed,
    }
}

/// Commits what was left prepared, as a transaction manager would: else its
/// locks would be held for ever.
async fn settle_prepared(url: &str, transaction: &Transaction) {
    if transaction.fate != Fate::Prepared {
        return;
    }
    let gid = transaction.gid();
    let sql = format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '{gid}'");
    loop {
        let client = connect(url).await;
        let Ok(row) = client.query_one(&sql, &[]).await else {
            continue;
        };
        if row.get::<_, i64>(0) == 0
            || client
                .batch_execute(&format!("COMMIT PREPARED '{gid}'"))
                .await
                .is_ok()
        {
            return;
        }
    }
}
