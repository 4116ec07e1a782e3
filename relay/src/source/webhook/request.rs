//! From a request to a message, or to what the sender is told. Pure.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};

use super::answer::Answer;
use crate::broker::signature::SigningKeys;
use crate::source::{Ack, Headers, Incoming};

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// What is about the connection, not about the message.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
    "accept",
];
/// Parts of the names of headers that are, or may be, secrets.
const SECRET: [&str; 9] = [
    "auth",
    "token",
    "secret",
    "password",
    "signature",
    "credential",
    "cookie",
    "api-key",
    "apikey",
];

/// What an unsigned request may have its id in.
pub(super) const USUAL_IDS: &[&str] = &[ID, "Idempotency-Key", "ce-id"];
/// What a signed request has its id in; the signature covers it.
pub(super) const SIGNED_ID: &[&str] = &[ID];

/// The pipeline of a path `/webhook/<pipeline>`.
pub(super) fn pipeline(path: &str) -> Option<String> {
    let name = path.strip_prefix("/webhook/")?;
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let decoded = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Whether a header is kept in the row.
fn is_kept(name: &HeaderName) -> bool {
    let name = name.as_str();
    !OF_THE_CONNECTION.contains(&name) && !SECRET.iter().any(|part| name.contains(part))
}

fn headers(map: &HeaderMap) -> Headers {
    map.iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect()
}

/// The message of a request that has come whole.
pub(super) fn message(pipeline: &str, map: &HeaderMap, body: Bytes) -> Incoming {
    Incoming {
        kind: "webhook",
        subject: pipeline.to_owned(),
        payload: Some(body),
        headers: headers(map),
        position: None,
        ack: Ack::None,
    }
}

fn unauthorized(sentence: impl Into<String>) -> Answer {
    Answer::refused(StatusCode::UNAUTHORIZED, sentence)
}

/// A header that a signed request has once.
fn once<'h>(map: &'h HeaderMap, name: &'static str) -> Result<&'h str, Answer> {
    let mut values = map.get_all(name).iter();
    let value = values.next().and_then(|v| v.to_str().ok()).map(str::trim);
    match (value, values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        (_, Some(_)) => Err(unauthorized(format!("the header {name} must be there once only"))),
        _ => Err(unauthorized(format!(
            "the header {name} is missing: sign requests after the Standard Webhooks convention"
        ))),
    }
}

/// Makes sure that a request is signed by one of the keys, and that the
/// signature is of now, in seconds since 1970.
pub(super) fn check_signature(
    keys: &SigningKeys,
    tolerance: u64,
    map: &HeaderMap,
    body: &[u8],
    now: u64,
) -> Result<(), Answer> {
    let id = once(map, ID)?;
    let timestamp = once(map, TIMESTAMP)?;
    let signatures = once(map, SIGNATURE)?;
    let Ok(at) = timestamp.parse::<u64>() else {
        return Err(unauthorized(
            "the header webhook-timestamp must be a number of seconds since 1970",
        ));
    };
    if !keys.verify(id, timestamp, body, signatures) {
        return Err(unauthorized(
            "the signature does not match: check the secret, and that what was signed is webhook-id, webhook-timestamp and the body as it was sent, with dots between",
        ));
    }
    if now.abs_diff(at) > tolerance {
        let (distance, when) = if at < now {
            (now - at, "old")
        } else {
            (at - now, "in the future")
        };
        return Err(unauthorized(format!(
            "the signature is {distance} s {when}, {tolerance} s are allowed: sign each attempt anew, and compare the clocks"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_the_pipeline() {
        for (path, want) in [
            ("/webhook/p", Some("p")),
            ("/webhook/a%20b%2Fc", Some("a b/c")),
            ("/webhook/Weird%20%22Name%22", Some("Weird \"Name\"")),
            ("/webhook/", None),
            ("/webhook", None),
            ("/webhook/p/q", None),
            ("/webhook/%ff", None),
            ("/metrics", None),
        ] {
            assert_eq!(pipeline(path).as_deref(), want, "{path}");
        }
    }

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn secrets_and_the_connections_own_headers_are_not_kept() {
        let map = map(&[
            ("content-type", "application/json"),
            ("authorization", "Bearer hunter2"),
            ("x-hub-signature-256", "hunter2"),
            ("cookie", "hunter2"),
            ("x-api-key", "hunter2"),
            ("x-gitlab-token", "hunter2"),
            ("idempotency-key", "i-1"),
            ("webhook-id", "m-1"),
            ("webhook-signature", "v1,hunter2"),
            ("content-length", "2"),
            ("x-tag", "a"),
            ("x-tag", "b"),
        ]);
        let message = message("p", &map, Bytes::from_static(b"{}"));
        assert_eq!(
            message.headers.json(),
            r#"{"content-type":"application/json","idempotency-key":"i-1","webhook-id":"m-1","x-tag":["a","b"]}"#
        );
        assert_eq!(message.source(), "webhook:p");
    }

    #[test]
    fn a_signature_is_right_and_of_now_or_the_sender_is_told_why() {
        let keys = SigningKeys::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = keys.sign("m1", 1_000, b"{}");
        let check = |pairs: &[(&'static str, &str)], now: u64| {
            check_signature(&keys, 300, &map(pairs), b"{}", now)
                .err()
                .map(|a| (a.status.as_u16(), a.error().unwrap_or_default().to_owned()))
        };
        let good = [(ID, "m1"), (TIMESTAMP, "1000"), (SIGNATURE, signed.as_str())];
        assert_eq!(check(&good, 1_000), None);
        assert_eq!(check(&good, 1_300), None);
        assert_eq!(check(&good, 700), None);
        let error = |pairs: &[(&'static str, &str)], now: u64| {
            let (status, error) = check(pairs, now).unwrap();
            assert_eq!(status, 401);
            error
        };
        assert!(error(&good, 1_301).contains("301 s old"));
        assert!(error(&good, 699).contains("301 s in the future"));
        assert!(error(&good[1..], 1_000).contains("webhook-id is missing"));
        assert!(error(&good[..2], 1_000).contains("webhook-signature is missing"));
        let twice = [good[0], good[0], good[1], good[2]];
        assert!(error(&twice, 1_000).contains("webhook-id must be there once"));
        let other = [(ID, "m2"), good[1], good[2]];
        assert!(error(&other, 1_000).contains("does not match"));
        // A signature that does not match is no matter of clocks.
        assert!(error(&other, 9_000).contains("does not match"));
        let text = [good[0], (TIMESTAMP, "now"), good[2]];
        assert!(error(&text, 1_000).contains("seconds since 1970"));
    }
}
