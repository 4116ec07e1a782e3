//! Standard output as a sink: one JSON line per message.
//!
//! A thread of its own writes for the whole process, so that lines of several
//! pipelines do not mix, and a reader that stands still holds up nobody but the
//! pipelines that write here.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use tokio::sync::{mpsc, oneshot};

use super::{Outcome, Settled};
use crate::cursor::Ticket;
use crate::encode::{Event, Identity, Message};
use crate::failure::Failure;

/// Lines handed over at once, in bytes.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait for the thread.
const QUEUE: usize = 4;

struct Chunk {
    lines: Vec<u8>,
    written: oneshot::Sender<io::Result<()>>,
}

/// The thread that writes.
fn writer() -> &'static mpsc::Sender<Chunk> {
    static WRITER: OnceLock<mpsc::Sender<Chunk>> = OnceLock::new();
    WRITER.get_or_init(|| {
        let (sender, mut chunks) = mpsc::channel::<Chunk>(QUEUE);
        std::thread::spawn(move || {
            while let Some(chunk) = chunks.blocking_recv() {
                // Nobody waits for it any more: it will be sent again.
                if chunk.written.is_closed() {
                    continue;
                }
                let mut out = io::stdout().lock();
                let result = out.write_all(&chunk.lines).and_then(|()| out.flush());
                let _ = chunk.written.send(result);
            }
        });
        sender
    })
}

/// See the module's description.
pub(crate) struct StdoutSink {
    identity: Identity,
    waiting: Vec<u8>,
    tickets: Vec<Ticket>,
    under_way: VecDeque<(Vec<Ticket>, oneshot::Receiver<io::Result<()>>)>,
}

impl StdoutSink {
    pub(crate) fn open(identity: &Identity) -> Self {
        Self {
            identity: identity.clone(),
            waiting: Vec::new(),
            tickets: Vec::new(),
            under_way: VecDeque::new(),
        }
    }

    pub(crate) fn send(&mut self, ticket: Ticket, event: &Event<'_>) {
        Message::of(event, &self.identity).write(&mut self.waiting);
        self.waiting.push(b'\n');
        self.tickets.push(ticket);
    }

    pub(crate) async fn settled(&mut self, out: &mut Vec<Settled>) -> Result<(), Failure> {
        loop {
            if !self.tickets.is_empty() && (self.under_way.is_empty() || self.waiting.len() >= CHUNK) {
                let place = writer()
                    .reserve()
                    .await
                    .map_err(|_| Failure::transient("standard output: its writer ended"))?;
                let (written, result) = oneshot::channel();
                place.send(Chunk {
                    lines: std::mem::take(&mut self.waiting),
                    written,
                });
                self.under_way
                    .push_back((std::mem::take(&mut self.tickets), result));
                continue;
            }
            let Some((_, result)) = self.under_way.front_mut() else {
                return std::future::pending().await;
            };
            match result.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Failure::transient(format!("standard output: {error}"))),
                Err(_) => return Err(Failure::transient("standard output: its writer ended")),
            }
            let tickets = self.under_way.pop_front().map(|(tickets, _)| tickets);
            out.extend(tickets.into_iter().flatten().map(|ticket| Settled {
                ticket,
                outcome: Outcome::Unplaced,
            }));
            return Ok(());
        }
    }
}
