//! Signatures after the Standard Webhooks convention (standardwebhooks.com):
//! HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// The keys that sign, or that signatures are compared with. Several while one
/// side changes from one to another.
#[derive(Clone)]
pub(crate) struct SigningKeys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Of a request, so many signatures are looked at.
const MOST: usize = 16;

impl SigningKeys {
    /// Reads `whsec_` and base64, or a key as it is; several between blanks.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub(crate) fn read(secret: &str) -> Result<Self, &'static str> {
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
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
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

    /// These keys and those of another secret.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether one of the signatures in a value of `webhook-signature` is by
    /// one of the keys; the time it takes says nothing of how close one comes.
    pub(crate) fn verify(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        let given: Vec<Vec<u8>> = signatures
            .split_whitespace()
            .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
            .take(MOST)
            .collect();
        self.0.iter().any(|key| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            given
                .iter()
                .any(|signature| mac.clone().verify_slice(signature).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Result<SigningKeys, &'static str> {
        SigningKeys::read(secret)
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
    fn one_of_several_signatures_by_one_of_several_keys_is_enough() {
        let (old, new) = (signer("old-key").unwrap(), signer("new-key").unwrap());
        let both = old.clone().and(new.clone());
        let by_old = old.sign("m1", 7, b"{}");
        let by_new = new.sign("m1", 7, b"{}");
        let verify = |keys: &SigningKeys, signatures: &str| keys.verify("m1", "7", b"{}", signatures);
        assert!(verify(&old, &by_old) && verify(&both, &by_old) && verify(&both, &by_new));
        assert!(verify(&new, &format!("v1a,AAAA v1,no {by_old} {by_new}")));
        for wrong in [
            "",
            "v1,",
            &by_new[3..],
            &by_new[..by_new.len() - 4],
            &by_new.replace("v1,", "v2,"),
        ] {
            assert!(!verify(&both, wrong), "{wrong}");
        }
        assert!(!verify(&old, &by_new));
        assert!(!both.verify("m2", "7", b"{}", &by_old));
        assert!(!both.verify("m1", "8", b"{}", &by_old));
        assert!(!both.verify("m1", "7", b"{ }", &by_old));
        let late = format!("{}{by_new}", "v1,AAAA ".repeat(MOST));
        assert!(!verify(&both, &late), "not more than {MOST} are looked at");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(signer("whsec_***").is_err());
        assert!(signer("  ").is_err());
    }
}
