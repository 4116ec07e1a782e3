//! From a [`Target`] to a session: look-up, connection, TLS, authentication,
//! step by step, so that an error says at which it was.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use rand::seq::SliceRandom;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Connection, NoTls};

use super::error::{Cause, Refusal};
use super::target::{Place, Target, Wanted};
use super::tls::{Encrypted, Handshake, TlsMode};

/// Bytes to and from a server, over TCP or a Unix socket.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
type BoxedWire = Box<dyn Wire>;

/// What reads the connection, by whether it is encrypted.
pub(super) enum Reader {
    Plain(Box<Connection<BoxedWire, tokio_postgres::tls::NoTlsStream>>),
    Encrypted(Box<Connection<BoxedWire, Encrypted<BoxedWire>>>),
}

/// Whether a connection is to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    No,
    IfOffered,
    Yes,
}

/// What is tried one after the other at each server.
fn encryptions(mode: TlsMode) -> &'static [Encryption] {
    match mode {
        TlsMode::Disable => &[Encryption::No],
        TlsMode::Allow => &[Encryption::No, Encryption::Yes],
        TlsMode::Prefer => &[Encryption::IfOffered, Encryption::No],
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[Encryption::Yes],
    }
}

/// Whether another encryption may help: what libpq tries again for, except
/// that a wrong password is not sent twice.
fn worth_another(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Handshake
            | Cause::ClientCertificate
            | Cause::NoEntry
            | Cause::Expired
            | Cause::UnknownAuthority
    )
}

/// Connects to the first server that lets us in.
pub(super) async fn dial(target: &Target, application: &str) -> Result<(Client, Reader), Refusal> {
    let tls = match target.tls.mode {
        TlsMode::Disable => None,
        _ => Some(target.tls.load()?),
    };
    let mut startup = target.startup.clone();
    startup.application_name(application);
    let dialler = Dialler { target, tls, startup };
    let mut servers = target.servers.clone();
    if target.shuffled {
        servers.shuffle(&mut rand::rng());
    }
    let mut furthest: Option<Refusal> = None;
    for (place, port) in servers {
        match dialler.server(&place, port).await {
            Ok(connected) => return Ok(connected),
            Err(refusal) => keep_furthest(&mut furthest, refusal),
        }
    }
    Err(furthest.unwrap_or_else(|| Refusal::new(Cause::Other, "there is no server to connect to")))
}

fn keep_furthest(furthest: &mut Option<Refusal>, refusal: Refusal) {
    if furthest.as_ref().is_none_or(|f| f.cause < refusal.cause) {
        *furthest = Some(refusal);
    }
}

struct Dialler<'a> {
    target: &'a Target,
    tls: Option<Arc<ClientConfig>>,
    startup: Config,
}

impl Dialler<'_> {
    async fn server(&self, place: &Place, port: u16) -> Result<(Client, Reader), Refusal> {
        let (addresses, name): (Vec<IpAddr>, String) = match place {
            Place::Unix(folder) => {
                // Not encrypted, whatever sslmode says: as libpq has it.
                return self
                    .within_time(self.until(), Cause::Silent, self.unix(folder, port))
                    .await;
            }
            Place::Address(ip, name) => (vec![*ip], name.clone().unwrap_or_else(|| ip.to_string())),
            Place::Name(name) => (self.look_up(name, port).await?, name.clone()),
        };
        let mut furthest = None;
        for ip in addresses {
            match self.address(SocketAddr::new(ip, port), &name).await {
                Ok(connected) => return Ok(connected),
                Err(refusal) => keep_furthest(&mut furthest, refusal),
            }
        }
        Err(furthest.unwrap_or_else(|| Refusal::new(Cause::UnknownHost, format!("{name} has no address"))))
    }

    async fn look_up(&self, name: &str, port: u16) -> Result<Vec<IpAddr>, Refusal> {
        let looking = tokio::net::lookup_host((name.to_owned(), port));
        let why = match tokio::time::timeout(self.target.connect_timeout, looking).await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = found.map(|a| a.ip()).collect();
                if self.target.shuffled {
                    addresses.shuffle(&mut rand::rng());
                }
                return Ok(addresses);
            }
            Ok(Err(error)) => format!("is not known ({error})"),
            Err(_) => "could not be looked up in time".to_owned(),
        };
        Err(Refusal::new(
            Cause::UnknownHost,
            format!("the host \"{name}\" {why}"),
        ))
    }

    async fn address(&self, address: SocketAddr, name: &str) -> Result<(Client, Reader), Refusal> {
        let mut of_tls = None;
        for encryption in encryptions(self.target.tls.mode) {
            let refusal = match self.tcp(address, name, *encryption).await {
                Ok(connected) => return Ok(connected),
                Err(refusal) => refusal,
            };
            let again = worth_another(refusal.cause);
            // What went wrong with TLS says more than that it also does without.
            if of_tls.is_none() || *encryption != Encryption::No {
                of_tls = Some(refusal);
            }
            if !again {
                break;
            }
        }
        Err(of_tls.unwrap_or_else(|| Refusal::new(Cause::Other, "nothing was tried")))
    }

    /// The time limit is one for the connection and for what follows; which
    /// of them is late makes a difference to a person.
    async fn within_time<T>(
        &self,
        until: Instant,
        late: Cause,
        doing: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout_at(until, doing).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::new(
                late,
                format!("no answer within {} s", self.target.connect_timeout.as_secs()),
            )),
        }
    }

    fn until(&self) -> Instant {
        Instant::now() + self.target.connect_timeout
    }

    async fn unix(&self, folder: &Path, port: u16) -> Result<(Client, Reader), Refusal> {
        let path = folder.join(format!(".s.PGSQL.{port}"));
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|e| Refusal::new(Cause::Refused, format!("{}: {e}", path.display())))?;
        self.start_plain(Box::new(stream)).await
    }

    async fn tcp(
        &self,
        address: SocketAddr,
        name: &str,
        encryption: Encryption,
    ) -> Result<(Client, Reader), Refusal> {
        let until = self.until();
        let connecting = async {
            TcpStream::connect(address)
                .await
                .map_err(|e| Refusal::new(network_cause(&e), format!("{address}: {e}")))
        };
        let stream = self.within_time(until, Cause::Unreachable, connecting).await?;
        self.tune(&stream)
            .map_err(|e| Refusal::new(Cause::Other, format!("{address}: {e}")))?;
        let starting = self.start(Box::new(stream), name, encryption);
        self.within_time(until, Cause::Silent, starting).await
    }

    async fn start(
        &self,
        mut stream: BoxedWire,
        name: &str,
        encryption: Encryption,
    ) -> Result<(Client, Reader), Refusal> {
        let tls = match (encryption, &self.tls) {
            (Encryption::No, _) | (_, None) => None,
            (_, Some(config)) => {
                let offered = self.target.tls.direct || ask_for_tls(&mut stream).await?;
                if !offered && encryption == Encryption::Yes {
                    return Err(Refusal::new(
                        Cause::NoTls,
                        format!(
                            "the server does not support TLS, which sslmode={} requires",
                            self.target.tls.mode.word()
                        ),
                    ));
                }
                offered.then_some(config)
            }
        };
        let connected = match tls {
            None => self.start_plain(stream).await?,
            Some(config) => {
                let name = self.target.tls.server_name(name)?;
                self.start_encrypted(stream, Arc::clone(config), name).await?
            }
        };
        self.check_wanted(connected).await
    }

    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        socket.set_tcp_user_timeout(Some(self.target.user_timeout))?;
        if let Some(keepalive) = &self.target.keepalive {
            let mut tuning = TcpKeepalive::new().with_time(keepalive.idle);
            if let Some(interval) = keepalive.interval {
                tuning = tuning.with_interval(interval);
            }
            if let Some(count) = keepalive.count {
                tuning = tuning.with_retries(count);
            }
            socket.set_tcp_keepalive(&tuning)?;
        }
        Ok(())
    }

    async fn start_plain(&self, stream: BoxedWire) -> Result<(Client, Reader), Refusal> {
        // Boxed, here and below: the compiler sees that it is Send only so.
        let starting = self.startup.connect_raw(stream, NoTls).boxed();
        let (client, connection) = starting
            .await
            .map_err(|e| Refusal::from_startup(&e, false, false))?;
        Ok((client, Reader::Plain(Box::new(connection))))
    }

    async fn start_encrypted(
        &self,
        stream: BoxedWire,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(Client, Reader), Refusal> {
        let mut startup = self.startup.clone();
        // The server has said yes already: no second question.
        startup
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        let starting = startup.connect_raw(stream, Handshake { config, name }).boxed();
        let (client, connection) = starting
            .await
            .map_err(|e| Refusal::from_startup(&e, true, self.target.tls.identity.is_some()))?;
        Ok((client, Reader::Encrypted(Box::new(connection))))
    }

    /// The session attributes that were asked for. Needs the connection to be
    /// read meanwhile, which nobody does yet.
    async fn check_wanted(&self, connected: (Client, Reader)) -> Result<(Client, Reader), Refusal> {
        if self.target.wanted == Wanted::Any {
            return Ok(connected);
        }
        let (client, mut reader) = connected;
        let asking = client.simple_query("SHOW transaction_read_only");
        let answer = tokio::select! {
            answer = asking => answer,
            () = reader.run() => return Err(Refusal::new(Cause::Other, "the connection ended at once")),
        };
        let messages = answer.map_err(|e| Refusal::new(Cause::Other, super::describe(&e)))?;
        let read_only = messages.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        });
        match (self.target.wanted, read_only) {
            (Wanted::Writable, true) => Err(Refusal::new(Cause::Standby, "the server takes no writes")),
            (Wanted::ReadOnly, false) => Err(Refusal::new(
                Cause::Other,
                "the server takes writes, and target_session_attrs=read-only wants one that does not",
            )),
            _ => Ok((client, reader)),
        }
    }
}

impl Reader {
    /// Drives the connection until it ends, and gives up its messages.
    async fn run(&mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }

    /// The next message that is no answer to a statement.
    pub(super) async fn next(
        &mut self,
    ) -> Option<Result<tokio_postgres::AsyncMessage, tokio_postgres::Error>> {
        std::future::poll_fn(|cx| match self {
            Self::Plain(connection) => connection.poll_message(cx),
            Self::Encrypted(connection) => connection.poll_message(cx),
        })
        .await
    }
}

/// PostgreSQL's own question whether TLS may begin; the answer is one byte.
async fn ask_for_tls(stream: &mut BoxedWire) -> Result<bool, Refusal> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut answer = [0];
    let asked = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await
    };
    if let Err(error) = asked.await {
        return Err(Refusal::new(
            Cause::NotPostgres,
            format!("the other end closed the connection when asked for TLS ({error})"),
        ));
    }
    match answer[0] {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // A server that cannot even start a process for us answers so.
        b'E' => {
            let mut text = Vec::new();
            let mut rest = stream.take(1000);
            let _ = tokio::time::timeout(Duration::from_secs(1), rest.read_to_end(&mut text)).await;
            Err(Refusal::new(
                Cause::NotPostgres,
                format!(
                    "instead of an answer about TLS came an error: {}",
                    printable(&text)
                ),
            ))
        }
        other => Err(Refusal::new(
            Cause::NotPostgres,
            format!(
                "what answers does not speak PostgreSQL's protocol (it begins with {:?})",
                char::from(other)
            ),
        )),
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

fn network_cause(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        _ => Cause::Unreachable,
    }
}
