//! The workers of docs/patterns/process-inbox: each message has its effect
//! once, whoever of them is killed.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pg_tide_e2e::{Bed, Database, await_condition, beside_others};

const SOON: Duration = Duration::from_mins(1);
const MESSAGES: i64 = 3_000;

fn clients() -> PathBuf {
    std::env::var("TIDE_CLIENTS")
        .expect("TIDE_CLIENTS is not set: eval \"$(e2e/bed env)\"")
        .into()
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/patterns/process-inbox")
        .join(name)
}

fn python(db: &Database) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(example("process.py"))
        .env("PYTHONPATH", clients().join("python"))
        .env("DATABASE_URL", db.url());
    command
}

fn node(db: &Database) -> Command {
    // A module finds its packages from where it lies.
    let script = clients().join("node/process.mjs");
    std::fs::copy(example("process.mjs"), &script).unwrap();
    let mut command = Command::new("node");
    command.arg(script).env("DATABASE_URL", db.url());
    command
}

fn java(db: &Database) -> Command {
    let url = db.url();
    let (login, place) = url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(clients().join("java/*"))
        .arg(example("Process.java"))
        .env("JDBC_URL", format!("jdbc:postgresql://{place}"))
        .env("PGUSER", user)
        .env("PGPASSWORD", password);
    command
}

/// Killed when the test ends early.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Worker {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

async fn each_message_has_its_effect_once(language: &str, worker: impl Fn(&Database) -> Command) {
    let _others = beside_others().await;
    let db = Database::fresh(&Bed::from_env().postgres, &format!("clients_{language}")).await;
    // One message in a thousand has no amount; two attempts make it a dead letter.
    db.run(&format!(
        "CREATE TABLE balance (account text PRIMARY KEY, amount bigint NOT NULL);
         SELECT tide.inbox_create('payments', p_max_retries := 2);
         INSERT INTO tide.payments_inbox (event_id, payload)
         SELECT 'e-' || n, jsonb_build_object('account', 'a' || n % 7, 'amount', CASE WHEN n % 1000 <> 0 THEN n END)
           FROM generate_series(1, {MESSAGES}) n"
    ))
    .await;
    let processed = "SELECT count(*) FROM tide.payments_inbox WHERE processed_at IS NOT NULL";
    let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()";
    let ours = db.text(sessions).await.replace('\n', ", ");
    let mut victim = Worker::start(worker(&db));
    await_condition(SOON, "the first worker works", async || {
        (db.number(processed).await > 50).then_some(())
    })
    .await;
    victim.0.kill().unwrap();
    victim.0.wait().unwrap();
    // Its session may still carry out what it was asked last.
    let victims = format!("SELECT count(*) FROM ({sessions}) s WHERE pid NOT IN ({ours})");
    db.await_text(SOON, &victims, "0").await;
    let _workers = [Worker::start(worker(&db)), Worker::start(worker(&db))];
    // What was claimed is free at once instead of in 30 s; so two may have the same message.
    db.run("UPDATE tide.payments_inbox SET claimed_until = NULL WHERE processed_at IS NULL")
        .await;
    let left = "SELECT pending, dead_letter FROM tide.inbox_summary";
    db.await_text(SOON, left, "0|3").await;
    let truth = format!(
        "SELECT (SELECT sum(amount) FROM balance)
              = (SELECT sum(n) FROM generate_series(1, {MESSAGES}) n WHERE n % 1000 <> 0)"
    );
    assert_eq!(db.text(&truth).await, "t", "a message had no effect, or two");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_python() {
    each_message_has_its_effect_once("python", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_node() {
    each_message_has_its_effect_once("node", node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_java() {
    each_message_has_its_effect_once("java", java).await;
}
