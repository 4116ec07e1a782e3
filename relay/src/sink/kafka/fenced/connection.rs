//! A connection to one broker: TCP, TLS, login, and requests one after the
//! other until it is split for many at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::protocol::{self, Api, code};
use super::sasl::{Exchange, Hash};
use crate::broker::kafka::{Watch, describe_code};
use crate::broker::tls::ClientTls;
use crate::config::{KafkaConnection, Sasl};

/// For each step of connecting, and for the answer to a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is a few bytes for each partition.
const LARGEST_ANSWER: usize = 64 << 20;
/// A connection that a firewall has forgotten should not be found out by the
/// first message after a pause.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Of a nonce.
const NONCE: usize = 24;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// See the module's description.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    client: String,
    correlation: i32,
    address: String,
}

/// Requests go here.
pub(super) type Requests = WriteHalf<Box<dyn Stream>>;

/// And answers come from here.
pub(super) struct Answers(ReadHalf<Box<dyn Stream>>);

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Why not, in words that begin with the address.
    pub(super) async fn open(watch: &Watch, host: &str, port: u16) -> Result<Self, String> {
        let address = format!("{host}:{port}");
        let connecting = Self::connect(watch.connection(), &address, host, port);
        let mut connection = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(reason)) => return Err(format!("{address}: {reason}")),
            Err(_) => {
                return Err(format!(
                    "{address}: no connection within {} s",
                    PATIENCE.as_secs()
                ));
            }
        };
        match connection.log_in(watch).await {
            Ok(()) => Ok(connection),
            Err(reason) => Err(format!("{address}: {reason}")),
        }
    }

    async fn connect(
        options: &KafkaConnection,
        address: &str,
        host: &str,
        port: u16,
    ) -> Result<Self, String> {
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(|e| e.to_string())?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3);
        SockRef::from(&tcp)
            .set_tcp_keepalive(&keepalive)
            .map_err(|e| e.to_string())?;
        let stream: Box<dyn Stream> = if options.security.protocol.has_tls() {
            let tls = ClientTls::read(&options.security.tls).map_err(|e| e.to_string())?;
            let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
            let connector = TlsConnector::from(Arc::new(tls.config.clone()));
            let stream = connector
                .connect(name, tcp)
                .await
                .map_err(|e| tls.explain(&e).unwrap_or_else(|| e.to_string()))?;
            Box::new(stream)
        } else {
            Box::new(tcp)
        };
        Ok(Self {
            stream,
            client: options.client_id().to_owned(),
            correlation: 0,
            address: address.to_owned(),
        })
    }

    async fn log_in(&mut self, watch: &Watch) -> Result<(), String> {
        let Some(sasl) = &watch.connection().security.sasl else {
            return Ok(());
        };
        let mut exchange = exchange(sasl, watch).await?;
        let offered = protocol::sasl_handshake_request(sasl.mechanism());
        let answer = self.ask(protocol::SASL_HANDSHAKE, &offered).await?;
        let code = protocol::sasl_handshake(answer).map_err(|e| e.to_string())?;
        if code != code::NONE {
            return Err(format!(
                "the login by {} is refused: {}",
                sasl.mechanism(),
                words(code)
            ));
        }
        let mut server = Bytes::new();
        while let Some(message) = exchange.next(&server).map_err(|e| e.to_string())? {
            let message = protocol::sasl_authenticate_request(&message);
            let answer = self.ask(protocol::SASL_AUTHENTICATE, &message).await?;
            let (code, said, bytes) = protocol::sasl_authenticate(answer).map_err(|e| e.to_string())?;
            if code != code::NONE {
                let said = if said.is_empty() { words(code) } else { said };
                return Err(format!("the login by {} is refused: {said}", sasl.mechanism()));
            }
            server = bytes;
        }
        Ok(())
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(&mut self, api: Api, body: &[u8]) -> Result<Bytes, String> {
        self.ask(api, body)
            .await
            .map_err(|reason| format!("{}: {reason}", self.address))
    }

    async fn ask(&mut self, api: Api, body: &[u8]) -> Result<Bytes, String> {
        self.correlation = self.correlation.wrapping_add(1);
        let frame = protocol::frame(api, self.correlation, &self.client, body);
        let exchanged = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await?;
            read_answer(&mut self.stream).await
        };
        match tokio::time::timeout(PATIENCE, exchanged).await {
            Ok(Ok((correlation, answer))) if correlation == self.correlation => Ok(answer),
            Ok(Ok(_)) => Err(protocol::Malformed.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// For requests that do not wait for each other.
    pub(super) fn split(self) -> (Requests, Answers) {
        let (answers, requests) = tokio::io::split(self.stream);
        (requests, Answers(answers))
    }
}

impl Answers {
    /// The next answer and the number of its request. Not cancel-safe.
    pub(super) async fn next(&mut self) -> std::io::Result<(i32, Bytes)> {
        read_answer(&mut self.0).await
    }
}

async fn read_answer(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(i32, Bytes)> {
    let size = usize::try_from(from.read_i32().await?).unwrap_or(usize::MAX);
    if !(4..=LARGEST_ANSWER).contains(&size) {
        return Err(std::io::Error::other(protocol::Malformed));
    }
    let mut answer = vec![0; size];
    from.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    let correlation = answer.get_i32();
    Ok((correlation, answer))
}

async fn exchange(sasl: &Sasl, watch: &Watch) -> Result<Exchange, String> {
    let Sasl::Password {
        mechanism,
        username,
        password,
    } = sasl
    else {
        let watch = watch.clone();
        let token = tokio::task::spawn_blocking(move || watch.token().map_err(|e| e.to_string()))
            .await
            .map_err(|e| e.to_string())??;
        return Ok(Exchange::bearer(&token.token));
    };
    let user = username.read().map_err(|e| e.to_string())?;
    let password = password.read().map_err(|e| e.to_string())?;
    let hash = match *mechanism {
        "SCRAM-SHA-256" => Hash::Sha256,
        "SCRAM-SHA-512" => Hash::Sha512,
        _ => return Ok(Exchange::plain(&user, password.expose())),
    };
    let nonce = rand::rng()
        .sample_iter(Alphanumeric)
        .take(NONCE)
        .map(char::from)
        .collect();
    Ok(Exchange::scram(hash, &user, password.expose(), nonce))
}

/// An error code of the protocol in words.
pub(super) fn words(code: i16) -> String {
    match super::library_code(code) {
        Some(known) => describe_code(known),
        None => format!("error {code}"),
    }
}
