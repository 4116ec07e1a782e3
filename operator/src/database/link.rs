//! From a `TideDatabase` and its Secrets to a way to connect.

use std::sync::Arc;

use pg_tide_postgres::{Cause, Database, DatabaseError, PemTexts, TlsOverrides};

use super::Problem;
use crate::crd::{SecretKeyRef, TideDatabaseSpec};
use crate::secrets::{SecretError, Secrets};

/// How to connect, and what is done about the schema.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    url: Arc<str>,
    tls: TlsOverrides,
    /// Whether the schema is installed and upgraded.
    pub manage_schema: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Files with what relays need to connect, by their names in the folder.
pub type Files = Vec<(&'static str, Vec<u8>)>;

/// The file with the URL.
pub const URL_FILE: &str = "database-url";
/// The file with the trusted authorities.
pub const CA_FILE: &str = "database-ca.crt";
/// The file with the client certificate.
pub const CERT_FILE: &str = "database-tls.crt";
/// The file with its key.
pub const KEY_FILE: &str = "database-tls.key";

impl Link {
    /// Reads the Secrets.
    ///
    /// # Errors
    /// Which Secret or key is missing.
    pub async fn read(
        secrets: &Secrets,
        namespace: &str,
        spec: &TideDatabaseSpec,
    ) -> Result<Self, SecretError> {
        let url = secrets
            .key(namespace, &SecretKeyRef::from(&spec.connection.secret_ref))
            .await?;
        let mut texts = PemTexts::default();
        if let Some(tls) = &spec.tls {
            if let Some(ca) = &tls.ca_secret_ref {
                texts.authorities = Some(secrets.key(namespace, &ca.into()).await?.into());
            }
            if let Some(own) = &tls.client_cert_secret_ref {
                let certificate = secrets.key(namespace, &own.certificate()).await?;
                let key = secrets.key(namespace, &own.private_key()).await?;
                texts.identity = Some((certificate.into(), key.into()));
            }
        }
        Ok(Self {
            url: String::from_utf8_lossy(&url).trim().into(),
            tls: TlsOverrides {
                sslmode: ssl_mode(spec).map(str::to_owned),
                texts,
                ..TlsOverrides::default()
            },
            manage_schema: spec.schema.manage,
        })
    }

    /// The database to connect to.
    ///
    /// # Errors
    /// When the URL and the settings of TLS cannot be used.
    pub fn database(&self) -> Result<Database, Problem> {
        Database::with_tls(&self.url, self.tls.clone()).map_err(|e| problem(&e))
    }
}

/// Where relays connect to, without secrets; the same whatever the password is.
#[must_use]
pub fn address(files: &Files) -> String {
    let url = files
        .iter()
        .find(|(name, _)| *name == URL_FILE)
        .map(|(_, url)| url);
    let url = url.map(|url| String::from_utf8_lossy(url).trim().to_owned());
    match Database::new(&url.unwrap_or_default()) {
        Ok(database) => database.at(),
        // The relay says what is wrong with it.
        Err(_) => String::new(),
    }
}

/// What relays need in their folder.
///
/// # Errors
/// Which Secret or key is missing.
pub async fn files(
    secrets: &Secrets,
    namespace: &str,
    spec: &TideDatabaseSpec,
) -> Result<Files, SecretError> {
    let connection = spec.relay_connection.as_ref().unwrap_or(&spec.connection);
    let url = secrets
        .key(namespace, &SecretKeyRef::from(&connection.secret_ref))
        .await?;
    let mut files = vec![(URL_FILE, url)];
    if let Some(tls) = &spec.tls {
        if let Some(ca) = &tls.ca_secret_ref {
            files.push((CA_FILE, secrets.key(namespace, &ca.into()).await?));
        }
        if let Some(own) = &tls.client_cert_secret_ref {
            files.push((CERT_FILE, secrets.key(namespace, &own.certificate()).await?));
            files.push((KEY_FILE, secrets.key(namespace, &own.private_key()).await?));
        }
    }
    Ok(files)
}

/// The mode that stands above the URL's.
#[must_use]
pub fn ssl_mode(spec: &TideDatabaseSpec) -> Option<&'static str> {
    let tls = spec.tls.as_ref()?;
    match (tls.mode, &tls.ca_secret_ref) {
        (Some(mode), _) => Some(mode.as_str()),
        (None, Some(_)) => Some("verify-full"),
        (None, None) => None,
    }
}

/// A failed connection as a reason that is documented.
#[must_use]
pub fn problem(error: &DatabaseError) -> Problem {
    let reason = match error {
        DatabaseError::Url(_) => "InvalidConnection",
        DatabaseError::Statement { .. } => "ConnectionFailed",
        DatabaseError::Connect { cause, .. } => match cause {
            Cause::OwnFiles => "InvalidConnection",
            Cause::UnknownHost
            | Cause::Refused
            | Cause::Unreachable
            | Cause::Silent
            | Cause::NotPostgres
            | Cause::NotUpYet
            | Cause::TooMany
            | Cause::Other => "ConnectionFailed",
            Cause::NoTls
            | Cause::Handshake
            | Cause::UnknownAuthority
            | Cause::ServerName
            | Cause::Expired => "TLSFailed",
            Cause::ClientCertificate
            | Cause::NoPassword
            | Cause::Password
            | Cause::ChannelBinding
            | Cause::Method
            | Cause::NoEntry
            | Cause::Role => "AuthenticationFailed",
            Cause::Database => "DatabaseNotFound",
            Cause::Standby => "NotPrimary",
            Cause::Pooler => "PoolerInBetween",
        },
    };
    Problem::new(reason, error.to_string())
}
