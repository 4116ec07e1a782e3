//! A small token server of OAuth 2 (client credentials), with tokens that a
//! Kafka broker verifies against its published key.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

/// A server on a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    key: EcdsaKeyPair,
    client: (String, String),
    stop: AtomicBool,
    granted: AtomicUsize,
}

impl TokenServer {
    /// Grants tokens to this client alone, whose id becomes the token's
    /// subject.
    pub(crate) fn start(client_id: &str, client_secret: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                key,
                client: (client_id.to_owned(), client_secret.to_owned()),
                stop: AtomicBool::new(false),
                granted: AtomicUsize::new(0),
            }),
        };
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away is no reason to stop.
                let _ = connection.and_then(|c| shared.serve(&c));
            }
        });
        server
    }

    /// Where tokens are granted.
    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Where the key is.
    pub(crate) fn jwks_url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    /// Tokens granted so far.
    pub fn granted(&self) -> usize {
        self.shared.granted.load(Ordering::Relaxed)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let is_token = line.starts_with("POST /token ");
        let is_key = line.starts_with("GET /jwks ");
        let (mut length, mut authorization) = (0, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => value.clone_into(&mut authorization),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let (status, answer) = if is_key {
            ("200 OK", self.jwks())
        } else if !is_token {
            ("404 Not Found", "{}".to_owned())
        } else if authorization != format!("Basic {}", self.credentials()) {
            (
                "401 Unauthorized",
                r#"{"error": "invalid_client", "error_description": "no such client, or another secret"}"#
                    .to_owned(),
            )
        } else if !body.contains("grant_type=client_credentials") {
            (
                "400 Bad Request",
                r#"{"error": "unsupported_grant_type"}"#.to_owned(),
            )
        } else {
            self.granted.fetch_add(1, Ordering::Relaxed);
            let audience = if body.contains("scope=other") {
                "other"
            } else {
                "kafka"
            };
            (
                "200 OK",
                format!(
                    r#"{{"access_token": "{}", "token_type": "Bearer", "expires_in": 60}}"#,
                    self.token(audience)
                ),
            )
        };
        write!(
            &mut &*connection,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        )
    }

    fn credentials(&self) -> String {
        base64(
            format!("{}:{}", self.client.0, self.client.1).as_bytes(),
            *b"+/",
            true,
        )
    }

    /// A signed JWT (ES256).
    fn token(&self, audience: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let subject = &self.client.0;
        let claims = format!(
            r#"{{"iss": "bed", "aud": "{audience}", "sub": "{subject}", "scope": "kafka", "iat": {now}, "exp": {}}}"#,
            now + 60
        );
        let signed = format!(
            "{}.{}",
            base64url(br#"{"alg": "ES256", "kid": "bed", "typ": "JWT"}"#),
            base64url(claims.as_bytes())
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", base64url(signature.as_ref()))
    }

    /// The public key: 4, then x and y.
    fn jwks(&self) -> String {
        let point = self.key.public_key().as_ref();
        format!(
            r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "bed", "x": "{}", "y": "{}"}}]}}"#,
            base64url(&point[1..33]),
            base64url(&point[33..65])
        )
    }
}

fn base64url(bytes: &[u8]) -> String {
    base64(bytes, *b"-_", false)
}

fn base64(bytes: &[u8], last_two: [u8; 2], padded: bool) -> String {
    let mut alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect();
    alphabet.extend(last_two);
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, n| {
            bits << 8 | u32::from(chunk.get(n).copied().unwrap_or(0))
        });
        for n in 0..4 {
            if n <= chunk.len() {
                text.push(char::from(alphabet[(bits >> (18 - 6 * n)) as usize & 63]));
            } else if padded {
                text.push('=');
            }
        }
    }
    text
}
