//! Install and upgrade: under a lock, in one transaction, any number of times.
//!
//! A schema `tide` that an extension owns is left to `ALTER EXTENSION`; one
//! that is somebody else's is never touched.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use crate::{RELEASE, VERSION, files};

/// Key of the advisory lock that keeps two installers apart ("tide-sql").
const INSTALL_LOCK: i64 = 0x7469_6465_2d73_716c;

/// What an upgrade waits for one lock, while others wait behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '300ms'";
/// Another attempt comes after a pause in which everybody else goes on.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(500);

/// How schema `tide` came into the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// By an installer of this crate.
    Plain,
    /// By `CREATE EXTENSION pg_tide`, in this version.
    Extension(String),
}

/// What is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Version of the schema, as [`VERSION`] counts.
    pub version: i32,
    /// Release that installed it.
    pub release: String,
    /// How it was installed.
    pub origin: Origin,
}

impl Status {
    /// Whether the schema is of the version that this crate brings.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.version == VERSION
    }

    /// What to do when it is not.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match &self.origin {
            _ if self.version > VERSION => "use the newer pg-tide",
            Origin::Plain => "run \"pg-tide schema upgrade\"",
            Origin::Extension(_) => "run ALTER EXTENSION pg_tide UPDATE",
        }
    }
}

/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Version before, none when there was no schema `tide`.
    pub from: Option<i32>,
    /// Version now.
    pub to: i32,
    /// Who owns the schema.
    pub origin: Origin,
}

/// Why the schema could not be installed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A schema of that name exists that is not pg-tide's.
    #[error(
        "schema \"tide\" exists in database \"{database}\", but it is not pg-tide's (it has no table \
         tide.schema_version): rename or drop it, or use another database"
    )]
    Foreign {
        /// The database.
        database: String,
    },
    /// Nothing to upgrade.
    #[error(
        "database \"{database}\" has no schema \"tide\": install it with `pg-tide schema install` or CREATE EXTENSION pg_tide"
    )]
    Missing {
        /// The database.
        database: String,
    },
    /// The extension owns the schema and is of another version.
    #[error(
        "schema \"tide\" belongs to extension pg_tide {installed}: bring it to {RELEASE} with ALTER EXTENSION pg_tide UPDATE"
    )]
    OwnedByExtension {
        /// Version of the extension.
        installed: String,
    },
    /// The schema is newer than this program.
    #[error(
        "schema \"tide\" has version {found} (release {release}), this program knows version {VERSION}: use the newer pg-tide"
    )]
    Newer {
        /// Version in the database.
        found: i32,
        /// Release that installed it.
        release: String,
    },
    /// The schema is older, and no step leads from it to this version.
    #[error("schema \"tide\" has version {found}, from which this program cannot upgrade")]
    NoPath {
        /// Version in the database.
        found: i32,
    },
    /// The caller has no right to see or create the schema.
    #[error("role \"{role}\" may not {what} in database \"{database}\": {grant}")]
    Forbidden {
        /// The role that is connected.
        role: String,
        /// The database.
        database: String,
        /// What it may not do.
        what: &'static str,
        /// How to let it.
        grant: String,
    },
    /// Others use the tables that the upgrade changes, and do not let go.
    #[error(
        "the upgrade got no lock on what it changes within {seconds} s; nothing was changed. In use by: {holders}. \
         Let that end (or end it: SELECT pg_terminate_backend(PID)) and run the upgrade again"
    )]
    Busy {
        /// How long it was tried.
        seconds: u64,
        /// The sessions with the oldest transactions that hold locks.
        holders: String,
    },
    /// PostgreSQL refused a statement.
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => match db.hint() {
            Some(hint) => format!("{} ({})", db.message(), hint),
            None => db.message().to_owned(),
        },
        None => error.to_string(),
    }
}

/// Brings schema `tide` into the database, or to this version when an older
/// one is there. Does nothing when it is current.
///
/// # Errors
/// See [`Error`]; nothing is changed then.
pub async fn install(client: &mut Client) -> Result<Installed, Error> {
    change(client, true).await
}

/// Brings an existing schema `tide` to this version.
///
/// # Errors
/// See [`Error`]; nothing is changed then.
pub async fn upgrade(client: &mut Client) -> Result<Installed, Error> {
    change(client, false).await
}

/// What is in the database; none without schema `tide`.
///
/// # Errors
/// See [`Error`].
pub async fn status(client: &Client) -> Result<Option<Status>, Error> {
    look(client).await
}

async fn change(client: &mut Client, create: bool) -> Result<Installed, Error> {
    let started = std::time::Instant::now();
    for attempt in 1.. {
        match try_change(client, create).await {
            Err(Error::Sql(error)) if in_the_way(&error) => {
                tracing::info!(attempt, "schema tide is in use: {}", describe(&error));
                if attempt == ATTEMPTS {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
    Err(Error::Busy {
        seconds: started.elapsed().as_secs(),
        holders: holders(client).await?,
    })
}

/// Whether another transaction stood in the way, so that a later attempt may
/// succeed: a lock, or a catalogue row that both changed.
fn in_the_way(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&db.code())
            || (*db.code() == SqlState::INTERNAL_ERROR && db.message().starts_with("tuple concurrently "))
    })
}

/// Who holds locks in schema `tide`, the oldest transactions first.
async fn holders(client: &Client) -> Result<String, Error> {
    let rows = client
        .query(
            "SELECT format('PID %s (%s%s), in a transaction since %s', a.pid, a.usename,
                           coalesce(', ' || nullif(a.application_name, ''), ''), a.xact_start::timestamptz(0))
               FROM pg_stat_activity a
              WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
                AND EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                             WHERE l.pid = a.pid AND l.granted AND c.relnamespace = to_regnamespace('tide'))
              ORDER BY a.xact_start LIMIT 3",
            &[],
        )
        .await?;
    if rows.is_empty() {
        return Ok("transactions that have ended meanwhile".into());
    }
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(rows.join("; "))
}

async fn try_change(client: &mut Client, create: bool) -> Result<Installed, Error> {
    let transaction = client.transaction().await?;
    // The lock is waited for in a statement of its own, so that what is read
    // next is what the installer before us left.
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&INSTALL_LOCK])
        .await?;
    match look(&transaction).await? {
        None if create => {
            check_may_create(&transaction).await?;
            transaction.batch_execute(&files::print()).await?;
            transaction.commit().await?;
            tracing::info!(version = VERSION, release = RELEASE, "schema tide installed");
            Ok(Installed {
                from: None,
                to: VERSION,
                origin: Origin::Plain,
            })
        }
        None => Err(Error::Missing {
            database: database(&transaction).await?,
        }),
        Some(found) if found.is_current() => Ok(Installed {
            from: Some(found.version),
            to: found.version,
            origin: found.origin,
        }),
        Some(found) if found.version > VERSION => Err(Error::Newer {
            found: found.version,
            release: found.release,
        }),
        Some(Status {
            origin: Origin::Extension(installed),
            ..
        }) => Err(Error::OwnedByExtension { installed }),
        Some(found) => {
            let Some(sql) = files::print_upgrade(found.version) else {
                return Err(Error::NoPath { found: found.version });
            };
            become_owner(&transaction).await?;
            transaction.batch_execute(LOCK_TIMEOUT).await?;
            transaction.batch_execute(&sql).await?;
            transaction.commit().await?;
            tracing::info!(
                from = found.version,
                version = VERSION,
                release = RELEASE,
                "schema tide upgraded"
            );
            Ok(Installed {
                from: Some(found.version),
                to: VERSION,
                origin: Origin::Plain,
            })
        }
    }
}

async fn look(client: &impl GenericClient) -> Result<Option<Status>, Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'tide'),
                    EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname = 'tide' AND c.relname = 'schema_version' AND c.relkind = 'r'),
                    (SELECT extversion FROM pg_extension WHERE extname = 'pg_tide'),
                    coalesce(has_schema_privilege((SELECT oid FROM pg_namespace WHERE nspname = 'tide'), 'USAGE'), true)",
            &[],
        )
        .await?;
    let (schema_exists, ours, extension, usable): (bool, bool, Option<String>, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if !schema_exists {
        return Ok(None);
    }
    if !ours {
        return Err(Error::Foreign {
            database: database(client).await?,
        });
    }
    if !usable {
        return Err(forbidden(client, "use schema \"tide\"", "GRANT USAGE ON SCHEMA tide", "").await?);
    }
    let row = client
        .query_one(
            "SELECT version, release FROM tide.schema_version ORDER BY version DESC LIMIT 1",
            &[],
        )
        .await?;
    Ok(Some(Status {
        version: row.get(0),
        release: row.get(1),
        origin: extension.map_or(Origin::Plain, Origin::Extension),
    }))
}

async fn check_may_create(client: &impl GenericClient) -> Result<(), Error> {
    let row = client
        .query_one("SELECT has_database_privilege(current_database(), 'CREATE')", &[])
        .await?;
    if row.get(0) {
        return Ok(());
    }
    let grant = client
        .query_one(
            "SELECT format('GRANT CREATE ON DATABASE %I', current_database())",
            &[],
        )
        .await?;
    Err(forbidden(
        client,
        "create a schema",
        grant.get(0),
        ", or connect as the database's owner",
    )
    .await?)
}

/// What the upgrade makes belongs to whom the rest belongs to: functions act
/// with their owner's rights.
async fn become_owner(client: &impl GenericClient) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT pg_has_role(n.nspowner, 'MEMBER'), quote_ident(r.rolname), r.rolname <> current_user
               FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'tide'",
            &[],
        )
        .await?;
    let (member, owner, other): (bool, String, bool) = (row.get(0), row.get(1), row.get(2));
    if !member {
        return Err(forbidden(
            client,
            "upgrade schema \"tide\"",
            &format!("GRANT {owner}"),
            &format!(", or connect as its owner {owner}"),
        )
        .await?);
    }
    if other {
        client.batch_execute(&format!("SET LOCAL ROLE {owner}")).await?;
    }
    Ok(())
}

async fn forbidden(
    client: &impl GenericClient,
    what: &'static str,
    grant: &str,
    otherwise: &str,
) -> Result<Error, Error> {
    let row = client
        .query_one(
            "SELECT current_user::text, current_database()::text, quote_ident(current_user)",
            &[],
        )
        .await?;
    let quoted: String = row.get(2);
    Ok(Error::Forbidden {
        role: row.get(0),
        database: row.get(1),
        what,
        grant: format!("run {grant} TO {quoted}{otherwise}"),
    })
}

async fn database(client: &impl GenericClient) -> Result<String, Error> {
    Ok(client
        .query_one("SELECT current_database()::text", &[])
        .await?
        .get(0))
}
