//! How Kafka brokers are spoken to: TLS, SASL, and what does not go together.

use super::options::{OptionError, Options};
use super::secret::{SecretRef, Setting};
use super::tls::TlsSpec;

/// `security.protocol` of Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];

    /// As options and librdkafka write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    pub(crate) fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How a client makes itself known by SASL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sasl {
    Password {
        /// PLAIN or one of SCRAM.
        mechanism: &'static str,
        username: Setting,
        password: SecretRef,
    },
    /// OAUTHBEARER.
    OAuth(OAuthSpec),
}

impl Sasl {
    pub(crate) fn mechanism(&self) -> &'static str {
        match self {
            Self::Password { mechanism, .. } => mechanism,
            Self::OAuth(_) => OAUTHBEARER,
        }
    }
}

/// Where tokens come from: the client credentials grant of OAuth 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OAuthSpec {
    pub(crate) token_url: String,
    pub(crate) client_id: Setting,
    pub(crate) client_secret: SecretRef,
    pub(crate) scope: Option<String>,
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KafkaSecurity {
    pub(crate) protocol: Protocol,
    pub(crate) tls: TlsSpec,
    /// Of an encrypted `tls_key`.
    pub(crate) key_password: Option<SecretRef>,
    pub(crate) sasl: Option<Sasl>,
}

const OAUTHBEARER: &str = "OAUTHBEARER";
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER];

fn bad(key: &str, reason: impl Into<String>) -> OptionError {
    OptionError::Bad {
        key: key.into(),
        reason: reason.into(),
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, OptionError> {
    value.ok_or_else(|| OptionError::Missing { key: key.into() })
}

/// Options that belong to others than the one chosen.
fn refuse_given(given: &[(&str, bool)], reason: &str) -> Result<(), OptionError> {
    match given.iter().find(|(_, given)| *given) {
        Some((key, _)) => Err(bad(key, reason)),
        None => Ok(()),
    }
}

impl KafkaSecurity {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let protocol = options
            .one_of("security_protocol", &Protocol::ALL.map(|p| (p.name(), p)))?
            .unwrap_or(Protocol::Plaintext);
        let tls = TlsSpec::read(options)?;
        let key_password = options.secret("tls_key_password")?;
        if !protocol.has_tls() {
            refuse_given(
                &[
                    ("tls_ca", tls.ca.is_some()),
                    ("tls_cert", tls.cert.is_some()),
                    ("tls_key_password", key_password.is_some()),
                ],
                &format!(
                    "needs \"security_protocol\" \"ssl\" or \"sasl_ssl\"; with \"{}\" there is no TLS",
                    protocol.name()
                ),
            )?;
        }
        if key_password.is_some() && tls.key.is_none() {
            return Err(OptionError::Missing {
                key: "tls_key".into(),
            });
        }
        Ok(Self {
            protocol,
            tls,
            key_password,
            sasl: read_sasl(options, protocol)?,
        })
    }
}

fn read_sasl(options: &mut Options, protocol: Protocol) -> Result<Option<Sasl>, OptionError> {
    let mechanism = options.one_of("sasl_mechanism", &MECHANISMS.map(|m| (m, m)))?;
    let username = options.setting("sasl_username")?;
    let password = options.secret("sasl_password")?;
    let token_url = options.text("sasl_oauth_token_url")?;
    let client_id = options.setting("sasl_oauth_client_id")?;
    let client_secret = options.secret("sasl_oauth_client_secret")?;
    let scope = options.text("sasl_oauth_scope")?;
    let of_password = [
        ("sasl_username", username.is_some()),
        ("sasl_password", password.is_some()),
    ];
    let of_oauth = [
        ("sasl_oauth_token_url", token_url.is_some()),
        ("sasl_oauth_client_id", client_id.is_some()),
        ("sasl_oauth_client_secret", client_secret.is_some()),
        ("sasl_oauth_scope", scope.is_some()),
    ];
    if !protocol.has_sasl() {
        let reason = format!(
            "needs \"security_protocol\" \"sasl_ssl\" (or \"sasl_plaintext\"); with \"{}\" there is no SASL",
            protocol.name()
        );
        refuse_given(&[("sasl_mechanism", mechanism.is_some())], &reason)?;
        refuse_given(&of_password, &reason)?;
        refuse_given(&of_oauth, &reason)?;
        return Ok(None);
    }
    let mechanism = required("sasl_mechanism", mechanism)?;
    if mechanism != OAUTHBEARER {
        refuse_given(
            &of_oauth,
            &format!("belongs to \"sasl_mechanism\" \"OAUTHBEARER\", not \"{mechanism}\""),
        )?;
        return Ok(Some(Sasl::Password {
            mechanism,
            username: required("sasl_username", username)?,
            password: required("sasl_password", password)?,
        }));
    }
    refuse_given(
        &of_password,
        "does not belong to \"sasl_mechanism\" \"OAUTHBEARER\", whose credentials are \"sasl_oauth_client_id\" and \"sasl_oauth_client_secret\"",
    )?;
    let token_url = required("sasl_oauth_token_url", token_url)?;
    check_url(&token_url)?;
    Ok(Some(Sasl::OAuth(OAuthSpec {
        token_url,
        client_id: required("sasl_oauth_client_id", client_id)?,
        client_secret: required("sasl_oauth_client_secret", client_secret)?,
        scope,
    })))
}

fn check_url(url: &str) -> Result<(), OptionError> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => Err(bad(
            "sasl_oauth_token_url",
            "contains a user name or password; write them as \"sasl_oauth_client_id\" and \"sasl_oauth_client_secret\"",
        )),
        Some(rest) if !rest.is_empty() => Ok(()),
        _ => Err(bad(
            "sasl_oauth_token_url",
            "must begin with https:// (or http://, which shows the client's secret to everybody on the way)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(options: &Value) -> Result<KafkaSecurity, String> {
        let mut options = Options::new(options.as_object().unwrap().clone());
        KafkaSecurity::read(&mut options).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_each_way_in() {
        let plain = read(&json!({})).unwrap();
        assert_eq!((plain.protocol, plain.sasl), (Protocol::Plaintext, None));
        let mutual = read(&json!({
            "security_protocol": "ssl", "tls_ca": "${file:/ca}", "tls_cert": "${file:/crt}",
            "tls_key": "${file:/key}", "tls_key_password": "${env:P}"
        }));
        assert!(mutual.unwrap().tls.cert.is_some());
        let scram = read(&json!({
            "security_protocol": "sasl_ssl", "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "alice", "sasl_password": "${file:/p}"
        }));
        assert_eq!(scram.unwrap().sasl.unwrap().mechanism(), "SCRAM-SHA-512");
        let oauth = read(&json!({
            "security_protocol": "sasl_ssl", "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": "https://id/token", "sasl_oauth_client_id": "me",
            "sasl_oauth_client_secret": "${file:/p}", "sasl_oauth_scope": "kafka"
        }));
        assert_eq!(oauth.unwrap().sasl.unwrap().mechanism(), "OAUTHBEARER");
    }

    #[test]
    fn says_what_does_not_go_together() {
        let sasl = |more: Value| {
            let mut all = json!({"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN",
                                 "sasl_username": "u", "sasl_password": "${file:/p}"});
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            all
        };
        for (options, want) in [
            (
                json!({"tls_ca": "x"}),
                "\"tls_ca\": needs \"security_protocol\" \"ssl\" or \"sasl_ssl\"; with \"plaintext\" there is no TLS",
            ),
            (
                json!({"security_protocol": "ssl", "sasl_mechanism": "PLAIN"}),
                "\"sasl_mechanism\": needs \"security_protocol\" \"sasl_ssl\" (or \"sasl_plaintext\"); with \"ssl\" there is no SASL",
            ),
            (
                json!({"security_protocol": "sasl_ssl"}),
                "\"sasl_mechanism\" is missing",
            ),
            (
                sasl(json!({"sasl_password": null})),
                "\"sasl_password\" is missing",
            ),
            (
                sasl(json!({"sasl_username": null})),
                "\"sasl_username\" is missing",
            ),
            (
                sasl(json!({"sasl_oauth_scope": "s"})),
                "\"sasl_oauth_scope\": belongs to \"sasl_mechanism\" \"OAUTHBEARER\", not \"PLAIN\"",
            ),
            (
                sasl(json!({"sasl_mechanism": "OAUTHBEARER", "sasl_password": null})),
                "\"sasl_username\": does not belong to \"sasl_mechanism\" \"OAUTHBEARER\", whose credentials are \"sasl_oauth_client_id\" and \"sasl_oauth_client_secret\"",
            ),
            (
                sasl(json!({"sasl_password": "hunter2"})),
                "\"sasl_password\": must be \"${file:/absolute/path}\" or \"${env:NAME}\"; secrets are never kept in SQL",
            ),
            (
                json!({"security_protocol": "ssl", "tls_cert": "x"}),
                "\"tls_key\" is missing",
            ),
            (
                json!({"security_protocol": "ssl", "tls_key_password": "${file:/p}"}),
                "\"tls_key\" is missing",
            ),
            (
                json!({"security_protocol": "sasl_ssl", "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_url": "id"}),
                "\"sasl_oauth_token_url\": must begin with https:// (or http://, which shows the client's secret to everybody on the way)",
            ),
        ] {
            assert_eq!(read(&options).unwrap_err(), want);
        }
    }
}
