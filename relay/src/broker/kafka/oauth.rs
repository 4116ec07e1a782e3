//! Tokens for OAUTHBEARER: the client credentials grant (RFC 6749, 4.4).
//!
//! Fetched here and not by librdkafka, whose own way needs another HTTP and
//! TLS library and tells little of why a token server refuses.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::client::OAuthToken;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::config::{OAuthSpec, TlsSpec};
use crate::failure::with_causes;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// A token server that does not tell how long its token lives.
const DEFAULT_LIFETIME: u64 = 300;
const LARGEST_ANSWER: u64 = 1 << 20;

/// Why there is no token. Never contains the client's secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token from {url}: {reason}")]
pub(crate) struct TokenError {
    url: String,
    reason: String,
}

/// Asks the token server; blocking.
///
/// # Errors
/// What came back, in words.
pub(crate) fn fetch(spec: &OAuthSpec, tls: &TlsSpec) -> Result<OAuthToken, TokenError> {
    request(spec, tls).map_err(|reason| TokenError {
        url: spec.token_url.clone(),
        reason,
    })
}

fn request(spec: &OAuthSpec, tls: &TlsSpec) -> Result<OAuthToken, String> {
    let id = spec.client_id.read().map_err(|e| e.to_string())?;
    let secret = spec.client_secret.read().map_err(|e| e.to_string())?;
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(spec.scope.as_deref().map(|scope| ("scope", scope)));
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // A redirect would carry the secret to somebody else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(TlsConfig::builder().root_certs(roots(tls)?).build())
        .build()
        .into();
    let credentials = format!("{}:{}", encoded(&id), encoded(secret.expose()));
    let mut answer = agent
        .post(&spec.token_url)
        .header("Authorization", &format!("Basic {}", BASE64.encode(credentials)))
        .header("Accept", "application/json")
        .send_form(form)
        .map_err(|e| format!("the token server cannot be reached: {}", with_causes(&e)))?;
    let status = answer.status();
    let body = answer
        .body_mut()
        .with_config()
        .limit(LARGEST_ANSWER)
        .read_to_string()
        .map_err(|e| format!("its answer cannot be read: {}", with_causes(&e)))?;
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    if !status.is_success() {
        let said = ["error", "error_description"]
            .iter()
            .filter_map(|key| body.get(key)?.as_str())
            .collect::<Vec<_>>()
            .join(": ");
        let said = said.replace(secret.expose(), "***");
        let advice = match status.as_u16() {
            400 | 401 | 403 => format!(
                "; check \"sasl_oauth_client_id\" (\"{id}\"), \"sasl_oauth_client_secret\" and \"sasl_oauth_scope\""
            ),
            300..=499 => "; check \"sasl_oauth_token_url\"".into(),
            _ => String::new(),
        };
        return Err(format!(
            "the token server answers {status}{}{said}{advice}",
            if said.is_empty() { "" } else { ": " }
        ));
    }
    let token = body
        .get("access_token")
        .and_then(Value::as_str)
        .ok_or("the token server's answer has no \"access_token\"; check \"sasl_oauth_token_url\"")?;
    let lifetime = body
        .get("expires_in")
        .and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
        .unwrap_or(DEFAULT_LIFETIME);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = now + Duration::from_secs(lifetime.max(1));
    Ok(OAuthToken {
        token: token.to_owned(),
        principal_name: id,
        lifetime_ms: i64::try_from(until.as_millis()).unwrap_or(i64::MAX),
    })
}

/// The system's authorities, and those that the brokers' certificates are
/// checked against: they are often the company's own for both.
fn roots(tls: &TlsSpec) -> Result<RootCerts, String> {
    let mut all: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .into_iter()
        .map(|certificate| Certificate::from_der(&certificate).to_owned())
        .collect();
    if let Some(ca) = &tls.ca {
        let pem = ca.read().map_err(|e| e.to_string())?;
        for item in parse_pem(pem.as_bytes()) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| format!("\"tls_ca\": {e}"))? {
                all.push(certificate);
            }
        }
    }
    Ok(RootCerts::Specific(Arc::new(all)))
}

/// Percent-encoded, as RFC 6749 wants the parts of the credentials.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_twice() {
        assert_eq!(encoded("a b:ü"), "a%20b%3A%C3%BC");
        for (plain, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(BASE64.encode(plain), want);
        }
    }
}
