//! An inbox as a sink: batches, each in one transaction, a few of them under
//! way at once on one connection.
//!
//! A batch is stored only after the one before it, so a refused one stops those
//! behind it; it is then halved until the message at fault stands alone. What a
//! batch contained is noted in its transaction, which is what a new owner reads
//! (docs/design/exactly-once.md).

mod errors;

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio_postgres::{Error, Statement};

use self::errors::{explain, is_out_of_turn, is_refusal};
use super::suspects::Suspects;
use super::{Opening, Outcome, Settled};
use crate::config::{DatabaseLogin, InboxSinkSpec};
use crate::cursor::{Positions, Ticket};
use crate::database::feed::{self, Feed};
use crate::database::{Database, Profile, Session, describe};
use crate::encode::{Event, EventId, Identity, added};
use crate::failure::Failure;

/// Batches under way: one that is stored, one on its way, one being made.
const IN_FLIGHT: usize = 3;
/// While nothing is under way: whether the connection still holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// A message on its way.
#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    id: EventId,
    event_id: String,
    headers: String,
    payload: Bytes,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len()
    }
}

type Written = (Vec<Entry>, Result<Vec<i64>, Error>);
type Writing = Pin<Box<dyn Future<Output = Written> + Send>>;

/// See the module's description.
pub(crate) struct InboxSink {
    spec: InboxSinkSpec,
    identity: Identity,
    source: Arc<str>,
    at: String,
    user: String,
    session: Arc<Session>,
    statement: Statement,
    feed: Feed,
    stream: Arc<str>,
    waiting: VecDeque<Entry>,
    under_way: FuturesOrdered<Writing>,
    /// A batch was refused: those behind it come back, too.
    halted: bool,
    /// To be sent again, in their order.
    returned: Vec<Entry>,
    /// Among the first of `waiting`.
    suspects: Suspects,
    /// What the feed stands at when all that is under way is stored.
    sent_seq: i64,
    stored_seq: i64,
    forget_below: i64,
    settled: Vec<Settled>,
}

/// The database that the options name.
fn other(inbox: &str, login: &DatabaseLogin) -> Result<Database, Failure> {
    let url = login.url().map_err(|e| Failure::transient(e.to_string()))?;
    Database::new(&url).map_err(|e| Failure::transient(format!("inbox \"{inbox}\": {e}")))
}

async fn connect(inbox: &str, database: &Database, profile: Profile) -> Result<Session, Failure> {
    database
        .connect(profile, None)
        .await
        .map_err(|e| Failure::transient(format!("inbox \"{inbox}\": {e}")))
}

/// Whether the inbox of another database can be delivered into; does nothing.
///
/// # Errors
/// Why not, and what to do about it.
pub(crate) async fn look(inbox: &str, login: &DatabaseLogin) -> Result<(), Failure> {
    let database = other(inbox, login)?;
    let session = connect(inbox, &database, Profile::Command).await?;
    let explained = |user: &str, e: &Error| explain(inbox, &database.at(), user, e);
    let user = session_user(&session).await.map_err(|e| explained("", &e))?;
    feed::check(&session, inbox)
        .await
        .map_err(|e| explained(&user, &e))
}

async fn session_user(session: &Session) -> Result<String, Error> {
    let row = session.client.query_one("SELECT session_user::text", &[]).await?;
    row.try_get(0)
}

/// The name of the pipeline's own database.
async fn home_database(opening: &Opening<'_>) -> Result<String, Failure> {
    let failed = |e| Failure::postgres("asking for the database's name", &e);
    let lease = opening
        .home
        .get()
        .await
        .map_err(|e| Failure::transient(e.to_string()))?;
    let row = lease
        .session
        .client
        .query_one("SELECT current_database()::text", &[]);
    let name = row.await.map_err(failed)?.try_get(0).map_err(failed)?;
    lease.done();
    Ok(name)
}

impl InboxSink {
    pub(crate) async fn open(spec: &InboxSinkSpec, opening: &Opening<'_>) -> Result<Self, Failure> {
        let database = match &spec.database {
            Some(login) => other(&spec.inbox, login)?,
            None => opening.home.database().clone(),
        };
        let home = home_database(opening).await?;
        let at = database.at();
        let mut session = connect(&spec.inbox, &database, Profile::Write).await?;
        let user = session_user(&session)
            .await
            .map_err(|e| explain(&spec.inbox, &at, "", &e))?;
        let opened = async {
            let origin = feed::Origin {
                cluster: opening.cluster,
                database: &home,
                pipeline: &opening.identity.pipeline,
                epoch: opening.epoch,
            };
            let feed = feed::open(&session, &spec.inbox, &origin).await?;
            Ok((feed, feed::prepare_write(&mut session).await?))
        }
        .await;
        let (feed, statement) = opened.map_err(|e| explain(&spec.inbox, &at, &user, &e))?;
        Ok(Self {
            source: format!("{home}/{}", opening.identity.outbox).into(),
            spec: spec.clone(),
            identity: opening.identity.clone(),
            at,
            user,
            session: Arc::new(session),
            statement,
            stream: feed.stream.as_str().into(),
            sent_seq: feed.last_seq,
            stored_seq: feed.last_seq,
            feed,
            waiting: VecDeque::new(),
            under_way: FuturesOrdered::new(),
            halted: false,
            returned: Vec::new(),
            suspects: Suspects::default(),
            forget_below: 0,
            settled: Vec::new(),
        })
    }

    fn failure(&self, error: &Error) -> Failure {
        explain(&self.spec.inbox, &self.at, &self.user, error)
    }

    /// Where the feed stands, when that is not known.
    pub(crate) fn new_positions(&self, known: &Positions) -> Positions {
        let mut new = Positions::new();
        if !known.contains_key(&*self.stream) {
            new.insert(self.stream.to_string(), self.feed.last_seq + 1);
        }
        new
    }

    pub(crate) async fn landed(&mut self, since: &Positions) -> Result<HashSet<EventId>, Failure> {
        match since.get(&*self.stream) {
            Some(since) => feed::landed(&self.session, &self.feed, *since)
                .await
                .map_err(|e| self.failure(&e)),
            None => Ok(HashSet::new()),
        }
    }

    /// What lies before these positions is never asked for again.
    pub(crate) fn checkpointed(&mut self, low_water: &Positions) {
        if let Some(position) = low_water.get(&*self.stream) {
            self.forget_below = *position;
        }
    }

    pub(crate) fn send(&mut self, ticket: Ticket, event: &Event<'_>) {
        let passed = event.headers.get(added::PATH).unwrap_or_default();
        let came_from = |name: &String| passed.split(',').any(|p| p.trim() == name);
        if self.spec.skip_if_passed.iter().any(came_from) {
            self.settled.push(Settled {
                ticket,
                outcome: Outcome::Duplicate,
            });
            return;
        }
        let own = self.spec.message_id_header.as_deref();
        let event_id = own
            .and_then(|name| event.headers.get(name))
            .filter(|id| !id.is_empty())
            .unwrap_or(event.tide_id);
        self.waiting.push_back(Entry {
            ticket,
            id: event.row.event_id(),
            event_id: event_id.to_owned(),
            headers: self.headers(event, passed),
            payload: event.payload.clone(),
        });
    }

    /// The message's headers and ours, which stand above: of equal names the
    /// last one counts.
    fn headers(&self, event: &Event<'_>, passed: &str) -> String {
        let own = String::from_utf8_lossy(&event.row.headers);
        let own = own.trim_end();
        let mut text = own.strip_suffix('}').unwrap_or("{").to_owned();
        let mut first = event.headers.len() == 0;
        let mut add = |name: &str, value: &str| {
            let separator = if std::mem::take(&mut first) { "" } else { ", " };
            let value = serde_json::Value::from(value);
            let _ = write!(text, "{separator}\"{name}\": {value}");
        };
        add(added::ID, event.tide_id);
        add(added::OUTBOX, &self.identity.outbox);
        add(added::PIPELINE, &self.identity.pipeline);
        if let Some(redelivery) = event.redelivery {
            add(added::REDELIVERY, &redelivery.to_string());
        }
        if let Some(origin) = &self.spec.origin {
            match passed {
                "" => add(added::PATH, origin),
                passed => add(added::PATH, &format!("{passed},{origin}")),
            }
        }
        text.push('}');
        text
    }

    /// Sends batches as far as there is room.
    fn flush(&mut self) {
        let most = if self.suspects.any() { 1 } else { IN_FLIGHT };
        while !self.halted && self.under_way.len() < most && !self.waiting.is_empty() {
            let rows = self.suspects.limit(BATCH_ROWS);
            let mut batch = Vec::with_capacity(rows.min(self.waiting.len()));
            let mut bytes = 0;
            while batch.len() < rows
                && let Some(entry) = self.waiting.front()
                && (batch.is_empty() || bytes + entry.bytes() <= BATCH_BYTES)
            {
                bytes += entry.bytes();
                batch.extend(self.waiting.pop_front());
            }
            let after_seq = self.sent_seq;
            self.sent_seq += i64::try_from(batch.len()).unwrap_or(i64::MAX);
            let mut writing = self.write(after_seq, batch);
            // The first poll puts it on the connection, in this order.
            match (&mut writing).now_or_never() {
                Some(written) => self.under_way.push_back(std::future::ready(written).boxed()),
                None => self.under_way.push_back(writing),
            }
        }
    }

    fn write(&self, after_seq: i64, batch: Vec<Entry>) -> Writing {
        let (session, statement) = (Arc::clone(&self.session), self.statement.clone());
        let (feed, source, forget_below) = (self.feed.clone(), Arc::clone(&self.source), self.forget_below);
        async move {
            let redeliveries = batch.iter().any(|e| e.id.redelivery.is_some());
            let columns = feed::Batch {
                after_seq,
                forget_below,
                source: &source,
                event_ids: batch.iter().map(|e| e.event_id.as_str()).collect(),
                payloads: batch
                    .iter()
                    .map(|e| std::str::from_utf8(&e.payload).ok().filter(|p| !p.is_empty()))
                    .collect(),
                headers: batch.iter().map(|e| e.headers.as_str()).collect(),
                message_ids: batch.iter().map(|e| e.id.id).collect(),
                created_us: batch.iter().map(|e| e.id.created_at).collect(),
                redeliveries: redeliveries.then(|| batch.iter().map(|e| e.id.redelivery).collect()),
            };
            let written = session
                .client
                .query_one(&statement, &columns.parameters(&feed))
                .await;
            let duplicates = written.and_then(|row| row.try_get(0));
            drop(columns);
            (batch, duplicates)
        }
        .boxed()
    }

    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        loop {
            out.append(&mut self.settled);
            self.flush();
            if !out.is_empty() {
                return Ok(());
            }
            if self.session.client.is_closed() {
                return Err(self.lost());
            }
            let Some((batch, result)) = self.under_way.next().await else {
                // Nothing is to come; told anew when something is sent.
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            match result {
                Ok(duplicates) => self.stored(&batch, &duplicates),
                Err(error) if is_out_of_turn(&error) => self.returned.extend(batch),
                Err(error) if is_refusal(&error) => self.refused(batch, &error),
                Err(error) if self.session.client.is_closed() && error.as_db_error().is_none() => {
                    return Err(self.lost());
                }
                Err(error) => return Err(self.failure(&error)),
            }
            if self.halted && self.under_way.is_empty() {
                self.halted = false;
                for entry in std::mem::take(&mut self.returned).into_iter().rev() {
                    self.waiting.push_front(entry);
                }
                self.sent_seq = self.stored_seq;
            }
        }
    }

    fn lost(&self) -> Failure {
        Failure::transient(format!(
            "inbox \"{}\" at {}: the connection was lost",
            self.spec.inbox, self.at
        ))
    }

    fn stored(&mut self, batch: &[Entry], duplicates: &[i64]) {
        let mut again = duplicates.iter().peekable();
        for (entry, n) in batch.iter().zip(1i64..) {
            let outcome = if again.next_if(|d| **d == n).is_some() {
                Outcome::Duplicate
            } else {
                Outcome::Placed {
                    stream: 0,
                    position: self.stored_seq + n,
                }
            };
            self.settled.push(Settled {
                ticket: entry.ticket,
                outcome,
            });
        }
        self.stored_seq += i64::try_from(batch.len()).unwrap_or(i64::MAX);
        self.suspects.cleared(batch.len());
    }

    /// Halves a batch that is refused; of one message it is known which.
    fn refused(&mut self, batch: Vec<Entry>, error: &Error) {
        self.halted = true;
        if let [entry] = &batch[..] {
            let reason = format!("inbox \"{}\" refuses it: {}", self.spec.inbox, describe(error));
            self.settled.push(Settled {
                ticket: entry.ticket,
                outcome: Outcome::Rejected(reason),
            });
            self.suspects.cleared(1);
            return;
        }
        self.suspects.refused(batch.len());
        self.returned.extend(batch);
    }

    pub(crate) fn stream_name(&self) -> Arc<str> {
        Arc::clone(&self.stream)
    }
}
