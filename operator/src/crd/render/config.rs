//! The config of a pipeline as it grows, with the Secrets that it needs.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{LONGEST_FILE_NAME, SECRETS_FOLDER, file_name, filter};
use crate::crd::{
    CaSecretRef, CertificateSecretRef, DeadLetter, Filter, LoginSecretRef, Retry, SecretKeyRef,
};

/// A config in the making.
pub(super) struct Config {
    /// Where in the resource the options come from.
    path: &'static str,
    pub(super) entries: Map<String, Value>,
    pub(super) secrets: BTreeSet<SecretKeyRef>,
    pub(super) errors: Vec<String>,
}

impl Config {
    pub(super) fn new(path: &'static str) -> Self {
        Self {
            path,
            entries: Map::new(),
            secrets: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    /// Sets a key.
    pub(super) fn set(&mut self, key: &str, value: impl Serialize) {
        // Texts, numbers, lists and maps of these cannot fail.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.entries.insert(key.to_owned(), value);
    }

    /// Sets a key to what is there.
    pub(super) fn option(&mut self, key: &str, value: Option<&impl Serialize>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Sets a key to a text where SQL takes a reference too: one that is
    /// written here could name any file or variable of the relay.
    pub(super) fn plain(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            let text = self.checked(key, text);
            self.set(key, text);
        }
    }

    /// A text that is no reference.
    pub(super) fn checked(&mut self, key: &str, text: &str) -> String {
        if text.starts_with("${") {
            self.errors.push(format!(
                "{}: {key} must be the text itself; refer to a Secret by the field for that",
                self.path
            ));
        }
        text.to_owned()
    }

    /// Options that every connector has.
    pub(super) fn common(
        &mut self,
        filter: Option<&Filter>,
        dead_letter: Option<DeadLetter>,
        retry: Option<&Retry>,
    ) {
        if let Some(Filter(conditions)) = filter {
            let wrong = filter::errors(conditions);
            self.errors
                .extend(wrong.into_iter().map(|e| format!("{}.filter: {e}", self.path)));
            self.set("filter", conditions);
        }
        if let Some(DeadLetter { enabled, max_retries }) = dead_letter {
            let mut object = Map::new();
            object.extend(enabled.map(|e| ("enabled".to_owned(), e.into())));
            object.extend(max_retries.map(|m| ("max_retries".to_owned(), m.into())));
            self.set("dead_letter", object);
        }
        self.option("retry", retry);
    }

    /// Sets a key to a reference to a file with this key of a Secret.
    pub(super) fn secret(&mut self, key: &str, reference: impl Into<SecretKeyRef>) {
        let reference = self.reference(reference.into());
        self.set(key, reference);
    }

    /// Sets a key to such a reference, if there is one.
    pub(super) fn optional_secret(&mut self, key: &str, reference: Option<&SecretKeyRef>) {
        if let Some(reference) = reference {
            self.secret(key, reference.clone());
        }
    }

    /// A reference to a file with this key of a Secret, as the relay reads it.
    pub(super) fn reference(&mut self, reference: SecretKeyRef) -> String {
        let name = file_name(&reference);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if reference.name.contains('_') || !name.chars().all(plain) {
            self.errors.push(format!(
                r#"{}: there can be no key "{}" of a Secret "{}""#,
                self.path, reference.key, reference.name
            ));
        } else if name.len() > LONGEST_FILE_NAME {
            self.errors.push(format!(
                r#"{}: the names of Secret "{}" and its key "{}" are too long together: {} characters, at most {LONGEST_FILE_NAME}"#,
                self.path, reference.name, reference.key, name.len()
            ));
        }
        self.secrets.insert(reference);
        format!("${{file:{SECRETS_FOLDER}/{name}}}")
    }

    /// `tls_ca`, `tls_cert` and `tls_key`.
    pub(super) fn tls(&mut self, ca: Option<&CaSecretRef>, client: Option<&CertificateSecretRef>) {
        if let Some(ca) = ca {
            self.secret("tls_ca", ca);
        }
        if let Some(client) = client {
            self.secret("tls_cert", client.certificate());
            self.secret("tls_key", client.private_key());
        }
    }

    /// User and password under these keys.
    pub(super) fn login(&mut self, keys: [&str; 2], user: Option<&String>, secret: &LoginSecretRef) {
        match user {
            Some(user) => self.plain(keys[0], Some(user)),
            None => self.secret(keys[0], secret.username()),
        }
        self.secret(keys[1], secret.password());
    }
}
