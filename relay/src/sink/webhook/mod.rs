//! Webhooks: messages are posted to a URL.
//!
//! Messages with equal keys go by the same lane, one request after the other;
//! lanes do not wait for each other. A request that may succeed later is tried
//! again here, so that what other lanes delivered meanwhile is not forgotten
//! and sent again. A receiver may still get a message twice (its answer was
//! lost, the relay died); it knows it by its id, which is always the same.

mod address;
mod answer;
mod client;
mod lane;
mod request;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use self::answer::{Answer, Verdict};
use self::client::{Client, Connection};
use self::lane::Lane;
use self::request::{Composer, Entry};
use super::{News, Opening, Outcome, Settled};
use crate::broker::signature::SigningKeys;
use crate::config::{Endpoint, WebhookSinkSpec, WebhookUrl};
use crate::cursor::Ticket;
use crate::encode::{Encoding, Event, Identity};
use crate::failure::Failure;

/// While there is something to wait for, it is said so often that this is so.
const BEAT: Duration = Duration::from_secs(1);

/// A request that has ended.
struct Ended {
    lane: usize,
    batch: Vec<Entry>,
    result: Result<Answer, String>,
    connection: Option<Connection>,
}

type UnderWay = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// See the module's description.
pub(crate) struct WebhookSink {
    identity: Identity,
    encoding: Encoding,
    /// For people.
    server: String,
    /// Path and query, when they are the secret of the receiver.
    secret_target: Option<String>,
    /// Each message has a URL of its own.
    own_url: bool,
    /// Messages in a request; none when each is one.
    batch: Option<usize>,
    max_bytes: usize,
    client: Arc<Client>,
    composer: Arc<Composer>,
    lanes: Vec<Lane>,
    under_way: FuturesUnordered<UnderWay>,
    /// The receiver asked for it.
    paused_until: Option<Instant>,
    settled: Vec<Settled>,
    news: Option<News>,
    beat: Instant,
}

impl WebhookSink {
    /// Reads what it needs; nobody is asked, as a webhook is told by messages
    /// alone.
    pub(crate) fn open(spec: &WebhookSinkSpec, opening: &Opening<'_>) -> Result<Self, Failure> {
        let failed = |reason: String| Failure::transient(format!("webhook: {reason}"));
        let (endpoint, secret) = endpoint(spec).map_err(failed)?;
        let signer = signer(spec).map_err(failed)?;
        let headers = own_headers(spec).map_err(failed)?;
        let client = Client::new(&endpoint, &spec.tls, spec.allow_private, spec.timeout).map_err(failed)?;
        let composer = Composer::new(&endpoint.authority, headers, signer, spec.batch, opening.encoding)
            .map_err(failed)?;
        Ok(Self {
            identity: opening.identity.clone(),
            encoding: opening.encoding.clone(),
            server: endpoint.server(),
            own_url: !endpoint.target.is_literal(),
            secret_target: secret,
            batch: spec.batch.then_some(opening.batch_size),
            max_bytes: spec.max_bytes,
            client: Arc::new(client),
            composer: Arc::new(composer),
            lanes: (0..spec.concurrency).map(|_| Lane::new(opening.retry)).collect(),
            under_way: FuturesUnordered::new(),
            paused_until: None,
            settled: Vec::new(),
            news: None,
            beat: Instant::now(),
        })
    }

    pub(crate) fn send(&mut self, ticket: Ticket, event: &Event<'_>) -> Option<String> {
        let entry = match self.batch {
            Some(_) => Entry::element(ticket, event, &self.identity, &self.encoding),
            None => match Entry::single(ticket, event, &self.identity, &self.encoding) {
                Ok(entry) => entry,
                Err(reason) => return Some(reason),
            },
        };
        let lane = lane_of(event.key, self.lanes.len());
        self.lanes[lane].waiting.push_back(entry);
        None
    }

    /// What became known of the receiver since the last call.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.take()
    }

    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        loop {
            let now = Instant::now();
            self.start(now);
            out.append(&mut self.settled);
            let idle = self.under_way.is_empty() && self.lanes.iter().all(|l| l.waiting.is_empty());
            if idle {
                self.beat = now;
            }
            // Time-outs are kept here: that nothing is known yet is no failure.
            if !out.is_empty() || self.news.is_some() || now >= self.beat + BEAT {
                self.beat = now;
                return Ok(());
            }
            let wake = self.wake(now).min(self.beat + BEAT);
            tokio::select! {
                Some(ended) = self.under_way.next() => self.ended(ended),
                () = tokio::time::sleep_until(wake), if !idle => {}
                else => std::future::pending().await,
            }
        }
    }

    /// When the next lane may go on.
    fn wake(&self, now: Instant) -> Instant {
        let resume = self
            .lanes
            .iter()
            .filter_map(|l| l.resume_at)
            .filter(|at| *at > now)
            .min();
        resume.unwrap_or(now + BEAT)
    }

    /// Starts a request for every lane that may have one.
    fn start(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.paused_until = None;
        for n in 0..self.lanes.len() {
            let lane = &mut self.lanes[n];
            if !lane.is_ready(now) {
                continue;
            }
            let batch = lane.next_batch(self.batch.unwrap_or(1), self.max_bytes);
            let seconds = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs());
            let target = match &self.secret_target {
                Some(target) => target.as_str(),
                None => batch.first().map_or("/", |entry| entry.target.as_str()),
            };
            match self.composer.compose(&batch, target, seconds) {
                Ok(request) => {
                    lane.busy = true;
                    let connection = lane.connection.take();
                    let client = Arc::clone(&self.client);
                    let posting = async move {
                        let (result, connection) = client.post(request, connection).await;
                        Ended {
                            lane: n,
                            batch,
                            result,
                            connection,
                        }
                    };
                    self.under_way.push(posting.boxed());
                }
                Err(reason) => self.refused(n, batch, &reason),
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let lane = &mut self.lanes[ended.lane];
        lane.busy = false;
        lane.connection = ended.connection;
        let verdict = match ended.result {
            Ok(answer) => answer.verdict(SystemTime::now(), self.own_url, self.secret_target.is_some()),
            Err(reason) => Verdict::Later(reason, None),
        };
        match verdict {
            Verdict::Accepted => {
                lane.suspects.cleared(ended.batch.len());
                self.settled.extend(ended.batch.iter().map(|entry| Settled {
                    ticket: entry.ticket,
                    outcome: Outcome::Unplaced,
                }));
                self.recovered(ended.lane);
            }
            Verdict::Refused(reason) => {
                self.refused(ended.lane, ended.batch, &reason);
                self.recovered(ended.lane);
            }
            Verdict::Later(reason, after) => self.put_off(ended.lane, ended.batch, &reason, after),
        }
    }

    /// Halves a batch that is refused; of one message it is known which.
    fn refused(&mut self, lane: usize, batch: Vec<Entry>, reason: &str) {
        let lane = &mut self.lanes[lane];
        if let [entry] = &batch[..] {
            self.settled.push(Settled {
                ticket: entry.ticket,
                outcome: Outcome::Rejected(format!("webhook {}: {reason}", self.server)),
            });
            lane.suspects.cleared(1);
        } else {
            lane.suspects.refused(batch.len());
            lane.put_back(batch);
        }
    }

    fn put_off(&mut self, lane: usize, batch: Vec<Entry>, reason: &str, after: Option<Duration>) {
        let lane = &mut self.lanes[lane];
        let count = batch.len();
        lane.put_back(batch);
        let (attempt, pause) = lane.backoff.next(&mut rand::rng());
        let pause = after.map_or(pause, |after| after.max(pause));
        let until = Instant::now() + pause;
        lane.failing = true;
        lane.resume_at = Some(until);
        if after.is_some() {
            // It was the receiver that asked, so that it is meant for all.
            self.paused_until = self.paused_until.max(Some(until));
        }
        let messages = if count == 1 { "message" } else { "messages" };
        self.news = Some(News::Trouble(format!(
            "webhook {}: {reason} (try {attempt} with {count} {messages}; next in {})",
            self.server,
            in_words(pause)
        )));
    }

    fn recovered(&mut self, lane: usize) {
        let was_failing = std::mem::take(&mut self.lanes[lane].failing);
        self.lanes[lane].recovered();
        if was_failing && !self.lanes.iter().any(|l| l.failing) {
            self.news = Some(News::Recovered);
        }
    }
}

/// Equal keys go by the same lane; what has no key, by the first.
fn lane_of(key: Option<&[u8]>, lanes: usize) -> usize {
    let Some(key) = key.filter(|_| lanes > 1) else {
        return 0;
    };
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or(0)
}

/// Server and target; the target apart when it is a secret.
fn endpoint(spec: &WebhookSinkSpec) -> Result<(Endpoint, Option<String>), String> {
    let reference = match &spec.url {
        WebhookUrl::Plain(endpoint) => return Ok((endpoint.clone(), None)),
        WebhookUrl::Secret(reference) => reference,
    };
    let text = reference.read().map_err(|e| e.to_string())?;
    let endpoint: Endpoint = text
        .expose()
        .parse()
        .map_err(|e| format!("the URL in \"url\" {e}"))?;
    let target = endpoint
        .target
        .literal()
        .ok_or("a URL that is kept apart has no placeholders")?;
    Ok((endpoint, Some(target)))
}

fn signer(spec: &WebhookSinkSpec) -> Result<Option<SigningKeys>, String> {
    let Some(reference) = &spec.signing_secret else {
        return Ok(None);
    };
    let secret = reference.read().map_err(|e| e.to_string())?;
    SigningKeys::read(secret.expose())
        .map(Some)
        .map_err(|reason| format!("\"signing_secret\" {reason}"))
}

/// Whether a connection to the receiver can be made, and everything that goes
/// with it be read; sends nothing.
///
/// # Errors
/// In words, why not.
pub(crate) async fn look(spec: &WebhookSinkSpec) -> Result<(), String> {
    let (endpoint, _) = endpoint(spec)?;
    signer(spec)?;
    own_headers(spec)?;
    let client = Client::new(&endpoint, &spec.tls, spec.allow_private, spec.timeout)?;
    let reached = client.reach().await;
    reached.map_err(|reason| format!("webhook {}: {reason}", endpoint.server()))
}

fn own_headers(spec: &WebhookSinkSpec) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &spec.headers {
        let bad = |what: &str| format!("\"headers.{name}\" {what}");
        let value = value.read().map_err(|e| bad(&e.to_string()))?;
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| bad("has a value that HTTP does not allow"))?;
        value.set_sensitive(true);
        let name: HeaderName = name.parse().map_err(|_| bad("is no name of an HTTP header"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A duration for people.
fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}
