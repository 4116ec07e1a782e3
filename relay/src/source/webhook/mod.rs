//! The listener for webhooks: one in each relay that is given an address.
//!
//! A request is answered with success only after the transaction that has it
//! in the inbox is committed. Any relay of the group stores what comes to it,
//! whoever owns the pipeline: the fence is the pipeline's row. The listener
//! lives as long as the relay, over all its database sessions.

mod answer;
mod exchange;
pub(crate) mod keys;
mod lane;
mod request;
mod routes;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use routes::Routes;

use self::exchange::Exchange;
use crate::database::{Database, Pool, Profile};
use crate::status::{Intake, Metrics};

/// Connections at the same time; further ones wait to be accepted.
const CONNECTIONS: u64 = 10_000;
/// Files that the relay needs besides.
const OTHER_FILES: u64 = 512;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Of all bodies that are received or stored.
const MEMORY: usize = 256 << 20;
/// Sessions that store.
const WRITERS: usize = 4;
/// Of a request's line and headers.
const HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 256;
/// For a request's head to come, and for a connection to be idle before: longer
/// than usual proxies keep theirs, so that they are the ones to close it.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// What is in flight at the end is settled within this.
const DRAIN: Duration = Duration::from_secs(8);
/// When no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module's description.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    connections: Arc<Semaphore>,
    exchange: Arc<Exchange>,
}

impl Listener {
    /// Listens; requests are answered once [`Listener::run`] runs.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) fn bind(
        address: SocketAddr,
        database: Database,
        relay_group: &str,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        let connections = CONNECTIONS.min(files().saturating_sub(OTHER_FILES)).max(16);
        tracing::info!(%address, connections, "listening for webhooks");
        let pool = Arc::new(Pool::new(database, Profile::Write, WRITERS));
        Ok(Self {
            socket,
            address,
            connections: Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(16))),
            exchange: Arc::new(Exchange {
                routes: Routes::new(pool, Arc::clone(metrics)),
                relay_group: relay_group.to_owned(),
                memory: Arc::new(Semaphore::new(MEMORY)),
                draining: CancellationToken::new(),
                nobody: Intake::new(metrics, ""),
            }),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where sessions put the configuration.
    pub(crate) fn routes(&self) -> Routes {
        self.exchange.routes.clone()
    }

    /// Serves until told to stop; then takes nothing more, settles what it has,
    /// and closes. Until that is done new connections are told to come again.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let open = TaskTracker::new();
        self.accept(&open, stop.cancelled()).await;
        self.exchange.draining.cancel();
        let settled = async {
            open.close();
            open.wait().await;
        };
        let late = TaskTracker::new();
        tokio::select! {
            () = settled => {}
            () = self.accept(&late, tokio::time::sleep(DRAIN)) => {
                tracing::warn!(connections = open.len(), "stopped before all webhooks were answered; their senders send them again");
            }
        }
        self.exchange.routes.close(DRAIN).await;
    }

    /// Accepts connections until this is done.
    async fn accept(&self, open: &TaskTracker, done: impl Future<Output = ()>) {
        tokio::pin!(done);
        loop {
            let next = async {
                let place = Arc::clone(&self.connections).acquire_owned().await;
                Ok::<_, io::Error>((self.socket.accept().await?.0, place.ok()))
            };
            let accepted = tokio::select! {
                biased;
                () = &mut done => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    drop(open.spawn(serve(stream, Arc::clone(&self.exchange), place)));
                }
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, exchange: Arc<Exchange>, place: Option<OwnedSemaphorePermit>) {
    let _ = stream.set_nodelay(true);
    let draining = exchange.draining.clone();
    let late = draining.is_cancelled();
    let service = service_fn(|request| {
        let exchange = Arc::clone(&exchange);
        async move { Ok::<_, Infallible>(exchange.answer(request).await.response()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if late { PAUSE * 10 } else { HEAD_WITHIN })
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(!late)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How a connection ends is the sender's matter.
    tokio::select! {
        _ = &mut connection => {}
        () = draining.cancelled(), if !late => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(place);
}

/// How many files this process may have open: as many as it may ask for.
fn files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, wanted).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}
