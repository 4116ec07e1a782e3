//! librdkafka's reasons in plain words: what is wrong and what to do.
//!
//! The library tells of a failed connection in one line of text, written for
//! its developers. The line is recognised by parts of it that have been stable
//! for years, and stays at the end of what is told, for whoever searches for it.

use crate::config::{KafkaConnection, Sasl};

/// What kept a connection from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Nothing more is known than that there is no connection.
    Disconnected,
    Timeout,
    Refused,
    UnknownHost,
    /// Guesses: a broker that is just ending looks the same.
    WantsTls,
    WantsSasl,
    NoTls,
    /// From here on it is known what is wrong, and that it will stay so.
    NoSasl,
    Mechanism,
    WantsCertificate,
    CertificateRefused,
    /// The library does not say why; [`super::probe`] does.
    NotVerified,
    Token,
    Login,
}

impl Cause {
    /// Whether a later reason of another kind says less than this one.
    pub(crate) fn is_telling(self) -> bool {
        self >= Self::NoSasl
    }

    /// Recognises a reason of the library.
    pub(crate) fn of(reason: &str, connection: &KafkaConnection) -> Option<Self> {
        let has = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
        let security = &connection.security;
        Some(if has(&["Failed to acquire SASL OAUTHBEARER token"]) {
            Self::Token
        } else if has(&["SASL authentication error", "SASL authentication failure"]) {
            if has(&["not supported", "ILLEGAL_SASL_STATE", "current SASL state"]) {
                Self::NoSasl
            } else {
                Self::Login
            }
        } else if has(&["mechanism handshake failed"]) {
            if has(&["current SASL state"]) {
                Self::NoSasl
            } else {
                Self::Mechanism
            }
        } else if has(&["certificate verify failed", "Failed to verify broker certificate"]) {
            Self::NotVerified
        } else if has(&["alert certificate required"]) {
            Self::WantsCertificate
        } else if has(&[
            "alert bad certificate",
            "alert certificate unknown",
            "alert certificate expired",
            "alert certificate revoked",
            "alert unknown ca",
            "alert unsupported certificate",
            "alert access denied",
        ]) {
            if security.tls.cert.is_none() {
                Self::WantsCertificate
            } else {
                Self::CertificateRefused
            }
        } else if has(&[
            "connecting to a PLAINTEXT broker listener",
            "wrong version number",
            "unexpected message",
            "during SSL connection handshake",
            "in state SSL_HANDSHAKE",
        ]) {
            Self::NoTls
        } else if !security.protocol.has_tls()
            && (has(&["Invalid response size"])
                || (has(&["Disconnected"]) && has(&["in state APIVERSION_QUERY"])))
        {
            Self::WantsTls
        } else if !security.protocol.has_sasl() && has(&["Disconnected"]) && was_up_only_for_a_moment(reason)
        {
            Self::WantsSasl
        } else if has(&["Failed to resolve"]) {
            Self::UnknownHost
        } else if has(&["Connection refused", "No route to host", "Network is unreachable"]) {
            Self::Refused
        } else if has(&["timed out", "Timed out"]) {
            Self::Timeout
        } else if has(&["Disconnected", "Receive failed", "Connect to"]) {
            Self::Disconnected
        } else {
            return None;
        })
    }

    /// What is wrong and what to do, without the library's words. None where
    /// these are plain enough.
    pub(crate) fn words(self, reason: &str, connection: &KafkaConnection) -> Option<String> {
        let protocol = connection.security.protocol;
        let user = match &connection.security.sasl {
            Some(Sasl::Password { username, .. }) => username.read().unwrap_or_default(),
            Some(Sasl::OAuth(oauth)) => oauth.client_id.read().unwrap_or_default(),
            None => String::new(),
        };
        let mechanism = connection.security.sasl.as_ref().map_or("", Sasl::mechanism);
        let with_sasl = |tls: &str, plain: &str| {
            if protocol.has_sasl() {
                format!("sasl_{tls}")
            } else {
                plain.to_owned()
            }
        };
        Some(match self {
            Self::Login if mechanism == "OAUTHBEARER" => format!(
                "the broker does not accept the token that it was shown for client \"{user}\": check that the broker trusts the token server, and the token's audience and scope (\"sasl_oauth_scope\")"
            ),
            Self::Login => format!(
                "the broker refuses the login of user \"{user}\" by {mechanism}: wrong user or password; check \"sasl_username\" and \"sasl_password\""
            ),
            // Our own words, from the request for the token.
            Self::Token => reason
                .split_once("OAUTHBEARER token: ")
                .map_or(reason, |(_, own)| own)
                .to_owned(),
            Self::Mechanism => format!(
                "the broker does not offer \"sasl_mechanism\" \"{mechanism}\" on this port{}",
                reason
                    .split_once("supported mechanisms: ")
                    .map(|(_, offered)| offered.split(" (after ").next().unwrap_or(offered))
                    .filter(|offered| !offered.is_empty())
                    .map(|offered| format!("; it offers {offered}"))
                    .unwrap_or_default()
            ),
            Self::NoSasl => format!(
                "the broker does not take logins on this port: set \"security_protocol\" to \"{}\", or use the port of a SASL listener",
                if protocol.has_tls() { "ssl" } else { "plaintext" }
            ),
            Self::WantsSasl => format!(
                "the broker closes the connection at the first request: it probably wants a login on this port; set \"security_protocol\" to \"sasl_{}\" with \"sasl_mechanism\"",
                protocol.name()
            ),
            Self::WantsTls => format!(
                "the broker probably wants TLS on this port: set \"security_protocol\" to \"{}\", or use the port of a plaintext listener",
                with_sasl("ssl", "ssl")
            ),
            Self::NoTls => format!(
                "the broker does not speak TLS on this port: set \"security_protocol\" to \"{}\", or use the port of a TLS listener",
                with_sasl("plaintext", "plaintext")
            ),
            Self::WantsCertificate => {
                "the broker wants a client certificate: set \"tls_cert\" and \"tls_key\"".into()
            }
            Self::CertificateRefused => {
                "the broker refuses our client certificate (\"tls_cert\"): it is expired, or not signed by an authority that the broker trusts".into()
            }
            Self::NotVerified => "the broker's certificate cannot be verified: check \"tls_ca\" and the host name in \"brokers\"".into(),
            Self::Timeout if reason.contains("in state AUTH") => {
                "the broker accepts the connection and does not answer the login".into()
            }
            Self::Timeout if reason.contains("in state APIVERSION") => {
                "the broker accepts the connection and does not answer".into()
            }
            Self::UnknownHost => "the broker's host name cannot be resolved; check \"brokers\", and advertised.listeners at the broker".into(),
            Self::Refused => "no broker listens there; check \"brokers\", and whether it runs".into(),
            Self::Timeout | Self::Disconnected => return None,
        })
    }
}

/// "(after 3ms in state UP)": closed at the first request that asks for more
/// than the broker's version.
fn was_up_only_for_a_moment(reason: &str) -> bool {
    let millis = reason
        .split_once("(after ")
        .and_then(|(_, rest)| rest.split_once("ms in state UP"))
        .and_then(|(millis, _)| millis.parse::<u32>().ok());
    millis.is_some_and(|millis| millis < 1_000)
}

/// librdkafka's reasons end with timings, which would make each one differ.
pub(crate) fn shorten(reason: &str) -> String {
    reason.split(" (after ").next().unwrap_or(reason).to_owned()
}

/// Words, then the library's own.
pub(crate) fn joined(words: &str, reason: &str) -> String {
    if words.is_empty() || reason.contains(words) {
        return words.to_owned();
    }
    format!("{words} (librdkafka: {reason})")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn connection(options: &Value) -> KafkaConnection {
        let mut all = json!({"brokers": "b:1"});
        all.as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        KafkaConnection::for_tests(all)
    }

    /// Lines as librdkafka 2.12 with OpenSSL 3 wrote them about Kafka 4.
    #[test]
    fn the_librarys_lines_are_recognised() {
        let plain = || connection(&json!({}));
        let tls = || connection(&json!({"security_protocol": "ssl"}));
        let mutual =
            || connection(&json!({"security_protocol": "ssl", "tls_cert": "x", "tls_key": "${file:/k}"}));
        let sasl = || {
            connection(
                &json!({"security_protocol": "sasl_plaintext", "sasl_mechanism": "PLAIN",
                              "sasl_username": "u", "sasl_password": "${file:/p}"}),
            )
        };
        for (connection, reason, want) in [
            (
                plain(),
                "h:1/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 5ms in state APIVERSION_QUERY)",
                Cause::WantsTls,
            ),
            (
                plain(),
                "h:1/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 2ms in state UP)",
                Cause::WantsSasl,
            ),
            (
                plain(),
                "h:1/1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 52071ms in state UP)",
                Cause::Disconnected,
            ),
            (
                sasl(),
                "sasl_plaintext://h:1/bootstrap: Disconnected: connection closed by peer (after 5ms in state APIVERSION_QUERY)",
                Cause::WantsTls,
            ),
            (
                tls(),
                "ssl://h:1/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener? (after 5ms in state SSL_HANDSHAKE)",
                Cause::NoTls,
            ),
            (
                tls(),
                "ssl://h:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured or root CA certificates are installed (install ca-certificates package) (after 5ms in state SSL_HANDSHAKE)",
                Cause::NotVerified,
            ),
            (
                tls(),
                "ssl://h:1/bootstrap: Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate",
                Cause::WantsCertificate,
            ),
            (
                mutual(),
                "ssl://h:1/bootstrap: Receive failed: error:0A000416:SSL routines::sslv3 alert certificate unknown",
                Cause::CertificateRefused,
            ),
            (
                sasl(),
                "sasl_plaintext://h:1/bootstrap: SASL authentication error: Authentication failed: Invalid username or password",
                Cause::Login,
            ),
            (
                sasl(),
                "sasl_plaintext://h:1/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms: ",
                Cause::NoSasl,
            ),
            (
                sasl(),
                "sasl_plaintext://h:1/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: GSSAPI",
                Cause::Mechanism,
            ),
            (
                plain(),
                "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                Cause::Refused,
            ),
        ] {
            assert_eq!(Cause::of(reason, &connection), Some(want), "{reason}");
        }
        assert_eq!(Cause::of("1/1 brokers are down", &plain()), None);
    }
}
