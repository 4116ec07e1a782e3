//! What a connection string asks for, as values that cannot be wrong: where
//! the server is, who connects, and how TLS is done.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};

use super::conninfo::{self, Pairs};
use super::keys;
use super::tls::{Pem, Roots, TlsMode, TlsSettings, TlsVersion};

/// For one server: from the look-up of its name until it lets us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server, as it is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A name that is looked up at every connection.
    Name(String),
    /// An address; the name is the one that TLS checks, if another.
    Address(IpAddr, Option<String>),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

/// Which kind of server will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    /// One that takes writes.
    Writable,
    ReadOnly,
}

/// A parsed connection string.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) servers: Vec<(Place, u16)>,
    /// In another order each time.
    pub(super) shuffled: bool,
    pub(super) tls: TlsSettings,
    pub(super) wanted: Wanted,
    pub(super) connect_timeout: Duration,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) user_timeout: Duration,
    /// User, password, database, options and channel binding; its Debug hides
    /// the password.
    pub(super) startup: Config,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) idle: Duration,
    pub(super) interval: Option<Duration>,
    pub(super) count: Option<u32>,
}

/// Settings of TLS that stand above those of the connection string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOverrides {
    /// `disable` to `verify-full`.
    pub sslmode: Option<String>,
    /// File of the trusted authorities, or `system`.
    pub sslrootcert: Option<String>,
    /// File of the client certificate.
    pub sslcert: Option<String>,
    /// File of its key.
    pub sslkey: Option<String>,
    /// Certificates and keys as texts; they stand above the files.
    pub texts: PemTexts,
}

/// A text in PEM form.
pub type PemText = Arc<[u8]>;

/// Certificates and keys that are in no file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PemTexts {
    /// The trusted authorities.
    pub authorities: Option<PemText>,
    /// The client certificate and its key.
    pub identity: Option<(PemText, PemText)>,
}

impl fmt::Debug for PemTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemTexts")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl PemTexts {
    /// Their places in the connection string, so that what is said there goes
    /// together with them or is refused.
    fn places(&self) -> Vec<(String, String)> {
        let authorities = self.authorities.iter().map(|_| "sslrootcert");
        let identity = self.identity.iter().flat_map(|_| ["sslcert", "sslkey"]);
        authorities
            .chain(identity)
            .map(|key| (key.to_owned(), "given".to_owned()))
            .collect()
    }

    fn put_into(&self, tls: &mut TlsSettings) {
        let text = |of, text: &PemText| Pem::Text {
            of,
            text: Arc::clone(text),
        };
        if let Some(authorities) = &self.authorities {
            tls.roots = Roots::Named(text("that was given", authorities));
        }
        if let Some((cert, key)) = &self.identity {
            tls.identity = Some((text("that was given", cert), text("that was given", key)));
        }
    }
}

/// The pairs of a connection string, the last of each key.
struct Values(Pairs);

impl Values {
    fn get(&self, key: &str) -> Option<&str> {
        let last = self.0.iter().rev().find(|(k, _)| k == key);
        last.map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// One of a few words.
    fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> Result<T, String> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == value) {
            return Ok(*meaning);
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Err(format!("{key} must be one of {}", words.join(", ")))
    }

    /// Seconds or the like; none when zero or less, as libpq has it.
    fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.get(key).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(u64::try_from(number).ok().filter(|n| *n > 0)),
            Some(Err(_)) => Err(format!("{key} must be a whole number")),
        }
    }
}

impl Target {
    /// # Errors
    /// What is wrong with the string and what to do, without any of its values.
    pub(super) fn parse(text: &str, overrides: &TlsOverrides) -> Result<Self, String> {
        let mut values = Values(conninfo::split(text)?);
        keys::check(&values.0)?;
        for (key, value) in [
            ("sslmode", &overrides.sslmode),
            ("sslrootcert", &overrides.sslrootcert),
            ("sslcert", &overrides.sslcert),
            ("sslkey", &overrides.sslkey),
        ] {
            if let Some(value) = value {
                values.0.push((key.into(), value.clone()));
            }
        }
        values.0.extend(overrides.texts.places());
        let servers = servers(&values)?;
        let only_sockets = servers.iter().all(|(place, _)| matches!(place, Place::Unix(_)));
        let mut tls = tls(&values)?;
        overrides.texts.put_into(&mut tls);
        let channel_binding = values.word(
            "channel_binding",
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
            ChannelBinding::Prefer,
        )?;
        if channel_binding == ChannelBinding::Require && (tls.mode == TlsMode::Disable || only_sockets) {
            return Err("channel_binding=require needs TLS: set sslmode=require or stricter".into());
        }
        if channel_binding == ChannelBinding::Require && matches!(tls.mode, TlsMode::Allow | TlsMode::Prefer)
        {
            // Without TLS there is nothing to bind to.
            tls.mode = TlsMode::Require;
        }
        let mut startup = Config::new();
        startup.channel_binding(channel_binding);
        // Whether and how TLS is spoken is decided before the handshake.
        startup.ssl_mode(SslMode::Disable);
        if let Some(user) = values.get("user") {
            startup.user(user);
        }
        if let Some(password) = values.get("password") {
            startup.password(password);
        }
        if let Some(name) = values.get("dbname").or(values.get("user")) {
            startup.dbname(name);
        }
        if let Some(options) = values.get("options") {
            startup.options(options);
        }
        let keepalive = (values.get("keepalives") != Some("0"))
            .then(|| {
                Ok::<_, String>(Keepalive {
                    idle: Duration::from_secs(values.number("keepalives_idle")?.unwrap_or(5)),
                    interval: values.number("keepalives_interval")?.map(Duration::from_secs),
                    count: values
                        .number("keepalives_count")?
                        .and_then(|n| u32::try_from(n).ok()),
                })
            })
            .transpose()?;
        Ok(Self {
            servers,
            shuffled: values.word(
                "load_balance_hosts",
                &[("disable", false), ("random", true)],
                false,
            )?,
            tls,
            wanted: values.word(
                "target_session_attrs",
                &[
                    ("any", Wanted::Any),
                    ("read-write", Wanted::Writable),
                    ("primary", Wanted::Writable),
                    ("read-only", Wanted::ReadOnly),
                ],
                Wanted::Any,
            )?,
            connect_timeout: values
                .number("connect_timeout")?
                .map_or(CONNECT_TIMEOUT, Duration::from_secs),
            keepalive,
            user_timeout: values
                .number("tcp_user_timeout")?
                .map_or(Duration::from_secs(10), Duration::from_millis),
            startup,
        })
    }

    /// Hosts, ports and database, without secrets.
    pub(super) fn at(&self) -> String {
        let servers: Vec<String> = self
            .servers
            .iter()
            .map(|(place, port)| match place {
                Place::Name(name) | Place::Address(_, Some(name)) => format!("{name}:{port}"),
                Place::Address(IpAddr::V4(ip), None) => format!("{ip}:{port}"),
                Place::Address(IpAddr::V6(ip), None) => format!("[{ip}]:{port}"),
                Place::Unix(folder) => format!("{}:{port}", folder.display()),
            })
            .collect();
        let name = self.startup.get_dbname().unwrap_or_default();
        format!("{}/{name}", servers.join(","))
    }
}

fn servers(values: &Values) -> Result<Vec<(Place, u16)>, String> {
    let list = |key: &str| -> Vec<String> {
        let value = values.get(key);
        value.map_or_else(Vec::new, |v| v.split(',').map(|p| p.trim().to_owned()).collect())
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len());
    if count == 0 {
        return Err("names no host; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE".into());
    }
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err("host and hostaddr must name as many servers as each other".into());
    }
    if ports.len() > 1 && ports.len() != count {
        return Err("port must have one number, or one for each host".into());
    }
    (0..count)
        .map(|n| {
            let port = match ports.get(n).or(ports.first()).map(String::as_str) {
                None | Some("") => 5432,
                Some(port) => port
                    .parse()
                    .ok()
                    .filter(|p| *p > 0)
                    .ok_or("port must be a number from 1 to 65535")?,
            };
            let name = names.get(n).filter(|name| !name.is_empty());
            let address = addresses.get(n).filter(|address| !address.is_empty());
            let place = match (name, address) {
                (name, Some(address)) => {
                    let address = address
                        .parse()
                        .map_err(|_| "hostaddr must be an IP address; a name belongs into host")?;
                    Place::Address(address, name.cloned())
                }
                (Some(name), None) if name.starts_with('/') => Place::Unix(name.into()),
                (Some(name), None) => match name.parse() {
                    Ok(address) => Place::Address(address, None),
                    Err(_) => Place::Name(name.clone()),
                },
                (None, None) => return Err("one of the hosts is empty".into()),
            };
            Ok((place, port))
        })
        .collect()
}

fn tls(values: &Values) -> Result<TlsSettings, String> {
    let roots = match values.get("sslrootcert") {
        None => Roots::Unnamed,
        Some("system") => Roots::System,
        Some(file) => Roots::Named(Pem::File(file.into())),
    };
    let default = match (&roots, values.get("ssl")) {
        (Roots::System, _) => TlsMode::VerifyFull,
        // As JDBC writes it, and libpq takes it.
        (_, Some("true")) => TlsMode::Require,
        _ => TlsMode::Prefer,
    };
    let mode = values.word("sslmode", &TlsMode::WORDS, default)?;
    match (mode, &roots) {
        (TlsMode::Allow | TlsMode::Prefer, Roots::Named(_)) => {
            return Err(format!(
                "sslrootcert is given, but sslmode={} also connects without checking the server: \
                 set sslmode=verify-full (or verify-ca, which leaves the host name out)",
                mode.word()
            ));
        }
        (TlsMode::VerifyCa, Roots::Unnamed) => {
            return Err("sslmode=verify-ca needs sslrootcert, the file with the certificate of the server's authority".into());
        }
        (TlsMode::Disable | TlsMode::VerifyFull, _) | (_, Roots::Unnamed | Roots::Named(_)) => {}
        (_, Roots::System) => {
            return Err(format!(
                "sslrootcert=system with sslmode={}: anybody can get a certificate from a public authority; \
                 only sslmode=verify-full is safe with it",
                mode.word()
            ));
        }
    }
    let identity = match (values.get("sslcert"), values.get("sslkey")) {
        (Some(cert), Some(key)) => Some((Pem::File(cert.into()), Pem::File(key.into()))),
        (None, None) => None,
        (Some(_), None) => return Err("sslcert is given without sslkey, the file of its key".into()),
        (None, Some(_)) => return Err("sslkey is given without sslcert, the file of its certificate".into()),
    };
    let direct = values.word("sslnegotiation", &[("postgres", false), ("direct", true)], false)?;
    if direct && matches!(mode, TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer) {
        return Err("sslnegotiation=direct needs sslmode=require or stricter".into());
    }
    Ok(TlsSettings {
        mode,
        roots,
        identity,
        direct,
        min: values.word("ssl_min_protocol_version", &TlsVersion::AT_LEAST, TlsVersion::V12)?,
        max: values.word("ssl_max_protocol_version", &TlsVersion::AT_MOST, TlsVersion::V13)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, &TlsOverrides::default())
    }

    fn target(text: &str) -> Target {
        parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_cloudnativepg_uri_works_as_it_is() {
        let target = target("postgresql://app:Aq%40x%2F9@shop-db-rw.shop:5432/app");
        assert_eq!(target.at(), "shop-db-rw.shop:5432/app");
        assert_eq!(target.startup.get_user(), Some("app"));
        assert_eq!(target.startup.get_password(), Some(b"Aq@x/9".as_slice()));
        assert_eq!(target.tls.mode, TlsMode::Prefer);
        assert!(!format!("{target:?}").contains("Aq@x/9"));
    }

    #[test]
    fn both_forms_say_the_same() {
        let url = target("postgres://u:p@h:6000/d?sslmode=verify-full&sslrootcert=/ca.crt&connect_timeout=2");
        let pairs = target(
            "host=h port=6000 user=u password=p dbname=d sslmode=verify-full sslrootcert=/ca.crt connect_timeout=2",
        );
        assert_eq!(url.tls, pairs.tls);
        assert_eq!(url.at(), pairs.at());
        assert_eq!(url.startup, pairs.startup);
        assert_eq!(url.connect_timeout, Duration::from_secs(2));
        assert_eq!(url.tls.roots, Roots::Named(Pem::File("/ca.crt".into())));
    }

    #[test]
    fn servers_are_places() {
        let target = target("host=a,,/run hostaddr=,10.0.0.2, port=1,,3 user=u");
        assert_eq!(
            target.servers,
            [
                (Place::Name("a".into()), 1),
                (Place::Address([10, 0, 0, 2].into(), None), 5432),
                (Place::Unix("/run".into()), 3),
            ]
        );
        assert_eq!(
            parse("host=db hostaddr=10.0.0.2").unwrap().servers,
            [(Place::Address([10, 0, 0, 2].into(), Some("db".into())), 5432)]
        );
    }

    #[test]
    fn overrides_stand_above_the_url() {
        let overrides = TlsOverrides {
            sslmode: Some("verify-full".into()),
            sslrootcert: Some("/ca.crt".into()),
            ..TlsOverrides::default()
        };
        let target = Target::parse("postgres://h/d?sslmode=disable", &overrides).unwrap();
        assert_eq!(target.tls.mode, TlsMode::VerifyFull);
        assert_eq!(target.tls.roots, Roots::Named(Pem::File("/ca.crt".into())));
    }

    #[test]
    fn the_systems_roots_go_with_verify_full_alone() {
        assert_eq!(target("host=h sslrootcert=system").tls.mode, TlsMode::VerifyFull);
        assert_eq!(target("host=h sslmode=verify-full").tls.roots, Roots::Unnamed);
    }

    #[test]
    fn what_is_not_kept_is_refused_with_what_to_do() {
        for (text, want) in [
            (
                "host=h sslmode=verify",
                "one of disable, allow, prefer, require, verify-ca, verify-full",
            ),
            ("host=h sslrootcert=/ca.crt", "set sslmode=verify-full"),
            ("host=h sslmode=verify-ca", "needs sslrootcert"),
            (
                "host=h sslmode=require sslrootcert=system",
                "only sslmode=verify-full",
            ),
            ("host=h sslcert=/c.crt", "without sslkey"),
            ("host=h sslkey=/c.key", "without sslcert"),
            ("host=h sslmode=disable channel_binding=require", "needs TLS"),
            ("host=h sslnegotiation=direct", "needs sslmode=require"),
            ("host=h sslmod=require", "did you mean sslmode?"),
            ("host=h sslpassword=hunter2", "without a passphrase"),
            ("host=h gssencmode=require", "use TLS"),
            (
                "host=h password=my Hunter2=x",
                "a value with blanks must be quoted",
            ),
            ("host=h port=99999", "from 1 to 65535"),
            ("host=a,b port=1,2,3", "one for each host"),
            ("host=h hostaddr=name", "IP address"),
            ("host=h connect_timeout=soon", "whole number"),
            ("user=u", "names no host"),
            ("postgres:///d", "names no host"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.to_lowercase().contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn what_libpq_clients_write_is_taken() {
        for text in [
            "host=h gssencmode=prefer sslcompression=0 client_encoding=UTF8",
            "host=h keepalives_count=3 tcp_user_timeout=3000 target_session_attrs=primary",
            "postgres://h/d?ssl=true&application_name=x&options=-c%20statement_timeout%3D1s",
            "host=h ssl_min_protocol_version=TLSv1.3",
        ] {
            target(text);
        }
    }
}
