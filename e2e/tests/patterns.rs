//! The statements of docs/patterns, run as they stand there.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::time::Duration;

use pg_tide_e2e::{Bed, Database, Relay, await_condition, beside_others, unique};

const SOON: Duration = Duration::from_secs(30);

/// The SQL blocks of a page with their first line, `-- on WHOM`.
fn blocks(page: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/patterns")
        .join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```sql\n").skip(1);
    blocks
        .map(|block| {
            let sql = block.split("```").next().unwrap();
            let whom = sql.lines().next().unwrap().trim_start_matches("-- on ");
            (whom.to_owned(), sql.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_follow_each_other_without_loops() {
    let _others = beside_others().await;
    let bed = Bed::from_env();
    let (a, b) = (
        Database::fresh(&bed.postgres, "sync_a").await,
        Database::fresh(&bed.postgres, "sync_b").await,
    );
    let subject = unique("customers");
    for (whom, sql) in blocks("bidirectional-sync.md") {
        let sql = sql
            .replace("nats://nats:4222", &bed.nats)
            .replace("customers.a\"", &format!("{subject}.a\""))
            .replace("customers.b\"", &format!("{subject}.b\""));
        for (name, db) in [("a", &a), ("b", &b)] {
            if whom == "both" || whom == name {
                db.run(&sql).await;
            }
        }
    }
    let _relays = (Relay::start(&a).await, Relay::start(&b).await);
    for n in 1..=20 {
        a.run(&format!("INSERT INTO customer VALUES ('a{n}', 'from a')"))
            .await;
        b.run(&format!("INSERT INTO customer VALUES ('b{n}', 'from b')"))
            .await;
    }
    let everything = "SELECT string_agg(id || name, ',' ORDER BY id) FROM customer";
    await_condition(SOON, "both have all customers", async || {
        for db in [&a, &b] {
            db.run("SELECT apply_customers()").await;
        }
        let same = a.text(everything).await == b.text(everything).await;
        (same && a.number("SELECT count(*) FROM customer").await == 40).then_some(())
    })
    .await;
    a.run("UPDATE customer SET name = 'renamed by a', changed_at = clock_timestamp() WHERE id = 'b7'")
        .await;
    await_condition(SOON, "a change of the other's row comes back once", async || {
        b.run("SELECT apply_customers()").await;
        (b.text("SELECT name FROM customer WHERE id = 'b7'").await == "renamed by a").then_some(())
    })
    .await;
    for db in [&a, &b] {
        db.await_delivered(SOON).await;
        db.run("SELECT apply_customers()").await;
    }
    // 20 of its own and one change; 20 that were applied. Nothing came back.
    assert_eq!(a.text("SELECT count(*) FROM tide.customers_outbox").await, "41");
    assert_eq!(b.text("SELECT count(*) FROM tide.customers_outbox").await, "41");
    assert_eq!(a.text("SELECT count(*) FROM tide.customers_inbox").await, "20");
    assert_eq!(b.text("SELECT count(*) FROM tide.customers_inbox").await, "21");
}
