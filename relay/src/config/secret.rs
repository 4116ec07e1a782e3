//! Secrets: a configuration says where one is, never what it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a secret is read from: `${file:/absolute/path}` or `${env:NAME}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SecretRef {
    File(PathBuf),
    Env(String),
}

/// Environment variables of this program itself (the database's URL is one):
/// a pipeline must not be able to send them to a broker.
const OWN_PREFIX: &str = "PG_TIDE_";

/// A secret's value. Shown as `***` wherever it is formatted.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

/// Why a secret cannot be read; names the place, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("cannot read the secret file {path}: {reason}")]
    File { path: String, reason: String },
    #[error("the environment variable {0} of the secret is not set")]
    Env(String),
    #[error("the secret at {0} is empty")]
    Empty(SecretRef),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "${{file:{}}}", path.display()),
            Self::Env(name) => write!(f, "${{env:{name}}}"),
        }
    }
}

impl FromStr for SecretRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || {
            "must be \"${file:/absolute/path}\" or \"${env:NAME}\"; secrets are never kept in SQL".to_owned()
        };
        let inner = text
            .strip_prefix("${")
            .and_then(|t| t.strip_suffix('}'))
            .ok_or_else(hint)?;
        match inner.split_once(':') {
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(("file", _)) => {
                Err("names a file by a relative path; write \"${file:/absolute/path}\"".into())
            }
            Some(("env", name)) if name.starts_with(OWN_PREFIX) => Err(format!(
                "names {name}, which belongs to pg-tide itself; use a variable of another name"
            )),
            Some(("env", name))
                if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') =>
            {
                Ok(Self::Env(name.to_owned()))
            }
            _ => Err(hint()),
        }
    }
}

impl SecretRef {
    /// Reads the secret as it is now; line ends at its end are not part of it.
    ///
    /// # Errors
    /// When it is not there or empty.
    pub(crate) fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path).map_err(|e| SecretError::File {
                path: path.display().to_string(),
                reason: e.to_string(),
            })?,
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?,
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(SecretError::Empty(self.clone()));
        }
        Ok(Secret(text.to_owned()))
    }
}

impl Secret {
    /// Keeps a part of another secret from being shown.
    pub(crate) fn new(value: &str) -> Self {
        Self(value.to_owned())
    }

    /// The value itself, for the one place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Something that may be written out or kept apart, such as a user name or a
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setting {
    Plain(String),
    Reference(SecretRef),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("${") {
            text.parse().map(Self::Reference)
        } else {
            Ok(Self::Plain(text.to_owned()))
        }
    }
}

impl Setting {
    /// The value as it is now.
    ///
    /// # Errors
    /// When it is kept apart and not there.
    pub(crate) fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::Reference(reference) => reference.read().map(|secret| secret.0),
        }
    }

    /// Where it is kept, when apart.
    pub(crate) fn reference(&self) -> Option<&SecretRef> {
        match self {
            Self::Plain(_) => None,
            Self::Reference(reference) => Some(reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_shown() {
        for text in ["${file:/run/secrets/a}", "${env:KAFKA_PASSWORD}"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for (text, want) in [
            ("hunter2", "never kept in SQL"),
            ("${file:a/b}", "relative path"),
            ("${env:PG_TIDE_POSTGRES_URL}", "belongs to pg-tide"),
            ("${env:}", "never kept in SQL"),
            ("${vault:x}", "never kept in SQL"),
        ] {
            let error = text.parse::<SecretRef>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_files_last_line_end_is_not_part_of_the_secret() {
        let path = std::env::temp_dir().join(format!("tide-secret-{}", std::process::id()));
        std::fs::write(&path, "pass word\r\n").unwrap();
        let reference = SecretRef::File(path.clone());
        let secret = reference.read().unwrap();
        assert_eq!(
            (secret.expose(), format!("{secret:?}")),
            ("pass word", "***".into())
        );
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(reference.read(), Err(SecretError::Empty(reference.clone())));
        std::fs::remove_file(&path).unwrap();
        assert!(
            reference
                .read()
                .unwrap_err()
                .to_string()
                .contains("cannot read the secret file")
        );
    }

    #[test]
    fn a_setting_is_text_or_a_reference() {
        assert_eq!("bob".parse(), Ok(Setting::Plain("bob".into())));
        assert_eq!(
            "${env:X}".parse(),
            Ok(Setting::Reference(SecretRef::Env("X".into())))
        );
        assert!("${x".parse::<Setting>().is_err());
    }
}
