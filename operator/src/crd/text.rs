//! Texts with a form, which bring their rules into the schema wherever they
//! are used.

use std::{borrow::Cow, fmt, ops::Deref};

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A text of this form, with its schema.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $schema:expr) => {
        $(#[$doc])*
        #[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

text!(
    /// A text with {placeholders}.
    Template,
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "x-kubernetes-validations": template_rules(),
    })
);

text!(
    /// How long something is kept: whole hours or days, `72h` or `3d`.
    Retention,
    json_schema!({
        "type": "string",
        "maxLength": 16,
    })
);

/// Retention that has no end.
const FOREVER: &str = "forever";

/// Hours of a hundred years, the most that SQL takes.
const MOST_HOURS: u32 = 876_000;

impl Retention {
    /// In hours; 0 is for ever, where that may be.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn hours(&self) -> Result<i32, String> {
        if self.0 == FOREVER {
            return Ok(0);
        }
        let number = |unit| self.0.strip_suffix(unit).and_then(|n| n.parse::<u32>().ok());
        number('h')
            .or_else(|| number('d').and_then(|days| days.checked_mul(24)))
            .filter(|hours| *hours <= MOST_HOURS)
            .and_then(|hours| i32::try_from(hours).ok())
            .ok_or_else(|| {
                format!(r#""{self}" is no retention; write whole hours or days, such as 72h or 3d"#)
            })
    }
}

/// The rules of a retention of at least so many hours; `forever` is allowed
/// or not.
pub fn retention_rule(least: u32, forever: bool) -> Rule {
    let or_forever = if forever { "self == 'forever' || " } else { "" };
    let form = "self.matches('^[0-9]{1,6}[hd]$')";
    let hours = "int(self.substring(0, self.size() - 1)) * (self.endsWith('d') ? 24 : 1)";
    let rule = format!("{or_forever}({form} && {hours} >= {least} && {hours} <= {MOST_HOURS})");
    let message = match (least, forever) {
        (_, true) => "must be whole hours or days, such as 72h or 3d, at most 876000h, or forever",
        (0, _) => "must be whole hours or days, such as 72h or 3d, at most 876000h",
        _ => "must be whole hours or days, such as 72h or 3d, from 1h to 876000h",
    };
    Rule::new(rule).message(message)
}

/// The rule of a duration between these, in milliseconds.
pub fn duration_rule(least: u64, most: u64) -> Rule {
    Rule::new(format!(
        "self.matches('^[0-9]{{1,7}}(ms|s|m|h)$') && duration(self) >= duration('{least}ms') && duration(self) <= duration('{most}ms')"
    ))
    .message(
        format!("must be a duration such as 250ms, 3s or 5m, from {} to {}", words(least), words(most)).as_str(),
    )
}

/// Milliseconds in the largest unit that has them as a whole number.
fn words(ms: u64) -> String {
    match ms {
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// What `tide._template_error` refuses.
fn template_rules() -> Value {
    let rule = |rule: &str, message: &str| serde_json::json!({"rule": rule, "message": message});
    Value::Array(vec![
        rule(
            r"self.matches('^([^{}]|\\{\\{|\\}\\}|\\{[^{}]*\\})*$')",
            "has unbalanced braces; placeholders are {name}, {headers.name} and {payload.a.b}, and {{ and }} stand for braces",
        ),
        rule(
            r"!self.matches('^([^{}]|\\{\\{|\\}\\}|\\{[^{}]*\\})*$') || self.matches('^([^{}]|\\{\\{|\\}\\}|\\{[^{}.\\s]+(\\.[^{}.\\s]+)*\\})*$') && !self.matches('(^|[^{])(\\{\\{)*\\{headers\\}')",
            "has a placeholder that names nothing; write {name}, {headers.name} or {payload.a.b}",
        ),
    ])
}

/// The rules of names in SQL: so many bytes, and no control characters.
pub fn name_rule(most_bytes: usize) -> Rule {
    Rule::new(format!(
        r"size(bytes(self)) <= {most_bytes} && !self.matches('[\\x01-\\x1f\\x7f]')"
    ))
    .message(
        format!("must be of at most {most_bytes} bytes, without line breaks and other control characters")
            .as_str(),
    )
}

/// The rule of a relay group's id, which becomes part of a Deployment's name.
pub fn relay_group_rule() -> Rule {
    Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("must be small letters, digits and hyphens, beginning and ending with a letter or digit")
}

/// The rule of plain texts where SQL takes a reference too: a reference could
/// name any file or variable of the relay.
pub fn plain_rule() -> Rule {
    Rule::new("!self.startsWith('${')")
        .message("must be the text itself; refer to a Secret by the field that ends in Ref")
}
