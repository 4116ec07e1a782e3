//! HTTP/1.1, as much of it as is needed: a receiver that counts the events in what is posted to it, and a client that
//! posts.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, Result, anyhow, bail};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::delivery::Delivery;
use crate::event;
use crate::shape::Shape;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A server that answers every request with 204; dropped, it ends.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    count: AtomicU64,
    delivery: Mutex<Delivery>,
}

impl Receiver {
    /// Listens, for the events 0 to `expected` - 1.
    pub async fn start(expected: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            count: AtomicU64::new(0),
            delivery: Mutex::new(Delivery::new(expected, Shape::USUAL)),
        });
        let accepted = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepted);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &shared).await {
                        eprintln!("a connection to the receiver failed: {error:#}");
                    }
                });
            }
        });
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many events came.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// An error unless each event came once, and in order per key.
    pub fn check(&self) -> Result<()> {
        self.delivery()?.check()
    }

    /// The same of events that came side by side, in no order.
    pub fn check_each_once(&self) -> Result<()> {
        self.delivery()?.check_each_once()
    }

    fn delivery(&self) -> Result<MutexGuard<'_, Delivery>> {
        let delivery = self.shared.delivery.lock();
        delivery.map_err(|_| anyhow!("the receiver failed"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut messages = Messages::new(stream);
    while let Some((_, body)) = messages.next().await? {
        let mut count = 0;
        {
            let body = &messages.buffer[body];
            let mut delivery = shared
                .delivery
                .lock()
                .map_err(|_| anyhow!("the receiver failed"))?;
            for at in memmem::find_iter(body, br#""order_id":"#) {
                delivery.note(event::number(&body[at..]));
                count += 1;
            }
        }
        shared.count.fetch_add(count, Ordering::Relaxed);
        messages
            .stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await?;
    }
    Ok(())
}

/// A connection that posts one request after the other.
pub struct Poster {
    messages: Messages,
    host: SocketAddr,
}

impl Poster {
    /// Connects.
    pub async fn connect(host: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            messages: Messages::new(stream),
            host,
        })
    }

    /// Posts a body with an id, and returns the answer's status.
    pub async fn post(&mut self, path: &str, id: u64, body: &[u8]) -> Result<u16> {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nwebhook-id: {id}\r\ncontent-length: {}\r\n\r\n",
            self.host,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.messages.stream.write_all(&request).await?;
        let Some((head, _)) = self.messages.next().await? else {
            bail!("the server closed the connection");
        };
        let head = std::str::from_utf8(&self.messages.buffer[head])?;
        let status = head
            .split_whitespace()
            .nth(1)
            .context("an answer without a status")?;
        Ok(status.parse()?)
    }
}

/// Requests or answers on a connection, each with its length said before it.
struct Messages {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the message that was returned last ends.
    end: usize,
}

impl Messages {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
            end: 0,
        }
    }

    /// Head and body of the next message, as places in the buffer; none when the connection ends before it.
    async fn next(&mut self) -> Result<Option<(Range<usize>, Range<usize>)>> {
        self.buffer.drain(..self.end);
        self.end = 0;
        let head = loop {
            if let Some(head) = memmem::find(&self.buffer, END_OF_HEAD) {
                break head;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    _ => bail!("the connection ended within a head"),
                };
            }
        };
        let body = head + END_OF_HEAD.len();
        self.end = body + content_length(std::str::from_utf8(&self.buffer[..head])?)?;
        while self.buffer.len() < self.end {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection ended within a body");
            }
        }
        Ok(Some((0..head, body..self.end)))
    }
}

fn content_length(head: &str) -> Result<usize> {
    let field = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Ok(field.map_or(Ok(0), |(_, length)| length.trim().parse())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Payload;

    #[tokio::test]
    async fn events_are_counted_one_to_a_request_and_many() {
        let receiver = Receiver::start(3).await.expect("a port");
        let mut poster = Poster::connect(receiver.address()).await.expect("it listens");
        let both = format!("[{},\n{}]", Payload::text(1), Payload::text(2));
        for body in [Payload::text(0), both] {
            let status = poster.post("/", 0, body.as_bytes()).await.expect("an answer");
            assert_eq!(status, 204);
        }
        assert_eq!(receiver.count(), 3);
        receiver.check().expect("each came once");
    }

    #[test]
    fn the_length_is_found_however_it_is_written() {
        assert_eq!(content_length("HTTP/1.1 204 No Content").ok(), Some(0));
        assert_eq!(
            content_length("POST / HTTP/1.1\r\nContent-Length: 17").ok(),
            Some(17)
        );
        assert!(content_length("a\r\ncontent-length: x").is_err());
    }
}
