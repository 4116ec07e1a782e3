//! What is wrong with a broker's certificate.
//!
//! librdkafka only says that it cannot be verified, be it that the authority is
//! another, the name does not fit or the time is over. So the broker is asked
//! for it once more, with a library that tells these apart. Nothing is sent but
//! the TLS handshake.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::broker::tls;
use crate::config::KafkaConnection;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the certificate of the broker that a reason of librdkafka begins with
/// is not accepted; none when that cannot be found out.
pub(crate) async fn certificate(connection: &KafkaConnection, reason: &str) -> Option<String> {
    let (host, port) = address(reason)?;
    let config = Arc::new(config(connection)?);
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let error = tokio::time::timeout(TIMEOUT, async {
        let stream = TcpStream::connect((host, port)).await.ok()?;
        TlsConnector::from(config).connect(name, stream).await.err()
    })
    .await
    .ok()??;
    let own = connection.security.tls.ca.is_some();
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(wrong) => Some(words(wrong, host, own)),
        _ => None,
    }
}

/// Host and port of "ssl://host:port/id: ...".
fn address(reason: &str) -> Option<(&str, u16)> {
    let rest = reason.split_once("://")?.1;
    let (address, _) = rest.split_once('/')?;
    let (host, port) = address.rsplit_once(':')?;
    Some((
        host.trim_start_matches('[').trim_end_matches(']'),
        port.parse().ok()?,
    ))
}

fn config(connection: &KafkaConnection) -> Option<ClientConfig> {
    let roots = match &connection.security.tls.ca {
        Some(ca) => {
            let pem = ca.read().ok()?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
            Arc::new(roots)
        }
        None => tls::system_roots(),
    };
    // The provider by name: other libraries may bring one of their own.
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    Some(
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

fn words(wrong: &CertificateError, host: &str, own_authority: bool) -> String {
    use CertificateError as E;
    match wrong {
        E::NotValidForNameContext { presented, .. } => format!(
            "the broker's certificate is not valid for the host name \"{host}\", only for {}: write one of these in \"brokers\", and at the broker in advertised.listeners",
            tls::names(presented)
        ),
        E::NotValidForName => format!(
            "the broker's certificate is not valid for the host name \"{host}\": write the name that it has in \"brokers\", and at the broker in advertised.listeners"
        ),
        E::Expired | E::ExpiredContext { .. } => "the broker's certificate has expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet; check the clocks".into()
        }
        E::UnknownIssuer | E::BadSignature if own_authority => {
            "the broker's certificate is not signed by the authority in \"tls_ca\"".into()
        }
        E::UnknownIssuer | E::BadSignature => {
            "the broker's certificate is not signed by an authority that this system trusts: set \"tls_ca\" to the authority's certificate".into()
        }
        other => format!("the broker's certificate cannot be verified: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn finds_the_address_in_a_reason() {
        assert_eq!(
            address("ssl://kafka.example:9093/bootstrap: SSL handshake failed"),
            Some(("kafka.example", 9093))
        );
        assert_eq!(
            address("sasl_ssl://[::1]:9093/1: SSL handshake failed"),
            Some(("::1", 9093))
        );
        assert_eq!(address("1/1 brokers are down"), None);
    }
}
