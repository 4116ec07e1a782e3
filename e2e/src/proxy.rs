//! A TCP proxy that can stop carrying bytes while it keeps its connections:
//! a server that accepts and then says nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// See the module's description. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    stalled: Arc<watch::Sender<bool>>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `host:port`.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stalled = Arc::new(watch::Sender::new(false));
        let target = target.to_owned();
        let stall = Arc::clone(&stalled);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, stall) = (target.clone(), stall.subscribe());
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(&target).await {
                        let (from_client, to_client) = client.into_split();
                        let (from_server, to_server) = server.into_split();
                        tokio::join!(
                            carry(from_client, to_server, stall.clone()),
                            carry(from_server, to_client, stall)
                        );
                    }
                });
            }
        });
        Self {
            address,
            stalled,
            listening,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries no more bytes, of old connections or new.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Carries them again, also those that waited.
    pub fn go_on(&self) {
        self.stalled.send_replace(false);
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
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
