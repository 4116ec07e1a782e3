//! Upgrading from every earlier version, which is kept as it was released in
//! `fixtures/`.

use pg_tide_schema::{Error, Origin, VERSION, install, status, upgrade};

use crate::catalogue::{catalogue, difference};
use crate::install::extension;
use crate::support::{Database, Session};

/// What earlier versions installed, the first being version 1, and under which
/// release.
pub(crate) const EARLIER: &[(&str, &str)] = &[(include_str!("../fixtures/version-1.sql"), "0.1.0")];

/// What users made in every version alike.
fn used(role: &str) -> String {
    format!(
        "SELECT tide.outbox_create('orders', 72); SELECT tide.outbox_create('Weird \"Name\"');
         SELECT tide.create_consumer_group('g', 'orders');
         SELECT tide.create_consumer_group('late', 'orders', 'latest');
         SELECT tide.inbox_create('payments', p_max_retries := 5);
         SELECT tide.relay_set_outbox('out', 'orders', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\"}}');
         SELECT tide.relay_set_inbox('in', 'payments', '{{\"url\": \"b:1\", \"subject\": \"t\"}}');
         SELECT tide.outbox_grant_publish('orders', '{role}');
         SELECT tide.inbox_grant_process('payments', '{role}');
         SELECT tide.outbox_publish('orders', to_jsonb(n)) FROM generate_series(1, 5) n;
         INSERT INTO tide.payments_inbox (event_id, payload) VALUES ('a', '1'), ('b', '2');
         SELECT tide.inbox_mark_failed('payments', 'b', 'no');
         SELECT tide.outbox_disable('Weird \"Name\"')"
    )
}

/// A database of an earlier version, in use.
async fn earlier(version: usize) -> (Database, Session, String) {
    let database = Database::empty().await;
    let session = database.session().await;
    session.run(EARLIER[version - 1].0).await;
    let role = database.role("").await;
    session.run(&used(&role)).await;
    (database, session, role)
}

fn assert_alike(fresh: &[String], upgraded: &[String], from: &str) {
    let difference = difference(fresh, upgraded);
    assert!(
        difference.is_empty(),
        "an upgrade from {from} does not give what an installation gives (CONTRIBUTING.md, \"Changing the schema\"):\n\
         - only the installation has, + only the upgrade has\n{}",
        difference.join("\n")
    );
}

#[tokio::test]
async fn every_earlier_version_upgrades_to_what_a_fresh_installation_gives() {
    assert_eq!(
        EARLIER.len() + 1,
        usize::try_from(VERSION).unwrap(),
        "keep the SQL of each released version in fixtures/"
    );
    for version in 1..=EARLIER.len() {
        let (_database, mut session, role) = earlier(version).await;
        let done = upgrade(&mut session.0).await.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(
            (done.from, done.to, done.origin),
            (Some(i32::try_from(version).unwrap()), VERSION, Origin::Plain)
        );
        assert!(status(&session.0).await.unwrap().unwrap().is_current());
        let (_fresh_database, fresh) = Database::installed().await;
        fresh.run(&used(&role)).await;
        assert_alike(
            &catalogue(&fresh).await,
            &catalogue(&session).await,
            &format!("version {version}"),
        );
        fresh
            .run("SELECT tide.relay_delete('out'); SELECT tide.relay_delete('in'); SELECT tide.inbox_drop('payments'); SELECT tide.outbox_drop('orders')")
            .await;
        assert_eq!(upgrade(&mut session.0).await.unwrap().from, Some(VERSION));
    }
}

#[tokio::test]
async fn what_was_there_is_there_and_works_after_the_upgrade() {
    for version in 1..=EARLIER.len() {
        let (database, mut session, role) = earlier(version).await;
        session.run("SELECT tide.commit_offset('g', 'orders', 2)").await;
        upgrade(&mut session.0).await.unwrap();
        assert_eq!(
            session
                .rows("SELECT group_name, lag FROM tide.consumer_lag ORDER BY 1")
                .await,
            ["g|3", "late|5", "out|5"]
        );
        assert_eq!(
            session
                .row("SELECT pending, accepted FROM tide.inbox_summary")
                .await,
            "2|0"
        );
        let app = database.session_of(&role).await;
        assert_eq!(app.number("SELECT tide.outbox_publish('orders', '6')").await, 6);
        app.run(
            "SELECT tide.inbox_mark_processed('payments', 'a'); SELECT * FROM tide.inbox_claim('payments')",
        )
        .await;
        session
            .refuses(
                "SELECT tide.outbox_publish('Weird \"Name\"', '6')",
                "55000",
                &["disabled"],
            )
            .await;
        session
            .run("SELECT tide.outbox_enable('Weird \"Name\"'); SELECT tide.outbox_publish('Weird \"Name\"', '6')")
            .await;
    }
}

#[tokio::test]
async fn a_config_with_pauses_in_milliseconds_keeps_them() {
    let (_database, mut session, _) = earlier(1).await;
    session
        .run(
            "SELECT tide.relay_set_outbox('timed', 'orders', 'kafka',
                 '{\"brokers\": \"b:1\", \"topic\": \"t\", \"retry\": {\"initial_ms\": 50, \"max_ms\": 700}}')",
        )
        .await;
    upgrade(&mut session.0).await.unwrap();
    assert_eq!(
        session
            .row("SELECT config -> 'retry' FROM tide.relay_get_config('timed')")
            .await,
        "{\"max\": 700, \"initial\": 50}"
    );
    session
        .run("SELECT tide._check_config(p.name, p.direction, p.connector, p.config) FROM tide.pipeline p")
        .await;
}

#[tokio::test]
async fn the_extension_upgrades_to_what_a_fresh_extension_gives() {
    // Members of the extension, and the tables that pg_dump saves of it.
    let members = "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
                    WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_tide')
                   UNION ALL
                   SELECT 'dumped: ' || t::regclass FROM pg_extension, unnest(extconfig) t WHERE extname = 'pg_tide'
                   ORDER BY 1";
    for (_, release) in EARLIER {
        let (fresh_database, fresh) = {
            let database = Database::empty().await;
            let session = database.session().await;
            if !extension(&session).await {
                return;
            }
            (database, session)
        };
        let role = fresh_database.role("").await;
        fresh.run(&used(&role)).await;

        let database = Database::empty().await;
        let mut session = database.session().await;
        session
            .run(&format!("CREATE EXTENSION pg_tide VERSION '{release}'"))
            .await;
        session.run(&used(&role)).await;
        let error = upgrade(&mut session.0).await.unwrap_err();
        assert!(matches!(error, Error::OwnedByExtension { .. }), "{error}");
        assert!(
            error.to_string().contains("ALTER EXTENSION pg_tide UPDATE"),
            "{error}"
        );
        session.run("ALTER EXTENSION pg_tide UPDATE").await;
        let found = status(&session.0).await.unwrap().unwrap();
        assert!(found.is_current(), "{found:?}");
        assert_eq!(
            found.origin,
            Origin::Extension(pg_tide_schema::RELEASE.to_owned())
        );
        let from = format!("extension {release}");
        assert_alike(&fresh.rows(members).await, &session.rows(members).await, &from);
        assert_alike(&catalogue(&fresh).await, &catalogue(&session).await, &from);
        // The role's rights end with its databases.
        drop(session);
        drop(database);
    }
}

#[tokio::test]
async fn somebody_elses_role_cannot_upgrade_and_learns_who_can() {
    let (database, session, role) = earlier(1).await;
    session
        .run(&format!("GRANT SELECT ON tide.schema_version TO {role}"))
        .await;
    let mut other = database.session_of(&role).await;
    let error = upgrade(&mut other.0).await.unwrap_err().to_string();
    assert!(
        error.contains("may not upgrade schema \"tide\"") && error.contains("connect as its owner"),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_member_of_the_owner_upgrades_belongs_to_the_owner() {
    let database = Database::empty().await;
    let (owner, member) = (database.role("").await, database.role("").await);
    let admin = database.session().await;
    admin
        .run(&format!(
            "GRANT CREATE ON DATABASE {} TO {owner}; GRANT {owner} TO {member}",
            database.name
        ))
        .await;
    let session = database.session_of(&owner).await;
    session.run(EARLIER[0].0).await;
    let mut other = database.session_of(&member).await;
    upgrade(&mut other.0).await.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(other.row("SELECT current_user").await, member);
    let others = session
        .rows(
            "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tide'::regnamespace AND c.relowner <> current_user::regrole
             UNION ALL
             SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'tide'::regnamespace AND p.proowner <> current_user::regrole",
        )
        .await;
    assert!(others.is_empty(), "{others:?}");
    session.run("SELECT * FROM tide.managed_objects()").await;
}

#[tokio::test]
async fn an_upgrade_waits_for_open_transactions_without_stopping_others() {
    let (database, mut session, _) = earlier(1).await;
    let open = database.session().await;
    open.run("BEGIN; SELECT * FROM tide.relay_pipeline_status").await;
    let other = database.session().await;
    let upgrading =
        tokio::spawn(async move { install(&mut session.0).await.map(|done| (done.from, done.to)) });
    // It tries, gives way, and tries again.
    let waits = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                  WHERE NOT l.granted AND c.relname = 'pipeline' AND l.mode = 'AccessExclusiveLock'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut seen = 0;
    let mut before = 0;
    while seen < 2 && std::time::Instant::now() < deadline {
        let now = other.number(waits).await;
        seen += i64::from(before == 0 && now == 1);
        before = now;
    }
    assert_eq!(seen, 2, "the upgrade tries again and again");
    let started = std::time::Instant::now();
    for n in 0..20 {
        other
            .run(&format!(
                "SELECT * FROM tide.pipeline; SELECT tide.outbox_publish('orders', '{n}')"
            ))
            .await;
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    assert!(!upgrading.is_finished());
    open.run("COMMIT").await;
    assert_eq!(upgrading.await.unwrap().unwrap(), (Some(1), VERSION));
    assert_eq!(
        other
            .row("SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = 'orders'")
            .await,
        "25"
    );
}
