//! A TCP proxy that can stop carrying bytes while it keeps its connections:
//! a server that accepts and then says nothing, or a network that delivers what
//! it was given long after.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Which connections, numbered in their order, carry nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Stalled {
    all: bool,
    before: usize,
}

impl Stalled {
    fn is(self, connection: usize) -> bool {
        self.all || connection < self.before
    }
}

/// See the module's description. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    stalled: Arc<watch::Sender<Stalled>>,
    connections: Arc<AtomicUsize>,
    /// Pieces that were read and wait.
    held: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `host:port`.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listening_on(listener, target)
    }

    /// The same on a socket that was bound before, where the server itself has
    /// to be told of the proxy's address.
    pub fn listening_on(listener: TcpListener, target: &str) -> Self {
        let address = listener.local_addr().unwrap();
        let stalled = Arc::new(watch::Sender::new(Stalled::default()));
        let connections = Arc::new(AtomicUsize::new(0));
        let target = target.to_owned();
        let held = Arc::new(AtomicUsize::new(0));
        let (stall, count) = (Arc::clone(&stalled), Arc::clone(&connections));
        let holding = Arc::clone(&held);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let (target, stall) = (target.clone(), stall.subscribe());
                let held = Arc::clone(&holding);
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(&target).await {
                        let (from_client, to_client) = client.into_split();
                        let (from_server, to_server) = server.into_split();
                        tokio::join!(
                            carry(from_client, to_server, stall.clone(), number, &held),
                            carry(from_server, to_client, stall, number, &held)
                        );
                    }
                });
            }
        });
        Self {
            address,
            stalled,
            connections,
            held,
            listening,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries no more bytes, of old connections or new.
    pub fn stall(&self) {
        self.stalled.send_modify(|stalled| stalled.all = true);
    }

    /// Carries the bytes of new connections; what the old ones were given waits
    /// on.
    pub fn go_on_anew(&self) {
        let before = self.connections.load(Ordering::Relaxed);
        self.stalled.send_replace(Stalled { all: false, before });
    }

    /// Carries them again, also those that waited.
    pub fn go_on(&self) {
        self.stalled.send_replace(Stalled::default());
    }

    /// How many pieces of what it was given wait to be carried.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut stalled: watch::Receiver<Stalled>,
    number: usize,
    held: &AtomicUsize,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let flows = |stalled: &Stalled| !stalled.is(number);
        held.fetch_add(1, Ordering::Relaxed);
        let carried = stalled.wait_for(flows).await.is_ok() && to.write_all(&buffer[..read]).await.is_ok();
        held.fetch_sub(1, Ordering::Relaxed);
        if !carried {
            return;
        }
    }
}
