//! Identity of incoming messages: the id that a message brings, else a key
//! made from its content. Pure.

use sha2::{Digest, Sha256};

use crate::encode::field;

/// Bytes of a dedup key: enough that no two contents ever meet.
const KEY_BYTES: usize = 16;

/// What tells one message from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identified {
    pub(crate) event_id: Option<String>,
    pub(crate) dedup_key: Option<Vec<u8>>,
}

/// How a pipeline identifies messages.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// A header that carries the id, looked at first.
    pub(crate) id_header: Option<String>,
    /// Path into the payload whose value stands for the content.
    pub(crate) dedup_path: Option<Vec<String>>,
    /// Whether a message without an id is deduplicated at all.
    pub(crate) idempotent: bool,
}

impl Rules {
    /// Identifies a message. Its own id is taken from the configured header,
    /// from `Nats-Msg-Id`, or from its CloudEvents attributes; without one,
    /// the subject and the payload (or the configured part of it) are digested.
    pub(crate) fn identify<'h>(
        &self,
        subject: &str,
        payload: &[u8],
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> Identified {
        let structured = || {
            header("content-type")
                .filter(|t| t.starts_with("application/cloudevents+json"))
                .and_then(|_| field(payload, &["id".to_owned()]))
        };
        let event_id = self
            .id_header
            .as_deref()
            .and_then(&header)
            .or_else(|| header("Nats-Msg-Id"))
            .or_else(|| header("ce-id"))
            .or_else(|| header("ce_id"))
            .map(str::to_owned)
            .or_else(structured)
            .filter(|id| !id.is_empty());
        let dedup_key = (event_id.is_none() && self.idempotent).then(|| {
            let mut digest = Sha256::new();
            if let Some(value) = self.dedup_path.as_ref().and_then(|path| field(payload, path)) {
                digest.update(b"key\0");
                digest.update(value.as_bytes());
            } else {
                digest.update(b"content\0");
                digest.update(subject.as_bytes());
                digest.update(b"\0");
                digest.update(payload);
            }
            digest.finalize()[..KEY_BYTES].to_vec()
        });
        Identified { event_id, dedup_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            id_header: None,
            dedup_path: None,
            idempotent: true,
        }
    }

    fn none(_: &str) -> Option<&'static str> {
        None
    }

    #[test]
    fn the_messages_own_id_comes_first() {
        let header = |name: &str| match name {
            "Nats-Msg-Id" => Some("n-1"),
            "X-Id" => Some("x-1"),
            _ => None,
        };
        let found = rules().identify("s", b"{}", header);
        assert_eq!(
            found,
            Identified {
                event_id: Some("n-1".into()),
                dedup_key: None
            }
        );
        let rules = Rules {
            id_header: Some("X-Id".into()),
            ..rules()
        };
        assert_eq!(
            rules.identify("s", b"{}", header).event_id.as_deref(),
            Some("x-1")
        );
    }

    #[test]
    fn a_structured_cloud_event_brings_its_id() {
        let header =
            |name: &str| (name == "content-type").then_some("application/cloudevents+json; charset=utf-8");
        let found = rules().identify("s", br#"{"id":"ce-7","data":1}"#, header);
        assert_eq!(found.event_id.as_deref(), Some("ce-7"));
    }

    #[test]
    fn equal_content_has_an_equal_key() {
        let key = |subject: &str, payload: &[u8]| rules().identify(subject, payload, none).dedup_key.unwrap();
        assert_eq!(key("s", b"{\"a\":1}"), key("s", b"{\"a\":1}"));
        assert_ne!(key("s", b"{\"a\":1}"), key("s", b"{\"a\":2}"));
        assert_ne!(key("s", b"{\"a\":1}"), key("t", b"{\"a\":1}"));
    }

    #[test]
    fn a_configured_path_stands_for_the_content() {
        let rules = Rules {
            dedup_path: Some(vec!["payment_id".into()]),
            ..rules()
        };
        let key = |payload: &[u8]| rules.identify("s", payload, none).dedup_key.unwrap();
        assert_eq!(
            key(br#"{"payment_id":"p1","try":1}"#),
            key(br#"{"payment_id":"p1","try":2}"#)
        );
        assert_ne!(key(br#"{"payment_id":"p1"}"#), key(br#"{"payment_id":"p2"}"#));
        // Without the field, the whole content counts.
        assert_ne!(key(br#"{"try":1}"#), key(br#"{"try":2}"#));
    }

    #[test]
    fn nothing_is_deduplicated_when_switched_off() {
        let rules = Rules {
            idempotent: false,
            ..rules()
        };
        assert_eq!(rules.identify("s", b"{}", none), Identified::default());
    }
}
