//! From an outbox row to what a sink sends: destination, key, headers, value.
//! Pure. A row that cannot be encoded is rejected with its reason, alone.

mod filter;
mod format;
mod headers;
mod message;
mod template;

pub(crate) use filter::Filter;
pub(crate) use format::{CloudEvent, Encoding, Format};
pub(crate) use headers::Headers;
pub(crate) use message::Message;
pub(crate) use template::{Template, TemplateError, field};

use bytes::Bytes;

/// One message as read from an outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: i64,
    /// Insertion time, microseconds since the Unix epoch.
    pub(crate) created_at: i64,
    /// JSON object.
    pub(crate) headers: Bytes,
    /// JSON text as PostgreSQL prints a `jsonb`.
    pub(crate) payload: Bytes,
    /// Number of the redelivery that it is sent for; none the first time.
    pub(crate) redelivery: Option<i64>,
}

impl Row {
    pub(crate) fn event_id(&self) -> EventId {
        EventId {
            id: self.id,
            created_at: self.created_at,
            redelivery: self.redelivery,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len()
    }
}

/// Identity of a message across processes, clusters and timelines. The
/// insertion time is part of it: after a promotion that lost the tail,
/// PostgreSQL hands out ids a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EventId {
    pub(crate) id: i64,
    pub(crate) created_at: i64,
    /// A message that is delivered once more on demand is another event.
    pub(crate) redelivery: Option<i64>,
}

impl EventId {
    /// `<outbox>:<id>:<microseconds>`, as carried in the header `tide-id`.
    pub(crate) fn text(self, outbox: &str) -> String {
        format!("{outbox}:{}:{}", self.id, self.created_at)
    }

    /// Reads the end of a `tide-id` (the outbox's name may contain colons) and
    /// the header `tide-redelivery`.
    pub(crate) fn parse(text: &str, redelivery: Option<&str>) -> Option<Self> {
        let mut parts = text.rsplitn(3, ':');
        let created_at = parts.next()?.parse().ok()?;
        let id = parts.next()?.parse().ok()?;
        parts.next()?;
        let redelivery = redelivery.map(str::parse).transpose().ok()?;
        Some(Self {
            id,
            created_at,
            redelivery,
        })
    }
}

/// Why one message cannot be delivered as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("its headers are not a JSON object: {0}")]
    Headers(String),
    #[error("the {what} template \"{template}\" names {{{field}}}, which the message does not have")]
    MissingField {
        what: &'static str,
        template: String,
        field: String,
    },
    #[error("the {what} \"{text}\" is not allowed: {reason}")]
    BadDestination {
        what: &'static str,
        text: String,
        reason: &'static str,
    },
}

/// A message ready to be sent. Borrows from the row and the encoder.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    /// `tide-id`.
    pub(crate) tide_id: &'a str,
    /// Topic or subject.
    pub(crate) destination: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) payload: &'a Bytes,
    /// `tide-redelivery`.
    pub(crate) redelivery: Option<i64>,
    /// What it was made from.
    pub(crate) row: &'a Row,
}

/// Names that every message of a pipeline carries.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) pipeline: String,
    pub(crate) outbox: String,
}

/// Headers that pg-tide adds to a message.
pub(crate) mod added {
    pub(crate) const ID: &str = "tide-id";
    pub(crate) const OUTBOX: &str = "tide-outbox";
    pub(crate) const PIPELINE: &str = "tide-pipeline";
    /// Names of the sides that a message has passed on its way between inboxes,
    /// with commas, the first one first.
    pub(crate) const PATH: &str = "tide-path";
    /// Only on messages that are delivered once more on demand.
    pub(crate) const REDELIVERY: &str = "tide-redelivery";
}

/// What a template may not leave open: the place a message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DestinationKind {
    Topic,
    Subject,
    /// Path and query of a URL.
    Url,
    /// The sink has no other place than its own.
    Only,
}

impl DestinationKind {
    fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Subject => "subject",
            Self::Url => "url",
            Self::Only => "destination",
        }
    }

    /// Why a rendered destination would be refused, if so.
    fn refusal(self, text: &str) -> Option<&'static str> {
        match self {
            _ if text.is_empty() => Some("it is empty"),
            Self::Topic if text.len() > 249 => Some("it is longer than 249 characters"),
            Self::Topic if text == "." || text == ".." => Some("Kafka reserves it"),
            Self::Topic
                if !text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) =>
            {
                Some("Kafka allows letters, digits, '.', '-' and '_' only")
            }
            Self::Subject if text.split('.').any(str::is_empty) => {
                Some("a NATS subject has no empty parts between dots")
            }
            Self::Subject
                if text
                    .bytes()
                    .any(|b| b <= b' ' || b == b'*' || b == b'>' || b == 0x7f) =>
            {
                Some("a published NATS subject has no spaces, '*' or '>'")
            }
            Self::Url
                if text
                    .split('?')
                    .next()
                    .is_some_and(|path| path.split('/').any(|part| part == "." || part == "..")) =>
            {
                Some("a part \".\" or \"..\" leads to another path")
            }
            _ => None,
        }
    }
}

/// Encodes the messages of one pipeline, reusing its buffers.
#[derive(Debug)]
pub(crate) struct Encoder {
    identity: Identity,
    kind: DestinationKind,
    destination: Template,
    key: Option<Template>,
    format: Format,
    filter: Option<Filter>,
    destination_text: String,
    key_text: String,
    tide_id: String,
    value: Bytes,
}

impl Encoder {
    pub(crate) fn new(
        identity: Identity,
        kind: DestinationKind,
        destination: Template,
        key: Option<Template>,
    ) -> Self {
        Self {
            identity,
            kind,
            destination,
            key,
            format: Format::default(),
            filter: None,
            destination_text: String::new(),
            key_text: String::new(),
            tide_id: String::new(),
            value: Bytes::new(),
        }
    }

    /// What messages are taken, and what they are dressed in.
    #[must_use]
    pub(crate) fn with(self, format: Format, filter: Option<Filter>) -> Self {
        Self {
            format,
            filter,
            ..self
        }
    }

    /// The key of a row, when it has one.
    pub(crate) fn key_of(&mut self, row: &Row) -> Option<Vec<u8>> {
        let event = self.encode(row).ok()??;
        event.key.map(<[u8]>::to_vec)
    }

    /// Encodes one row; none when the pipeline does not take it.
    ///
    /// A key whose template names a missing field is no key at all: the event
    /// still goes out. A destination that cannot be made rejects the message.
    ///
    /// # Errors
    /// The reason why the message must be dead-lettered.
    pub(crate) fn encode<'a>(&'a mut self, row: &'a Row) -> Result<Option<Event<'a>>, Rejection> {
        use std::fmt::Write as _;

        let mut headers = Headers::parse(&row.headers).map_err(Rejection::Headers)?;
        if let Some(filter) = &self.filter
            && !filter.takes(|name| headers.get(name), &row.payload)
        {
            return Ok(None);
        }
        let source = template::Source {
            identity: &self.identity,
            row,
            headers: &headers,
        };

        self.destination_text.clear();
        let rendered = match self.kind {
            DestinationKind::Url => self.destination.render_url(&source, &mut self.destination_text),
            _ => self.destination.render(&source, &mut self.destination_text),
        };
        rendered.map_err(|field| Rejection::MissingField {
            what: self.kind.name(),
            template: self.destination.text().to_owned(),
            field,
        })?;
        if !self.destination.is_literal()
            && let Some(reason) = self.kind.refusal(&self.destination_text)
        {
            return Err(Rejection::BadDestination {
                what: self.kind.name(),
                text: self.destination_text.clone(),
                reason,
            });
        }
        let key = match &self.key {
            Some(template) => {
                self.key_text.clear();
                template
                    .render(&source, &mut self.key_text)
                    .is_ok()
                    .then_some(self.key_text.as_bytes())
            }
            None => None,
        };
        self.tide_id.clear();
        let _ = write!(
            self.tide_id,
            "{}:{}:{}",
            self.identity.outbox, row.id, row.created_at
        );
        let mut payload = &row.payload;
        if !self.format.is_plain() {
            let (added, value) = self.format.dress(&self.tide_id, &source)?;
            format::join(&mut headers, added);
            if let Some(value) = value {
                self.value = value;
                payload = &self.value;
            }
        }
        Ok(Some(Event {
            tide_id: &self.tide_id,
            destination: &self.destination_text,
            key,
            headers,
            payload,
            redelivery: row.redelivery,
            row,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(headers: &str, payload: &str) -> Row {
        Row {
            id: 7,
            created_at: 1_700_000_000_000_001,
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            redelivery: None,
        }
    }

    fn encoder(topic: &str, key: Option<&str>) -> Encoder {
        Encoder::new(
            Identity {
                pipeline: "p".into(),
                outbox: "orders".into(),
            },
            DestinationKind::Topic,
            topic.parse().unwrap(),
            key.map(|k| k.parse().unwrap()),
        )
    }

    fn sent(e: &mut Encoder, row: &Row) -> Result<(String, Option<String>), Rejection> {
        let event = e.encode(row)?.unwrap();
        assert_eq!(event.tide_id, "orders:7:1700000000000001");
        let key = event.key.map(|k| String::from_utf8(k.to_vec()).unwrap());
        Ok((event.destination.to_owned(), key))
    }

    #[test]
    fn the_key_comes_from_the_headers() {
        let r = row(r#"{"event_type": "order.confirmed"}"#, "{}");
        let mut e = encoder("order-events", Some("{event_type}"));
        assert_eq!(
            sent(&mut e, &r),
            Ok(("order-events".into(), Some("order.confirmed".into())))
        );
    }

    #[test]
    fn a_missing_key_field_means_no_key() {
        let mut e = encoder("t", Some("{event_type}"));
        assert_eq!(sent(&mut e, &row("{}", "{}")), Ok(("t".into(), None)));
    }

    #[test]
    fn a_missing_or_illegal_destination_rejects_the_message() {
        let mut e = encoder("orders-{headers.region}", None);
        let missing = sent(&mut e, &row("{}", "{}")).unwrap_err();
        assert!(missing.to_string().contains("{headers.region}"), "{missing}");
        let illegal = sent(&mut e, &row(r#"{"region":"a b"}"#, "{}")).unwrap_err();
        assert!(illegal.to_string().contains("orders-a b"), "{illegal}");
    }

    #[test]
    fn event_ids_survive_colons_in_names() {
        let id = EventId {
            id: 12,
            created_at: 99,
            redelivery: None,
        };
        assert_eq!(EventId::parse(&id.text("a:b:c"), None), Some(id));
        let again = EventId {
            redelivery: Some(3),
            ..id
        };
        assert_eq!(EventId::parse(&id.text("a"), Some("3")), Some(again));
        assert_eq!(EventId::parse("x", None), None);
        assert_eq!(EventId::parse("12:99", None), None);
    }

    proptest! {
        #[test]
        fn event_ids_are_kept(outbox in ".{1,20}", id in 0i64.., created_at in 0i64..) {
            let e = EventId { id, created_at, redelivery: None };
            prop_assert_eq!(EventId::parse(&e.text(&outbox), None), Some(e));
        }
    }
}
