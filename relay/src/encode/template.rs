//! Templates for topics, subjects and keys: `orders-{headers.region}`.
//!
//! `{name}` and `{headers.name}` take a header, `{payload.a.b}` a field of the
//! payload, `{outbox}`, `{pipeline}` and `{id}` what they say. `{{` and `}}`
//! stand for braces.

use std::fmt::Write as _;
use std::str::FromStr;

use super::{Headers, Identity, Row};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Header(String),
    Payload(Vec<String>),
    Outbox,
    Pipeline,
    Id,
}

/// A parsed template; by default an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template {
    text: String,
    parts: Vec<Part>,
}

/// What is wrong with a template's text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("template \"{0}\": '{{' without its '}}'")]
    Unclosed(String),
    #[error("template \"{0}\": '}}' without its '{{' (write '}}}}' for a brace)")]
    Unopened(String),
    #[error("template \"{0}\": an empty placeholder")]
    Empty(String),
}

/// Where a template takes its values from.
pub(crate) struct Source<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) row: &'a Row,
    pub(crate) headers: &'a Headers<'a>,
}

impl Template {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has no placeholders.
    pub(crate) fn is_literal(&self) -> bool {
        self.parts.iter().all(|p| matches!(p, Part::Text(_)))
    }

    /// The text, when it has no placeholders.
    pub(crate) fn literal(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|p| {
                if let Part::Text(t) = p {
                    Some(t.as_str())
                } else {
                    None
                }
            })
            .collect()
    }

    /// The text before the first placeholder.
    pub(crate) fn literal_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Appends the rendered text to `out`.
    ///
    /// # Errors
    /// The placeholder whose value the message does not have.
    pub(crate) fn render(&self, source: &Source<'_>, out: &mut String) -> Result<(), String> {
        self.render_by(source, out, String::push_str)
    }

    /// The same, percent-encoded where values are put in: none can be more than
    /// a part of a path or of a query.
    pub(crate) fn render_url(&self, source: &Source<'_>, out: &mut String) -> Result<(), String> {
        use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
        /// All but the unreserved characters of RFC 3986.
        const VALUE: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        self.render_by(source, out, |out, value| {
            out.extend(utf8_percent_encode(value, VALUE));
        })
    }

    fn render_by(
        &self,
        source: &Source<'_>,
        out: &mut String,
        add: impl Fn(&mut String, &str),
    ) -> Result<(), String> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Header(name) => match source.headers.get(name) {
                    Some(value) => add(out, value),
                    None => return Err(format!("headers.{name}")),
                },
                Part::Payload(path) => match field(&source.row.payload, path) {
                    Some(value) => add(out, &value),
                    None => return Err(format!("payload.{}", path.join("."))),
                },
                Part::Outbox => add(out, &source.identity.outbox),
                Part::Pipeline => add(out, &source.identity.pipeline),
                Part::Id => {
                    let _ = write!(out, "{}", source.row.id);
                }
            }
        }
        Ok(())
    }
}

/// A field of a JSON text, as text. Numbers in the path index arrays.
pub(crate) fn field(json: &[u8], path: &[String]) -> Option<String> {
    let mut value: &serde_json::value::RawValue = serde_json::from_slice(json).ok()?;
    for step in path {
        let text = value.get();
        value = if text.starts_with('{') {
            let mut map: std::collections::HashMap<String, &serde_json::value::RawValue> =
                serde_json::from_str(text).ok()?;
            map.remove(step.as_str())?
        } else {
            let list: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).ok()?;
            list.get(step.parse::<usize>().ok()?).copied()?
        };
    }
    match value.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        text => Some(text.to_owned()),
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("}}") {
                plain.push('}');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let Some(end) = after.find('}') else {
                    return Err(TemplateError::Unclosed(text.to_owned()));
                };
                let name = &after[..end];
                if name.contains('{') {
                    return Err(TemplateError::Unclosed(text.to_owned()));
                }
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(placeholder(name).ok_or_else(|| TemplateError::Empty(text.to_owned()))?);
                rest = &after[end + 1..];
            } else {
                return Err(TemplateError::Unopened(text.to_owned()));
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

fn placeholder(name: &str) -> Option<Part> {
    let part = match name {
        "" | "headers." | "payload." => return None,
        "outbox" => Part::Outbox,
        "pipeline" => Part::Pipeline,
        "id" => Part::Id,
        "payload" => Part::Payload(Vec::new()),
        _ => {
            if let Some(path) = name.strip_prefix("payload.") {
                Part::Payload(path.split('.').map(str::to_owned).collect())
            } else {
                Part::Header(name.strip_prefix("headers.").unwrap_or(name).to_owned())
            }
        }
    };
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn render(template: &str, headers: &str, payload: &str) -> Result<String, String> {
        let row = Row {
            redelivery: None,
            id: 42,
            created_at: 0,
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        let identity = Identity {
            pipeline: "pipe".into(),
            outbox: "orders".into(),
        };
        let headers = Headers::parse(&row.headers).unwrap();
        let source = Source {
            identity: &identity,
            row: &row,
            headers: &headers,
        };
        let mut out = String::new();
        template.parse::<Template>().unwrap().render(&source, &mut out)?;
        Ok(out)
    }

    #[test]
    fn takes_values_from_everywhere() {
        let payload = r#"{"customer": {"id": "c-1", "tags": ["x", 5]}, "n": 1.50}"#;
        let template = "{outbox}/{id}/{pipeline}/{region}/{headers.region}/{payload.customer.id}/{payload.customer.tags.1}/{payload.n}";
        assert_eq!(
            render(template, r#"{"region": "eu"}"#, payload).unwrap(),
            "orders/42/pipe/eu/eu/c-1/5/1.50"
        );
        assert_eq!(render("a{{b}}", "{}", "{}").unwrap(), "a{b}");
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(render("{region}", "{}", "{}").unwrap_err(), "headers.region");
        assert_eq!(
            render("{payload.a.b}", "{}", r#"{"a":{}}"#).unwrap_err(),
            "payload.a.b"
        );
        assert_eq!(
            render("{region}", r#"{"region":null}"#, "{}").unwrap_err(),
            "headers.region"
        );
    }

    #[test]
    fn refuses_broken_braces() {
        for text in ["{", "}", "a{b", "a}b", "{}", "{headers.}", "{a{b}}"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_text_is_itself(text in "[^{}]{0,40}") {
            let t: Template = text.parse().unwrap();
            prop_assert!(t.is_literal());
            prop_assert_eq!(t.literal(), Some(text));
        }

        #[test]
        fn escaped_text_is_itself(text in ".{0,40}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(escaped.parse::<Template>().unwrap().literal(), Some(text));
        }
    }
}
