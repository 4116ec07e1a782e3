//! publish.*: commits a second by pgbench, of the function and of a straight INSERT into the outbox, beside an INSERT
//! into a plain table of the same shape.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::bench::{Bench, PUBLISH_OUTBOX};
use crate::event;
use crate::report::Values;

/// pgbench's own threads; the machine has to serve the server as well.
const MAX_THREADS: usize = 2;

const VARIANTS: [&str; 3] = ["bare", "insert", "outbox"];

/// Makes the outbox and the plain table, which has its columns, defaults and checks, and the indexes that every outbox
/// has: one on id, one on xid.
pub async fn prepare(bench: &Bench) -> Result<()> {
    let client = bench.database.connect().await?;
    client
        .execute("SELECT tide.outbox_create($1)", &[&PUBLISH_OUTBOX])
        .await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE bench_bare (LIKE tide.\"{PUBLISH_OUTBOX}_outbox\" INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
             CREATE INDEX ON bench_bare (id);
             CREATE INDEX ON bench_bare (xid);"
        ))
        .await?;
    for variant in VARIANTS {
        let path = script_path(bench, variant);
        std::fs::write(&path, script(variant)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Runs the three variants there and back again, each time on empty tables, and gives the mean of the two: what changes
/// on the machine meanwhile weighs on all three alike. Which one is first changes from run to run.
pub async fn run(bench: &Bench, clients: usize, run: usize) -> Result<Values> {
    let client = bench.database.connect().await?;
    let there = (0..VARIANTS.len()).map(|turn| VARIANTS[(run + turn) % VARIANTS.len()]);
    let turns: Vec<_> = there.clone().chain(there.rev()).collect();
    let mut values: Values = VARIANTS
        .map(|variant| (format!("publish.{variant}.c{clients}"), 0.0))
        .into();
    for variant in turns {
        client
            .batch_execute(&format!("TRUNCATE bench_bare, tide.\"{PUBLISH_OUTBOX}_outbox\""))
            .await?;
        let rate = pgbench(bench, &script_path(bench, variant), clients).await?;
        for (value, of) in values.iter_mut().zip(VARIANTS) {
            value.1 += if of == variant { rate / 2.0 } else { 0.0 };
        }
    }
    Ok(values)
}

async fn pgbench(bench: &Bench, script: &Path, clients: usize) -> Result<f64> {
    let command = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol", "prepared"])
        .args([
            "--client",
            &clients.to_string(),
            "--jobs",
            &clients.min(MAX_THREADS).to_string(),
        ])
        .args(["--time", &bench.sizes.publish_seconds.to_string()])
        .arg("--file")
        .arg(script)
        .arg(bench.database.url())
        .kill_on_drop(true)
        .output();
    let output = command.await.context("cannot start pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "pgbench failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    commits_per_second(&text).with_context(|| format!("pgbench printed no rate, or had failures:\n{text}"))
}

fn commits_per_second(output: &str) -> Option<f64> {
    let field = |name: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(name))?
            .split_whitespace()
            .next()
    };
    let failed = field("number of failed transactions: ")?;
    if failed != "0" {
        return None;
    }
    field("tps = ")?.parse().ok()
}

fn script_path(bench: &Bench, variant: &str) -> PathBuf {
    bench.output.join(format!("publish-{variant}.sql"))
}

/// One publish a transaction. The payload is a constant text with a random order id of ten digits in it.
fn script(variant: &str) -> String {
    let first = event::FIRST_ORDER;
    let payload = format!("('{}' || :order || '{}')::jsonb", event::HEAD, event::TAIL);
    let headers = format!("'{}'::jsonb", event::headers(0));
    let statement = match variant {
        "outbox" => format!("SELECT tide.outbox_publish('{PUBLISH_OUTBOX}', {payload}, {headers})"),
        "insert" => {
            format!(
                "INSERT INTO tide.\"{PUBLISH_OUTBOX}_outbox\" (payload, headers) VALUES ({payload}, {headers})"
            )
        }
        _ => format!("INSERT INTO bench_bare (payload, headers) VALUES ({payload}, {headers})"),
    };
    format!("\\set order random({first}, {})\n{statement};\n", first * 2 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_unless_transactions_failed() {
        let output = |failed| {
            format!(
                "number of failed transactions: {failed} (0.000%)\n\
                 latency average = 0.1 ms\ntps = 1234.5 (without initial connection time)\n"
            )
        };
        assert_eq!(commits_per_second(&output(0)), Some(1234.5));
        assert_eq!(commits_per_second(&output(3)), None);
        assert_eq!(commits_per_second(""), None);
    }

    #[test]
    fn a_script_has_one_statement() {
        for variant in VARIANTS {
            assert_eq!(script(variant).matches(";\n").count(), 1);
        }
    }
}
