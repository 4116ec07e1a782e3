//! A sender of webhooks: a real HTTP client that signs as the Standard
//! Webhooks convention says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::net::TcpStream;

/// A reply is waited for so long.
const WITHIN: Duration = Duration::from_secs(40);

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Post {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Post {
    /// To a pipeline, whose name is sent as it is given: percent-encoded.
    pub fn to(pipeline: &str, body: &str) -> Self {
        Self::path(&format!("/webhook/{pipeline}"), body.as_bytes())
    }

    /// To a path.
    pub fn path(path: &str, body: &[u8]) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.to_vec(),
        }
    }

    /// By another method.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Signed now, by keys as they are.
    #[must_use]
    pub fn signed(self, id: &str, keys: &[&str]) -> Self {
        self.signed_at(id, keys, 0)
    }

    /// Signed so many seconds from now.
    #[must_use]
    pub fn signed_at(self, id: &str, keys: &[&str], seconds: i64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = now.checked_add_signed(seconds).unwrap().to_string();
        let mut content = format!("{id}.{at}.").into_bytes();
        content.extend_from_slice(&self.body);
        let signatures: Vec<String> = keys
            .iter()
            .map(|key| {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
                format!("v1,{}", STANDARD.encode(hmac::sign(&key, &content)))
            })
            .collect();
        self.header("webhook-id", id)
            .header("webhook-timestamp", &at)
            .header("webhook-signature", &signatures.join(" "))
    }

    /// Sends it by a connection of its own.
    ///
    /// # Errors
    /// When there is no reply.
    pub async fn send(&self, address: SocketAddr) -> io::Result<Reply> {
        Sender::connect(address).await?.send(self).await
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 and so on.
    pub status: u16,
    /// Names in lower case; of several values the last.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The sentence in it that says what is wrong.
    ///
    /// # Panics
    /// When there is none.
    pub fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }

    /// Whether it is to be sent again, after how many seconds.
    pub fn retry_after(&self) -> Option<u32> {
        self.headers.get("retry-after")?.parse().ok()
    }
}

/// A connection by which requests are sent one after the other.
#[derive(Debug)]
pub struct Sender {
    address: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
}

impl Sender {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { address, requests })
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn send(&mut self, post: &Post) -> io::Result<Reply> {
        let mut request = Request::builder()
            .method(post.method)
            .uri(&post.path)
            .header("host", self.address.to_string());
        for (name, value) in &post.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(post.body.clone())).unwrap();
        let exchange = async {
            self.requests.ready().await.map_err(io::Error::other)?;
            let reply = self
                .requests
                .send_request(request)
                .await
                .map_err(io::Error::other)?;
            let (head, body) = reply.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            Ok(Reply {
                status: head.status.as_u16(),
                headers: head
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
                    .collect(),
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::time::timeout(WITHIN, exchange).await?
    }
}
