//! TLS as libpq's parameters describe it, by rustls.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::certificate;
use super::error::{Cause, Refusal};
use super::verifier::{Check, Verifier};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disable,
    /// Without TLS unless the server wants it.
    Allow,
    /// With TLS unless the server does not want it.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl TlsMode {
    pub(super) const WORDS: [(&'static str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(super) fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, mode)| *mode == self)
            .map_or("", |(word, _)| word)
    }
}

/// Whose certificates are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// Nobody's; with `verify-full` the system's.
    Unnamed,
    System,
    Named(Pem),
}

/// Certificates or a key in PEM form: a file, read anew at every connection,
/// or the text itself.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pem {
    File(PathBuf),
    Text { of: &'static str, text: Arc<[u8]> },
}

impl Pem {
    fn read(&self, key: &str) -> Result<Cow<'_, [u8]>, Refusal> {
        match self {
            Self::Text { text, .. } => Ok(Cow::Borrowed(text)),
            Self::File(file) => std::fs::read(file)
                .map(Cow::Owned)
                .map_err(|e| unusable(format!("cannot read {key} {self}: {e}"))),
        }
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Text { of, .. } => f.write_str(of),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Versions of TLS that rustls speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsVersion {
    V12,
    V13,
}

impl TlsVersion {
    /// Older ones are never spoken, so that they may be asked for as the least.
    pub(super) const AT_LEAST: [(&'static str, Self); 4] = [
        ("TLSv1", Self::V12),
        ("TLSv1.1", Self::V12),
        ("TLSv1.2", Self::V12),
        ("TLSv1.3", Self::V13),
    ];
    pub(super) const AT_MOST: [(&'static str, Self); 2] = [("TLSv1.2", Self::V12), ("TLSv1.3", Self::V13)];
}

/// What the connection string says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub(super) mode: TlsMode,
    pub(super) roots: Roots,
    /// Our own certificate and its key.
    pub(super) identity: Option<(Pem, Pem)>,
    /// TLS from the first byte (PostgreSQL 17), without asking for it.
    pub(super) direct: bool,
    pub(super) min: TlsVersion,
    pub(super) max: TlsVersion,
}

impl TlsSettings {
    fn check(&self) -> Check {
        match (self.mode, &self.roots) {
            (TlsMode::VerifyFull, _) => Check::ChainAndName,
            // As libpq does it: who names an authority wants it checked.
            (TlsMode::VerifyCa, _) | (TlsMode::Require, Roots::Named(_)) => Check::Chain,
            _ => Check::Nothing,
        }
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        [
            (TlsVersion::V13, &rustls::version::TLS13),
            (TlsVersion::V12, &rustls::version::TLS12),
        ]
        .into_iter()
        .filter(|(version, _)| (self.min..=self.max).contains(version))
        .map(|(_, version)| version)
        .collect()
    }

    /// Reads the files as they are now, so that renewed certificates are used
    /// from the next connection on.
    pub(super) fn load(&self) -> Result<Arc<ClientConfig>, Refusal> {
        let check = self.check();
        let trusted = match (&self.roots, check) {
            (_, Check::Nothing) => Vec::new(),
            (Roots::Named(pem), _) => certificates(pem, "sslrootcert")?,
            (Roots::System | Roots::Unnamed, _) => system_roots()?,
        };
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
        if check != Check::Nothing && added == 0 {
            return Err(unusable(
                "sslrootcert holds no certificate that can be an authority's".into(),
            ));
        }
        // A self-signed server certificate that is named as its own authority.
        let pinned = match self.roots {
            Roots::Named(_) => trusted,
            _ => Vec::new(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(check, roots, pinned, &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions())
            .map_err(|e| unusable(format!("ssl_min_protocol_version, ssl_max_protocol_version: {e}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert, "sslcert")?;
                let private = private_key(key)?;
                builder.with_client_auth_cert(chain, private).map_err(|e| {
                    unusable(format!(
                        "sslcert {cert} and sslkey {key} do not fit together: {e}"
                    ))
                })?
            }
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Arc::new(config))
    }

    /// The name that a server must have.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, Refusal> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.check() == Check::ChainAndName => Err(Refusal {
                cause: Cause::ServerName,
                reason: format!("\"{host}\" is no name that a certificate can have"),
            }),
            // No name is told to the server then, and none is checked.
            Err(_) => Ok(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]))),
        }
    }
}

fn unusable(reason: String) -> Refusal {
    Refusal {
        cause: Cause::OwnFiles,
        reason,
    }
}

fn certificates(pem: &Pem, key: &str) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let text = pem.read(key)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(format!("{key} {pem} holds no certificate in PEM form"))),
        Err(error) => Err(unusable(format!("{key} {pem}: {error}"))),
    }
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, Refusal> {
    let text = pem.read("sslkey")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let encrypted = String::from_utf8_lossy(&text).contains("ENCRYPTED");
        unusable(if encrypted {
            format!("sslkey {pem} has a passphrase, which is not supported: use a key without")
        } else {
            format!("sslkey {pem} holds no private key in PEM form: {error}")
        })
    })
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(unusable(format!(
            "this system has no trusted authorities ({}); install ca-certificates or name the authority's file in sslrootcert",
            errors.join(", ")
        )));
    }
    Ok(found.certs)
}

/// Does the handshake on a connection whose server has agreed to TLS.
pub(super) struct Handshake {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let connector = TlsConnector::from(self.config);
            connector.connect(self.name, stream).await.map(Encrypted)
        })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        certificates
            .and_then(<[_]>::first)
            .and_then(|certificate| certificate::end_point_hash(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
