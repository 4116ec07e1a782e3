//! Outboxes that nobody maintained for long, or that are never quiet:
//! publishers go on, whatever is done to the partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Database, Session};

/// As if the outbox had been made, and last maintained, so long ago.
async fn unattended_for(session: &Session, days: u32) {
    session
        .run(&format!(
            "DO $$
             DECLARE v_leaf record; v_outbox tide.outbox;
             BEGIN
                 SELECT * INTO v_outbox FROM tide.outbox WHERE name = 'orders';
                 FOR v_leaf IN SELECT * FROM tide._leaves(v_outbox) LOOP
                     EXECUTE format('DROP TABLE tide.%I', v_leaf.leaf);
                 END LOOP;
                 FOR v_leaf IN SELECT * FROM tide._wanted_leaves(v_outbox, '-infinity', now() - interval '{days} days') LOOP
                     PERFORM tide._create_leaf(v_leaf.leaf);
                     PERFORM tide._attach_leaf(v_outbox, v_leaf.leaf, v_leaf.lower_bound, v_leaf.upper_bound);
                 END LOOP;
             END $$"
        ))
        .await;
}

const MAINTAIN: &str = "SELECT action || coalesce(' ' || detail, '') FROM tide.maintain_outboxes()";

async fn maintain(session: &Session) -> Vec<String> {
    session.rows(MAINTAIN).await
}

/// The same until nothing is in the way: autovacuum may be.
async fn undisturbed(session: &Session, sql: &str) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let done = session.rows(sql).await;
        if done.iter().all(|d| !d.starts_with("skipped")) {
            return done;
        }
        assert!(Instant::now() < deadline, "{done:?}");
    }
}

/// Publishes until told to stop; nothing may be refused or take long.
async fn publish_all_the_time(session: Session, stop: Arc<AtomicBool>) -> Vec<Duration> {
    session.run("SET lock_timeout = '2s'").await;
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        session.run("SELECT tide.outbox_publish('orders', '1')").await;
        took.push(began.elapsed());
    }
    took
}

/// Publishers beside what a test does.
struct Publishers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Duration>>>,
}

impl Publishers {
    async fn start(database: &Database) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let session = database.session().await;
            tasks.push(tokio::spawn(publish_all_the_time(session, Arc::clone(&stop))));
        }
        Self { stop, tasks }
    }

    /// How many messages they published; how long that took is printed.
    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = Vec::new();
        for task in self.tasks {
            took.extend(task.await.unwrap());
        }
        took.sort();
        println!(
            "{} publishes meanwhile: half of them took {:?}, 99 % at most {:?}, the longest {:?}",
            took.len(),
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            took[took.len() - 1]
        );
        i64::try_from(took.len()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_days_and_much_in_the_rest_end_in_narrow_partitions_while_publishers_go_on() {
    let (database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    unattended_for(&session, 10).await;
    assert_eq!(
        session
            .row("SELECT hint IS NOT NULL FROM tide.retention_status")
            .await,
        "t",
        "the last partition is in use"
    );
    // More than is scanned while publishers wait; some of it days old.
    session
        .run(
            "INSERT INTO tide.orders_outbox (payload, created_at)
             SELECT jsonb_build_object('n', n, 'text', repeat('x', 200)), now() - interval '6 days' * random()
               FROM generate_series(1, 150000) n",
        )
        .await;
    assert_eq!(
        session.row("SELECT count(*) FROM tide.outbox_1_rest").await,
        "150000"
    );

    let publishers = Publishers::start(&database).await;
    let mut done = Vec::new();
    let deadline = Instant::now() + Duration::from_mins(1);
    // Each step in a transaction of its own; one that is in the way is tried again.
    while !done.iter().any(|d: &String| d.starts_with("made")) {
        assert!(Instant::now() < deadline, "{done:?}");
        done.extend(maintain(&session).await);
    }
    let published = publishers.stop().await;
    println!("{}", done.join("\n"));
    let steps: Vec<&String> = done.iter().filter(|d| !d.starts_with("skipped")).collect();
    assert!(steps[0].starts_with("closing the rest holds") && steps[0].contains("checked at the next call"));
    assert!(steps[1].contains("becomes a partition at the next call"));
    assert!(steps[2].starts_with("closed") && steps[3].starts_with("made"));

    // Everything is there, in a partition that ends within four days; the rest is empty and unhindered.
    assert_eq!(
        session.number("SELECT count(*) FROM tide.orders_outbox").await,
        150_000 + published
    );
    assert_eq!(session.row("SELECT count(*) FROM tide.outbox_1_rest").await, "0");
    assert_eq!(
        session
            .row(
                "SELECT max(l.upper_bound) < now() + interval '7 days' AND max(l.upper_bound) > now() + interval '3 days'
                   FROM tide.outbox o, tide._leaves(o) l WHERE isfinite(l.upper_bound)"
            )
            .await,
        "t"
    );
    assert_eq!(
        session
            .row("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'closing%'")
            .await,
        "0"
    );
    session
        .run("INSERT INTO tide.orders_outbox (payload, created_at) VALUES ('1', now() + interval '1 year')")
        .await;
    assert_eq!(session.row("SELECT hint FROM tide.retention_status").await, "-");
    loop {
        let done = undisturbed(&session, MAINTAIN).await;
        assert!(done.iter().all(|d| d.starts_with("dropped")), "{done:?}");
        if done.is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn a_publish_is_never_refused_though_nobody_goes_on_with_closing_the_rest() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    unattended_for(&session, 10).await;
    session
        .run(
            "INSERT INTO tide.orders_outbox (payload)
             SELECT to_jsonb(repeat('x', 400)) FROM generate_series(1, 100000)",
        )
        .await;
    let make = |later: &str| {
        format!(
            "SELECT m.action FROM tide.outbox o, tide._make_leaves_ahead(o, now() + interval '{later}') m"
        )
    };
    let publish = |later: &str| {
        format!(
            "INSERT INTO tide.outbox_message (outbox, payload, created_at) VALUES ('orders', '1', now() + interval '{later}')"
        )
    };
    assert_eq!(undisturbed(&session, &make("0")).await, ["closing"]);
    // All relays vanish, for weeks: behind the bound.
    session.run(&publish("4 days")).await;
    session.run(&publish("30 days")).await;
    session
        .run(&format!(
            "{}; SELECT tide.outbox_disable('orders')",
            publish("30 days")
        ))
        .await;
    let error = session.error(&publish("30 days")).await;
    assert!(error.message().contains("disabled"), "{error}");
    session.run("SELECT tide.outbox_enable('orders')").await;
    let beyond = "SELECT count(*), count(*) FILTER (WHERE created_at BETWEEN now() + interval '72 hours' AND now() + interval '80 hours') FROM tide.outbox_1_rest";
    assert_eq!(session.row(beyond).await, "100003|3");

    // They come back.
    assert_eq!(undisturbed(&session, &make("30 days")).await, ["closing"]);
    session.run(&publish("31 days")).await;
    let done = undisturbed(&session, &make("30 days")).await;
    assert!(
        done[0] == "closed" && done.len() >= 6 && done[1..].iter().all(|d| d == "made"),
        "{done:?}"
    );
    session.run(&publish("30 days")).await;
    assert_eq!(
        session.row("SELECT count(*) FROM tide.orders_outbox").await,
        "100005"
    );
    assert_eq!(
        session
            .row(
                "SELECT (SELECT count(*) FROM pg_constraint WHERE conname LIKE 'closing%'),
                        (SELECT count(*) FROM pg_trigger WHERE tgname = 'closing'),
                        (SELECT count(*) FROM tide.outbox_1_rest),
                        (SELECT count(*) FROM tide.orders_outbox WHERE created_at > now() + interval '29 days')"
            )
            .await,
        "0|0|0|1"
    );
}

#[tokio::test]
async fn a_message_dated_far_ahead_does_not_keep_the_rest_from_being_closed() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    unattended_for(&session, 10).await;
    session
        .run(
            "INSERT INTO tide.orders_outbox (payload)
             SELECT to_jsonb(repeat('x', 400)) FROM generate_series(1, 100000);
             INSERT INTO tide.orders_outbox (payload, created_at) VALUES ('1', now() + interval '20 days')",
        )
        .await;
    let done = undisturbed(&session, MAINTAIN).await;
    assert!(done[0].contains("will hold messages up to"), "{done:?}");
    // One that came just before the trigger.
    session
        .run(
            "ALTER TABLE tide.outbox_1_rest DISABLE TRIGGER closing;
             DO $$ DECLARE v_constraint name; BEGIN
                 SELECT conname INTO v_constraint FROM pg_constraint WHERE conname LIKE 'closing%';
                 EXECUTE format('ALTER TABLE tide.outbox_1_rest DROP CONSTRAINT %I', v_constraint);
                 INSERT INTO tide.orders_outbox (payload, created_at) VALUES ('1', now() + interval '40 days');
                 EXECUTE format('ALTER TABLE tide.outbox_1_rest ADD CONSTRAINT %I CHECK (created_at < now() + interval ''20 days'') NOT VALID',
                                v_constraint);
             END $$",
        )
        .await;
    let done = undisturbed(&session, MAINTAIN).await;
    assert!(done[0].contains("begun anew"), "{done:?}");
    let mut done = Vec::new();
    while !done.iter().any(|d: &String| d.starts_with("made")) {
        done.extend(maintain(&session).await);
        assert!(done.iter().all(|d| !d.starts_with("failed")), "{done:?}");
    }
    assert_eq!(
        session.row("SELECT count(*) FROM tide.orders_outbox").await,
        "100002"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_gives_up_at_an_open_transaction_and_publishers_do_not_queue_behind_it() {
    let (database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    unattended_for(&session, 10).await;
    let open = database.session().await;
    open.run("BEGIN; SELECT tide.outbox_publish('orders', '\"open\"')")
        .await;
    let process = open.row("SELECT pg_backend_pid()").await;

    let publishers = Publishers::start(&database).await;
    for _ in 0..5 {
        let done = maintain(&session).await;
        // Neither are partitions made nor old ones dropped, which would need the same lock.
        assert_eq!(done.len(), 2, "{done:?}");
        for skipped in &done {
            assert!(
                skipped.starts_with("skipped in use by other transactions")
                    && skipped.contains(&format!("process {process}")),
                "{skipped}"
            );
        }
    }
    publishers.stop().await;
    open.run("COMMIT").await;
    let done = undisturbed(&session, MAINTAIN).await;
    assert!(done[0].starts_with("closed"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_passed_partitions_go_a_few_at_a_time_while_publishers_go_on() {
    let (database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('gone', 'orders')")
        .await;
    // What a group held back for 25 days.
    session
        .run("DO $$
              DECLARE v_outbox tide.outbox; v_leaf name; v_from timestamptz := date_bin('6 hours', now(), '2001-01-01 00:00:00+00') - interval '25 days';
              BEGIN
                  SELECT * INTO v_outbox FROM tide.outbox;
                  SELECT l.leaf INTO v_leaf FROM tide._leaves(v_outbox) l WHERE l.lower_bound = '-infinity';
                  EXECUTE format('DROP TABLE tide.%I', v_leaf);
                  FOR n IN 0 .. 100 LOOP
                      v_leaf := 'outbox_1_' || to_char((v_from + n * interval '6 hours') AT TIME ZONE 'UTC', 'YYYYMMDDHH24');
                      PERFORM tide._create_leaf(v_leaf);
                      PERFORM tide._attach_leaf(v_outbox, v_leaf, v_from + n * interval '6 hours', v_from + (n + 1) * interval '6 hours');
                  END LOOP;
                  INSERT INTO tide.orders_outbox (payload, created_at)
                  SELECT '1', now() - interval '25 days' * random() FROM generate_series(1, 20000);
              END $$")
        .await;
    let passed = "SELECT count(*) FROM tide.outbox o, tide._leaves(o) l WHERE l.upper_bound <= now() - o.retention AND l.leaf <> 'outbox_1_past'";
    assert!(session.number(passed).await > 90);
    let publishers = Publishers::start(&database).await;
    assert!(
        maintain(&session).await.iter().all(|d| d.starts_with("kept")),
        "the group lacks them"
    );
    session
        .run("SELECT tide.drop_consumer_group('gone', 'orders'); SELECT tide.create_consumer_group('new', 'orders', 'latest')")
        .await;
    let deadline = Instant::now() + Duration::from_mins(1);
    while session.number(passed).await > 0 {
        assert!(Instant::now() < deadline);
        let done = maintain(&session).await;
        assert!(
            done.len() <= 8 && done.iter().all(|d| !d.starts_with("kept")),
            "{done:?}"
        );
    }
    let published = publishers.stop().await;
    assert!(
        session
            .number("SELECT count(*) FROM tide.orders_outbox WHERE created_at > now() - interval '1 hour'")
            .await
            >= published
    );
}
