//! One request and its answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, EXPECT, HeaderMap};
use hyper::{Method, Request, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::lane::{Outcome, Waiting};
use super::request;
use super::routes::{Found, Open, Route, Routes};
use crate::status::Intake;

/// A sender is told to come again when nothing is known after so long; it is
/// stored then, or not, and the same request settles it.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);
/// So often a request is looked up for a pipeline that is being changed.
const ROUNDS: usize = 5;
/// Of a body that is not taken, so much is read, for as long, so that the
/// sender gets to read the answer.
const READ_OFF: usize = 8 << 20;
const READ_OFF_WITHIN: Duration = Duration::from_secs(1);

/// What all exchanges of a listener share.
pub(super) struct Exchange {
    pub(super) routes: Routes,
    pub(super) relay_group: String,
    /// Bytes of bodies that are held, in all.
    pub(super) memory: Arc<Semaphore>,
    /// The relay stops: nothing new is taken.
    pub(super) draining: CancellationToken,
    /// For requests that name no pipeline.
    pub(super) nobody: Intake,
}

impl Exchange {
    /// Takes a request in, or says why not; never fails.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, mut body) = request.into_parts();
        let name = request::pipeline(head.uri.path());
        let route = name.as_deref().map(|name| self.routes.find(name));
        let open = match &route {
            Some(Found::Route(Route::Open(open))) => Some(Arc::clone(open)),
            _ => None,
        };
        let answer = match (route, &head.method) {
            (None, _) => Err(Answer::refused(
                StatusCode::NOT_FOUND,
                "there is nothing here: post to /webhook/ and the pipeline's name, percent-encoded",
            )),
            (Some(_), method) if method != Method::POST => Err(Answer::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "only POST is taken here",
            )),
            (Some(Found::Route(route)), _) => Ok(route),
            (Some(found), _) => Err(self.without_route(&found)),
        };
        let answer = match (answer, name) {
            (Ok(route), Some(name)) => self.take(route, &name, &head.headers, &mut body).await,
            (Ok(_), None) => Answer::refused(StatusCode::NOT_FOUND, "there is nothing here"),
            (Err(answer), _) => answer,
        };
        let intake = open.as_ref().map_or(&self.nobody, |open| &open.intake);
        intake.answered(answer.status.as_u16(), answer.error());
        // To read on would be to tell a sender who asked first to send it.
        let asked_first = head.headers.contains_key(EXPECT);
        if body.is_end_stream() || (!asked_first && read_off(body).await) {
            return answer;
        }
        answer.closing()
    }

    fn without_route(&self, found: &Found) -> Answer {
        match found {
            Found::NotYet => Answer::later(
                2,
                "the database cannot be reached at the moment: send the same request again",
            ),
            Found::Unknown | Found::Route(_) => Answer::refused(
                StatusCode::NOT_FOUND,
                format!(
                    "no webhook pipeline of this name is in relay group \"{}\": check the path, /webhook/ and the pipeline's name",
                    self.relay_group
                ),
            ),
        }
    }

    async fn take(&self, route: Route, name: &str, head: &HeaderMap, body: &mut Incoming) -> Answer {
        let open = match open(route) {
            Ok(open) => open,
            Err(answer) => return answer,
        };
        if self.draining.is_cancelled() {
            return draining();
        }
        let Ok(place) = Arc::clone(&open.places).try_acquire_owned() else {
            return Answer::later(1, "too many requests are under way: send the same request again");
        };
        open.intake.in_flight(open.in_flight());
        let answer = match self.read(&open, head, body).await {
            Ok((bytes, memory)) => {
                let answer = self.settle(Arc::clone(&open), name, head, bytes).await;
                drop(memory);
                answer
            }
            Err(answer) => answer,
        };
        drop(place);
        open.intake.in_flight(open.in_flight());
        answer
    }

    /// Reads the body, as far as it may be.
    async fn read(
        &self,
        open: &Open,
        head: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Answer> {
        let limit = open.spec.max_body_bytes;
        let too_large = || {
            Answer::refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the body is larger than {limit} bytes, which is what this pipeline takes (max_body_bytes)"
                ),
            )
        };
        if let Some(encoding) = head.get(CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(Answer::refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoded bodies are not taken: send it without Content-Encoding",
            ));
        }
        let announced = body.size_hint().lower();
        if announced > u64::try_from(limit).unwrap_or(u64::MAX) {
            return Err(too_large());
        }
        let full = || {
            Answer::later(
                1,
                "too much is being received at the moment: send the same request again",
            )
        };
        let mut memory = Arc::clone(&self.memory)
            .try_acquire_many_owned(0)
            .map_err(|_| full())?;
        let deadline = Instant::now() + open.spec.timeout;
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = self.draining.cancelled() => return Err(draining()),
                () = tokio::time::sleep_until(deadline) => {
                    let text = format!("the body did not arrive within {:?} (timeout)", open.spec.timeout);
                    return Err(Answer::refused(StatusCode::REQUEST_TIMEOUT, text).closing());
                }
            };
            let data = match frame {
                None => break,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
                Some(Err(_)) => {
                    return Err(
                        Answer::refused(StatusCode::BAD_REQUEST, "the body ended before its end").closing(),
                    );
                }
            };
            if first.len() + all.len() + data.len() > limit {
                return Err(too_large());
            }
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.memory).try_acquire_many_owned(size);
            memory.merge(more.map_err(|_| full())?);
            // Most come in one piece, which is not copied.
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&data);
            }
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        Ok((bytes, memory))
    }

    /// Checks a request that has come whole, has it stored, and waits for that.
    async fn settle(&self, mut open: Arc<Open>, name: &str, head: &HeaderMap, body: Bytes) -> Answer {
        let deadline = Instant::now() + ANSWER_WITHIN;
        // Once more whenever the pipeline was changed under it.
        for _ in 0..ROUNDS {
            if let Err(answer) = check(&open, head, &body) {
                return answer;
            }
            let message = request::message(&open.name, head, body.clone());
            let (done, outcome) = oneshot::channel();
            // Its place says that there is room.
            if open.lane.send(Waiting { message, done }).await.is_err() {
                return changing();
            }
            match tokio::time::timeout_at(deadline, outcome).await {
                Ok(Ok(Outcome::Settled(answer))) => return answer,
                Ok(Ok(Outcome::Changed)) => {}
                Ok(Err(_)) => return draining(),
                Err(_) => {
                    return Answer::later(
                        2,
                        "the database has not answered yet: send the same request again",
                    );
                }
            }
            self.routes.news().await;
            open = match self.routes.find(name) {
                Found::Route(route) => match self::open(route) {
                    Ok(open) => open,
                    Err(answer) => return answer,
                },
                found => return self.without_route(&found),
            };
        }
        changing()
    }
}

fn open(route: Route) -> Result<Arc<Open>, Answer> {
    match route {
        Route::Open(open) => Ok(open),
        Route::Disabled => Err(Answer::later(
            60,
            "the pipeline is disabled: send the same request again later",
        )),
        Route::Misconfigured => Err(Answer::later(
            60,
            "the pipeline's configuration cannot be used: its status says why; send the same request again later",
        )),
    }
}

fn check(open: &Open, head: &HeaderMap, body: &[u8]) -> Result<(), Answer> {
    let (Some(keys), Some(spec)) = (&open.keys, &open.spec.signature) else {
        return Ok(());
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let unreadable = |reason: String| {
        open.intake.failed(&reason);
        Answer::later(
            5,
            "the pipeline's signing secret cannot be read: its status says why; send the same request again later",
        )
    };
    let tolerance = spec.tolerance.as_secs();
    let known = keys.get().map_err(unreadable)?;
    request::check_signature(&known, tolerance, head, body, now).or_else(|_| {
        let known = keys.again().map_err(unreadable)?;
        request::check_signature(&known, tolerance, head, body, now)
    })
}

fn draining() -> Answer {
    Answer::later(1, "this relay is stopping: send the same request again").closing()
}

fn changing() -> Answer {
    Answer::later(
        1,
        "the pipeline's configuration is being changed: send the same request again",
    )
}

/// Lets the sender finish, within bounds; whether it has.
async fn read_off(mut body: Incoming) -> bool {
    let reading = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > READ_OFF {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(READ_OFF_WITHIN, reading)
        .await
        .unwrap_or(false)
}
