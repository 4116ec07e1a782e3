//! The keys of connection strings: libpq's, sorted by what is done with them.

use super::conninfo::Pairs;
use crate::words;

/// Keys that libpq knows and that are carried out.
const KEYS: [&str; 24] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];
/// Keys of libpq that change nothing here.
const WITHOUT_EFFECT: [&str; 8] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "ssl",
];
/// Keys of libpq that promise what is not kept here: refused rather than
/// ignored, each with what to do instead.
const REFUSED: [(&str, &str); 9] = [
    (
        "passfile",
        "give the password in the URL, and the URL by --postgres-url-file",
    ),
    ("service", "write the service's settings into the URL"),
    ("servicefile", "write the service's settings into the URL"),
    (
        "sslpassword",
        "use a key without a passphrase, readable by the relay alone",
    ),
    ("sslcrl", "revocation lists are not checked"),
    ("sslcrldir", "revocation lists are not checked"),
    (
        "require_auth",
        "use channel_binding=require, which only SCRAM over TLS fulfils",
    ),
    ("requirepeer", "it cannot be checked"),
    ("replication", "the relay needs ordinary sessions"),
];

/// Refuses keys that are unknown, or whose promise is not kept.
///
/// # Errors
/// Which key it is and what to do.
pub(super) fn check(pairs: &Pairs) -> Result<(), String> {
    for (n, (key, value)) in pairs.iter().enumerate() {
        let known = key.as_str();
        if KEYS.contains(&known) || WITHOUT_EFFECT.contains(&known) || known == "keepalives_retries" {
            continue;
        }
        if known == "gssencmode" && value != "require" {
            continue;
        }
        if known == "gssencmode" {
            return Err("gssencmode=require is not supported: use TLS, with sslmode=verify-full".into());
        }
        if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| *refused == known) {
            return Err(format!("{known} is not supported: {instead}"));
        }
        // Where quotes are missing, what looks like a key may be a piece of a
        // password. Keys are made of small letters and underscores.
        if !known.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!(
                "the key of pair {} is unknown; a value with blanks must be quoted",
                n + 1
            ));
        }
        return Err(match words::nearest(known, KEYS) {
            Some(nearest) => format!("unknown key {known}; did you mean {nearest}?"),
            None => format!("unknown key {known}; there are {}", KEYS.join(", ")),
        });
    }
    Ok(())
}
