//! Logging in by SASL: PLAIN (RFC 4616), SCRAM (RFC 5802), OAUTHBEARER
//! (RFC 7628). Pure: messages come and go elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Hmac;
use sha2::{Digest as _, Sha256, Sha512};

/// A client's side of an exchange. The first message needs none of the server.
pub(super) enum Exchange {
    Plain(String),
    Bearer(String),
    Scram(Box<Scram>),
}

/// SCRAM under way.
pub(super) struct Scram {
    hash: Hash,
    user: String,
    password: String,
    nonce: String,
    step: Step,
}

enum Step {
    First,
    Proof,
    Verify(Vec<u8>),
    Done,
}

#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// What the server sent does not prove that it knows the password, or is no
/// SCRAM.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker's answer to the login is not right: {0}")]
pub(super) struct NotTrusted(&'static str);

impl Exchange {
    pub(super) fn plain(user: &str, password: &str) -> Self {
        Self::Plain(format!("\0{user}\0{password}"))
    }

    pub(super) fn bearer(token: &str) -> Self {
        Self::Bearer(format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}"))
    }

    /// `nonce` must never have been used before.
    pub(super) fn scram(hash: Hash, user: &str, password: &str, nonce: String) -> Self {
        Self::Scram(Box::new(Scram {
            hash,
            user: user.replace('=', "=3D").replace(',', "=2C"),
            password: password.to_owned(),
            nonce,
            step: Step::First,
        }))
    }

    /// The next message, `server` being what came in answer to the one before;
    /// none when all is said.
    ///
    /// # Errors
    /// When the server is not to be trusted.
    pub(super) fn next(&mut self, server: &[u8]) -> Result<Option<Vec<u8>>, NotTrusted> {
        match self {
            Self::Plain(message) | Self::Bearer(message) => {
                let message = std::mem::take(message);
                Ok((!message.is_empty()).then(|| message.into_bytes()))
            }
            Self::Scram(scram) => scram.next(server),
        }
    }
}

impl Scram {
    fn bare(&self) -> String {
        format!("n={},r={}", self.user, self.nonce)
    }

    fn next(&mut self, server: &[u8]) -> Result<Option<Vec<u8>>, NotTrusted> {
        let server = std::str::from_utf8(server).map_err(|_| NotTrusted("it is no text"))?;
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::First => {
                self.step = Step::Proof;
                Ok(Some(format!("n,,{}", self.bare()).into_bytes()))
            }
            Step::Proof => self.prove(server).map(Some),
            Step::Verify(signature) => {
                let given = attribute(server, 'v').and_then(|text| BASE64.decode(text).ok());
                if given.as_deref() == Some(&signature[..]) {
                    Ok(None)
                } else {
                    Err(NotTrusted("it does not know the password"))
                }
            }
            Step::Done => Ok(None),
        }
    }

    fn prove(&mut self, server: &str) -> Result<Vec<u8>, NotTrusted> {
        let nonce = attribute(server, 'r').ok_or(NotTrusted("it has no nonce"))?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(NotTrusted("its nonce is not made from ours"));
        }
        let salt = attribute(server, 's')
            .and_then(|text| BASE64.decode(text).ok())
            .ok_or(NotTrusted("it has no salt"))?;
        let rounds: u32 = attribute(server, 'i')
            .and_then(|text| text.parse().ok())
            .filter(|rounds| (4_096..=10_000_000).contains(rounds))
            .ok_or(NotTrusted("its number of iterations is none that a broker takes"))?;
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server},{without_proof}", self.bare());
        let salted = self.hash.salted(self.password.as_bytes(), &salt, rounds);
        let client_key = self.hash.hmac(&salted, b"Client Key");
        let signature = self.hash.hmac(&self.hash.digest(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_key = self.hash.hmac(&salted, b"Server Key");
        self.step = Step::Verify(self.hash.hmac(&server_key, signed.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
    }
}

fn attribute(message: &str, name: char) -> Option<&str> {
    message
        .split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

impl Hash {
    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => hmac::<Hmac<Sha256>>(key, bytes),
            Self::Sha512 => hmac::<Hmac<Sha512>>(key, bytes),
        }
    }

    /// `Hi` of RFC 5802: PBKDF2 with one block.
    fn salted(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        let mut last = self.hmac(password, &[salt, &[0, 0, 0, 1]].concat());
        let mut all = last.clone();
        for _ in 1..rounds {
            last = self.hmac(password, &last);
            all.iter_mut().zip(&last).for_each(|(a, b)| *a ^= b);
        }
        all
    }
}

fn hmac<M: hmac::Mac + hmac::KeyInit>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    // Keys of any length are taken.
    let Ok(mut mac) = <M as hmac::KeyInit>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn scram_is_as_in_its_rfc() {
        let mut exchange = Exchange::scram(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        let first = exchange.next(b"").unwrap().unwrap();
        assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = exchange.next(challenge).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(proof).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(exchange.next(last).unwrap(), None);
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_trusted() {
        let start = || {
            let mut exchange = Exchange::scram(Hash::Sha512, "a=b,c", "p", "abc".into());
            let first = exchange.next(b"").unwrap().unwrap();
            assert_eq!(first, b"n,,n=a=3Db=2Cc,r=abc");
            exchange
        };
        assert!(start().next(b"r=xyz123,s=AAAA,i=4096").is_err());
        assert!(start().next(b"r=abc,s=AAAA,i=4096").is_err());
        assert!(start().next(b"r=abcd,s=AAAA,i=1").is_err());
        let mut exchange = start();
        exchange.next(b"r=abcd,s=AAAA,i=4096").unwrap().unwrap();
        assert!(exchange.next(b"v=AAAA").is_err());
    }

    #[test]
    fn the_others_say_one_thing() {
        let mut plain = Exchange::plain("user", "secret");
        assert_eq!(plain.next(b"").unwrap().unwrap(), b"\0user\0secret");
        assert_eq!(plain.next(b"").unwrap(), None);
        let mut bearer = Exchange::bearer("token");
        assert_eq!(
            bearer.next(b"").unwrap().unwrap(),
            b"n,,\x01auth=Bearer token\x01\x01"
        );
    }
}
