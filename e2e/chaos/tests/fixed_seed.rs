//! A short part of the chaos suite with fixed seeds: every kind of fault that
//! the guarantees cover, against each sink, in about two minutes.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

use pg_tide_chaos::{Kind, Length, Options, Sink, run};
use pg_tide_e2e::alone;

async fn survives(sink: Sink, seed: u64, kinds: &[Kind]) {
    // One after the other: each has servers of its own.
    let _turn = alone().await;
    let options = Options {
        seed,
        length: Length::Faults(kinds.len()),
        kinds: kinds.to_vec(),
        rounds: 1,
        sink,
        relays: 3,
        rate: 600,
        rate_in: 100,
        output: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", sink.name())),
        sabotage: None,
    };
    let report = run(&options).await;
    println!("{}", report.table());
    assert!(
        report.is_clean(),
        "see {}; again: {}\n{}",
        options.output.display(),
        options.command(),
        report.table()
    );
    assert!(report.messages > 1_000, "{}", report.messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_has_everything_once() {
    let kinds = [
        Kind::KillRelay,
        Kind::StopRelay,
        Kind::ZombieRelay,
        Kind::RollingRestart,
        Kind::KillPostgres,
        Kind::EndLockSession,
        Kind::KillBroker,
        Kind::Toggle,
    ];
    survives(Sink::Kafka, 1, &kinds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_with_transactions_has_everything_once_whatever_wakes_up() {
    let kinds = [
        Kind::ZombieRelay,
        Kind::CutRelay,
        Kind::KillRelay,
        Kind::EndSessions,
    ];
    survives(Sink::Transactional, 2, &kinds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_has_everything_once() {
    let kinds = [
        Kind::ZombieRelay,
        Kind::OneWay,
        Kind::KillBroker,
        Kind::RestartPostgres,
        Kind::ScaleRelays,
        Kind::Reconfigure,
    ];
    survives(Sink::Nats, 3, &kinds).await;
}
