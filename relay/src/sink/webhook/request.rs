//! From messages to requests. Pure, but for the clock that is passed in.

use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use sha2::{Digest, Sha256};

use super::client::Outgoing;
use crate::broker::signature::SigningKeys;
use crate::cursor::Ticket;
use crate::encode::{Encoding, Event, Identity, Message, added};

/// Before the name of a message's own header.
const PREFIX: &str = "tide-header-";
/// Before the name of a CloudEvents attribute in binary mode.
const ATTRIBUTE: &str = "ce-";

/// Between the elements of an array; as long as its two brackets.
const SEPARATOR: &[u8; 2] = b",\n";

/// A message on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ticket: Ticket,
    /// `tide-id`, and the redelivery's number: the same whenever it is sent.
    id: String,
    pub(super) target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Entry {
    /// A message that is a request of its own.
    ///
    /// # Errors
    /// Why HTTP cannot carry it.
    pub(super) fn single(
        ticket: Ticket,
        event: &Event<'_>,
        identity: &Identity,
        encoding: &Encoding,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            let mut value = encoded(value, false);
            if name.starts_with(ATTRIBUTE) {
                // The HTTP binding of CloudEvents encodes these, too.
                value = value.replace(' ', "%20").replace('"', "%22");
            }
            let name: HeaderName = name
                .parse()
                .map_err(|_| format!("HTTP does not allow the header \"{name}\""))?;
            let value = HeaderValue::from_str(&value)
                .map_err(|_| format!("HTTP does not allow the value of the header \"{name}\""))?;
            headers
                .try_append(name, value)
                .map_err(|_| "it has more headers than HTTP allows".to_owned())?;
            Ok::<_, String>(())
        };
        add(added::ID, event.tide_id)?;
        add(added::OUTBOX, &identity.outbox)?;
        add(added::PIPELINE, &identity.pipeline)?;
        if let Some(redelivery) = event.redelivery {
            add(added::REDELIVERY, &redelivery.to_string())?;
        }
        for (name, value) in event.headers.iter() {
            let value = value.unwrap_or_default();
            let of_encoding = match encoding {
                Encoding::Raw => false,
                Encoding::Structured(_) => name == CONTENT_TYPE,
                Encoding::Binary(..) => name == CONTENT_TYPE || name.starts_with(ATTRIBUTE),
            };
            if of_encoding {
                add(&encoded(name, true), value)?;
                continue;
            }
            // Many servers drop headers with an underscore in their name.
            let name = encoded(name, true).replace('_', "-");
            add(&format!("{PREFIX}{name}"), value)?;
        }
        let body = if event.payload.is_empty() {
            Bytes::from_static(b"null")
        } else {
            event.payload.clone()
        };
        Ok(Self::new(ticket, event, headers, body))
    }

    /// A message as an element of an array.
    pub(super) fn element(
        ticket: Ticket,
        event: &Event<'_>,
        identity: &Identity,
        encoding: &Encoding,
    ) -> Self {
        let body = match encoding {
            Encoding::Structured(_) => event.payload.clone(),
            Encoding::Raw | Encoding::Binary(..) => {
                let mut body = Vec::new();
                Message::of(event, identity).write(&mut body);
                body.into()
            }
        };
        Self::new(ticket, event, HeaderMap::new(), body)
    }

    fn new(ticket: Ticket, event: &Event<'_>, headers: HeaderMap, body: Bytes) -> Self {
        // Standard Webhooks ends the id at a dot in what is signed.
        let mut id = encoded(event.tide_id, false).replace('.', "%2E");
        if let Some(redelivery) = event.redelivery {
            // Meant to be taken once more.
            let _ = write!(id, "/{redelivery}");
        }
        Self {
            ticket,
            id,
            target: event.destination.to_owned(),
            headers,
            body,
        }
    }

    /// Its share of an array: that of the first is the brackets.
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + SEPARATOR.len()
    }
}

/// Text as an HTTP header takes it: what is not visible ASCII or a blank is
/// percent-encoded, as is '%'. In a name also whatever is not of a token.
fn encoded(text: &str, name: bool) -> String {
    let plain = |byte: u8| match byte {
        b'%' => false,
        b if b.is_ascii_alphanumeric() => true,
        b if name => b"!#$&'*+-.^_`|~".contains(&b),
        b => (b' '..=b'~').contains(&b),
    };
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// What all requests of a pipeline have in common.
pub(super) struct Composer {
    headers: HeaderMap,
    signer: Option<SigningKeys>,
    batch: bool,
}

impl Composer {
    pub(super) fn new(
        authority: &str,
        own: HeaderMap,
        signer: Option<SigningKeys>,
        batch: bool,
        encoding: &Encoding,
    ) -> Result<Self, String> {
        let mut headers = own;
        let host =
            HeaderValue::from_str(authority).map_err(|_| "the host in \"url\" cannot be sent".to_owned())?;
        headers.insert(HOST, host);
        if !headers.contains_key(USER_AGENT) {
            let agent = concat!("pg-tide/", env!("CARGO_PKG_VERSION"));
            headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        }
        // A message that is a request of its own may say otherwise.
        let content = match encoding {
            Encoding::Structured(_) if batch => "application/cloudevents-batch+json; charset=UTF-8",
            _ => "application/json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
        Ok(Self {
            headers,
            signer,
            batch,
        })
    }

    /// A request with these messages, at least one; `now` in seconds.
    ///
    /// # Errors
    /// When the target is no path that can be sent.
    pub(super) fn compose(&self, entries: &[Entry], target: &str, now: u64) -> Result<Outgoing, String> {
        let (id, body) = if self.batch {
            (batch_id(entries), array(entries))
        } else {
            entries
                .first()
                .map(|e| (e.id.clone(), e.body.clone()))
                .unwrap_or_default()
        };
        let mut headers = self.headers.clone();
        let mut add = |name: &'static str, value: String| {
            let value =
                HeaderValue::try_from(value).map_err(|_| format!("the header {name} cannot be sent"))?;
            headers.insert(name, value);
            Ok::<_, String>(())
        };
        if let Some(signer) = &self.signer {
            add("webhook-signature", signer.sign(&id, now, &body))?;
        }
        add("webhook-timestamp", now.to_string())?;
        add("webhook-id", id.clone())?;
        add("idempotency-key", id)?;
        if !self.batch {
            headers.extend(entries.first().map(|e| e.headers.clone()).unwrap_or_default());
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.parse().map_err(|_| "its url cannot be sent".to_owned())?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Of the same messages always the same.
fn batch_id(entries: &[Entry]) -> String {
    let mut digest = Sha256::new();
    for entry in entries {
        digest.update(entry.id.as_bytes());
        digest.update([0]);
    }
    digest
        .finalize()
        .iter()
        .take(16)
        .fold("batch-".to_owned(), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
}

fn array(entries: &[Entry]) -> Bytes {
    let mut body = vec![b'['];
    for (n, entry) in entries.iter().enumerate() {
        if n > 0 {
            body.extend_from_slice(SEPARATOR);
        }
        body.extend_from_slice(&entry.body);
    }
    body.push(b']');
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{DestinationKind, Encoder, Row};

    fn with_entry<T>(
        headers: &str,
        redelivery: Option<i64>,
        f: impl FnOnce(&Event<'_>, &Identity) -> T,
    ) -> T {
        let row = Row {
            id: 7,
            created_at: 9,
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            payload: Bytes::from_static(b"{\"n\": 1.0}"),
            redelivery,
        };
        let identity = Identity {
            pipeline: "p".into(),
            outbox: "ä 1.x".into(),
        };
        let target = "/in/{headers.who}".parse().unwrap();
        let mut encoder = Encoder::new(identity.clone(), DestinationKind::Url, target, None);
        f(&encoder.encode(&row).unwrap().unwrap(), &identity)
    }

    fn composer(batch: bool) -> Composer {
        let signer = SigningKeys::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        Composer::new("h:1", HeaderMap::new(), Some(signer), batch, &Encoding::Raw).unwrap()
    }

    #[test]
    fn a_message_is_a_request_with_its_headers() {
        let headers = r#"{"who": "a/b?c", "event_type": "x y", "ünï": "1\n2 ü%"}"#;
        let entry = with_entry(headers, Some(3), |e, i| Entry::single(1, e, i, &Encoding::Raw)).unwrap();
        let request = composer(false).compose(&[entry], "/x", 5).unwrap();
        let get = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!(get("tide-header-event-type"), "x y");
        assert_eq!(get("tide-header-%c3%bcn%c3%af"), "1%0A2 %C3%BC%25");
        assert_eq!(get("webhook-id"), "%C3%A4 1%2Ex:7:9/3");
        assert_eq!(get("idempotency-key"), get("webhook-id"));
        assert_eq!((get("tide-id"), get("tide-redelivery")), ("%C3%A4 1.x:7:9", "3"));
        assert_eq!((get("host"), get("webhook-timestamp")), ("h:1", "5"));
        assert!(get("webhook-signature").starts_with("v1,"));
    }

    #[test]
    fn values_in_a_url_stay_in_their_part_of_it() {
        let target = with_entry(r#"{"who": "a/b?c=ä"}"#, None, |e, i| {
            Entry::element(1, e, i, &Encoding::Raw).target
        });
        assert_eq!(target, "/in/a%2Fb%3Fc%3D%C3%A4");
    }

    #[test]
    fn a_batch_is_an_array_with_an_id_of_its_own() {
        let entry = || {
            with_entry(r#"{"who": "x"}"#, None, |e, i| {
                Entry::element(1, e, i, &Encoding::Raw)
            })
        };
        let composer = composer(true);
        let id = |entries: &[Entry]| {
            let request = composer.compose(entries, "/", 5).unwrap();
            request.headers()["webhook-id"].to_str().unwrap().to_owned()
        };
        assert_eq!(id(&[entry()]), id(&[entry()]));
        assert_ne!(id(&[entry()]), id(&[entry(), entry()]));
        let body = array(&[entry(), entry()]);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value[1]["payload"]["n"], 1.0);
        assert_eq!(value[0]["headers"]["who"], "x");
    }
}
