//! A database per test, and sessions on it.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn server() -> Config {
    let url = std::env::var("TIDE_PG_URL").unwrap_or_else(|_| {
        panic!(
            "TIDE_PG_URL is not set: these tests need a PostgreSQL and a role with CREATEDB and CREATEROLE.\n\
             Run `e2e/bed up postgres` and `eval \"$(e2e/bed env)\"` first."
        )
    });
    url.parse().unwrap()
}

/// A name that no other test uses.
pub(crate) fn unique(prefix: &str) -> String {
    format!(
        "{prefix}_{}_{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )
}

/// A session; whatever is wrong is shown with what PostgreSQL said.
pub(crate) struct Session(pub(crate) Client);

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.0
    }
}

async fn open(config: &Config) -> Session {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .unwrap_or_else(|e| panic!("cannot connect: {e:?}"));
    tokio::spawn(connection);
    Session(client)
}

impl Session {
    /// Runs statements that must succeed.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = self.0.batch_execute(sql).await {
            panic!("{sql}\n{error:?}");
        }
    }

    /// All rows of a query, columns joined by `|`, null as `-`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        let messages = self
            .0
            .simple_query(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}\n{e:?}"));
        messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|n| row.get(n).unwrap_or("-").to_owned())
                        .collect::<Vec<_>>()
                        .join("|"),
                ),
                _ => None,
            })
            .collect()
    }

    /// The only row of a query.
    pub(crate) async fn row(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}\n{rows:?}");
        rows[0].clone()
    }

    /// The only value of a query, as a number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.row(sql).await;
        row.parse().unwrap_or_else(|_| panic!("{sql}\n{row}"))
    }

    /// The error of a statement that must fail.
    pub(crate) async fn error(&self, sql: &str) -> DbError {
        match self.0.batch_execute(sql).await {
            Ok(()) => panic!("succeeded:\n{sql}"),
            Err(error) => error
                .as_db_error()
                .unwrap_or_else(|| panic!("{sql}\n{error:?}"))
                .clone(),
        }
    }

    /// A statement must fail with this SQLSTATE, and message or hint must
    /// contain each text; it must come with a hint.
    pub(crate) async fn refuses(&self, sql: &str, state: &str, texts: &[&str]) {
        let error = self.error(sql).await;
        assert_eq!(error.code().code(), state, "{sql}\n{error:?}");
        let hint = error
            .hint()
            .unwrap_or_else(|| panic!("no hint: {sql}\n{error:?}"));
        let said = format!("{} {hint}", error.message());
        for text in texts {
            assert!(said.contains(text), "{sql}\nexpected {text:?} in: {said}");
        }
    }
}

/// A database that goes away with this value.
pub(crate) struct Database {
    pub(crate) name: String,
    config: Config,
    roles: std::sync::Mutex<Vec<String>>,
}

impl Database {
    /// An empty database.
    pub(crate) async fn empty() -> Self {
        let name = unique("tide_test");
        let mut config = server();
        let session = open(&config).await;
        session.run(&format!("CREATE DATABASE {name}")).await;
        config.dbname(&name);
        Self {
            name,
            config,
            roles: std::sync::Mutex::default(),
        }
    }

    /// A database with the schema installed.
    pub(crate) async fn installed() -> (Self, Session) {
        let database = Self::empty().await;
        let mut session = database.session().await;
        pg_tide_schema::install(&mut session.0)
            .await
            .unwrap_or_else(|e| panic!("{e:?}"));
        (database, session)
    }

    /// A session of the owner.
    pub(crate) async fn session(&self) -> Session {
        open(&self.config).await
    }

    /// A new role that may log in, with the attributes given.
    pub(crate) async fn role(&self, attributes: &str) -> String {
        let role = unique("tide_test_role");
        let session = self.session().await;
        // Granted to the owner, who ends its sessions when the test is over.
        session
            .run(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'x' {attributes}; GRANT {role} TO CURRENT_USER"
            ))
            .await;
        self.roles.lock().unwrap().push(role.clone());
        role
    }

    /// A role that a test makes by itself, to be dropped with the database.
    pub(crate) fn knows_role(&self, role: &str) {
        self.roles.lock().unwrap().push(role.to_owned());
    }

    /// A session of a role made by [`Self::role`].
    pub(crate) async fn session_of(&self, role: &str) -> Session {
        open(self.config.clone().user(role).password("x")).await
    }
}

/// The URL of a database of this server, for programs such as pg_dump.
pub(crate) fn url(name: &str) -> String {
    let url = std::env::var("TIDE_PG_URL").unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// Drops a database, and roles that only it knew.
pub(crate) async fn drop_database(name: &str, roles: &[String]) {
    let session = open(&server()).await;
    // An autovacuum worker in it may not be ended by us, but ends by itself.
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    for _ in 0..50 {
        if session.0.batch_execute(&drop).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    session.run(&drop).await;
    for role in roles {
        session.run(&format!("DROP ROLE IF EXISTS {role}")).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (name, roles) = (
            self.name.clone(),
            std::mem::take(&mut *self.roles.lock().unwrap()),
        );
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(drop_database(&name, &roles));
        })
        .join();
        assert!(
            dropped.is_ok() || std::thread::panicking(),
            "the test's database could not be dropped"
        );
    }
}
