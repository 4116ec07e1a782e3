//! Signatures after the Standard Webhooks convention (standardwebhooks.com):
//! HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// The keys that sign. Several while a receiver changes from one to another.
#[derive(Clone)]
pub(super) struct Signer(Vec<Hmac<Sha256>>);

impl Signer {
    /// Reads `whsec_` and base64, or a key as it is; several between blanks.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub(super) fn read(secret: &str) -> Result<Self, &'static str> {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoder = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
        let keys = secret
            .split_whitespace()
            .map(|text| {
                let key = match text.strip_prefix(PREFIX) {
                    Some(encoded) => decoder
                        .decode(encoded)
                        .map_err(|_| "has no base64 after \"whsec_\"")?,
                    None => text.as_bytes().to_vec(),
                };
                Hmac::new_from_slice(&key).map_err(|_| "cannot be used as a key")
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("is empty");
        }
        Ok(Self(keys))
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signatures: Vec<String> = self
            .0
            .iter()
            .map(|key| {
                let mut mac = key.clone();
                mac.update(format!("{id}.{timestamp}.").as_bytes());
                mac.update(body);
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            })
            .collect();
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Result<Signer, &'static str> {
        Signer::read(secret)
    }

    /// The example of the convention's own documentation.
    #[test]
    fn signs_as_the_convention_says() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signer(secret).unwrap().sign(id, 1_614_265_330, body), want);
        // Two keys, one of them as it is.
        let two = signer(&format!("{secret}\nplain-key")).unwrap();
        let signed = two.sign(id, 1_614_265_330, body);
        assert_eq!(signed.split(' ').next(), Some(want));
        assert_eq!(signed.split(' ').count(), 2);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(signer("whsec_***").is_err());
        assert!(signer("  ").is_err());
    }
}
