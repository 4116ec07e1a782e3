//! Connecting, and small pools of connections.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The text of a PostgreSQL error: message, detail and hint, or the causes of
/// a failed connection.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = db.message().to_owned();
        for (name, part) in [("detail", db.detail()), ("hint", db.hint())] {
            if let Some(part) = part {
                let _ = write!(text, " ({name}: {part})");
            }
        }
        return text;
    }
    crate::failure::with_causes(error)
}

/// A failed connection, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be read or asks for what is not there.
    #[error("PostgreSQL URL: {0}")]
    Url(String),
    /// The server cannot be reached or does not let us in.
    #[error("cannot connect to PostgreSQL at {at}: {reason}")]
    Connect {
        /// Host and port, without secrets.
        at: String,
        /// What the server or the network said.
        reason: String,
    },
    /// A statement failed.
    #[error("{what}: {reason}")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// What the server said.
        reason: String,
    },
}

/// Settings of a session, by what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Holds the advisory locks: the server ends it soon after its host is gone.
    Lock,
    /// The tick.
    Tick,
    /// Reads outboxes. Each query is written for one index; the planner's
    /// other ideas are switched off.
    Read,
    /// Checkpoints, inbox batches, reports.
    Write,
    /// Commands of the command line.
    Command,
}

impl Profile {
    fn settings(self) -> &'static str {
        match self {
            Self::Lock => {
                "SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1;
                 SET tcp_keepalives_count = 2; SET tcp_user_timeout = 3000;
                 SET idle_session_timeout = 0; SET statement_timeout = '5s'; SET lock_timeout = '3s'"
            }
            Self::Tick => "SET idle_session_timeout = 0; SET statement_timeout = '10s'",
            Self::Read => {
                "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off;
                 SET max_parallel_workers_per_gather = 0; SET plan_cache_mode = force_generic_plan;
                 SET statement_timeout = '60s'; SET default_transaction_read_only = on"
            }
            Self::Write => "SET statement_timeout = '30s'; SET lock_timeout = '10s'; SET jit = off",
            Self::Command => "",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lock => "pg-tide lock",
            Self::Tick => "pg-tide tick",
            Self::Read => "pg-tide read",
            Self::Write => "pg-tide write",
            Self::Command => "pg-tide",
        }
    }
}

/// Where the data lives.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    config: Config,
    at: String,
}

/// A connection and the statements prepared on it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    statements: HashMap<String, Statement>,
}

impl Database {
    pub(crate) fn new(url: &str) -> Result<Self, DatabaseError> {
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            DatabaseError::Url(format!(
                "{}; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE",
                describe(&e)
            ))
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(DatabaseError::Url(
                "sslmode=require is not supported by this version".into(),
            ));
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives_idle(Duration::from_secs(5));
        config.tcp_user_timeout(Duration::from_secs(10));
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(n, host)| {
                let ports = config.get_ports();
                let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
                match host {
                    tokio_postgres::config::Host::Tcp(name) => format!("{name}:{port}"),
                    tokio_postgres::config::Host::Unix(path) => {
                        format!("{}:{port}", path.display())
                    }
                }
            })
            .collect();
        let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
        let at = format!("{}/{name}", hosts.join(","));
        Ok(Self { config, at })
    }

    /// Host, port and database, without secrets.
    pub(crate) fn at(&self) -> &str {
        &self.at
    }

    /// Opens a connection. Notifications go to `notices` when given; the
    /// channel closes when the connection ends.
    pub(crate) async fn connect(
        &self,
        profile: Profile,
        notices: Option<mpsc::Sender<String>>,
    ) -> Result<Session, DatabaseError> {
        let failed = |reason: String| DatabaseError::Connect {
            at: self.at.clone(),
            reason,
        };
        let mut config = self.config.clone();
        config.application_name(profile.name());
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT * 2, config.connect(NoTls));
        let (client, mut connection) = connecting
            .await
            .map_err(|_| failed("no answer in time".into()))?
            .map_err(|e| failed(describe(&e)))?;
        tokio::spawn(async move {
            let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(message) = futures::StreamExt::next(&mut messages).await {
                match (message, &notices) {
                    (Ok(AsyncMessage::Notification(n)), Some(notices)) => {
                        // A full channel already holds the reason to look.
                        let _ = notices.try_send(n.channel().to_owned());
                    }
                    (Ok(_), _) => {}
                    (Err(error), _) => {
                        tracing::debug!(error = %describe(&error), "connection ended");
                        break;
                    }
                }
            }
        });
        let settings = profile.settings();
        if !settings.is_empty() {
            client
                .batch_execute(settings)
                .await
                .map_err(|e| failed(describe(&e)))?;
        }
        Ok(Session {
            client,
            statements: HashMap::new(),
        })
    }
}

impl Session {
    /// Prepares a statement once per connection.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// A bounded pool of connections of one profile, opened when needed.
#[derive(Debug)]
pub(crate) struct Pool {
    database: Database,
    profile: Profile,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

/// A connection on loan. Goes back to the pool only through [`Pooled::done`],
/// so that one that failed halfway is never used again.
#[derive(Debug)]
pub(crate) struct Pooled<'a> {
    pool: &'a Pool,
    pub(crate) session: Session,
    _place: OwnedSemaphorePermit,
}

impl Pooled<'_> {
    /// Gives the connection back: it is in a clean state.
    pub(crate) fn done(self) {
        self.pool.idle.lock().push(self.session);
    }
}

impl Pool {
    pub(crate) fn new(database: Database, profile: Profile, size: usize) -> Self {
        Self {
            database,
            profile,
            places: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
        }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) async fn get(&self) -> Result<Pooled<'_>, DatabaseError> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| DatabaseError::Statement {
                what: "pool",
                reason: "closed".into(),
            })?;
        let reused = {
            let mut idle = self.idle.lock();
            idle.retain(|s| !s.client.is_closed());
            idle.pop()
        };
        let session = match reused {
            Some(session) => session,
            None => self.database.connect(self.profile, None).await?,
        };
        Ok(Pooled {
            pool: self,
            session,
            _place: place,
        })
    }
}
