//! The options of NATS connectors.

use std::fmt;

use super::options::{OptionError, Options};
use super::secret::{SecretRef, Setting};
use super::sinks::Delivery;
use super::tls::TlsSpec;
use crate::encode::Template;

/// How a client proves to the server who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NatsLogin {
    /// Not at all, or by its certificate alone.
    None,
    /// The content of a .creds file: a user's JWT and the seed of its key.
    Credentials(SecretRef),
    Token(SecretRef),
    User {
        name: Setting,
        password: SecretRef,
    },
    /// The seed of a user's key.
    Nkey(SecretRef),
}

/// How servers are reached; the same for sinks and sources.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsConnection {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub(crate) servers: Vec<String>,
    pub(crate) login: NatsLogin,
    pub(crate) tls: TlsSpec,
    /// Whether to refuse a server without TLS.
    pub(crate) tls_required: bool,
    /// Whether TLS comes before the server's greeting.
    pub(crate) tls_first: bool,
    /// Where answers are received; the library's `_INBOX` unless set.
    pub(crate) inbox_prefix: Option<String>,
}

impl fmt::Display for NatsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.join(","))
    }
}

const ONE_LOGIN: &str =
    "a connection logs in by one of \"credentials\", \"token\", \"user\" with \"password\", \"nkey\"";

impl NatsConnection {
    fn read(options: &mut Options) -> Result<Self, OptionError> {
        let servers = options.required_list("url")?;
        for server in &servers {
            check_server(server)?;
        }
        let login = NatsLogin::read(options)?;
        let tls = TlsSpec::read(options)?;
        let tls_first = options.flag("tls_first")?.unwrap_or(false);
        let wants_tls = [
            (
                "url",
                servers.iter().any(|s| s.to_ascii_lowercase().starts_with("tls:")),
            ),
            ("tls_ca", tls.ca.is_some()),
            ("tls_cert", tls.cert.is_some()),
            ("tls_first", tls_first),
        ];
        let reason = wants_tls
            .into_iter()
            .find(|(_, wants)| *wants)
            .map(|(key, _)| key);
        let tls_required = match (options.flag("tls_required")?, reason) {
            (Some(false), Some(key)) => {
                return Err(OptionError::Bad {
                    key: "tls_required".into(),
                    reason: format!("is false, but \"{key}\" asks for TLS; leave one of them out"),
                });
            }
            (Some(required), _) => required,
            (None, reason) => reason.is_some(),
        };
        let inbox_prefix = options.text("inbox_prefix")?;
        if let Some(prefix) = &inbox_prefix
            && !is_subject(prefix, false)
        {
            return Err(OptionError::Bad {
                key: "inbox_prefix".into(),
                reason: "must be a subject without wildcards, such as \"_INBOX_relay\"".into(),
            });
        }
        Ok(Self {
            servers,
            login,
            tls,
            tls_required,
            tls_first,
            inbox_prefix,
        })
    }
}

/// Refuses what the client library would take for something else.
fn check_server(server: &str) -> Result<(), OptionError> {
    let bad = |reason: &str| {
        Err(OptionError::Bad {
            key: "url".into(),
            reason: reason.into(),
        })
    };
    if server.contains('@') {
        return bad(
            "contains a user name or password; write nats://host:port, and credentials in options of their own",
        );
    }
    match server.split_once("://") {
        Some((scheme, _)) if !["nats", "tls"].contains(&scheme.to_ascii_lowercase().as_str()) => {
            bad("must begin with nats:// or tls://")
        }
        Some((_, "")) | None if server.is_empty() || server.ends_with("://") => bad("names no host"),
        _ => Ok(()),
    }
}

/// Whether this is a subject, with or without wildcards.
fn is_subject(text: &str, wildcards: bool) -> bool {
    text.split('.').all(|part| {
        !part.is_empty() && !part.contains(char::is_whitespace) && (wildcards || !part.contains(['*', '>']))
    })
}

impl NatsLogin {
    fn read(options: &mut Options) -> Result<Self, OptionError> {
        let credentials = options.secret("credentials")?;
        let token = options.secret("token")?;
        let user = options.setting("user")?;
        let password = options.secret("password")?;
        let nkey = options.secret("nkey")?;
        let given = [
            ("credentials", credentials.is_some()),
            ("token", token.is_some()),
            ("user", user.is_some() || password.is_some()),
            ("nkey", nkey.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(OptionError::Bad {
                key: second.into(),
                reason: format!("excludes \"{first}\": {ONE_LOGIN}"),
            });
        }
        let missing = |key: &str| OptionError::Missing { key: key.into() };
        Ok(match (credentials, token, nkey) {
            (Some(credentials), _, _) => Self::Credentials(credentials),
            (_, Some(token), _) => Self::Token(token),
            (_, _, Some(nkey)) => Self::Nkey(nkey),
            _ => match (user, password) {
                (None, None) => Self::None,
                (Some(name), Some(password)) => Self::User { name, password },
                (Some(_), None) => return Err(missing("password")),
                (None, Some(_)) => return Err(missing("user")),
            },
        })
    }
}

/// Options of a NATS sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSinkSpec {
    pub(crate) connection: NatsConnection,
    pub(crate) subject: Template,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) delivery: Delivery,
}

impl NatsSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            connection: NatsConnection::read(options)?,
            subject: options.required_template("subject")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            delivery: Delivery::read(options)?,
        })
    }

    /// The subjects that the template can give, as a NATS wildcard.
    pub(crate) fn subject_pattern(&self) -> String {
        self.subject.literal().unwrap_or_else(|| {
            // A value may contain dots, so everything after the last dot of
            // the fixed beginning is open.
            let fixed = self.subject.literal_prefix();
            match fixed.rfind('.') {
                Some(dot) => format!("{}.>", &fixed[..dot]),
                None => ">".to_owned(),
            }
        })
    }
}

/// Options of a NATS source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSourceSpec {
    pub(crate) connection: NatsConnection,
    pub(crate) subject: String,
    /// Whether to read a stream; unless set, if the server has JetStream.
    pub(crate) jetstream: Option<bool>,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) durable: Option<String>,
    pub(crate) queue_group: Option<String>,
}

impl NatsSourceSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let spec = Self {
            connection: NatsConnection::read(options)?,
            subject: options.required_text("subject")?,
            jetstream: options.flag("jetstream")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            durable: options.text("durable")?,
            queue_group: options.text("queue_group")?,
        };
        if !is_subject(&spec.subject, true) {
            return Err(OptionError::Bad {
                key: "subject".into(),
                reason: "must be words separated by dots, where \"*\" stands for one and a last \">\" for the rest"
                    .into(),
            });
        }
        if spec.jetstream == Some(false)
            && let Some(key) = spec.needs_jetstream()
        {
            return Err(OptionError::Bad {
                key: "jetstream".into(),
                reason: format!("is false, but \"{key}\" is of JetStream; leave one of them out"),
            });
        }
        Ok(spec)
    }

    /// An option that means nothing without JetStream.
    pub(crate) fn needs_jetstream(&self) -> Option<&'static str> {
        if self.stream.is_some() {
            Some("stream")
        } else if self.durable.is_some() {
            Some("durable")
        } else if self.jetstream == Some(true) {
            Some("jetstream")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(more: &Value) -> Result<NatsConnection, String> {
        let mut config = json!({"url": "nats://h:1"});
        let object = config.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        let mut options = Options::new(object.clone());
        let connection = NatsConnection::read(&mut options).map_err(|e| e.to_string())?;
        options.finish().map_err(|e| e.to_string())?;
        Ok(connection)
    }

    #[test]
    fn a_connection_logs_in_in_one_way() {
        let (a, b) = ("${env:A}", "${file:/b}");
        assert_eq!(read(&json!({})).unwrap().login, NatsLogin::None);
        for (more, want) in [
            (
                json!({"credentials": b}),
                NatsLogin::Credentials(b.parse().unwrap()),
            ),
            (json!({"token": a}), NatsLogin::Token(a.parse().unwrap())),
            (json!({"nkey": a}), NatsLogin::Nkey(a.parse().unwrap())),
            (
                json!({"user": "bob", "password": a}),
                NatsLogin::User {
                    name: "bob".parse().unwrap(),
                    password: a.parse().unwrap(),
                },
            ),
        ] {
            assert_eq!(read(&more).unwrap().login, want);
        }
        for (more, want) in [
            (json!({"token": a, "user": "bob"}), "\"user\": excludes \"token\""),
            (
                json!({"nkey": a, "credentials": b}),
                "\"nkey\": excludes \"credentials\"",
            ),
            (json!({"user": "bob"}), "\"password\" is missing"),
            (json!({"password": a}), "\"user\" is missing"),
            (json!({"token": "t0ken"}), "secrets are never kept in SQL"),
            (json!({"url": "nats://u:p@h"}), "contains a user name or password"),
            (
                json!({"url": "nats://h,wss://h"}),
                "must begin with nats:// or tls://",
            ),
            (json!({"url": "nats://"}), "names no host"),
            (json!({"tls_cert": "PEM"}), "\"tls_key\" is missing"),
            (
                json!({"inbox_prefix": "a.>"}),
                "must be a subject without wildcards",
            ),
        ] {
            let error = read(&more).unwrap_err();
            assert!(error.contains(want), "{error}");
            assert!(!error.contains("t0ken"), "{error}");
        }
    }

    #[test]
    fn tls_is_required_once_anything_asks_for_it() {
        for (more, want) in [
            (json!({}), false),
            (json!({"tls_required": true}), true),
            (json!({"url": "h:4222"}), false),
            (json!({"url": ["nats://a", "tls://b"]}), true),
            (json!({"tls_ca": "PEM"}), true),
            (json!({"tls_first": true}), true),
        ] {
            assert_eq!(read(&more).unwrap().tls_required, want, "{more}");
        }
        let error = read(&json!({"tls_ca": "PEM", "tls_required": false})).unwrap_err();
        assert!(
            error.contains("\"tls_required\": is false, but \"tls_ca\""),
            "{error}"
        );
    }

    #[test]
    fn a_plain_subscription_has_no_stream() {
        for (more, want) in [
            (
                json!({"subject": "a.>", "jetstream": false, "stream": "S"}),
                Some("\"stream\" is of JetStream"),
            ),
            (json!({"subject": "a..b"}), Some("words separated by dots")),
            (
                json!({"subject": "a.*.b", "jetstream": false, "queue_group": "g"}),
                None,
            ),
        ] {
            let mut object = more.as_object().unwrap().clone();
            object.insert("url".into(), "h".into());
            let read = NatsSourceSpec::read(&mut Options::new(object)).map_err(|e| e.to_string());
            match want {
                Some(want) => assert!(read.as_ref().is_err_and(|e| e.contains(want)), "{read:?}"),
                None => assert!(read.is_ok(), "{read:?}"),
            }
        }
    }
}
