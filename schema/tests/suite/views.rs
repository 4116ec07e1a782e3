//! The views say the truth: compared with a count by another way, and with
//! what locks are held.

use std::collections::HashSet;

use crate::support::{Database, Session};

/// A snapshot, parsed here so that nothing of PostgreSQL's is used to judge it.
struct Snapshot {
    xmax: u64,
    running: HashSet<u64>,
}

impl Snapshot {
    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split(':').collect();
        Self {
            xmax: parts[1].parse().unwrap(),
            running: parts[2]
                .split(',')
                .filter(|x| !x.is_empty())
                .map(|x| x.parse().unwrap())
                .collect(),
        }
    }

    fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }
}

async fn set_cursor(session: &Session, group: i64, old: &str, new: &str, last: u64) {
    session
        .run(&format!(
            "INSERT INTO tide.group_cursor (group_id, old_snapshot, new_snapshot, last_id, system_identifier, timeline)
             SELECT {group}, '{old}', '{new}', {last}, c.system_identifier, c.timeline FROM tide._cluster() c
             ON CONFLICT (group_id) DO UPDATE SET old_snapshot = excluded.old_snapshot, new_snapshot = excluded.new_snapshot, last_id = excluded.last_id"
        ))
        .await;
}

#[tokio::test]
async fn pending_and_lag_equal_a_count_by_hand_with_transactions_left_open() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.outbox_create('other');
             SELECT tide.create_consumer_group('g1', 'orders'); SELECT tide.create_consumer_group('g2', 'orders');
             SELECT tide.outbox_publish('other', '1')",
        )
        .await;
    let mut workers = Vec::new();
    for _ in 0..6 {
        workers.push((database.session().await, false));
    }
    let mut snapshots = vec!["3:3:".to_owned()];
    // Any fixed walk will do; this one opens, publishes, commits and undoes.
    let mut state: u64 = 0x2545_F491_4F6C_DD1D;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    for step in 0..150 {
        let (worker, open) = &mut workers[usize::try_from(random(6)).unwrap()];
        if !*open {
            worker.run("BEGIN").await;
            *open = true;
        }
        worker.run("SELECT tide.outbox_publish('orders', '1'); SAVEPOINT s; SELECT tide.outbox_publish('orders', '2')").await;
        match random(4) {
            0 => worker.run("ROLLBACK TO s").await,
            1 => {
                worker.run("ROLLBACK").await;
                *open = false;
            }
            2 => {
                worker.run("COMMIT").await;
                *open = false;
            }
            _ => {}
        }
        if step % 10 == 0 {
            snapshots.push(session.row("SELECT pg_current_snapshot()").await);
        }
        if step % 15 != 14 {
            continue;
        }
        let committed: Vec<(u64, u64)> = session
            .rows("SELECT xid, id FROM tide.orders_outbox")
            .await
            .iter()
            .map(|row| row.split_once('|').unwrap())
            .map(|(xid, id)| (xid.parse().unwrap(), id.parse().unwrap()))
            .collect();
        let mut lacking: HashSet<u64> = HashSet::new();
        for group in [1, 2] {
            // The second group has no cursor at first.
            let undelivered: Vec<u64> = if group == 2 && step < 80 {
                committed.iter().map(|(_, id)| *id).collect()
            } else {
                let mut pair = [random(snapshots.len() as u64), random(snapshots.len() as u64)];
                pair.sort_unstable();
                let [old, new] = pair.map(|n| snapshots[usize::try_from(n).unwrap()].clone());
                let last = random(committed.iter().map(|(_, id)| *id).max().unwrap_or(1) + 2);
                set_cursor(&session, group, &old, &new, last).await;
                let (old, new) = (Snapshot::parse(&old), Snapshot::parse(&new));
                committed
                    .iter()
                    .filter(|(xid, id)| !(old.sees(*xid) || new.sees(*xid) && *id <= last))
                    .map(|(_, id)| *id)
                    .collect()
            };
            let lag = session
                .number(&format!(
                    "SELECT lag FROM tide.consumer_lag WHERE group_name = 'g{group}'"
                ))
                .await;
            assert_eq!(
                usize::try_from(lag).unwrap(),
                undelivered.len(),
                "step {step}, group {group}"
            );
            lacking.extend(undelivered);
        }
        let pending = session
            .row("SELECT pending_count, max_id FROM tide.outbox_pending WHERE outbox_name = 'orders'")
            .await;
        let max = lacking.iter().max().map_or("-".to_owned(), u64::to_string);
        assert_eq!(pending, format!("{}|{max}", lacking.len()), "step {step}");
    }
    assert_eq!(
        session
            .row("SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = 'other'")
            .await,
        "1"
    );
}

#[tokio::test]
async fn a_transactions_own_messages_are_not_pending_before_it_commits() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); BEGIN; SELECT tide.outbox_publish('orders', '1')")
        .await;
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "0"
    );
    session.run("COMMIT").await;
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "1"
    );
}

#[tokio::test]
async fn counting_uses_the_index_on_xid() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders');
             INSERT INTO tide.orders_outbox (payload) SELECT '1' FROM generate_series(1, 20000);
             SELECT tide.commit_offset('g', 'orders', 0); ANALYZE tide.orders_outbox",
        )
        .await;
    // As while an old transaction of somebody else is open.
    let old = session
        // PostgreSQL 14 has no max(xid8).
        .row(
            "SELECT concat_ws(':', 10, (xid::text::bigint + 1), 10) FROM tide.orders_outbox ORDER BY xid DESC LIMIT 1",
        )
        .await;
    set_cursor(&session, 1, &old, &old, 0).await;
    let plan = session
        .rows(&format!(
            "EXPLAIN SELECT count(*) FROM tide.orders_outbox m WHERE {}",
            session
                .row("SELECT tide._undelivered(c) FROM tide.group_cursor c")
                .await
        ))
        .await
        .join("\n");
    assert!(plan.contains("Index Cond: (xid >="), "{plan}");
    assert_eq!(session.row("SELECT lag FROM tide.consumer_lag").await, "0");
}

#[tokio::test]
async fn the_status_names_an_owner_only_while_it_lives() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '1');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        )
        .await;
    let view = "SELECT outbox, inbox, sink, source, owner, epoch IS NOT NULL, state, lag, messages, last_error FROM tide.relay_pipeline_status";
    assert_eq!(
        session.row(view).await,
        "orders|-|kafka|-|-|f|no live relay|1|0|-"
    );

    let relay = database.session().await;
    let member = relay
        .number("INSERT INTO tide.relay_member (relay_group, name, backend_pid) VALUES ('default', 'relay-a', pg_backend_pid()) RETURNING member_id")
        .await;
    relay
        .run(&format!("SELECT pg_advisory_lock(1953064045, {member})"))
        .await;
    assert_eq!(session.row(view).await, "orders|-|kafka|-|-|f|unowned|1|0|-");
    relay
        .run(&format!("SELECT tide._acquire(1, {member}, 'relay-a')"))
        .await;
    assert_eq!(
        session.row(view).await,
        "orders|-|kafka|-|relay-a|t|starting|1|0|-"
    );
    relay
        .run(
            "INSERT INTO tide.pipeline_status (pipeline_id, epoch, state, state_since, messages, last_error)
             SELECT 1, epoch, 'running', now(), 5, 'oops' FROM tide.pipeline_owner",
        )
        .await;
    assert_eq!(
        session.row(view).await,
        "orders|-|kafka|-|relay-a|t|running|1|5|oops"
    );
    session.run("SELECT tide.relay_disable('p')").await;

    // The relay dies: its session ends, its rows stay.
    let pid = relay.number("SELECT pg_backend_pid()").await;
    session.run(&format!("SELECT pg_terminate_backend({pid})")).await;
    let gone = async {
        while session
            .row("SELECT count(*) FROM pg_locks WHERE classid = 1953064045")
            .await
            != "0"
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone)
        .await
        .unwrap();
    assert_eq!(session.row(view).await, "orders|-|kafka|-|-|f|disabled|1|5|oops");
    session.run("SELECT tide.relay_enable('p')").await;
    assert_eq!(
        session.row(view).await,
        "orders|-|kafka|-|-|f|no live relay|1|5|oops"
    );
}
