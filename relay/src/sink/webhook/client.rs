//! HTTP/1.1 to one server. The address that is connected to is one that was
//! looked up and checked here; nothing redirects, nothing goes by a proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{LOCATION, RETRY_AFTER};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use super::address;
use super::answer::Answer;
use crate::broker::tls::ClientTls;
use crate::config::{Endpoint, TlsSpec};
use crate::failure::with_causes;

/// Of a body, kept to be shown.
const KEPT: usize = 4 * 1024;
/// A longer one is not read to its end; the connection is given up instead.
const READ: usize = 256 * 1024;

pub(super) type Outgoing = Request<Full<Bytes>>;

/// See the module's description.
pub(super) struct Client {
    host: String,
    port: u16,
    tls: Option<(ClientTls, TlsConnector, ServerName<'static>)>,
    allow_private: bool,
    timeout: Duration,
}

/// An open connection, for one request after the other.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _task: AbortOnDropHandle<()>,
}

impl Client {
    /// # Errors
    /// What is wrong with the certificates or the host.
    pub(super) fn new(
        endpoint: &Endpoint,
        tls: &TlsSpec,
        allow_private: bool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let tls = if endpoint.https {
            let mut client = ClientTls::read(tls).map_err(|e| e.to_string())?;
            client.config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let connector = TlsConnector::from(Arc::new(client.config.clone()));
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|_| "the host in \"url\" is no name that TLS can check".to_owned())?;
            Some((client, connector, name))
        } else {
            None
        };
        Ok(Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            tls,
            allow_private,
            timeout,
        })
    }

    /// Sends a request, on this connection if it still holds, and gives back one
    /// that can be used again.
    ///
    /// # Errors
    /// In words, why there is no answer.
    pub(super) async fn post(
        &self,
        request: Outgoing,
        connection: Option<Connection>,
    ) -> (Result<Answer, String>, Option<Connection>) {
        let exchange = tokio::time::timeout(self.timeout, self.try_post(request, connection));
        match exchange.await {
            Ok(Ok((answer, connection))) => (Ok(answer), connection),
            Ok(Err(reason)) => (Err(reason), None),
            Err(_) => (
                Err(format!(
                    "no answer within {} (\"timeout\")",
                    super::in_words(self.timeout)
                )),
                None,
            ),
        }
    }

    /// Connects and sends nothing.
    ///
    /// # Errors
    /// In words, why there is no connection.
    pub(super) async fn reach(&self) -> Result<(), String> {
        match tokio::time::timeout(self.timeout, self.connect()).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(format!("no connection within {}", super::in_words(self.timeout))),
        }
    }

    async fn try_post(
        &self,
        request: Outgoing,
        connection: Option<Connection>,
    ) -> Result<(Answer, Option<Connection>), String> {
        if let Some(mut connection) = connection
            && connection.sender.ready().await.is_ok()
        {
            match connection.sender.send_request(request.clone()).await {
                Ok(response) => return Ok(read(response, connection).await),
                // The server may have ended an idle connection as we began; the
                // id tells the receiver that it is the same request.
                Err(error) if error.is_canceled() || error.is_incomplete_message() => {}
                Err(error) => return Err(self.explain(&error)),
            }
        }
        let mut connection = self.connect().await?;
        let response = connection
            .sender
            .send_request(request)
            .await
            .map_err(|e| self.explain(&e))?;
        Ok(read(response, connection).await)
    }

    fn explain(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let tls = self.tls.as_ref().and_then(|(tls, ..)| tls.explain(error));
        tls.unwrap_or_else(|| with_causes(error))
    }

    /// The addresses of the host that may be connected to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let found: Vec<SocketAddr> = match self.host.parse::<IpAddr>() {
            Ok(address) => vec![(address, self.port).into()],
            Err(_) => tokio::net::lookup_host((self.host.as_str(), self.port))
                .await
                .map_err(|e| format!("the host cannot be looked up: {e}"))?
                .collect(),
        };
        let refused = found.iter().find_map(|a| self.refusal(a.ip()));
        let allowed: Vec<SocketAddr> = found
            .into_iter()
            .filter(|a| self.refusal(a.ip()).is_none())
            .collect();
        match (allowed.is_empty(), refused) {
            (true, Some(reason)) => Err(reason),
            (true, None) => Err("the host has no address".into()),
            _ => Ok(allowed),
        }
    }

    fn refusal(&self, address: IpAddr) -> Option<String> {
        let kind = address::kind(address).filter(|_| !self.allow_private)?;
        Some(format!(
            "the host is at {address}, {kind} address, which is not connected to; set \"allow_private\" to true if it is meant"
        ))
    }

    async fn connect(&self) -> Result<Connection, String> {
        let addresses = self.addresses().await?;
        let mut stream = None;
        let mut reason = String::new();
        // One that does not answer leaves time for the others.
        let share = self.timeout / u32::try_from(addresses.len() + 1).unwrap_or(2);
        for address in &addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(connected)) => {
                    stream = Some(connected);
                    break;
                }
                Ok(Err(error)) => reason = format!("cannot connect to {address}: {error}"),
                Err(_) => {
                    reason = format!("cannot connect to {address} within {}", super::in_words(share));
                }
            }
        }
        let stream = stream.ok_or(reason)?;
        let peer = stream
            .peer_addr()
            .map_err(|e| format!("the connection was lost: {e}"))?;
        if let Some(reason) = self.refusal(peer.ip()) {
            return Err(reason);
        }
        // A request is written at once and waited for.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some((tls, connector, name)) => {
                tls.forget_server();
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|e| self.explain(&e))?;
                handshake(TokioIo::new(stream)).await
            }
        }
    }
}

async fn handshake<T>(io: TokioIo<T>) -> Result<Connection, String>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(io).await.map_err(|e| with_causes(&e))?;
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its end is told to the sender.
        let _ = connection.await;
    }));
    Ok(Connection { sender, _task: task })
}

async fn read(response: Response<Incoming>, connection: Connection) -> (Answer, Option<Connection>) {
    let (head, mut body) = response.into_parts();
    let text = |name| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut answer = Answer {
        status: head.status,
        retry_after: text(RETRY_AFTER),
        location: text(LOCATION),
        body: Vec::new(),
    };
    let mut read = 0;
    let whole = loop {
        match body.frame().await {
            None => break true,
            // The status has been said; the rest of the body changes nothing.
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                read += data.len();
                let room = KEPT - answer.body.len();
                answer.body.extend_from_slice(&data[..data.len().min(room)]);
                if read > READ {
                    break false;
                }
            }
        }
    };
    (answer, whole.then_some(connection))
}
