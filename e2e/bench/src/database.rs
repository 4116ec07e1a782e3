//! The database of the measurements: made at the start with the schema in it, dropped at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::event;
use crate::poll::until;
use crate::shape::Shape;

const NAME: &str = "tide_bench";

/// The harness's own sessions bear this name, to be told from a relay's.
pub const APPLICATION: &str = "tide-bench";

const DROP_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of one transaction when a backlog is made.
const ROWS_PER_TRANSACTION: u64 = 10_000;

/// A database of our own beside the one that was named.
pub struct Database {
    server_url: String,
    url: String,
}

impl Database {
    /// Makes the database anew; one that an earlier run left behind goes.
    pub async fn create(server_url: &str) -> Result<Self> {
        let database = Self {
            server_url: server_url.to_owned(),
            url: with_database(server_url, NAME)?,
        };
        database.drop().await?;
        let admin = connect(server_url).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {NAME}"))
            .await
            .context("cannot create the database")?;
        Ok(database)
    }

    /// Drops the database, ending the sessions that are still in it.
    pub async fn drop(&self) -> Result<()> {
        let admin = connect(&self.server_url).await?;
        // Not WITH (FORCE): that is refused while an autovacuum worker, which is nobody's, is at work there. Without it
        // PostgreSQL ends the worker itself, and complains only when that takes longer.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = $1 AND usename = current_user";
        until(DROP_TIMEOUT, "sessions to leave the database", async || {
            admin.execute(end, &[&NAME]).await?;
            match admin
                .batch_execute(&format!("DROP DATABASE IF EXISTS {NAME}"))
                .await
            {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Ok(false),
                dropped => Ok(dropped.map(|()| true)?),
            }
        })
        .await
        .with_context(|| format!("cannot drop database {NAME}"))
    }

    /// Drops the outboxes whose names begin so, and with them what they hold.
    pub async fn drop_outboxes(&self, prefix: &str) -> Result<()> {
        let client = self.connect().await?;
        let names = client
            .query(
                "SELECT name FROM tide.outbox WHERE starts_with(name, $1) ORDER BY name",
                &[&prefix],
            )
            .await?;
        for row in names {
            let name: &str = row.try_get(0)?;
            client
                .execute("SELECT tide.outbox_drop($1)", &[&name])
                .await
                .with_context(|| format!("outbox {name}"))?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A new connection to it.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.url).await
    }

    /// Installs the schema by the relay, or, when there is none yet, from the files in the checkout.
    pub async fn install(&self, relay: Option<&Path>) -> Result<()> {
        let Some(relay) = relay else {
            return self.install_files(Path::new("schema/sql")).await;
        };
        let command = Command::new(relay)
            .args(["schema", "install", "--postgres-url", &self.url])
            .output()
            .await;
        let output = command.with_context(|| format!("cannot start {}", relay.display()))?;
        if !output.status.success() {
            bail!(
                "schema install failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    async fn install_files(&self, folder: &Path) -> Result<()> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
        files.sort();
        let mut client = self.connect().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute("CREATE SCHEMA tide").await?;
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            transaction
                .batch_execute(&text)
                .await
                .with_context(|| format!("in {}", file.display()))?;
        }
        Ok(transaction.commit().await?)
    }

    /// Makes an outbox with the orders 0 to `count` - 1 in it, in number order, vacuumed and analysed: what is read
    /// from it later finds hint bits set and statistics there, for the relay and for the plain COPY alike. One that is
    /// there already stays as it is.
    pub async fn create_backlog(&self, outbox: &str, count: u64, shape: Shape) -> Result<()> {
        let client = self.connect().await?;
        let made = client
            .query_one("SELECT tide.outbox_create_if_not_exists($1)", &[&outbox])
            .await?;
        if !made.try_get(0)? {
            return Ok(());
        }
        let insert = format!(
            "INSERT INTO tide.\"{outbox}_outbox\" (headers, payload)
             SELECT {headers}, ($3::text || ({first} + g) || $4::text)::jsonb
               FROM generate_series($1::bigint, $2::bigint - 1) g",
            headers = shape.headers_sql(),
            first = event::FIRST_ORDER,
        );
        let insert = client.prepare(&insert).await?;
        let (head, tail) = event::texts(shape.bytes);
        let mut from = 0;
        while from < count {
            let to = count.min(from + ROWS_PER_TRANSACTION);
            client
                .execute(
                    &insert,
                    &[&i64::try_from(from)?, &i64::try_from(to)?, &head, &tail],
                )
                .await?;
            from = to;
        }
        Ok(client
            .batch_execute(&format!("VACUUM (ANALYZE) tide.\"{outbox}_outbox\""))
            .await?)
    }
}

/// A connection whose task ends with it.
async fn connect(url: &str) -> Result<Client> {
    let mut config: Config = url.parse().context("the address of PostgreSQL")?;
    let (client, connection) = config
        .application_name(APPLICATION)
        .connect(NoTls)
        .await
        .context("cannot connect to PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection to PostgreSQL failed: {error}");
        }
    });
    Ok(client)
}

/// The URL with another database in it.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (scheme, rest) = url
        .split_once("://")
        .context("the address of PostgreSQL is not a postgres:// URL")?;
    let (rest, parameters) = rest
        .split_once('?')
        .map_or((rest, None), |(rest, found)| (rest, Some(found)));
    let host = rest.split('/').next().unwrap_or_default();
    let parameters = parameters.map(|found| format!("?{found}")).unwrap_or_default();
    Ok(format!("{scheme}://{host}/{name}{parameters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_on_the_same_server() {
        let with = |url| with_database(url, "x").expect("a URL");
        assert_eq!(with("postgres://u:p@h:1/tide"), "postgres://u:p@h:1/x");
        assert_eq!(with("postgres://h"), "postgres://h/x");
        assert_eq!(
            with("postgresql://h/a?sslmode=disable"),
            "postgresql://h/x?sslmode=disable"
        );
        assert!(with_database("host=h dbname=a", "x").is_err());
    }
}
