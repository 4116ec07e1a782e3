//! A message whole, as one JSON object, for receivers that take it without
//! headers of a transport's own.

use std::io::Write as _;

use super::{Event, Identity};

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    event: &'a Event<'a>,
    identity: &'a Identity,
}

impl<'a> Message<'a> {
    pub(crate) fn of(event: &'a Event<'a>, identity: &'a Identity) -> Self {
        Self { event, identity }
    }

    /// Appends the object, in one line. Headers and payload stand in it as they
    /// were published.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { event, identity } = self;
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            r#"{{"id": {}, "tide-id": {}, "outbox": {}, "pipeline": {}"#,
            event.row.id,
            serde_json::Value::from(event.tide_id),
            serde_json::Value::from(identity.outbox.as_str()),
            serde_json::Value::from(identity.pipeline.as_str()),
        );
        if let Some(redelivery) = event.redelivery {
            let _ = write!(out, r#", "redelivery": {redelivery}"#);
        }
        let _ = write!(
            out,
            r#", "created_at": "{}", "headers": "#,
            timestamp(event.row.created_at)
        );
        out.extend_from_slice(&event.row.headers);
        out.extend_from_slice(br#", "payload": "#);
        match &event.payload[..] {
            b"" => out.extend_from_slice(b"null"),
            payload => out.extend_from_slice(payload),
        }
        out.push(b'}');
    }
}

/// Microseconds since the Unix epoch as RFC 3339, in UTC.
fn timestamp(micros: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{DestinationKind, Encoder, Row, Template};
    use bytes::Bytes;

    fn object(headers: &str, payload: &str, redelivery: Option<i64>) -> String {
        let row = Row {
            id: 7,
            created_at: 1_700_000_000_000_001,
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            redelivery,
        };
        let identity = Identity {
            pipeline: "p".into(),
            outbox: "a \"b\"".into(),
        };
        let mut encoder = Encoder::new(identity.clone(), DestinationKind::Only, Template::default(), None);
        let event = encoder.encode(&row).unwrap().unwrap();
        let mut out = Vec::new();
        Message::of(&event, &identity).write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_message_is_one_object() {
        assert_eq!(
            object(r#"{"a": 1.50}"#, r#"{"n": 1.0}"#, None),
            r#"{"id": 7, "tide-id": "a \"b\":7:1700000000000001", "outbox": "a \"b\"", "pipeline": "p", "created_at": "2023-11-14T22:13:20.000001Z", "headers": {"a": 1.50}, "payload": {"n": 1.0}}"#
        );
        let text = object("{}", "", Some(3));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["payload"], &value["redelivery"]),
            (&serde_json::Value::Null, &3.into())
        );
    }

    #[test]
    fn timestamps_are_utc() {
        for (micros, want) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (4_107_542_399_123_456, "2100-02-28T23:59:59.123456Z"),
        ] {
            assert_eq!(timestamp(micros), want);
        }
    }
}
