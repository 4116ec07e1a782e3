//! What can go wrong with the database, told apart, each with what to do.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use rustls::{AlertDescription, CertificateError};
use tokio_postgres::error::SqlState;

/// The text of a PostgreSQL error: message, detail and hint, or the causes of
/// a failed connection.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = db.message().to_owned();
        let rights = (*db.code() == SqlState::INSUFFICIENT_PRIVILEGE && db.hint().is_none())
            .then_some("a relay's role needs what tide_relay has: run GRANT tide_relay TO <role>");
        for (name, part) in [("detail", db.detail()), ("hint", db.hint().or(rights))] {
            if let Some(part) = part {
                let _ = write!(text, " ({name}: {part})");
            }
        }
        return text;
    }
    crate::words::with_causes(error)
}

/// A failed connection, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be read or asks for what is not there.
    #[error("PostgreSQL URL: {0}")]
    Url(String),
    /// The server cannot be reached or does not let us in.
    #[error("cannot connect to PostgreSQL at {at}: {reason}{}", .cause.advice())]
    Connect {
        /// Hosts, ports and database, without secrets.
        at: String,
        /// Why.
        cause: Cause,
        /// What the server or the network said.
        reason: String,
    },
    /// A statement failed.
    #[error("{what}: {reason}")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// What the server said.
        reason: String,
    },
}

/// Why a connection failed, in the order of how far it came: of several
/// servers the one that came furthest is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// `sslrootcert`, `sslcert` or `sslkey` cannot be used.
    OwnFiles,
    /// The host's name is not known.
    UnknownHost,
    /// Nobody listens there.
    Refused,
    /// No way there, or no answer.
    Unreachable,
    /// The port takes connections, and nothing is said.
    Silent,
    /// Something else listens there.
    NotPostgres,
    /// The server does not speak TLS.
    NoTls,
    /// The two ends find no common way of TLS.
    Handshake,
    /// The server's certificate is from an authority that is not trusted.
    UnknownAuthority,
    /// It is for another host.
    ServerName,
    /// It is not valid now.
    Expired,
    /// The server wants a certificate from us, or another one.
    ClientCertificate,
    /// The server wants a password, and there is none.
    NoPassword,
    /// Wrong password, or no such role.
    Password,
    /// Channel binding is required and not possible.
    ChannelBinding,
    /// A way of authentication that is not supported.
    Method,
    /// No line of pg_hba.conf lets us in.
    NoEntry,
    /// No such role.
    Role,
    /// No such database, or no right to connect to it.
    Database,
    /// The server is starting, stopping or recovering.
    NotUpYet,
    /// No connection is free.
    TooMany,
    /// The server takes no writes.
    Standby,
    /// A pooler in transaction mode is in between.
    Pooler,
    /// Whatever else.
    Other,
}

impl Cause {
    /// What to do, as an end of the sentence; empty where the reason says it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::OwnFiles | Self::Other => "",
            Self::UnknownHost => "; check the host's name and the DNS of this machine or pod",
            Self::Refused => "; nobody listens there: check host and port, and whether PostgreSQL runs",
            Self::Unreachable => "; check host and port, firewalls and network policies",
            Self::Silent => {
                "; the port takes connections, but nothing answers as PostgreSQL does: check the port, and whether \
                 the server is overloaded or stopped halfway"
            }
            Self::NotPostgres => "; check the port: something that is not PostgreSQL seems to listen there",
            Self::NoTls => "; switch TLS on in the server (ssl = on), or set sslmode=prefer to go without",
            Self::Handshake => {
                "; check ssl_min_protocol_version here and in the server, and the server's log"
            }
            Self::UnknownAuthority => {
                "; give the certificate of the authority that signed the server's in sslrootcert"
            }
            Self::ServerName => {
                "; connect by a name that is among the certificate's alternative names (its common name does not \
                 count), or set sslmode=verify-ca to leave the name unchecked"
            }
            Self::Expired => "; renew the server's certificate, and check the clocks of both machines",
            Self::ClientCertificate => {
                "; give sslcert and sslkey: a certificate for this role by an authority in the server's ssl_ca_file"
            }
            Self::NoPassword => "; put the password into the URL (postgres://USER:PASSWORD@...)",
            Self::Password => "; check user name and password (a role that does not exist is told the same)",
            Self::ChannelBinding => {
                "; channel_binding=require needs TLS and a role whose password is stored as scram-sha-256"
            }
            Self::Method => "; let the server ask for scram-sha-256, md5, password or a client certificate",
            Self::NoEntry => {
                "; let a line of pg_hba.conf match this host, role, database and encryption (host, hostssl, hostnossl)"
            }
            Self::Role => "; create the role, or use another in the URL",
            Self::Database => "; create the database, or GRANT CONNECT on it to the role",
            Self::NotUpYet => "; it will let us in when it has started",
            Self::TooMany => {
                "; raise max_connections or the limit of the role or database (a relay needs up to 10)"
            }
            Self::Standby => "; name the primary, or all servers and target_session_attrs=read-write",
            Self::Pooler => {
                "; the relay's locks need a session of their own: connect to PostgreSQL itself or to a pooler in \
                 session mode (PgBouncer: pool_mode=session for this database)"
            }
        }
    }
}

/// Why one server did not let us in.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            cause,
            reason: reason.into(),
        }
    }

    /// A failed handshake or start of a session. `encrypted` and `certified`:
    /// whether TLS was spoken, and with a certificate of ours.
    pub(super) fn from_startup(error: &tokio_postgres::Error, encrypted: bool, certified: bool) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::new(server_cause(db), describe(error));
        }
        if let Some(tls) = tls_error(error) {
            return Self::from_tls(tls);
        }
        let text = describe(error);
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        if source == "password missing" {
            return Self::new(
                Cause::NoPassword,
                "the server asks for a password, and there is none",
            );
        }
        if source.contains("channel binding") {
            return Self::new(
                Cause::ChannelBinding,
                "the server did not use channel binding, which channel_binding=require wants",
            );
        }
        if source.starts_with("unsupported") {
            return Self::new(
                Cause::Method,
                "the server asks for a way of authentication that is not supported",
            );
        }
        let ended = error.is_closed() || broken_off(error);
        if ended && encrypted {
            // Where the alert is lost, as when the server resets the connection.
            let what = if certified { "the" } else { "a missing" };
            return Self::new(
                Cause::ClientCertificate,
                format!(
                    "the server ended the connection after the TLS handshake without a word, as it does over {what} \
                     client certificate; its log says why"
                ),
            );
        }
        if ended {
            return Self::new(
                Cause::NotPostgres,
                "the other end closed the connection without a word",
            );
        }
        if error.to_string().contains("message") || error.to_string().contains("parsing") {
            return Self::new(Cause::NotPostgres, format!("the answer makes no sense ({text})"));
        }
        Self::new(Cause::Other, text)
    }

    pub(super) fn from_tls(error: &rustls::Error) -> Self {
        use AlertDescription as Alert;
        use CertificateError as Bad;
        match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                    Self::new(Cause::ServerName, format!("wrong host name: {bad}"))
                }
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. } => {
                    Self::new(Cause::Expired, format!("the server's certificate: {bad}"))
                }
                Bad::UnknownIssuer => Self::new(
                    Cause::UnknownAuthority,
                    "the server's certificate is not signed by a trusted authority (unknown issuer)",
                ),
                other => Self::new(Cause::UnknownAuthority, untrusted(other)),
            },
            rustls::Error::AlertReceived(
                alert @ (Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateRequired
                | Alert::UnsupportedCertificate
                | Alert::AccessDenied
                | Alert::DecryptError),
            ) => Self::new(
                Cause::ClientCertificate,
                format!("the server does not accept our client certificate (TLS alert {alert:?})"),
            ),
            other => Self::new(Cause::Handshake, format!("the TLS handshake failed: {other}")),
        }
    }
}

/// webpki's errors without a name of their own in rustls come as their Debug.
fn untrusted(error: &CertificateError) -> String {
    let text = error.to_string();
    if text.contains("CaUsedAsEndEntity") {
        return "the server's certificate calls itself an authority: it signed itself and is not among those in sslrootcert"
            .into();
    }
    if text.contains("UnsupportedCertVersion") {
        return "the server's certificate is of X.509 version 1, which has no host names to check: make one of version 3"
            .into();
    }
    format!("the server's certificate cannot be trusted: {text}")
}

fn server_cause(db: &tokio_postgres::error::DbError) -> Cause {
    let message = db.message();
    match db.code() {
        code if *code == SqlState::INVALID_PASSWORD => Cause::Password,
        // One code for all that is wrong before a session begins.
        code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            if message.contains("certificate") {
                Cause::ClientCertificate
            } else if message.contains("pg_hba.conf") {
                Cause::NoEntry
            } else if message.contains("role") {
                Cause::Role
            } else {
                Cause::Password
            }
        }
        code if *code == SqlState::INVALID_CATALOG_NAME || *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            Cause::Database
        }
        code if *code == SqlState::CANNOT_CONNECT_NOW => Cause::NotUpYet,
        code if *code == SqlState::TOO_MANY_CONNECTIONS => Cause::TooMany,
        _ => Cause::Other,
    }
}

/// The TLS error among the causes. An [`io::Error`] hides what it carries from
/// [`std::error::Error::source`].
fn tls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    io.get_ref()?.downcast_ref()
}

fn broken_off(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    io.is_some_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_servers_the_one_that_came_furthest_is_told() {
        assert!(Cause::Refused < Cause::NoTls);
        assert!(Cause::NoTls < Cause::UnknownAuthority);
        assert!(Cause::UnknownAuthority < Cause::Password);
        assert!(Cause::Password < Cause::Standby);
    }

    #[test]
    fn tls_errors_are_told_apart() {
        let cause = |e: rustls::Error| Refusal::from_tls(&e).cause;
        assert_eq!(
            cause(CertificateError::UnknownIssuer.into()),
            Cause::UnknownAuthority
        );
        assert_eq!(cause(CertificateError::NotValidForName.into()), Cause::ServerName);
        assert_eq!(cause(CertificateError::Expired.into()), Cause::Expired);
        assert_eq!(
            cause(rustls::Error::AlertReceived(AlertDescription::UnknownCA)),
            Cause::ClientCertificate
        );
        assert_eq!(
            cause(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)),
            Cause::Handshake
        );
    }
}
