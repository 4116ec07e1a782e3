//! A database of its own for each test, dropped at the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::{answer, run_pg_tide, unique};

/// A database; dropped, with everybody's sessions, when the value is.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Database {
    /// A database without schema tide. `server` is the URL of a database on
    /// the server, of a role that may create databases.
    pub async fn empty(server: &str, stem: &str) -> Self {
        let name = unique(&format!("e2e_{stem}"));
        let admin = connect(server).await.unwrap_or_else(|e| panic!("{server}: {e}"));
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap_or_else(|e| panic!("{}", describe(&e)));
        Self {
            server: server.to_owned(),
            name,
            client: Mutex::default(),
        }
    }

    /// A database into which `pg-tide schema install` has put schema tide.
    pub async fn fresh(server: &str, stem: &str) -> Self {
        let database = Self::empty(server, stem).await;
        let output = run_pg_tide(&["schema", "install", "--postgres-url", &database.url()]).await;
        assert!(output.status.success(), "pg-tide schema install: {output:?}");
        database
    }

    /// A database with `CREATE EXTENSION pg_tide`; by `pg-tide schema install`
    /// where the bed's PostgreSQL takes extensions from its own folder alone,
    /// as every version before 18.
    pub async fn with_extension_if_possible(server: &str, stem: &str) -> Self {
        let database = Self::empty(server, stem).await;
        let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_tide'";
        if database.text(available).await == "1" {
            database.run("CREATE EXTENSION pg_tide").await;
            return database;
        }
        let version = database.number("SHOW server_version_num").await;
        assert!(
            version < 180_000,
            "extension pg_tide is not available: run e2e/bed up again"
        );
        drop(database);
        Self::fresh(server, stem).await
    }

    /// A database with `CREATE EXTENSION pg_tide`.
    pub async fn with_extension(server: &str, stem: &str) -> Self {
        let database = Self::empty(server, stem).await;
        database.run("CREATE EXTENSION pg_tide").await;
        database
    }

    /// Its URL, for the relay.
    pub fn url(&self) -> String {
        let (before, _) = self.server.rsplit_once('/').unwrap();
        format!("{before}/{}", self.name)
    }

    /// A session of the caller's own: for transactions that stay open.
    pub async fn session(&self) -> Client {
        connect(&self.url())
            .await
            .unwrap_or_else(|e| panic!("{}: {}", self.name, describe(&e)))
    }

    /// A session of the server's superuser, who sees other roles' sessions.
    pub async fn superuser(&self) -> Client {
        let url = self.url().replacen("tide:tide@", "postgres:postgres@", 1);
        connect(&url)
            .await
            .unwrap_or_else(|e| panic!("{}: {}", self.name, describe(&e)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn client(&self) -> Result<Arc<Client>, String> {
        let mut place = self.client.lock().await;
        match &*place {
            Some(client) if !client.is_closed() => Ok(Arc::clone(client)),
            _ => {
                let client = Arc::new(connect(&self.url()).await.map_err(|e| describe(&e))?);
                *place = Some(Arc::clone(&client));
                Ok(client)
            }
        }
    }

    /// Runs statements: one alone, or several in one transaction.
    pub async fn run(&self, sql: &str) {
        self.try_text(sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
    }

    /// The rows of the last statement with rows as psql -At prints them:
    /// columns separated by `|`, null is empty, rows by line ends.
    pub async fn text(&self, sql: &str) -> String {
        self.try_text(sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }

    /// The same, or message, detail and hint of the error.
    ///
    /// # Errors
    /// What PostgreSQL said.
    pub async fn try_text(&self, sql: &str) -> Result<String, String> {
        let client = self.client().await?;
        let answer = client.simple_query(sql).await.map_err(|e| describe(&e))?;
        let mut lines = Vec::new();
        for message in answer {
            match message {
                SimpleQueryMessage::RowDescription(_) => lines.clear(),
                SimpleQueryMessage::Row(row) => {
                    let columns: Vec<&str> = (0..row.len()).map(|n| row.get(n).unwrap_or_default()).collect();
                    lines.push(columns.join("|"));
                }
                _ => {}
            }
        }
        Ok(lines.join("\n"))
    }

    /// The error of a statement that must be refused.
    pub async fn refusal(&self, sql: &str) -> String {
        match self.try_text(sql).await {
            Ok(answer) => panic!("not refused: {sql}\n{answer}"),
            Err(refusal) => refusal,
        }
    }

    /// A number that a query gives.
    pub async fn number(&self, sql: &str) -> i64 {
        let text = self.text(sql).await;
        text.parse()
            .unwrap_or_else(|_| panic!("{sql}\ngives no number: {text}"))
    }

    /// Waits until a query gives this text.
    pub async fn await_text(&self, within: Duration, sql: &str, wanted: &str) {
        let mut last = String::new();
        let come = answer(within, async || {
            last = self.try_text(sql).await.unwrap_or_else(|e| e);
            (last == wanted).then_some(())
        })
        .await;
        assert!(
            come.is_some(),
            "not within {within:?}: {sql}\nwanted: {wanted}\ngot: {last}"
        );
    }

    /// Waits until everything committed is delivered to every group.
    pub async fn await_delivered(&self, within: Duration) {
        self.await_text(
            within,
            "SELECT coalesce(sum(pending_count), 0) FROM tide.outbox_pending",
            "0",
        )
        .await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread of its own, since drop cannot await.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                // The server may be gone by now.
                if let Ok(admin) = connect(&server).await {
                    let _ = admin
                        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                        .await;
                }
            });
        });
        let _ = dropped.join();
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Message, detail and hint, or the causes of a lost connection.
fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return format!("{error:?}");
    };
    let mut text = format!("{}: {}", db.severity(), db.message());
    for (name, part) in [("DETAIL", db.detail()), ("HINT", db.hint())] {
        if let Some(part) = part {
            text.push('\n');
            text.push_str(name);
            text.push_str(": ");
            text.push_str(part);
        }
    }
    text
}
