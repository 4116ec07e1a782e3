//! Partitions are there before they are needed, and go when they are passed.
//! Time is an argument of the functions beneath maintain_outbox.

use crate::support::{Database, Session};

async fn make_ahead(session: &Session, ahead: &str) -> Vec<String> {
    session
        .rows(&format!(
            "SELECT m.action, m.leaf FROM tide.outbox o, tide._make_leaves_ahead(o, now() + interval '{ahead}') m WHERE o.name = 'orders'"
        ))
        .await
}

async fn drop_passed(session: &Session, ahead: &str) -> Vec<String> {
    session
        .rows(&format!(
            "SELECT m.action FROM tide.outbox o, tide._drop_passed_leaves(o, now() + interval '{ahead}') m WHERE o.name = 'orders'"
        ))
        .await
}

/// What happens once the first leaf is past its retention, and no other: when
/// that is depends on the time of day.
async fn drop_first(session: &Session) -> Vec<String> {
    session
        .rows(
            "SELECT m.action
               FROM tide.outbox o, LATERAL (SELECT min(l.upper_bound) AS first FROM tide._leaves(o) l) e,
                    tide._drop_passed_leaves(o, e.first + o.retention + interval '1 second') m
              WHERE o.name = 'orders'",
        )
        .await
}

async fn assert_whole(session: &Session) {
    let leaves = session
        .rows(
            "SELECT l.leaf, l.lower_bound, l.upper_bound,
                    l.lower_bound = coalesce(lag(l.upper_bound) OVER (ORDER BY l.lower_bound), '-infinity')
               FROM tide.outbox o, tide._leaves(o) l ORDER BY l.lower_bound",
        )
        .await;
    assert!(leaves.last().unwrap().contains("_rest|"), "{leaves:?}");
    assert!(leaves[1..].iter().all(|l| l.ends_with("|t")), "{leaves:?}");
}

#[tokio::test]
async fn leaves_are_made_ahead_only_when_few_remain() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    assert!(
        session
            .rows("SELECT * FROM tide.maintain_outboxes()")
            .await
            .is_empty()
    );
    assert!(make_ahead(&session, "6 hours").await.is_empty());
    for ahead in ["20 hours", "40 hours", "5 days", "40 days"] {
        let made = make_ahead(&session, ahead).await;
        assert!(
            made.len() >= 3 && made.iter().all(|m| m.starts_with("made|")),
            "{ahead}: {made:?}"
        );
        assert!(make_ahead(&session, ahead).await.is_empty());
        assert_whole(&session).await;
        session.run("SELECT tide.outbox_publish('orders', '1')").await;
    }
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "4");
    // The new leaves have both indexes, attached to those of the outbox.
    assert_eq!(
        session
            .row(
                "SELECT count(*) = 2 * (SELECT count(*) FROM tide.outbox o, tide._leaves(o)) FROM pg_inherits i
                   JOIN pg_class parent ON parent.oid = i.inhparent WHERE parent.relkind = 'I'"
            )
            .await,
        "t"
    );
}

#[tokio::test]
async fn a_rest_that_was_used_becomes_a_leaf_and_loses_nothing() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    // As after many days without a relay.
    session
        .run("INSERT INTO tide.orders_outbox (created_at, payload) VALUES (now() + interval '30 days', '1')")
        .await;
    assert_eq!(session.row("SELECT count(*) FROM tide.outbox_1_rest").await, "1");
    let done = make_ahead(&session, "30 days").await;
    assert!(done[0].starts_with("closed|outbox_1_20"), "{done:?}");
    assert!(
        done[1..].len() >= 5 && done[1..].iter().all(|d| d.starts_with("made|")),
        "{done:?}"
    );
    assert_whole(&session).await;
    assert_eq!(session.row("SELECT count(*) FROM tide.outbox_1_rest").await, "0");
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "1");
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "1"
    );
}

#[tokio::test]
async fn a_leaf_goes_when_it_is_old_and_every_group_has_passed_it() {
    let (database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('a', 'orders'); SELECT tide.create_consumer_group('b', 'orders')").await;
    session
        .run("SELECT tide.outbox_publish('orders', '1'); SELECT tide.outbox_publish('orders', '2')")
        .await;
    let leaf = "outbox_1_2%";
    let messages = "SELECT count(*) FROM tide.orders_outbox";
    make_ahead(&session, "2 days").await;

    assert!(drop_passed(&session, "0 hours").await.is_empty(), "not old");
    assert!(
        drop_passed(&session, "24 hours").await.is_empty(),
        "not older than the retention"
    );
    let kept = drop_passed(&session, "31 hours").await;
    assert_eq!(kept[0], "kept", "no group has a cursor");
    session
        .run("SELECT tide.commit_offset('a', 'orders', 2); SELECT tide.commit_offset('b', 'orders', 1)")
        .await;
    assert_eq!(
        drop_passed(&session, "31 hours").await[0],
        "kept",
        "one group lacks a message"
    );
    assert_eq!(session.row(messages).await, "2");
    session.run("SELECT tide.commit_offset('b', 'orders', 2)").await;

    // A transaction that still publishes, or reads, is not waited for.
    let other = database.session().await;
    other
        .run("BEGIN; SELECT tide.outbox_publish('orders', '3')")
        .await;
    let started = std::time::Instant::now();
    assert_eq!(drop_passed(&session, "31 hours").await[0], "skipped");
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
    other.run("COMMIT").await;
    assert_eq!(
        drop_passed(&session, "31 hours").await[0],
        "kept",
        "the message that came is not delivered"
    );
    session
        .run("SELECT tide.commit_offset('a', 'orders', 3); SELECT tide.commit_offset('b', 'orders', 3)")
        .await;
    let before = session
        .number(&format!(
            "SELECT count(*) FROM pg_class WHERE relname LIKE '{leaf}' AND relkind = 'r'"
        ))
        .await;
    assert_eq!(drop_passed(&session, "31 hours").await[0], "dropped");
    let after = session
        .number(&format!(
            "SELECT count(*) FROM pg_class WHERE relname LIKE '{leaf}' AND relkind = 'r'"
        ))
        .await;
    assert!(after < before);
    assert_eq!(session.row(messages).await, "0");
    assert_eq!(session.row("SELECT max(lag) FROM tide.consumer_lag").await, "0");
}

#[tokio::test]
async fn without_any_group_retention_alone_decides() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '1')")
        .await;
    make_ahead(&session, "2 days").await;
    assert!(drop_passed(&session, "12 hours").await.is_empty());
    assert_eq!(drop_first(&session).await, ["dropped"]);
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "0");
    assert_whole(&session).await;
    // A clock set back finds a place too.
    session
        .run("INSERT INTO tide.orders_outbox (created_at, payload) VALUES (now(), '1'), (now() - interval '20 years', '2')")
        .await;
    session
        .run("SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    make_ahead(&session, "3 days").await;
    assert_eq!(
        drop_passed(&session, "3 days").await,
        ["kept"],
        "and nothing behind what is kept goes either, so that there is no gap"
    );
    assert_whole(&session).await;
    session.run("SELECT tide.commit_offset('g', 'orders', 3)").await;
    let dropped = drop_passed(&session, "3 days").await;
    assert!(
        dropped.len() > 4 && dropped.iter().all(|d| d == "dropped"),
        "{dropped:?}"
    );
    assert_whole(&session).await;
    assert!(drop_passed(&session, "3 days").await.is_empty());
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "0");
}

#[tokio::test]
async fn what_is_to_be_replayed_stays_until_it_was() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '1'); SELECT tide.outbox_publish('orders', '2');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        )
        .await;
    session
        .run("SELECT tide.commit_offset(g.name, 'orders', 2) FROM tide.consumer_group g")
        .await;
    make_ahead(&session, "2 days").await;
    assert_eq!(session.row("SELECT tide.relay_replay('p', 2, NULL)").await, "1");
    assert_eq!(drop_first(&session).await, ["kept"]);
    assert_eq!(
        session
            .row("SELECT held_by IS NOT NULL, hint LIKE 'no relay runs pipeline \"p\"%' FROM tide.outbox o, tide._retention(o, now() + interval '31 hours')")
            .await,
        "t|t"
    );
    session.run("UPDATE tide.redelivery SET done_id = 2").await;
    assert_eq!(drop_first(&session).await, ["dropped"]);
}

#[tokio::test]
async fn one_broken_outbox_does_not_keep_others_from_being_maintained() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('broken'); SELECT tide.outbox_create('orders')")
        .await;
    session
        .run("DROP TABLE tide.outbox_1_rest; ALTER TABLE tide.broken_outbox RENAME TO lost")
        .await;
    session
        .run("UPDATE tide.outbox SET partition_period = interval '24 hours' WHERE name = 'orders'")
        .await;
    let done = session
        .rows("SELECT outbox_name, action FROM tide.maintain_outboxes()")
        .await;
    assert_eq!(
        done.iter().filter(|d| *d == "broken|failed").count(),
        1,
        "{done:?}"
    );
    assert!(done.iter().any(|d| d == "orders|made"), "{done:?}");
}

/// Time goes by an hour a step, with maintenance as rarely as every sixth hour.
#[tokio::test]
async fn through_two_weeks_of_many_messages_partitions_are_there_and_no_more_than_needed() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    let leaves = "SELECT count(*) FROM tide.outbox o, tide._leaves(o) l";
    let (mut most, mut sent) = (0, 0);
    for hour in 0..336 {
        session
            .run(&format!(
                "INSERT INTO tide.outbox_message (outbox, payload, created_at)
                 SELECT 'orders', '1', now() + interval '{hour} hours' FROM generate_series(1, 500)"
            ))
            .await;
        sent += 500;
        assert_eq!(
            session.row("SELECT count(*) FROM tide.outbox_1_rest").await,
            "0",
            "hour {hour}: no partition was there in time"
        );
        if hour % 6 == 5 {
            for step in ["_make_leaves_ahead", "_drop_passed_leaves"] {
                let sql = format!(
                    "SELECT m.action FROM tide.outbox o, tide.{step}(o, now() + interval '{hour} hours') m"
                );
                let mut done = session.rows(&sql).await;
                // Autovacuum may be at it.
                for _ in 0..100 {
                    if done != ["skipped"] {
                        break;
                    }
                    done = session.rows(&sql).await;
                }
                assert!(
                    done.iter().all(|d| ["made", "dropped"].contains(&d.as_str())),
                    "hour {hour}: {done:?}"
                );
            }
            most = most.max(session.number(leaves).await);
        }
        // The group is never behind for longer than an hour.
        session
            .run(&format!("SELECT tide.commit_offset('g', 'orders', {sent})"))
            .await;
    }
    // A day of narrow partitions behind, a day ahead, a wide one, the rest, and the odd one.
    assert!(most <= 13, "{most} partitions");
    let kept = session.number("SELECT count(*) FROM tide.orders_outbox").await;
    assert!((24 * 500..=37 * 500).contains(&kept), "{kept} messages");
}

/// Every time has its partition, whatever the periods before and after, also
/// when clocks that were ahead have put messages into partitions to come.
#[tokio::test]
async fn another_retention_leaves_no_time_without_a_partition_and_loses_nothing() {
    let (_database, session) = Database::installed().await;
    for (before, after) in [(96, 4), (4, 96), (1, 672), (672, 1), (24, 28)] {
        for early in ["", "30 hours", "60 hours", "90 days"] {
            session
                .run(&format!(
                    "SELECT tide.outbox_create('orders', {before}), tide.create_consumer_group('g', 'orders')"
                ))
                .await;
            let mut messages = 0;
            let publish = |ahead: &str| {
                format!(
                    "INSERT INTO tide.orders_outbox (created_at, payload) VALUES (now() + interval '{ahead}', '1')"
                )
            };
            for ahead in ["0", early].iter().filter(|ahead| !ahead.is_empty()) {
                session.run(&publish(ahead)).await;
                messages += 1;
            }
            let set = format!("SELECT tide.outbox_set_retention('orders', {after})");
            assert_eq!(session.row(&set).await, "t");
            assert_eq!(session.row(&set).await, "f");
            assert_eq!(
                session
                    .row("SELECT retention = make_interval(hours => 0) + partition_period * 4 OR partition_period = '7 days' FROM tide.outbox")
                    .await,
                if after == 28 || after == 1 { "f" } else { "t" }
            );
            for ahead in ["0 hours", "3 hours", "20 hours", "2 days", "9 days", "60 days"] {
                make_ahead(&session, ahead).await;
                assert_whole(&session).await;
                assert!(
                    make_ahead(&session, ahead).await.is_empty(),
                    "{before} to {after}, {early}: done at once"
                );
                session.run(&publish(ahead)).await;
                messages += 1;
            }
            drop_passed(&session, "60 days").await;
            assert_whole(&session).await;
            assert_eq!(
                session.number("SELECT count(*) FROM tide.orders_outbox").await,
                messages
            );
            assert_eq!(
                session.number("SELECT lag FROM tide.consumer_lag").await,
                messages,
                "the group has had none of them"
            );
            session.run("SELECT tide.outbox_drop('orders')").await;
        }
    }
}

#[tokio::test]
async fn retention_is_set_while_others_publish_and_by_the_rules_of_its_making() {
    let (database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    let other = database.session().await;
    other
        .run("BEGIN; SELECT tide.outbox_publish('orders', '1')")
        .await;
    session
        .run("SET lock_timeout = '1s'; BEGIN; SELECT tide.outbox_set_retention('orders', 96)")
        .await;
    other
        .run("SET lock_timeout = '1s'; SELECT tide.outbox_publish('orders', '2'); COMMIT; SELECT tide.outbox_publish('orders', '3')")
        .await;
    session.run("COMMIT").await;
    assert_eq!(
        session
            .row("SELECT retention, partition_period FROM tide.outbox")
            .await,
        "96:00:00|24:00:00"
    );
    for hours in ["0", "876001", "NULL"] {
        session
            .refuses(
                &format!("SELECT tide.outbox_set_retention('orders', {hours})"),
                "22023",
                &["1 to 876000"],
            )
            .await;
    }
    session
        .refuses(
            "SELECT tide.outbox_set_retention('order', 5)",
            "42704",
            &["Did you mean \"orders\""],
        )
        .await;
}
