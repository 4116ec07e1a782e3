//! A receiver of webhooks: a real HTTP server that records what comes and
//! answers as it is told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::certs::{Authority, Certificate};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// POST, if all is well.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case; of several values the last.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
    /// When it had come whole.
    pub at: Instant,
    /// Which connection it came by.
    pub connection: usize,
}

impl Received {
    /// A header's value.
    ///
    /// # Panics
    /// When there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    after: Duration,
}

impl Answer {
    /// This status, at once and with an empty body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// Only after this time.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

type Behaviour = Box<dyn FnMut(&Received) -> Answer + Send>;

struct State {
    received: Vec<Received>,
    behaviour: Behaviour,
    connections: usize,
    /// Requests that are being answered, and the most there were at once.
    open: usize,
    most_open: usize,
}

/// See the module's description. Everything ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: JoinHandle<()>,
}

impl Receiver {
    /// A receiver that takes everything.
    pub async fn start() -> Self {
        Self::listen("127.0.0.1:0", None).await
    }

    /// The same, on an address.
    pub async fn start_at(address: &str) -> Self {
        Self::listen(address, None).await
    }

    /// The same over TLS. With `clients`, only for holders of a certificate of
    /// that authority.
    pub async fn start_tls(certificate: &Certificate, clients: Option<&Authority>) -> Self {
        let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_file_iter(path)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap()
        };
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(&authority.ca) {
                    roots.add(certificate).unwrap();
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
        let config = config
            .with_single_cert(certificates(&certificate.cert), key)
            .unwrap();
        Self::listen("127.0.0.1:0", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            received: Vec::new(),
            behaviour: Box::new(|_| Answer::status(204)),
            connections: 0,
            open: 0,
            most_open: 0,
        }));
        let shared = Arc::clone(&state);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(TokioIo::new(stream), state).await,
                        Some(tls) => serve_tls(&tls, stream, state).await,
                    }
                });
            }
        });
        Self {
            address,
            state,
            listening,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on each request is answered by this.
    pub fn answer(&self, behaviour: impl FnMut(&Received) -> Answer + Send + 'static) {
        self.state.lock().unwrap().behaviour = Box::new(behaviour);
    }

    /// What has come so far, in the order of its coming.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// How much has come so far.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap().received.len()
    }

    /// The most requests that there were at once.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most_open
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve_tls(tls: &TlsAcceptor, stream: TcpStream, state: Arc<Mutex<State>>) {
    if let Ok(stream) = tls.accept(stream).await {
        serve(TokioIo::new(stream), state).await;
    }
}

async fn serve<T>(io: TokioIo<T>, state: Arc<Mutex<State>>)
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let connection = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        state.connections
    };
    let service = service_fn(|request| respond(request, Arc::clone(&state), connection));
    // How a connection ends is the client's matter.
    let _ = http1::Builder::new()
        .max_headers(2_000)
        .max_buf_size(1 << 20)
        .serve_connection(io, service)
        .await;
}

async fn respond(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    connection: usize,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::default());
    };
    let received = Received {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), value)
            })
            .collect(),
        body: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        at: Instant::now(),
        connection,
    };
    let answer = {
        let mut state = state.lock().unwrap();
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
        let answer = (state.behaviour)(&received);
        state.received.push(received);
        answer
    };
    if !answer.after.is_zero() {
        tokio::time::sleep(answer.after).await;
    }
    state.lock().unwrap().open -= 1;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(answer.body)).unwrap())
}
