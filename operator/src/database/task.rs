//! The session with one database: connects, sees to the schema, looks, and
//! wakes whom a change concerns.

use std::sync::Arc;
use std::time::Duration;

use pg_tide_postgres::{Profile, Session, describe};
use pg_tide_schema::{Error as SchemaError, Origin};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::link::{self, Link};
use super::{Database, Databases, Problem, SchemaSeen, View};
use crate::context::Context;
use crate::resources::{Declared, Key};
use crate::sql::observe::{self, Reports};

/// Between two looks at the relays' report.
const REPORTS: Duration = Duration::from_secs(2);
/// Between two counts while something moves, and while nothing does.
const AMOUNTS: Duration = Duration::from_secs(5);
const AMOUNTS_AT_REST: Duration = Duration::from_secs(30);
/// Counting takes at most this part of the time.
const AMOUNTS_SHARE: u32 = 50;
/// A look that takes longer: the database does not answer.
const PATIENCE: Duration = Duration::from_secs(7);
/// Several changes at once are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Databases {
    /// The database of this key; a task is begun when it has none.
    pub fn open(&self, context: &Arc<Context>, key: &Key) -> Arc<Database> {
        let mut open = self.open.lock();
        if let Some(database) = open.get(key) {
            return Arc::clone(database);
        }
        let (link, links) = watch::channel(None);
        let (views, view) = watch::channel(Database::connecting());
        let database = Arc::new(Database {
            key: key.clone(),
            link,
            view,
            session: tokio::sync::Mutex::default(),
            poke: tokio::sync::Notify::new(),
            looks: parking_lot::Mutex::default(),
            pending: parking_lot::Mutex::default(),
            stop: CancellationToken::new(),
            started: Instant::now(),
        });
        open.insert(key.clone(), Arc::clone(&database));
        let task = Task {
            context: Arc::clone(context),
            database: Arc::clone(&database),
            views,
        };
        tokio::spawn(task.run(links));
        database
    }
}

struct Task {
    context: Arc<Context>,
    database: Arc<Database>,
    views: watch::Sender<Arc<View>>,
}

/// Why a session ended.
enum End {
    /// Not connected, or not any more.
    Disconnected(Problem),
    /// Connected, but the schema is not as it must be.
    Unusable(Problem, Option<SchemaSeen>),
}

impl Task {
    async fn run(self, mut links: watch::Receiver<Option<Result<Link, Problem>>>) {
        let stop = self.database.stop.clone();
        let mut pause = FIRST_PAUSE;
        loop {
            let link = links.borrow_and_update().clone();
            let end = match link {
                None | Some(Err(_)) => {
                    if let Some(Err(problem)) = link {
                        self.ended(End::Disconnected(problem));
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        changed = links.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => break,
                        },
                    }
                }
                Some(Ok(link)) => {
                    let begun = Instant::now();
                    let end = tokio::select! {
                        () = stop.cancelled() => break,
                        changed = links.changed() => match changed {
                            // By the new link at once.
                            Ok(()) => {
                                *self.database.session.lock().await = None;
                                pause = FIRST_PAUSE;
                                continue;
                            }
                            Err(_) => break,
                        },
                        end = self.session(&link) => end,
                    };
                    if begun.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    end
                }
            };
            *self.database.session.lock().await = None;
            self.ended(end);
            tokio::select! {
                () = stop.cancelled() => break,
                _ = links.changed() => links.mark_changed(),
                () = tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * rand::random::<f64>())) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        *self.database.session.lock().await = None;
    }

    fn ended(&self, end: End) {
        let before = self.database.view();
        let (disconnected, unusable, schema) = match end {
            End::Disconnected(problem) => (Some(problem), None, before.schema.clone()),
            End::Unusable(problem, schema) => (None, Some(problem), schema),
        };
        if let Some(problem) = disconnected.as_ref().or(unusable.as_ref())
            && before.problem() != Some(problem)
        {
            tracing::warn!(database = %self.database.key, reason = problem.reason, "{}", problem.message);
        }
        self.publish(&View {
            number: before.number,
            address: before.address.clone(),
            disconnected,
            unusable,
            schema,
            // What was seen last is no ground for changes any more.
            catalogue: None,
            reports: Arc::default(),
            amounts: Arc::clone(&before.amounts),
        });
    }

    async fn session(&self, link: &Link) -> End {
        match self.try_session(link).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_session(&self, link: &Link) -> Result<std::convert::Infallible, End> {
        let database = link.database().map_err(End::Disconnected)?;
        let (sender, mut notices) = mpsc::channel(1);
        let mut session = database
            .connect(Profile::Operator, Some(sender))
            .await
            .map_err(|e| End::Disconnected(link::problem(&e)))?;
        let schema = self.schema(&mut session, link).await?;
        session
            .client
            .batch_execute("LISTEN tide_config")
            .await
            .map_err(|e| lost(&e))?;
        *self.database.session.lock().await = Some(session);
        tracing::info!(database = %self.database.key, at = database.at(), version = schema.version, "connected");

        let resync = || {
            let jitter = 0.9 + 0.2 * rand::random::<f64>();
            Instant::now() + self.context.settings.resync.mul_f64(jitter)
        };
        let mut view = View {
            number: self.database.view().number,
            address: Some(database.at()),
            schema: Some(schema),
            amounts: Arc::clone(&self.database.view().amounts),
            ..View::default()
        };
        let mut amounts_due = Instant::now();
        let mut last_id = 0;
        let mut catalogue_due = Instant::now();
        loop {
            if catalogue_due <= Instant::now() {
                view.number = {
                    let mut looks = self.database.looks.lock();
                    *looks += 1;
                    *looks
                };
                let catalogue = self.look(async |s| observe::catalogue(s).await).await?;
                view.catalogue = Some(Arc::new(catalogue));
                catalogue_due = resync();
            }
            view.reports = Arc::new(self.look(observe_reports).await?);
            let id = self.look(last_message_id).await?;
            let moved = id != last_id || view.amounts.lags.values().any(|(lag, _)| *lag > 0);
            self.publish(&view);
            if amounts_due <= Instant::now() {
                last_id = id;
                let begun = Instant::now();
                if let Some(amounts) = self.amounts().await? {
                    view.amounts = Arc::new(amounts);
                }
                let pause = if moved { AMOUNTS } else { AMOUNTS_AT_REST };
                amounts_due = Instant::now() + pause.max(begun.elapsed() * AMOUNTS_SHARE);
                self.publish(&view);
            } else if moved {
                amounts_due = amounts_due.min(Instant::now() + AMOUNTS);
            }

            let next = catalogue_due.min(Instant::now() + REPORTS);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.database.poke.notified() => catalogue_due = Instant::now() + SETTLE,
                notice = notices.recv() => match notice {
                    Some(_) => catalogue_due = Instant::now() + SETTLE,
                    None => {
                        return Err(End::Disconnected(Problem::new(
                            "ConnectionFailed",
                            format!("the session with PostgreSQL at {} has ended", database.at()),
                        )));
                    }
                },
            }
            if catalogue_due > Instant::now() && catalogue_due <= Instant::now() + SETTLE {
                tokio::time::sleep_until(catalogue_due).await;
            }
        }
    }

    /// Counts; none when PostgreSQL refuses, since it takes too long with such
    /// a backlog, or a table is missing that is about to be repaired.
    async fn amounts(&self) -> Result<Option<observe::Amounts>, End> {
        let mut guard = self.database.session.lock().await;
        let session = guard.as_mut().ok_or_else(no_session)?;
        match observe::amounts(session).await {
            Ok(amounts) => Ok(Some(amounts)),
            Err(error) if error.as_db_error().is_some() && !session.client.is_closed() => {
                tracing::debug!(database = %self.database.key, "not counted: {}", describe(&error));
                Ok(None)
            }
            Err(error) => Err(lost(&error)),
        }
    }

    /// One look, with a limit on how long it may take.
    async fn look<T>(
        &self,
        look: impl AsyncFnOnce(&mut Session) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, End> {
        let mut guard = self.database.session.lock().await;
        let session = guard.as_mut().ok_or_else(no_session)?;
        match tokio::time::timeout(PATIENCE, look(session)).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(End::Disconnected(Problem::new(
                "ConnectionFailed",
                format!("PostgreSQL has not answered for {} s", PATIENCE.as_secs()),
            ))),
        }
    }

    /// Installs or upgrades the schema, or says why it cannot be used.
    async fn schema(&self, session: &mut Session, link: &Link) -> Result<SchemaSeen, End> {
        let server: String = session
            .client
            .query_one("SHOW server_version", &[])
            .await
            .map_err(|e| lost(&e))?
            .get(0);
        let status = pg_tide_schema::status(&session.client).await;
        let seen = |status: &pg_tide_schema::Status| SchemaSeen {
            version: status.version,
            release: status.release.clone(),
            server: server.clone(),
        };
        let found = status.map_err(|e| unusable(&e, None))?;
        if let Some(found) = &found
            && found.is_current()
        {
            return Ok(seen(found));
        }
        if !link.manage_schema {
            return Err(match &found {
                None => End::Unusable(
                    Problem::new(
                        "SchemaNotInstalled",
                        "the database has no schema \"tide\", and spec.schema.manage is false: run \"pg-tide schema install\" or CREATE EXTENSION pg_tide",
                    ),
                    None,
                ),
                Some(found) => End::Unusable(
                    Problem::new(
                        if found.version > pg_tide_schema::VERSION {
                            "SchemaNewer"
                        } else {
                            "SchemaOutdated"
                        },
                        format!(
                            "schema \"tide\" has version {}, this operator needs {}, and spec.schema.manage is false: {}",
                            found.version,
                            pg_tide_schema::VERSION,
                            found.remedy()
                        ),
                    ),
                    Some(seen(found)),
                ),
            });
        }
        let before = found.as_ref().map(seen);
        let installed = pg_tide_schema::install(&mut session.client)
            .await
            .map_err(|e| unusable(&e, before))?;
        if let Some(resource) = self
            .context
            .databases
            .get(&self.database.key.namespace, &self.database.key.name)
            && installed.from != Some(installed.to)
            && installed.origin == Origin::Plain
        {
            let (reason, note) = match installed.from {
                None => (
                    "SchemaInstalled",
                    format!("schema \"tide\" version {} was installed", installed.to),
                ),
                Some(from) => (
                    "SchemaUpgraded",
                    format!(
                        "schema \"tide\" was upgraded from version {from} to {}",
                        installed.to
                    ),
                ),
            };
            self.context
                .events
                .normal(&*resource, reason, "Install", note)
                .await;
        }
        let status = pg_tide_schema::status(&session.client)
            .await
            .map_err(|e| unusable(&e, None))?;
        status.as_ref().map(seen).ok_or_else(|| {
            End::Unusable(
                Problem::new("SchemaNotInstalled", "schema \"tide\" is gone again"),
                None,
            )
        })
    }

    /// Shows a view, and wakes whom the difference concerns.
    fn publish(&self, view: &View) {
        let before = self.views.send_replace(Arc::new(view.clone()));
        let key = &self.database.key;
        let looked = view.number != before.number && view.catalogue.is_some();
        if looked || before.problem() != view.problem() {
            self.context.queue.add(key);
            self.context.wake_dependants(key);
            return;
        }
        if before.reports.relays != view.reports.relays || before.schema != view.schema {
            self.context.queue.add(key);
        }
        let amounts = !Arc::ptr_eq(&before.amounts, &view.amounts) && before.amounts != view.amounts;
        if amounts {
            for outbox in self
                .context
                .outboxes
                .of(&key.namespace, |o| o.database() == key.name)
            {
                self.context.queue.add(&outbox.key());
            }
            for inbox in self
                .context
                .inboxes
                .of(&key.namespace, |i| i.database() == key.name)
            {
                self.context.queue.add(&inbox.key());
            }
        }
        for pipeline in self
            .context
            .pipelines
            .of(&key.namespace, |p| p.database() == key.name)
        {
            let name = pipeline.sql_name();
            let differs = |reports: &Reports| reports.pipelines.get(name).cloned();
            if differs(&before.reports) != differs(&view.reports)
                || amounts
                    && (before.amounts.lags.get(name) != view.amounts.lags.get(name)
                        || before.amounts.dead_letters.get(name) != view.amounts.dead_letters.get(name))
            {
                self.context.queue.add(&pipeline.key());
            }
        }
    }
}

async fn observe_reports(session: &mut Session) -> Result<Reports, tokio_postgres::Error> {
    observe::reports(session).await
}

/// Of the sequence that numbers messages: whether something was published.
async fn last_message_id(session: &mut Session) -> Result<i64, tokio_postgres::Error> {
    let statement = session
        .prepare("SELECT last_value FROM tide.message_id_seq")
        .await?;
    Ok(session.client.query_one(&statement, &[]).await?.get(0))
}

fn no_session() -> End {
    End::Disconnected(Problem::new(
        "ConnectionFailed",
        "the session with PostgreSQL has ended",
    ))
}

/// A failed statement of a look. One that PostgreSQL refuses is no failure of
/// the connection: something in the schema is not as it should be.
fn lost(error: &tokio_postgres::Error) -> End {
    let text = describe(error);
    match error.code() {
        Some(code) if code.code().starts_with("42") || code.code().starts_with("28") => {
            End::Unusable(Problem::new("SchemaUnusable", text), None)
        }
        _ => End::Disconnected(Problem::new("ConnectionFailed", text)),
    }
}

fn unusable(error: &SchemaError, seen: Option<SchemaSeen>) -> End {
    let reason = match error {
        SchemaError::Foreign { .. } => "SchemaForeign",
        SchemaError::Missing { .. } => "SchemaNotInstalled",
        SchemaError::OwnedByExtension { .. } => "SchemaOwnedByExtension",
        SchemaError::Newer { .. } => "SchemaNewer",
        SchemaError::NoPath { .. } => "SchemaOutdated",
        SchemaError::Forbidden { .. } => "SchemaForbidden",
        SchemaError::Busy { .. } => "SchemaBusy",
        SchemaError::Sql(error) => return lost(error),
    };
    End::Unusable(Problem::new(reason, error.to_string()), seen)
}
