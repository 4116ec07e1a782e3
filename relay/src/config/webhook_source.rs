//! The options of the webhook source.

use std::time::Duration;

use super::options::{OptionError, Options};
use super::secret::SecretRef;

/// Options of a webhook source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WebhookSourceSpec {
    /// None: whoever reaches the listener can send.
    pub(crate) signature: Option<SignatureSpec>,
    pub(crate) max_body_bytes: usize,
    /// Requests at the same time, in each relay.
    pub(crate) max_in_flight: usize,
    /// For the body of a request to arrive.
    pub(crate) timeout: Duration,
}

/// How requests are signed (Standard Webhooks).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SignatureSpec {
    pub(crate) secrets: Vec<SecretRef>,
    /// How far the time of a signature may be from ours.
    pub(crate) tolerance: Duration,
}

fn bad(key: &str, reason: &str) -> OptionError {
    OptionError::Bad {
        key: key.into(),
        reason: reason.into(),
    }
}

impl WebhookSourceSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let signed = options.one_of("signature", &[("standard", true), ("none", false)])?;
        let secrets = options.secrets("signing_secret")?;
        let tolerance = options.duration("tolerance", 1_000..=86_400_000)?;
        let signature = match (signed, secrets.is_empty()) {
            (Some(false), true) if tolerance.is_none() => None,
            (Some(false), none) => {
                let key = if none { "tolerance" } else { "signing_secret" };
                return Err(bad(
                    key,
                    "has no meaning with \"signature\": \"none\"; leave one of them out",
                ));
            }
            (_, true) => {
                return Err(bad(
                    "signing_secret",
                    "is missing; if requests are not signed, say so: \"signature\": \"none\"",
                ));
            }
            (_, false) => Some(SignatureSpec {
                secrets,
                tolerance: tolerance.unwrap_or(Duration::from_mins(5)),
            }),
        };
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(Self {
            signature,
            max_body_bytes: options
                .number("max_body_bytes", 1..=100_000_000)?
                .map_or(1 << 20, size),
            max_in_flight: options.number("max_in_flight", 1..=100_000)?.map_or(4096, size),
            timeout: options
                .duration("timeout", 100..=600_000)?
                .unwrap_or(Duration::from_secs(10)),
        })
    }

    /// Refuses what would tell signed requests apart by something that the
    /// signature does not cover.
    pub(super) fn check_identity(&self, id_header: bool, dedup_key: bool) -> Result<(), OptionError> {
        let key = match (&self.signature, id_header, dedup_key) {
            (Some(_), true, _) => "message_id_header",
            (Some(_), _, true) => "dedup_key",
            _ => return Ok(()),
        };
        Err(bad(
            key,
            "has no meaning with signed requests: webhook-id, which the signature covers, tells them apart",
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value) -> Result<WebhookSourceSpec, String> {
        let mut options = Options::new(config.as_object().unwrap().clone());
        let id_header = options.text("message_id_header").unwrap().is_some();
        let dedup_key = options.text("dedup_key").unwrap().is_some();
        let spec = WebhookSourceSpec::read(&mut options).map_err(|e| e.to_string())?;
        spec.check_identity(id_header, dedup_key)
            .and_then(|()| options.finish())
            .map_err(|e| e.to_string())?;
        Ok(spec)
    }

    #[test]
    fn a_webhook_is_signed_or_says_that_it_is_not() {
        let key = json!("${file:/run/secrets/key}");
        for (config, secrets) in [
            (json!({"signature": "none", "message_id_header": "X-Id"}), None),
            (json!({"signing_secret": key}), Some(1)),
            (
                json!({"signing_secret": [key, "${env:OLD_KEY}"], "signature": "standard", "tolerance": "1m"}),
                Some(2),
            ),
        ] {
            let spec = read(&config).unwrap();
            assert_eq!(spec.signature.map(|s| s.secrets.len()), secrets, "{config}");
        }
        for (config, want) in [
            (json!({}), "\"signing_secret\": is missing"),
            (json!({"signing_secret": []}), "is an empty list"),
            (
                json!({"signing_secret": "hunter2"}),
                "\"signing_secret\": must be \"${file:",
            ),
            (
                json!({"signing_secret": [key, "hunter2"]}),
                "\"signing_secret\": must be",
            ),
            (
                json!({"signing_secret": key, "signature": "none"}),
                "\"signing_secret\": has no meaning",
            ),
            (
                json!({"signature": "none", "tolerance": "1m"}),
                "\"tolerance\": has no meaning",
            ),
            (
                json!({"signing_secret": key, "message_id_header": "X"}),
                "\"message_id_header\": has no meaning",
            ),
            (
                json!({"signing_secret": key, "dedup_key": "a"}),
                "\"dedup_key\": has no meaning",
            ),
            (json!({"signature": "none", "max_body_bytes": 0}), "whole number"),
        ] {
            let error = read(&config).unwrap_err();
            assert!(
                error.contains(want) && !error.contains("hunter2"),
                "{config}: {error}"
            );
        }
    }
}
