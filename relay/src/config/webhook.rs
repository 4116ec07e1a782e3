//! The options of the webhook sink.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::options::{OptionError, Options};
use super::secret::{SecretRef, Setting};
use super::tls::TlsSpec;
use crate::encode::Template;

/// Options of a webhook sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WebhookSinkSpec {
    pub(crate) url: WebhookUrl,
    /// Several messages in one request, as a JSON array.
    pub(crate) batch: bool,
    /// Of the body of a batch.
    pub(crate) max_bytes: usize,
    pub(crate) headers: Vec<(String, Setting)>,
    pub(crate) signing_secret: Option<SecretRef>,
    /// For one request, from the look-up of the host to the end of the answer.
    pub(crate) timeout: Duration,
    /// Requests at once; more than one only with a key.
    pub(crate) concurrency: usize,
    /// Messages with equal keys stay in order.
    pub(crate) key: Option<Template>,
    pub(crate) allow_private: bool,
    pub(crate) tls: TlsSpec,
}

/// Where messages are posted to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum WebhookUrl {
    Plain(Endpoint),
    /// The whole URL is a secret, as with receivers that know their senders by it.
    Secret(SecretRef),
}

/// A parsed URL: its server, and a template of what follows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) https: bool,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the header `Host` has it.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: Template,
}

/// Headers that are ours to set.
const RESERVED: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-timestamp",
];
/// Names of headers whose values are secrets.
const SECRET: [&str; 8] = [
    "auth",
    "token",
    "secret",
    "key",
    "password",
    "signature",
    "credential",
    "cookie",
];

impl std::str::FromStr for Endpoint {
    type Err = String;

    /// The error never shows the URL, which may be a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let scheme = text.find("://").map_or("", |at| &text[..at]);
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("must begin with https:// or http://".into()),
        };
        let rest = &text[scheme.len() + 3..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(
                "contains a user name or password; give it as a header \"Authorization\", by reference"
                    .into(),
            );
        }
        if authority.contains(['{', '}']) {
            return Err("may have placeholders after the host only".into());
        }
        if target.contains('#') {
            return Err("has a fragment (#), which is never sent".into());
        }
        let uri: Uri = format!("{scheme}://{authority}/")
            .parse()
            .map_err(|_| "has a host that cannot be read; write https://host:port/path".to_owned())?;
        let host = uri.host().unwrap_or_default();
        if host.is_empty() || authority.ends_with(':') {
            return Err("has no host; write https://host:port/path".into());
        }
        let default = if https { 443 } else { 80 };
        let target = match target.chars().next() {
            Some('/') => target.to_owned(),
            _ => format!("/{target}"),
        };
        let target: Template = target.parse().map_err(|e| format!("{e}"))?;
        if let Some(literal) = target.literal()
            && literal.parse::<Uri>().is_err()
        {
            return Err("has a path that must be percent-encoded".into());
        }
        Ok(Self {
            https,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(default),
            authority: authority.to_owned(),
            target,
        })
    }
}

impl Endpoint {
    /// The server, for people.
    pub(crate) fn server(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

fn read_url(options: &mut Options) -> Result<WebhookUrl, OptionError> {
    match options.setting("url")? {
        None => Err(OptionError::Missing { key: "url".into() }),
        Some(Setting::Reference(reference)) => Ok(WebhookUrl::Secret(reference)),
        Some(Setting::Plain(text)) => match text.parse() {
            Ok(endpoint) => Ok(WebhookUrl::Plain(endpoint)),
            Err(reason) => Err(OptionError::Bad {
                key: "url".into(),
                reason,
            }),
        },
    }
}

/// What is wrong with a header, or none.
fn header_error(name: &str, value: &Setting) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if name.parse::<HeaderName>().is_err() {
        return Some("is no name of an HTTP header".into());
    }
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("webhook-") || lower.starts_with("tide-") {
        return Some("is set by pg-tide itself".into());
    }
    match value {
        Setting::Plain(_) if SECRET.iter().any(|word| lower.contains(word)) => Some(
            "must be a reference, \"${file:/absolute/path}\" or \"${env:NAME}\"; secrets are never kept in SQL"
                .into(),
        ),
        Setting::Plain(text) if HeaderValue::from_str(text).is_err() => {
            Some("has a value that HTTP does not allow".into())
        }
        Setting::Reference(_) | Setting::Plain(_) => None,
    }
}

impl WebhookSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let url = read_url(options)?;
        options.one_of("method", &[("POST", ())])?;
        options.one_of("delivery", &[("at-least-once", ())])?;
        let batch = options.one_of("mode", &[("single", false), ("batch", true)])?;
        let headers = options.settings("headers")?;
        for (name, value) in &headers {
            if let Some(reason) = header_error(name, value) {
                return Err(OptionError::Bad {
                    key: format!("headers.{name}"),
                    reason,
                });
            }
        }
        let key = options.template("key")?;
        let concurrency = options.number("concurrency", 1..=256)?;
        if key.is_none() && concurrency.is_some_and(|c| c > 1) {
            return Err(OptionError::Bad {
                key: "concurrency".into(),
                reason: "needs \"key\", by which messages are kept in order: \"{id}\" when each stands alone"
                    .into(),
            });
        }
        let concurrency = concurrency.unwrap_or(if key.is_some() { 8 } else { 1 });
        Ok(Self {
            url,
            batch: batch.unwrap_or(false),
            max_bytes: options
                .number("max_bytes", 1_024..=100_000_000)?
                .map_or(1 << 20, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            headers,
            signing_secret: options.secret("signing_secret")?,
            timeout: options
                .duration("timeout", 100..=600_000)?
                .unwrap_or(Duration::from_secs(10)),
            concurrency: usize::try_from(concurrency).unwrap_or(1),
            key,
            allow_private: options.flag("allow_private")?.unwrap_or(false),
            tls: TlsSpec::read(options)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_server_and_target() {
        for (text, server, host, port, target) in [
            ("https://a.example/x", "https://a.example", "a.example", 443, "/x"),
            ("HTTP://a:8080", "http://a:8080", "a", 8080, "/"),
            ("https://a?k=v", "https://a", "a", 443, "/?k=v"),
            (
                "http://[::1]:80/{id}?r={headers.r}",
                "http://[::1]:80",
                "::1",
                80,
                "/{id}?r={headers.r}",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.server(), server);
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.target.text(), target);
        }
        for (text, want) in [
            ("ftp://a/", "must begin with"),
            ("a.example/x", "must begin with"),
            ("https://u:hunter2@a/x", "user name or password"),
            ("https://{host}/x", "after the host only"),
            ("https:///x", "host"),
            ("https://a:/x", "no host"),
            ("https://a b/x", "host"),
            ("https://a/x y", "percent-encoded"),
            ("https://a/x#y", "fragment"),
            ("https://a/{x", "without its"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(
                error.contains(want) && !error.contains("hunter2"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn headers_that_are_secrets_or_ours_are_refused() {
        for (name, value, ok) in [
            ("X-Source", "shop", true),
            ("Authorization", "Bearer hunter2", false),
            ("Authorization", "${env:X}", true),
            ("X-Api-Key", "hunter2", false),
            ("Host", "a", false),
            ("Webhook-Signature", "${env:X}", false),
            ("a b", "c", false),
            ("X-Line", "a\nb", false),
        ] {
            let error = header_error(name, &value.parse().unwrap());
            assert_eq!(error.is_none(), ok, "{name}: {error:?}");
            assert!(!error.unwrap_or_default().contains("hunter2"));
        }
    }
}
