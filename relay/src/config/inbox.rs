//! The options of the inbox sink.

use super::options::{OptionError, Options};
use super::secret::{SecretError, SecretRef, Setting};

/// Options of an inbox sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InboxSinkSpec {
    pub(crate) inbox: String,
    /// Without it the inbox is in the pipeline's own database.
    pub(crate) database: Option<DatabaseLogin>,
    /// Header whose value is the event id.
    pub(crate) message_id_header: Option<String>,
    /// Name of this side, for `tide-path`.
    pub(crate) origin: Option<String>,
    /// Names in `tide-path` of what is not to be delivered.
    pub(crate) skip_if_passed: Vec<String>,
}

/// Another database, and who connects to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DatabaseLogin {
    url: Setting,
    user: Option<Setting>,
    password: Option<SecretRef>,
}

impl InboxSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let inbox = options.required_text("inbox")?;
        let url = options.setting("url")?;
        let user = options.setting("user")?;
        let password = options.secret("password")?;
        if let Some(Setting::Plain(text)) = &url
            && has_password(text)
        {
            return Err(OptionError::Bad {
                key: "url".into(),
                reason:
                    "contains a password; give it as \"password\", by reference, or refer to the whole URL"
                        .into(),
            });
        }
        let database = match url {
            Some(url) => Some(DatabaseLogin { url, user, password }),
            None if user.is_some() || password.is_some() => {
                return Err(OptionError::Missing { key: "url".into() });
            }
            None => None,
        };
        options.one_of("delivery", &[("exactly-once", ())])?;
        Ok(Self {
            inbox,
            database,
            message_id_header: options.text("message_id_header")?,
            origin: options.text("origin")?,
            skip_if_passed: options.list("skip_if_passed")?,
        })
    }
}

impl DatabaseLogin {
    /// The URL with user and password, as they are now.
    ///
    /// # Errors
    /// When one of them is kept apart and not there.
    pub(crate) fn url(&self) -> Result<String, SecretError> {
        let mut url = self.url.read()?;
        if let Some(user) = &self.user {
            add_parameter(&mut url, "user", &user.read()?);
        }
        if let Some(password) = &self.password {
            add_parameter(&mut url, "password", password.read()?.expose());
        }
        Ok(url)
    }
}

fn is_uri(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Whether a connection string gives a password away.
fn has_password(text: &str) -> bool {
    let lower = text.to_lowercase();
    if let Some((_, rest)) = lower.split_once("://").filter(|_| is_uri(&lower)) {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let login = authority.rsplit_once('@').map(|(login, _)| login);
        if login.is_some_and(|login| login.contains(':')) {
            return true;
        }
    }
    lower.match_indices("password").any(|(at, word)| {
        let before = lower[..at].trim_end_matches("ssl").chars().next_back();
        let after = lower[at + word.len()..].trim_start();
        after.starts_with('=') && before.is_none_or(|c| c.is_whitespace() || c == '?' || c == '&')
    })
}

/// Adds a parameter to either form of a connection string; it then stands above
/// one that is there already.
fn add_parameter(url: &mut String, name: &str, value: &str) {
    if is_uri(url) {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(name);
        url.push('=');
        url.extend(percent_encoding::utf8_percent_encode(
            value,
            percent_encoding::NON_ALPHANUMERIC,
        ));
    } else {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        url.push(' ');
        url.push_str(name);
        url.push_str("='");
        url.push_str(&quoted);
        url.push('\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_seen() {
        for text in [
            "postgres://u:p@h/d",
            "postgresql://u:p@h1:1,h2:2/d",
            "POSTGRES://u:p@h/d",
            "postgres://h/d?user=u&password=p",
            "host=h password=p",
            "host=h password = 'p'",
            "postgres://h/d?sslpassword=p",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in [
            "postgres://u@h:5432/d",
            "postgres://h1:5432,h2:5433/d",
            "host=h dbname=password user=u",
            "postgres://u@h/d?application_name=a:b@c",
        ] {
            assert!(!has_password(text), "{text}");
        }
    }

    /// What is added must be read back as it was.
    #[test]
    fn user_and_password_of_any_kind_can_be_added() {
        for url in [
            "postgres://h:5433/d",
            "postgres://other@h:5433/d?connect_timeout=3",
            "host=h port=5433 dbname=d user=other",
        ] {
            for (user, password) in [("u", "p"), ("a b", r"p'\ %&=?@/: ä"), ("x@y", "'")] {
                let mut text = url.to_owned();
                add_parameter(&mut text, "user", user);
                add_parameter(&mut text, "password", password);
                let config: tokio_postgres::Config = text.parse().unwrap();
                assert_eq!(config.get_user(), Some(user), "{text}");
                assert_eq!(config.get_password(), Some(password.as_bytes()), "{text}");
                assert_eq!(
                    (config.get_dbname(), config.get_ports()),
                    (Some("d"), &[5433][..])
                );
            }
        }
    }
}
