//! A message's headers: a JSON object, flattened to names and texts.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// Names and values in the order in which they are stored. A string is given
/// without quotes, null as nothing, everything else as its JSON text.
#[derive(Debug, Default)]
pub(crate) struct Headers<'a>(Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>);

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Headers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            pairs.push((name, text_of(value.get())));
        }
        Ok(Headers(pairs))
    }
}

/// A name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    match raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
        None if raw == "null" => None,
        None => Some(Cow::Borrowed(raw)),
    }
}

impl<'a> Headers<'a> {
    /// Reads the text of a JSON object.
    ///
    /// # Errors
    /// What the JSON reader says.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, String> {
        if json == b"{}" {
            return Ok(Self::default());
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let headers = reader.deserialize_map(Pairs).map_err(|e| e.to_string())?;
        reader.end().map_err(|e| e.to_string())?;
        Ok(headers)
    }

    /// Sets a header, in place of one of this name.
    pub(crate) fn set(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = Some(value),
            None => self.0.push((name, Some(value))),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .and_then(|(_, v)| v.as_deref())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> + Clone {
        self.0.iter().map(|(n, v)| (n.as_ref(), v.as_deref()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flattens_values_of_every_kind() {
        let json = br#"{"s":"a\"b","n":1.50,"b":true,"z":null,"o":{"x":[1]},"\u00e9":"p"}"#;
        let h = Headers::parse(json).unwrap();
        let want = [
            ("s", Some("a\"b")),
            ("n", Some("1.50")),
            ("b", Some("true")),
            ("z", None),
            ("o", Some(r#"{"x":[1]}"#)),
            ("é", Some("p")),
        ];
        assert_eq!(h.iter().collect::<Vec<_>>(), want);
        assert_eq!(h.get("n"), Some("1.50"));
    }

    #[test]
    fn refuses_what_is_no_object() {
        for json in ["[]", "1", "null", "", "{", "{} x"] {
            assert!(Headers::parse(json.as_bytes()).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn strings_are_kept(pairs in proptest::collection::btree_map(".{0,12}", ".{0,30}", 0..6)) {
            let json = serde_json::to_vec(&pairs).unwrap();
            let h = Headers::parse(&json).unwrap();
            prop_assert_eq!(h.len(), pairs.len());
            for (name, value) in &pairs {
                prop_assert_eq!(h.get(name), Some(value.as_str()));
            }
        }
    }
}
