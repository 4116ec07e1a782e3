//! The connection to one broker, kept while it leads a partition: takes
//! batches from the queues, several requests at a time, and hands the answers
//! back. When it breaks, what was under way is sent again under its numbers.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Shared;
use super::connection::{Answers, Connection, Requests};
use super::partition::Due;
use super::protocol::{self, ToProduce};
use super::queues::Awaited;

/// Requests to one broker without an answer.
const MOST_UNDER_WAY: usize = 5;
/// The broker may take so long to have a batch on its replicas.
const BROKER_TIMEOUT_MS: i32 = 5_000;
/// And so much longer until that is known here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, broker: i32, wake: Arc<Notify>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        shared.await_want(broker, &wake).await;
        let Some((host, port)) = shared.queues.lock().address(broker) else {
            shared.refresh.notify_one();
            tokio::time::sleep(pause).await;
            continue;
        };
        let reason = match Connection::open(&shared.watch, &host, port).await {
            Ok(connection) => {
                pause = SHORTEST_PAUSE;
                let reason = Serving::new(&shared, broker, connection).run(&wake).await;
                format!("{host}:{port}: {reason}")
            }
            Err(reason) => reason,
        };
        tracing::debug!(broker, "connection lost: {reason}");
        shared.queues.lock().lost(broker, Instant::now());
        // Another broker may lead now.
        shared.refresh.notify_one();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A request without an answer.
struct UnderWay {
    correlation: i32,
    until: Instant,
    batches: Vec<Awaited>,
}

struct Serving<'a> {
    shared: &'a Shared,
    broker: i32,
    requests: Requests,
    answers: mpsc::Receiver<std::io::Result<(i32, Bytes)>>,
    reading: AbortHandle,
    under_way: VecDeque<UnderWay>,
    correlation: i32,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl<'a> Serving<'a> {
    fn new(shared: &'a Shared, broker: i32, connection: Connection) -> Self {
        let (requests, from) = connection.split();
        let (sender, answers) = mpsc::channel(2 * MOST_UNDER_WAY);
        let reading = tokio::spawn(read(from, sender)).abort_handle();
        Self {
            shared,
            broker,
            requests,
            answers,
            reading,
            under_way: VecDeque::new(),
            correlation: 0,
        }
    }

    /// Returns why the connection has ended.
    async fn run(mut self, wake: &Notify) -> String {
        loop {
            let now = Instant::now();
            let mut due = Due::Later;
            if self.under_way.len() < MOST_UNDER_WAY {
                let (outgoing, batches) = self.shared.queues.lock().collect(self.broker, now);
                if !outgoing.is_empty() {
                    let batches_out: Vec<ToProduce<'_>> = outgoing
                        .iter()
                        .map(|to| ToProduce {
                            topic: &to.topic,
                            partition: to.partition,
                            batch: to.batch.clone(),
                        })
                        .collect();
                    self.correlation = self.correlation.wrapping_add(1);
                    let pieces = protocol::produce(
                        self.correlation,
                        &self.shared.client,
                        BROKER_TIMEOUT_MS,
                        &batches_out,
                    );
                    self.under_way.push_back(UnderWay {
                        correlation: self.correlation,
                        until: now + ANSWER_TIMEOUT,
                        batches,
                    });
                    let writing = write_all(&mut self.requests, pieces);
                    match tokio::time::timeout(ANSWER_TIMEOUT, writing).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "it takes no request".into(),
                    }
                    // Answers first, as they make room.
                    while let Ok(answer) = self.answers.try_recv() {
                        if let Err(reason) = self.take(answer) {
                            return reason;
                        }
                    }
                    continue;
                }
                due = self.shared.queues.lock().due(self.broker, now);
            }
            let lingered = match due {
                Due::At(at) => Some(at),
                Due::Now | Due::Later => None,
            };
            let silent = self.under_way.front().map(|request| request.until);
            tokio::select! {
                answer = self.answers.recv() => match answer {
                    Some(answer) => if let Err(reason) = self.take(answer) {
                        return reason;
                    },
                    None => return "it has ended the connection".into(),
                },
                () = wake.notified() => {}
                () = at(lingered) => {}
                () = at(silent) => {
                    return format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                }
            }
        }
    }

    fn take(&mut self, answer: std::io::Result<(i32, Bytes)>) -> Result<(), String> {
        let (correlation, answer) = answer.map_err(|e| e.to_string())?;
        let request = self
            .under_way
            .pop_front()
            .filter(|request| request.correlation == correlation)
            .ok_or_else(|| protocol::Malformed.to_string())?;
        let produced = protocol::produced(answer).map_err(|e| e.to_string())?;
        let verdict = self
            .shared
            .queues
            .lock()
            .answered(&request.batches, &produced, Instant::now());
        self.shared.tell(verdict);
        Ok(())
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn read(mut from: Answers, to: mpsc::Sender<std::io::Result<(i32, Bytes)>>) {
    loop {
        let answer = from.next().await;
        let ended = answer.is_err();
        if to.send(answer).await.is_err() || ended {
            return;
        }
    }
}

async fn write_all(to: &mut Requests, mut pieces: Vec<Bytes>) -> std::io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        let slices: Vec<IoSlice<'_>> = pieces[first..].iter().map(|piece| IoSlice::new(piece)).collect();
        let mut written = to.write_vectored(&slices).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(piece) = pieces.get_mut(first).filter(|_| written > 0) {
            let taken = written.min(piece.len());
            piece.advance(taken);
            written -= taken;
            if piece.is_empty() {
                first += 1;
            }
        }
    }
    to.flush().await
}
