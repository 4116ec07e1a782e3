//! Logging in to a NATS server: secrets read, the server's nonce signed, and
//! what to say when it refuses.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::Auth;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};

use crate::config::{NatsLogin, Secret, SecretError, SecretRef};

/// Why nobody can log in with what the options refer to. Never shows it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LoginError {
    #[error("\"{key}\": {error}")]
    Unreadable { key: &'static str, error: SecretError },
    #[error("\"{key}\": {from} {reason}")]
    Bad {
        key: &'static str,
        from: SecretRef,
        reason: &'static str,
    },
}

/// What is shown to the server, read.
pub(super) enum Login {
    None,
    User { name: String, password: Secret },
    Token(Secret),
    Nkey(KeyPair),
    Credentials { jwt: Secret, key: KeyPair },
}

impl Login {
    /// Reads the secrets as they are now.
    pub(super) fn read(options: &NatsLogin) -> Result<Self, LoginError> {
        let read = |key, secret: &SecretRef| {
            secret
                .read()
                .map_err(|error| LoginError::Unreadable { key, error })
        };
        Ok(match options {
            NatsLogin::None => Self::None,
            NatsLogin::Token(token) => Self::Token(read("token", token)?),
            NatsLogin::User { name, password } => Self::User {
                name: name
                    .read()
                    .map_err(|error| LoginError::Unreadable { key: "user", error })?,
                password: read("password", password)?,
            },
            NatsLogin::Nkey(seed) => {
                let bad = || LoginError::Bad {
                    key: "nkey",
                    from: seed.clone(),
                    reason: "holds no seed of a user's key (it begins with SU)",
                };
                Self::Nkey(user_key(read("nkey", seed)?.expose().trim()).ok_or_else(bad)?)
            }
            NatsLogin::Credentials(file) => {
                let bad = || LoginError::Bad {
                    key: "credentials",
                    from: file.clone(),
                    reason: "is not the content of a .creds file (a user's JWT, then the seed of its key, each between BEGIN and END)",
                };
                let text = read("credentials", file)?;
                let (jwt, seed) = parts(text.expose()).ok_or_else(bad)?;
                Self::Credentials {
                    jwt: Secret::new(jwt),
                    key: user_key(seed).ok_or_else(bad)?,
                }
            }
        })
    }

    /// What is sent, given the server's nonce.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, nkeys::error::Error> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::User { name, password } => {
                auth.username = Some(name.clone());
                auth.password = Some(password.expose().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.expose().to_owned()),
            Self::Nkey(key) => {
                auth.nkey = Some(key.public_key());
                auth.signature = Some(key.sign(nonce)?);
            }
            Self::Credentials { jwt, key } => {
                auth.jwt = Some(jwt.expose().to_owned());
                auth.signature = Some(key.sign(nonce)?);
            }
        }
        Ok(auth)
    }

    /// What it means that the server refuses us.
    pub(super) fn refusal(&self, with_certificate: bool, now: SystemTime) -> String {
        match self {
            Self::None if with_certificate => {
                "the server accepts the client certificate but knows no user for it (authorization violation)"
                    .into()
            }
            Self::None => {
                "the server wants a login (authorization violation); set \"user\" and \"password\", \"token\", \"nkey\" or \"credentials\""
                    .into()
            }
            Self::User { name, .. } => {
                format!("the server refuses the user \"{name}\" or its password (authorization violation)")
            }
            Self::Token(_) => "the server refuses the token (authorization violation)".into(),
            Self::Nkey(key) => format!(
                "the server does not know the nkey {} (authorization violation)",
                key.public_key()
            ),
            Self::Credentials { jwt, key } => {
                let claims = Claims::of(jwt.expose());
                if let Some(subject) = &claims.subject
                    && *subject != key.public_key()
                {
                    return format!(
                        "the server refuses the credentials: their JWT is of the user {subject}, their key of {}",
                        key.public_key()
                    );
                }
                let name = claims.name.as_deref().unwrap_or("without a name");
                let late = claims.expired(now).map_or_else(
                    || "its account may be unknown there, or the user revoked".to_owned(),
                    |ago| format!("they expired {ago} ago"),
                );
                format!(
                    "the server refuses the credentials of user \"{name}\" ({}; authorization violation): {late}",
                    key.public_key()
                )
            }
        }
    }
}

fn user_key(seed: &str) -> Option<KeyPair> {
    KeyPair::from_seed(seed)
        .ok()
        .filter(|key| matches!(key.key_pair_type(), KeyPairType::User))
}

/// JWT and seed of a .creds file: the first and second text between lines of
/// dashes.
fn parts(creds: &str) -> Option<(&str, &str)> {
    let mut lines = creds.lines().map(str::trim);
    let mut next = || {
        lines.by_ref().find(|line| line.starts_with("---"))?;
        let value = lines.by_ref().find(|line| !line.is_empty())?;
        lines.by_ref().find(|line| line.starts_with("---"))?;
        (!value.starts_with("---")).then_some(value)
    };
    Some((next()?, next()?))
}

/// What a user's JWT says of itself; unverified, for words only.
#[derive(Default)]
struct Claims {
    name: Option<String>,
    subject: Option<String>,
    expires: Option<u64>,
}

impl Claims {
    fn of(jwt: &str) -> Self {
        let read = || {
            let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
            let json: serde_json::Value = serde_json::from_slice(&payload).ok()?;
            let text = |key: &str| json[key].as_str().map(str::to_owned);
            Some(Self {
                name: text("name"),
                subject: text("sub"),
                expires: json["exp"].as_u64().filter(|exp| *exp > 0),
            })
        };
        read().unwrap_or_default()
    }

    /// For how long it has been invalid, in words.
    fn expired(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let seconds = now.checked_sub(self.expires?)?;
        Some(match seconds {
            0..120 => format!("{seconds} seconds"),
            120..7_200 => format!("{} minutes", seconds / 60),
            7_200..172_800 => format!("{} hours", seconds / 3_600),
            _ => format!("{} days", seconds / 86_400),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn jwt(claims: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn creds(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\nkeep it\n\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------"
        )
    }

    #[test]
    fn creds_have_two_parts() {
        assert_eq!(parts(&creds("a.b.c", "SUX")), Some(("a.b.c", "SUX")));
        for bad in ["", "a.b.c", "-----BEGIN\na\n", "-----BEGIN A\na\n----END A\n"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn refusals_name_the_user_and_no_secret() {
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let refusal = |claims: serde_json::Value| {
            let login = Login::Credentials {
                jwt: Secret::new(&jwt(&claims)),
                key: KeyPair::from_seed(&seed).unwrap(),
            };
            login.refusal(false, now)
        };
        let public = key.public_key();
        for (claims, want) in [
            (
                serde_json::json!({"name": "relay", "sub": public, "exp": 9_000}),
                "they expired 16 minutes ago",
            ),
            (
                serde_json::json!({"name": "relay", "sub": public, "exp": 11_000}),
                "may be unknown",
            ),
            (
                serde_json::json!({"sub": "UOTHER"}),
                "their JWT is of the user UOTHER",
            ),
        ] {
            let text = refusal(claims);
            assert!(text.contains(want) && text.contains(&public), "{text}");
            assert!(!text.contains(&seed), "{text}");
        }
        let token = Login::Token(Secret::new("t0ken"));
        assert!(!token.refusal(false, now).contains("t0ken"));
    }

    #[test]
    fn an_nkey_signs_the_nonce() {
        let key = KeyPair::new_user();
        let public = KeyPair::from_public_key(&key.public_key()).unwrap();
        let auth = Login::Nkey(key).answer(b"nonce").unwrap();
        public.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        let account = KeyPair::new_account().seed().unwrap();
        assert!(user_key(&account).is_none() && user_key("SUX").is_none());
    }
}
