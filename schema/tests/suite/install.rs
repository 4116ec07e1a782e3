//! Installing: plainly, as an extension, twice, and where it must not.

use pg_tide_schema::{Error, Origin, VERSION, install, status, upgrade};

use crate::catalogue::{catalogue, difference};
use crate::support::{Database, Session, drop_database, unique, url};

#[tokio::test]
async fn a_role_without_any_attribute_installs_into_a_database_it_owns() {
    let database = Database::empty().await;
    let owner = database.role("").await;
    let admin = database.session().await;
    // The right to create a schema is all that is needed.
    admin
        .run(&format!("GRANT CREATE ON DATABASE {} TO {owner}", database.name))
        .await;
    let mut session = database.session_of(&owner).await;
    let installed = install(&mut session.0).await.unwrap();
    assert_eq!(
        (installed.from, installed.to, installed.origin),
        (None, VERSION, Origin::Plain)
    );

    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '{}')")
        .await;
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "1"
    );
    let found = status(&session.0).await.unwrap().unwrap();
    assert!(found.is_current());
    assert_eq!(found.release, pg_tide_schema::RELEASE);
}

#[tokio::test]
async fn a_second_installation_does_nothing() {
    let (_database, mut session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '{}')")
        .await;
    let before = catalogue(&session).await;
    let installed = install(&mut session.0).await.unwrap();
    assert_eq!((installed.from, installed.to), (Some(VERSION), VERSION));
    assert_eq!(upgrade(&mut session.0).await.unwrap().from, Some(VERSION));
    assert_eq!(catalogue(&session).await, before);
    assert_eq!(session.row("SELECT count(*) FROM tide.orders_outbox").await, "1");
}

#[tokio::test]
async fn two_installers_at_once_install_once() {
    let database = Database::empty().await;
    let (mut one, mut two) = (database.session().await, database.session().await);
    let (first, second) = tokio::join!(install(&mut one.0), install(&mut two.0));
    let mut from = [first.unwrap().from, second.unwrap().from];
    from.sort_unstable();
    assert_eq!(from, [None, Some(VERSION)]);
}

#[tokio::test]
async fn a_schema_of_somebody_else_is_left_alone() {
    let database = Database::empty().await;
    let mut session = database.session().await;
    session
        .run("CREATE SCHEMA tide; CREATE TABLE tide.moon (phase int)")
        .await;
    let error = install(&mut session.0).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("it is not pg-tide's"), "{error}");
    assert_eq!(
        session
            .row("SELECT count(*) FROM pg_class WHERE relnamespace = 'tide'::regnamespace")
            .await,
        "1"
    );
}

#[tokio::test]
async fn nothing_to_upgrade_is_said() {
    let database = Database::empty().await;
    let mut session = database.session().await;
    assert_eq!(status(&session.0).await.unwrap(), None);
    let error = upgrade(&mut session.0).await.unwrap_err();
    assert!(error.to_string().contains("pg-tide schema install"), "{error}");
}

#[tokio::test]
async fn an_installer_without_rights_learns_which_are_missing() {
    let database = Database::empty().await;
    let role = database.role("").await;
    let mut session = database.session_of(&role).await;
    let error = install(&mut session.0).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("GRANT CREATE ON DATABASE {} TO {role}", database.name)),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (_database, mut session) = Database::installed().await;
    session
        .run("INSERT INTO tide.schema_version (version, release) VALUES (999, '9.9.9')")
        .await;
    let error = install(&mut session.0).await.unwrap_err().to_string();
    assert!(error.contains("version 999 (release 9.9.9)"), "{error}");
}

/// Installs the extension, or says loudly why not.
pub(crate) async fn extension(session: &Session) -> bool {
    if session
        .number("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_tide'")
        .await
        == 0
    {
        assert!(
            session
                .rows("SELECT 1 FROM pg_settings WHERE name = 'extension_control_path'")
                .await
                .is_empty(),
            "extension pg_tide is not available: run schema/make-extension into a folder of extension_control_path"
        );
        eprintln!(
            "SKIPPED: this PostgreSQL has no extension_control_path and pg_tide is not in its share directory"
        );
        return false;
    }
    session.run("CREATE EXTENSION pg_tide").await;
    true
}

#[tokio::test]
async fn the_extension_gives_the_same_catalogue_as_the_installer() {
    let database = Database::empty().await;
    let mut session = database.session().await;
    if !extension(&session).await {
        return;
    }
    let (_plain_database, plain) = Database::installed().await;
    let (left, right) = (catalogue(&plain).await, catalogue(&session).await);
    assert!(left.len() > 300);
    let difference = difference(&left, &right);
    assert!(difference.is_empty(), "{}", difference.join("\n"));

    let found = status(&session.0).await.unwrap().unwrap();
    assert_eq!(
        found.origin,
        Origin::Extension(pg_tide_schema::RELEASE.to_owned())
    );
    let installed = install(&mut session.0).await.unwrap();
    assert_eq!((installed.from, installed.to), (Some(VERSION), VERSION));
    assert_ne!(installed.origin, Origin::Plain);
}

/// Dump and restore keep configuration, messages and the ids to come.
async fn dump_and_restore(database: &Database, session: &Session) {
    let other = database.role("").await;
    session
        .run(&format!(
            "SELECT tide.outbox_create('Weird \"Name\"'); SELECT tide.outbox_create('orders');
             SELECT tide.create_consumer_group('g', 'orders');
             SELECT tide.inbox_create('payments');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\"}}');
             SELECT tide.relay_set_inbox('r', 'payments', '{{\"url\": \"b:1\", \"subject\": \"t\"}}');
             SELECT tide.outbox_grant_publish('orders', '{other}');
             SELECT tide.outbox_publish('orders', '1');
             SELECT tide.outbox_publish('Weird \"Name\"', '2')"
        ))
        .await;
    let copy = unique("tide_test_copy");
    session.run(&format!("CREATE DATABASE {copy}")).await;
    let restored = std::process::Command::new("bash")
        .args([
            "-o",
            "pipefail",
            "-c",
            // pg_dump is of the newest version and sets what servers before 17 do not know.
            "pg_dump \"$1\" | grep -v '^SET transaction_timeout = 0;$' | psql -X -q -v ON_ERROR_STOP=1 \"$2\"",
        ])
        .args(["bash", &url(&database.name), &url(&copy)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    let mut config: tokio_postgres::Config = url(&copy).parse().unwrap();
    config.dbname(&copy);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let task = tokio::spawn(connection);
    let check = Session(client);
    let result = async {
        assert!(restored.status.success(), "{said}");
        assert_eq!(
            check
                .rows("SELECT outbox_name, pending_count FROM tide.outbox_pending ORDER BY 1")
                .await,
            ["Weird \"Name\"|1", "orders|1"]
        );
        assert_eq!(
            check.rows("SELECT name FROM tide.relay_list_configs()").await,
            ["p", "r"]
        );
        // Ids and identities go on where they were.
        check
            .run("SELECT tide.outbox_create('third'); SELECT tide.inbox_create('more')")
            .await;
        assert_eq!(check.number("SELECT tide.outbox_publish('orders', '3')").await, 3);
        assert_eq!(
            check
                .row(&format!(
                    "SELECT has_column_privilege('{other}', 'tide.orders_outbox', 'payload', 'INSERT')"
                ))
                .await,
            "t"
        );
    };
    result.await;
    drop(check);
    task.abort();
    drop_database(&copy, &[]).await;
}

#[tokio::test]
async fn a_dump_of_a_plain_schema_restores() {
    let (database, session) = Database::installed().await;
    dump_and_restore(&database, &session).await;
}

#[tokio::test]
async fn a_dump_of_the_extension_restores() {
    let database = Database::empty().await;
    let session = database.session().await;
    if extension(&session).await {
        dump_and_restore(&database, &session).await;
    }
}

#[tokio::test]
async fn nothing_is_granted_to_public() {
    let (_database, session) = Database::installed().await;
    let granted = session
        .rows(
            "SELECT p.oid::regprocedure::text FROM pg_proc p
              WHERE p.pronamespace = 'tide'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
             UNION ALL
             SELECT c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) a
              WHERE c.relnamespace = 'tide'::regnamespace AND a.grantee = 0
             UNION ALL
             SELECT n.nspname FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'tide' AND a.grantee = 0",
        )
        .await;
    assert!(granted.is_empty(), "{granted:?}");
}

#[tokio::test]
async fn functions_of_the_owner_have_a_fixed_search_path_and_the_public_ones_a_comment() {
    let (_database, session) = Database::installed().await;
    let open = session
        .rows(
            "SELECT p.oid::regprocedure::text FROM pg_proc p
              WHERE p.pronamespace = 'tide'::regnamespace AND p.prosecdef
                AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c = 'search_path=pg_catalog, pg_temp')",
        )
        .await;
    assert!(open.is_empty(), "{open:?}");
    let silent = session
        .rows(
            "SELECT p.oid::regprocedure::text FROM pg_proc p
              WHERE p.pronamespace = 'tide'::regnamespace AND left(p.proname, 1) <> '_' AND obj_description(p.oid) IS NULL
             UNION ALL
             SELECT c.oid::regclass::text FROM pg_class c
              WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid) IS NULL",
        )
        .await;
    assert!(silent.is_empty(), "{silent:?}");
}
