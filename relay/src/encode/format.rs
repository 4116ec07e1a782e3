//! How a message is dressed for its sink: as it is, or as a CloudEvent
//! (CloudEvents 1.0, JSON event format and the bindings' binary mode).

use std::borrow::Cow;

use bytes::Bytes;

use super::template::{Source, Template};
use super::{Headers, Rejection};

/// What the value and the headers look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Encoding {
    /// The payload as published.
    #[default]
    Raw,
    /// A JSON envelope around the payload.
    Structured(CloudEvent),
    /// The payload as published, the attributes as headers with this prefix:
    /// `ce_` on Kafka, `ce-` elsewhere.
    Binary(CloudEvent, &'static str),
}

/// Where the attributes that are not given come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CloudEvent {
    pub(crate) source: Template,
    /// Without it the header `event_type`, else the outbox's name.
    pub(crate) kind: Option<Template>,
    pub(crate) subject: Option<Template>,
}

/// Encoding and headers that a pipeline adds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    pub(crate) headers: Vec<(String, Template)>,
}

/// Headers that are added to a message.
pub(super) type Added<'a> = Vec<(Cow<'a, str>, String)>;

/// The attributes of one message.
struct Attributes {
    source: String,
    kind: String,
    subject: Option<String>,
    time: String,
}

impl CloudEvent {
    fn attributes(&self, source: &Source<'_>) -> Result<Attributes, Rejection> {
        Ok(Attributes {
            source: render("cloudevents.source", &self.source, source)?,
            kind: match &self.kind {
                Some(kind) => render("cloudevents.type", kind, source)?,
                None => source
                    .headers
                    .get("event_type")
                    .unwrap_or(&source.identity.outbox)
                    .to_owned(),
            },
            subject: self
                .subject
                .as_ref()
                .map(|subject| render("cloudevents.subject", subject, source))
                .transpose()?,
            time: jiff::Timestamp::from_microsecond(source.row.created_at)
                .map(|t| t.to_string())
                .unwrap_or_default(),
        })
    }
}

fn render(what: &'static str, template: &Template, source: &Source<'_>) -> Result<String, Rejection> {
    let mut text = String::new();
    template
        .render(source, &mut text)
        .map_err(|field| Rejection::MissingField {
            what,
            template: template.text().to_owned(),
            field,
        })?;
    Ok(text)
}

impl Format {
    /// Whether a message goes out as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.headers.is_empty() && matches!(self.encoding, Encoding::Raw)
    }

    /// Adds what belongs into the headers; returns the value when it is not
    /// the payload itself.
    pub(super) fn dress<'a>(
        &'a self,
        tide_id: &str,
        source: &Source<'_>,
    ) -> Result<(Added<'a>, Option<Bytes>), Rejection> {
        let mut added: Added<'a> = Vec::new();
        for (name, template) in &self.headers {
            // As a key that cannot be made: the message goes without it.
            if let Ok(value) = render("headers", template, source) {
                added.push((Cow::Borrowed(name), value));
            }
        }
        let value = match &self.encoding {
            Encoding::Raw => None,
            Encoding::Binary(event, prefix) => {
                let attributes = event.attributes(source)?;
                let mut add =
                    |name: &str, value: String| added.push((Cow::Owned(format!("{prefix}{name}")), value));
                add("specversion", "1.0".into());
                add("id", tide_id.to_owned());
                add("source", attributes.source);
                add("type", attributes.kind);
                add("time", attributes.time);
                if let Some(subject) = attributes.subject {
                    add("subject", subject);
                }
                added.push(("content-type".into(), "application/json".into()));
                None
            }
            Encoding::Structured(event) => {
                let attributes = event.attributes(source)?;
                added.push((
                    "content-type".into(),
                    "application/cloudevents+json; charset=UTF-8".into(),
                ));
                Some(envelope(tide_id, &attributes, &source.row.payload))
            }
        };
        Ok((added, value))
    }
}

/// The JSON event format; the payload goes in as it is.
fn envelope(tide_id: &str, attributes: &Attributes, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 256);
    let mut member = |name: &str, value: &str| {
        out.extend_from_slice(if out.is_empty() { b"{\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(serde_json::Value::from(value).to_string().as_bytes());
    };
    member("specversion", "1.0");
    member("id", tide_id);
    member("source", &attributes.source);
    member("type", &attributes.kind);
    member("time", &attributes.time);
    if let Some(subject) = &attributes.subject {
        member("subject", subject);
    }
    member("datacontenttype", "application/json");
    if !payload.is_empty() {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(payload);
    }
    out.push(b'}');
    Bytes::from(out)
}

/// Headers of a message and those that are added; an added one replaces the
/// message's own of that name.
pub(super) fn join<'a>(headers: &mut Headers<'a>, added: Added<'a>) {
    for (name, value) in added {
        headers.set(name, value.into());
    }
}
