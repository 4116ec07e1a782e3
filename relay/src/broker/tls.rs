//! TLS of client libraries that speak it by rustls: from options to a
//! configuration, and its errors in words.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::rustls::client::ResolvesClientCert;
use async_nats::rustls::crypto::{CryptoProvider, ring};
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::sign::CertifiedKey;
use async_nats::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore, SignatureScheme,
};

use parking_lot::Mutex;

use crate::config::{SecretError, TlsSpec};

/// A change of the system's certificates is seen after so long.
const KEEP_ROOTS: Duration = Duration::from_mins(5);

/// Why the options give no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("\"{key}\": {error}")]
    Unreadable { key: &'static str, error: SecretError },
    #[error("\"{key}\": {reason}")]
    Bad { key: &'static str, reason: String },
    #[error("{0}")]
    Other(#[from] Error),
}

/// A client's configuration.
pub(crate) struct ClientTls {
    pub(crate) config: ClientConfig,
    has_ca: bool,
    certificate: Arc<OwnCertificate>,
}

/// Gives our certificate to servers that ask for one, and remembers that one
/// asked: what a server says to a client without is often lost in the closing
/// of the connection.
#[derive(Debug)]
struct OwnCertificate {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientTls {
    /// Reads certificates and key as they are now.
    pub(crate) fn read(spec: &TlsSpec) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = match &spec.ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                let pem = ca.read().map_err(unreadable("tls_ca"))?;
                for certificate in certificates("tls_ca", &pem)? {
                    roots
                        .add(certificate)
                        .map_err(|e| bad("tls_ca", format!("a certificate cannot be used: {e}")))?;
                }
                Arc::new(roots)
            }
            None => system_roots(),
        };
        let certificate = Arc::new(OwnCertificate {
            key: own_key(spec, &provider)?.map(Arc::new),
            asked: AtomicBool::new(false),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesClientCert>);
        Ok(Self {
            config,
            has_ca: spec.ca.is_some(),
            certificate,
        })
    }

    /// Before another server is tried.
    pub(crate) fn forget_server(&self) {
        self.certificate.asked.store(false, Ordering::Relaxed);
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.certificate.key.is_some()
    }

    /// What this error of a connection says of TLS, if anything.
    pub(crate) fn explain(&self, error: &(dyn StdError + 'static)) -> Option<String> {
        let found = find(error);
        if let Some(Error::InvalidCertificate(reason)) = found {
            return Some(self.refused_by_us(reason));
        }
        // Whatever the error is: a server that asked for a certificate ends the
        // connection when it gets none, or none that it takes.
        if self.certificate.asked.load(Ordering::Relaxed) {
            return Some(if self.has_certificate() {
                format!(
                    "the server does not accept the client certificate in \"tls_cert\"{}",
                    alert(found)
                )
            } else {
                "the server demands a client certificate; set \"tls_cert\" and \"tls_key\"".into()
            });
        }
        Some(match found? {
            Error::InvalidMessage(_) => {
                "the server does not speak TLS on this port; enable it there, or take TLS out of the options"
                    .into()
            }
            Error::AlertReceived(_) => format!("the server ended the TLS handshake{}", alert(found)),
            other => format!("TLS: {other}"),
        })
    }

    fn refused_by_us(&self, reason: &CertificateError) -> String {
        match reason {
            CertificateError::UnknownIssuer if self.has_ca => {
                "the server's certificate is not signed by the authority in \"tls_ca\" (wrong CA)".into()
            }
            CertificateError::UnknownIssuer => {
                "the server's certificate is signed by no authority that the system trusts; set \"tls_ca\" to the certificate of its authority"
                    .into()
            }
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "the server's certificate is not for the host name \"{}\" (wrong host name); it is for: {}",
                expected.to_str(),
                names(presented)
            ),
            CertificateError::NotValidForName => {
                "the server's certificate is not for this host name (wrong host name)".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired, or this machine's clock is wrong".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet, or this machine's clock is wrong".into()
            }
            other => format!("the server's certificate is refused: {other}"),
        }
    }
}

/// `DnsName("a.example")` as a.example.
pub(crate) fn names(presented: &[String]) -> String {
    let plain: Vec<&str> = presented
        .iter()
        .map(|name| name.split('"').nth(1).unwrap_or(name))
        .collect();
    if plain.is_empty() {
        "no host name".into()
    } else {
        plain.join(", ")
    }
}

fn alert(error: Option<&Error>) -> String {
    match error {
        Some(Error::AlertReceived(AlertDescription::UnknownCA)) => ": its authority is unknown there".into(),
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => ": it has expired".into(),
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => ": no TLS version in common".into(),
        Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) => ": no algorithms in common".into(),
        Some(Error::AlertReceived(alert)) => format!(" ({alert:?})"),
        _ => String::new(),
    }
}

/// The library's error in a chain of errors. The one inside an I/O error is
/// not its source.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    if let Some(found) = error.downcast_ref::<Error>() {
        return Some(found);
    }
    if let Some(inner) = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        && let Some(found) = find(inner as &'a (dyn StdError + 'static))
    {
        return Some(found);
    }
    find(error.source()?)
}

/// What the system trusts; if nothing, servers fail by an unknown authority.
/// Kept for a while: reading it costs milliseconds, and a thousand pipelines
/// may connect at once.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    static KEPT: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::new(None);
    let mut kept = KEPT.lock();
    if let Some((since, roots)) = &*kept
        && since.elapsed() < KEEP_ROOTS
    {
        return Arc::clone(roots);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let roots = Arc::new(roots);
    *kept = Some((Instant::now(), Arc::clone(&roots)));
    roots
}

fn unreadable(key: &'static str) -> impl FnOnce(SecretError) -> TlsError {
    move |error| TlsError::Unreadable { key, error }
}

fn bad(key: &'static str, reason: impl Into<String>) -> TlsError {
    TlsError::Bad {
        key,
        reason: reason.into(),
    }
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| bad(key, "is not PEM"))?;
    if found.is_empty() {
        return Err(bad(
            key,
            "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(found)
}

fn own_key(spec: &TlsSpec, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, TlsError> {
    let (Some(cert), Some(key)) = (&spec.cert, &spec.key) else {
        return Ok(None);
    };
    let chain = certificates("tls_cert", &cert.read().map_err(unreadable("tls_cert"))?)?;
    let key = key.read().map_err(unreadable("tls_key"))?;
    // The library's own words might quote the key.
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| {
        bad(
            "tls_key",
            "holds no private key in PEM (an encrypted one cannot be used)",
        )
    })?;
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(key) => Ok(Some(key)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(bad(
            "tls_key",
            "is not the key of the certificate in \"tls_cert\"",
        )),
        Err(_) => Err(bad("tls_key", "is of a kind that cannot be used")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn plain() -> ClientTls {
        ClientTls::read(&TlsSpec::default()).unwrap()
    }

    fn wrapped(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn causes_are_told_apart() {
        let issuer = wrapped(CertificateError::UnknownIssuer.into());
        assert!(plain().explain(&issuer).unwrap().contains("set \"tls_ca\""));
        let name = CertificateError::NotValidForNameContext {
            expected: "localhost".try_into().unwrap(),
            presented: vec!["DnsName(\"nats.example\")".into()],
        };
        let text = plain().explain(&wrapped(name.into())).unwrap();
        assert!(
            text.contains("host name \"localhost\"") && text.ends_with("for: nats.example"),
            "{text}"
        );
        assert_eq!(plain().explain(&io::Error::other("broken pipe")), None);
    }

    #[test]
    fn a_server_that_asks_for_a_certificate_is_remembered() {
        let tls = plain();
        assert!(tls.certificate.resolve(&[], &[]).is_none());
        let text = tls
            .explain(&io::Error::from(io::ErrorKind::ConnectionReset))
            .unwrap();
        assert!(text.contains("demands a client certificate"), "{text}");
    }

    #[test]
    fn what_is_no_certificate_is_named_and_not_shown() {
        for (ca, want) in [
            ("hunter2", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\nhunter2!", "\"tls_ca\""),
        ] {
            let spec = TlsSpec {
                ca: Some(ca.parse().unwrap()),
                ..TlsSpec::default()
            };
            let error = ClientTls::read(&spec).err().unwrap().to_string();
            assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
        }
    }
}
