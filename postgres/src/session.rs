//! Sessions: what each is set up for, and how one is opened.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Statement};

use crate::dial::{self, Reader};
use crate::error::{Cause, DatabaseError, Refusal};
use crate::{Database, describe, pooler};

/// For all servers of a connection string together.
const OVERALL: Duration = Duration::from_secs(15);

/// Settings of a session, by what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
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
    /// The operator: looks, and changes what is declared.
    Operator,
}

/// Whatever the role or the database has as its defaults. The tick needs a
/// snapshot of its own per statement; what is acknowledged to a broker must be
/// on disk.
const COMMON: &str = "SET default_transaction_isolation = 'read committed'; SET idle_session_timeout = 0;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

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
            Self::Operator => {
                "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
                 SET statement_timeout = '20s'; SET lock_timeout = '5s'; SET jit = off;
                 SET idle_in_transaction_session_timeout = '30s'"
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lock => "pg-tide lock",
            Self::Tick => "pg-tide tick",
            Self::Read => "pg-tide read",
            Self::Write => "pg-tide write",
            Self::Command => "pg-tide",
            Self::Operator => "pg-tide-operator",
        }
    }
}

/// A connection and the statements prepared on it.
#[derive(Debug)]
pub struct Session {
    /// The client of the driver.
    pub client: Client,
    statements: HashMap<String, Statement>,
}

impl Database {
    /// Opens a connection, by the URL and the certificates as they are now.
    /// Notifications go to `notices` when given; the channel closes when the
    /// connection ends.
    ///
    /// # Errors
    /// Why no server let us in.
    pub async fn connect(
        &self,
        profile: Profile,
        notices: Option<mpsc::Sender<String>>,
    ) -> Result<Session, DatabaseError> {
        let target = self.target()?;
        let failed = |refusal: Refusal| DatabaseError::Connect {
            at: target.at(),
            cause: refusal.cause,
            reason: refusal.reason,
        };
        let late = || {
            Refusal::new(
                Cause::Unreachable,
                format!("no session within {} s", OVERALL.as_secs()),
            )
        };
        let opening = async {
            let (client, reader) = dial::dial(&target, profile.name()).await?;
            tokio::spawn(read(reader, notices));
            if profile == Profile::Lock {
                // Before anything is set: behind such a pooler it would be
                // somebody else's session that is changed.
                let (other, reader) = dial::dial(&target, profile.name()).await?;
                tokio::spawn(read(reader, None));
                pooler::refuse_transaction_mode(&client, &other).await?;
                pooler::refuse_standby(&client).await?;
            }
            client
                .batch_execute(&format!("{COMMON}; {}", profile.settings()))
                .await
                .map_err(|e| Refusal::new(Cause::Other, describe(&e)))?;
            Ok(client)
        };
        let client = tokio::time::timeout(OVERALL, opening)
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(failed)?;
        Ok(Session {
            client,
            statements: HashMap::new(),
        })
    }
}

/// Reads a connection until it ends.
async fn read(mut reader: Reader, notices: Option<mpsc::Sender<String>>) {
    while let Some(message) = reader.next().await {
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
}

impl Session {
    /// Prepares a statement once per connection.
    ///
    /// # Errors
    /// What PostgreSQL refused.
    pub async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}
