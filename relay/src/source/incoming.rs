//! A message on its way into an inbox, whatever brought it.

use async_nats::jetstream::AckKind;
use bytes::Bytes;

use crate::failure::Failure;

/// Where a message lies in its source, when the source keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of the stream or topic partition within the source.
    pub(crate) stream: u32,
    /// Sequence or offset in it.
    pub(crate) sequence: i64,
}

/// How the sender learns that a message is safe.
pub(crate) enum Ack {
    /// Nobody waits for it.
    None,
    Nats(Box<async_nats::jetstream::message::Acker>),
}

/// A message as it came.
pub(crate) struct Incoming {
    /// Kind of the source: `nats`, `kafka`, `webhook`.
    pub(crate) kind: &'static str,
    /// Subject, topic or path that it came by.
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) headers: Headers,
    pub(crate) position: Option<Position>,
    pub(crate) ack: Ack,
}

impl Incoming {
    /// Kind and subject, as stored in the inbox: `nats:payments.confirmed`.
    pub(crate) fn source(&self) -> String {
        format!("{}:{}", self.kind, self.subject)
    }

    /// Tells the source that it is still being worked on, so that it is not
    /// delivered again meanwhile. A failure shows at the acknowledgement.
    pub(crate) async fn hold(&self) {
        if let Ack::Nats(acker) = &self.ack {
            let _ = acker.ack_with(AckKind::Progress).await;
        }
    }

    /// Tells the source that the message is stored, or set aside, for good.
    pub(crate) async fn ack(self) -> Result<(), Failure> {
        match self.ack {
            Ack::None => Ok(()),
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
