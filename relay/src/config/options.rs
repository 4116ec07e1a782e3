//! Reading a pipeline's JSON configuration key by key.
//!
//! Every key that is asked for is known; what is left at the end is not, and
//! is refused with the nearest known one.

use std::time::Duration;

use serde_json::{Map, Value};

use super::secret::{SecretRef, Setting};
use crate::encode::{Filter, Template};
use pg_tide_postgres::words::nearest;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("\"{key}\" is missing")]
    Missing { key: String },
    #[error("\"{key}\" must be {expected}, not {found}")]
    Kind {
        key: String,
        expected: &'static str,
        found: String,
    },
    #[error("\"{key}\" must be one of {allowed}, not \"{found}\"")]
    NotAllowed {
        key: String,
        allowed: String,
        found: String,
    },
    #[error("\"{key}\": {reason}")]
    Bad { key: String, reason: String },
    #[error("unknown key \"{key}\"{}", hint(.nearest.as_deref()))]
    Unknown { key: String, nearest: Option<String> },
}

fn hint(nearest: Option<&str>) -> String {
    nearest
        .map(|n| format!("; did you mean \"{n}\"?"))
        .unwrap_or_default()
}

/// A JSON object being read; remembers which keys were asked for.
#[derive(Debug)]
pub(crate) struct Options {
    left: Map<String, Value>,
    known: Vec<&'static str>,
    prefix: &'static str,
    references: Vec<SecretRef>,
}

impl Options {
    pub(crate) fn new(object: Map<String, Value>) -> Self {
        Self {
            left: object,
            known: Vec::new(),
            prefix: "",
            references: Vec::new(),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.left.remove(key).filter(|v| !v.is_null())
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn kind<T>(&self, key: &str, expected: &'static str, found: &Value) -> Result<T, OptionError> {
        Err(OptionError::Kind {
            key: self.key(key),
            expected,
            found: found.to_string(),
        })
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, OptionError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.kind(key, "a text", &other),
        }
    }

    pub(crate) fn required_text(&mut self, key: &'static str) -> Result<String, OptionError> {
        match self.text(key)? {
            Some(text) if !text.trim().is_empty() => Ok(text),
            Some(_) => Err(OptionError::Bad {
                key: self.key(key),
                reason: "is empty".into(),
            }),
            None => Err(OptionError::Missing { key: self.key(key) }),
        }
    }

    /// A text or a number, as text.
    pub(crate) fn word(&mut self, key: &'static str) -> Result<Option<String>, OptionError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => self.kind(key, "a text or a number", &other),
        }
    }

    pub(crate) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        allowed: &[(&str, T)],
    ) -> Result<Option<T>, OptionError> {
        let Some(found) = self.word(key)? else {
            return Ok(None);
        };
        match allowed.iter().find(|(name, _)| *name == found) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(OptionError::NotAllowed {
                key: self.key(key),
                allowed: allowed
                    .iter()
                    .map(|(n, _)| format!("\"{n}\""))
                    .collect::<Vec<_>>()
                    .join(", "),
                found,
            }),
        }
    }

    /// A text with commas or a list of texts.
    pub(crate) fn required_list(&mut self, key: &'static str) -> Result<Vec<String>, OptionError> {
        match self.list(key)? {
            list if list.is_empty() => Err(OptionError::Missing { key: self.key(key) }),
            list => Ok(list),
        }
    }

    /// The same; empty when there is none.
    pub(crate) fn list(&mut self, key: &'static str) -> Result<Vec<String>, OptionError> {
        let list: Vec<String> = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => text
                .split(',')
                .map(|s| s.trim().to_owned())
                .filter(|s| !s.is_empty())
                .collect(),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => self.kind(key, "a text or a list of texts", &other),
                })
                .collect::<Result<Vec<_>, _>>()?,
            Some(other) => return self.kind(key, "a text or a list of texts", &other),
        };
        if list.is_empty() {
            return Err(OptionError::Bad {
                key: self.key(key),
                reason: "is empty".into(),
            });
        }
        Ok(list)
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, OptionError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => self.kind(key, "true or false", &other),
        }
    }

    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, OptionError> {
        let Some(found) = self.take(key) else {
            return Ok(None);
        };
        let number = match &found {
            Value::Number(n) => n.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(OptionError::Bad {
                key: self.key(key),
                reason: format!(
                    "must be a whole number from {} to {}, not {found}",
                    range.start(),
                    range.end()
                ),
            }),
        }
    }

    pub(crate) fn millis(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<Duration>, OptionError> {
        Ok(self.number(key, range)?.map(Duration::from_millis))
    }

    /// A number of milliseconds, or a text such as "250ms", "3s", "5m", "2h".
    /// The range is in milliseconds.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<Duration>, OptionError> {
        let Some(found) = self.take(key) else {
            return Ok(None);
        };
        let millis = match &found {
            Value::Number(n) => n.as_u64(),
            Value::String(text) => duration_millis(text),
            _ => None,
        };
        match millis {
            Some(millis) if range.contains(&millis) => Ok(Some(Duration::from_millis(millis))),
            _ => Err(OptionError::Bad {
                key: self.key(key),
                reason: format!(
                    "must be a duration such as \"250ms\", \"3s\" or \"5m\", from {} to {} ms, not {found}",
                    range.start(),
                    range.end()
                ),
            }),
        }
    }

    fn parsed<T: std::str::FromStr<Err = String>>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, OptionError> {
        self.text(key)?
            .map(|text| {
                text.parse().map_err(|reason| OptionError::Bad {
                    key: self.key(key),
                    reason,
                })
            })
            .transpose()
    }

    /// A reference to a secret; the secret itself is refused.
    pub(crate) fn secret(&mut self, key: &'static str) -> Result<Option<SecretRef>, OptionError> {
        let secret: Option<SecretRef> = self.parsed(key)?;
        self.references.extend(secret.clone());
        Ok(secret)
    }

    /// A reference to a secret, or a list of them; empty when there is none.
    pub(crate) fn secrets(&mut self, key: &'static str) -> Result<Vec<SecretRef>, OptionError> {
        let found = self.take(key);
        let bad = |reason: String| OptionError::Bad {
            key: self.key(key),
            reason,
        };
        let values = match found {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) if values.is_empty() => return Err(bad("is an empty list".into())),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        let secrets = values
            .iter()
            // Not shown: it may be a secret.
            .map(|value| value.as_str().unwrap_or_default().parse().map_err(bad))
            .collect::<Result<Vec<SecretRef>, _>>()?;
        self.references.extend(secrets.clone());
        Ok(secrets)
    }

    /// A text, or a reference to where it is kept.
    pub(crate) fn setting(&mut self, key: &'static str) -> Result<Option<Setting>, OptionError> {
        let setting: Option<Setting> = self.parsed(key)?;
        self.references
            .extend(setting.as_ref().and_then(Setting::reference).cloned());
        Ok(setting)
    }

    /// An object whose values are texts or references.
    pub(crate) fn settings(&mut self, key: &'static str) -> Result<Vec<(String, Setting)>, OptionError> {
        let map = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(other) => return self.kind(key, "an object", &other),
        };
        let mut settings = Vec::with_capacity(map.len());
        for (name, value) in map {
            let inner = format!("{}.{name}", self.key(key));
            let setting: Setting = match value {
                Value::String(text) => text
                    .parse()
                    .map_err(|reason| OptionError::Bad { key: inner, reason })?,
                // Not shown: it may be a secret.
                _ => {
                    return Err(OptionError::Bad {
                        key: inner,
                        reason: "must be a text".into(),
                    });
                }
            };
            self.references.extend(setting.reference().cloned());
            settings.push((name, setting));
        }
        Ok(settings)
    }

    /// All references that were read so far.
    pub(crate) fn references(&self) -> Vec<SecretRef> {
        self.references.clone()
    }

    pub(crate) fn template(&mut self, key: &'static str) -> Result<Option<Template>, OptionError> {
        self.text(key)?
            .map(|text| {
                text.parse()
                    .map_err(|e: crate::encode::TemplateError| OptionError::Bad {
                        key: self.key(key),
                        reason: e.to_string(),
                    })
            })
            .transpose()
    }

    pub(crate) fn required_template(&mut self, key: &'static str) -> Result<Template, OptionError> {
        match self.template(key)? {
            Some(template) if !template.text().is_empty() => Ok(template),
            Some(_) => Err(OptionError::Bad {
                key: self.key(key),
                reason: "is empty".into(),
            }),
            None => Err(OptionError::Missing { key: self.key(key) }),
        }
    }

    pub(crate) fn object(&mut self, key: &'static str, prefix: &'static str) -> Result<Self, OptionError> {
        let left = match self.take(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return self.kind(key, "an object", &other),
        };
        Ok(Self {
            left,
            known: Vec::new(),
            prefix,
            references: Vec::new(),
        })
    }

    /// Headers to add: an object of names and templates.
    pub(crate) fn templates(&mut self, key: &'static str) -> Result<Vec<(String, Template)>, OptionError> {
        let Some(found) = self.take(key) else {
            return Ok(Vec::new());
        };
        let Value::Object(map) = found else {
            return self.kind(key, "an object of texts", &found);
        };
        map.into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => match text.parse() {
                    Ok(template) => Ok((name, template)),
                    Err(e) => Err(OptionError::Bad {
                        key: format!("{}.{name}", self.key(key)),
                        reason: crate::encode::TemplateError::to_string(&e),
                    }),
                },
                other => self.kind(&format!("{key}.{name}"), "a text", &other),
            })
            .collect()
    }

    /// Conditions on the messages that the pipeline takes.
    pub(crate) fn filter(&mut self, key: &'static str) -> Result<Option<Filter>, OptionError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Filter::read(&map).map(Some).map_err(|e| OptionError::Bad {
                key: format!("{}.{}", self.key(key), e.key),
                reason: e.reason,
            }),
            Some(other) => self.kind(key, "an object", &other),
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.left.values().all(Value::is_null)
    }

    /// All that is left, as texts: a map handed on to a client library.
    pub(crate) fn into_texts(self) -> Result<Vec<(String, String)>, OptionError> {
        self.left
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Number(_) | Value::Bool(_) => Ok((key.clone(), value.to_string())),
                other => self.kind(key, "a text, a number, true or false", other),
            })
            .collect()
    }

    /// Refuses what nobody asked for.
    ///
    /// # Errors
    /// The first unknown key, with the nearest known one.
    pub(crate) fn finish(self) -> Result<(), OptionError> {
        let Some(key) = self.left.keys().next() else {
            return Ok(());
        };
        let nearest = nearest(key, self.known.iter().copied()).map(|known| self.key(known));
        Err(OptionError::Unknown {
            key: self.key(key),
            nearest,
        })
    }
}

/// Milliseconds of "250ms", "3s", "5m", "2h".
fn duration_millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "ms" | "" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::duration_millis;

    #[test]
    fn durations_have_units() {
        for (text, want) in [
            ("250ms", Some(250)),
            ("3 s", Some(3_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("40", Some(40)),
            ("s", None),
            ("1.5s", None),
            ("3 days", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration_millis(text), want, "{text}");
        }
    }
}
