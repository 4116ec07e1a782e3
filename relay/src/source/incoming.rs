//! A message on its way into an inbox, whatever brought it.

use std::sync::Arc;

use async_nats::jetstream::AckKind;
use bytes::Bytes;

use super::identity::{Identified, Rules};
use super::kafka::Claim;
use crate::failure::Failure;

/// Where a message lies in its source, when the source keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of the stream or topic partition within the source.
    pub(crate) stream: u32,
    /// Sequence or offset in it.
    pub(crate) sequence: i64,
    /// Milliseconds since 1970 that a Kafka record carries.
    pub(crate) time: Option<i64>,
}

/// Header that carries the key of a Kafka record, and the same for a key that
/// is no text.
pub(crate) const KEY: &str = "tide-key";
pub(crate) const KEY_BASE64: &str = "tide-key-base64";

/// How the sender learns that a message is safe.
pub(crate) enum Ack {
    /// Nobody waits for it.
    None,
    Nats(Box<async_nats::jetstream::message::Acker>),
    Kafka(Arc<Claim>),
}

/// A message as it came.
pub(crate) struct Incoming {
    /// Kind of the source: `nats`, `kafka`, `webhook`.
    pub(crate) kind: &'static str,
    /// Subject, topic or path that it came by.
    pub(crate) subject: String,
    /// None for a Kafka record without a value.
    pub(crate) payload: Option<Bytes>,
    pub(crate) headers: Headers,
    pub(crate) position: Option<Position>,
    pub(crate) ack: Ack,
}

impl Incoming {
    /// Kind and subject, as stored in the inbox: `nats:payments.confirmed`.
    pub(crate) fn source(&self) -> String {
        format!("{}:{}", self.kind, self.subject)
    }

    /// What tells it from others.
    pub(crate) fn identify(&self, rules: &Rules) -> Identified {
        let key = self.headers.get(KEY).or_else(|| self.headers.get(KEY_BASE64));
        rules.identify(
            &self.subject,
            key.map(str::as_bytes),
            self.payload.as_deref(),
            |name| self.headers.get(name),
        )
    }

    /// Tells the source that it is still being worked on, so that it is not
    /// delivered again meanwhile. A failure shows at the acknowledgement.
    pub(crate) async fn hold(&self) {
        if let Ack::Nats(acker) = &self.ack {
            let _ = acker.ack_with(AckKind::Progress).await;
        }
    }

    /// Tells the source so before it is true: wrong, see
    /// [`Protection::CommitBeforeAck`](crate::sabotage::Protection).
    pub(crate) async fn ack_early(&self) {
        if let Ack::Nats(acker) = &self.ack {
            let _ = acker.ack_with(AckKind::Ack).await;
        }
    }

    /// Tells the source that the message is stored, or set aside, for good.
    pub(crate) async fn ack(self) -> Result<(), Failure> {
        match self.ack {
            Ack::None => Ok(()),
            Ack::Kafka(claim) => {
                if let Some(position) = self.position {
                    claim.settle(position.sequence);
                }
                Ok(())
            }
            Ack::Nats(acker) => acker
                .ack()
                .await
                .map_err(|e| Failure::transient(format!("nats: acknowledging: {e}"))),
        }
    }
}

/// Names and values in the order in which they came; a name may come twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl FromIterator<(String, String)> for Headers {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Headers {
    /// The first value of a header: of exactly this name, else in any case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let exact = self.0.iter().find(|(n, _)| n == name);
        exact
            .or_else(|| self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value.as_str())
    }

    /// As a JSON object; a header that comes several times as a list.
    pub(crate) fn json(&self) -> String {
        use serde_json::Value;
        if self.0.is_empty() {
            return "{}".into();
        }
        let mut object = serde_json::Map::new();
        for (name, value) in &self.0 {
            match object.get_mut(name) {
                None => drop(object.insert(name.clone(), value.as_str().into())),
                Some(Value::Array(values)) => values.push(value.as_str().into()),
                Some(first) => *first = vec![first.take(), value.as_str().into()].into(),
            }
        }
        Value::Object(object).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Headers;

    #[test]
    fn headers_are_found_in_any_case_and_kept_when_repeated() {
        let headers: Headers = [("X-Id", "1"), ("tag", "a"), ("tag", "b"), ("x-id", "2")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(headers.get("x-id"), Some("2"));
        assert_eq!(headers.get("TAG"), Some("a"));
        assert_eq!(headers.get("none"), None);
        assert_eq!(headers.json(), r#"{"X-Id":"1","tag":["a","b"],"x-id":"2"}"#);
        assert_eq!(Headers::default().json(), "{}");
    }
}
