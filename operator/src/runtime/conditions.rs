//! Conditions: set by type, with the time of the last real change.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message; a status is no place for a stack of causes.
const LONGEST: usize = 1024;

/// What is known about one aspect of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be known now.
    Unknown,
}

impl Is {
    fn text(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Is {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// One condition to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its type.
    pub about: &'static str,
    /// Whether it holds.
    pub is: Is,
    /// One of the documented reasons.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Finding {
    /// A finding.
    pub fn new(
        about: &'static str,
        is: impl Into<Is>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            about,
            is: is.into(),
            reason,
            message: message.into(),
        }
    }
}

/// The findings as conditions, in their order. A condition whose status stays
/// keeps its time.
#[must_use]
pub fn conditions(
    before: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let old = before.iter().find(|c| c.type_ == finding.about);
            let status = finding.is.text();
            Condition {
                type_: finding.about.into(),
                status: status.into(),
                reason: finding.reason.into(),
                message: shortened(&finding.message),
                observed_generation: generation,
                last_transition_time: match old {
                    Some(old) if old.status == status => old.last_transition_time.clone(),
                    _ => Time(now),
                },
            }
        })
        .collect()
}

fn shortened(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let end = (0..=LONGEST - 3)
        .rev()
        .find(|end| message.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}...", &message[..end])
}

/// Whether a condition of this type is True.
#[must_use]
pub fn holds(conditions: &[Condition], about: &str) -> bool {
    conditions.iter().any(|c| c.type_ == about && c.status == "True")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_only_with_the_status() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let first = conditions(
            &[],
            &[Finding::new("Ready", false, "Starting", "a")],
            Some(1),
            at(10),
        );
        let second = conditions(
            &first,
            &[Finding::new("Ready", false, "Failing", "b")],
            Some(2),
            at(20),
        );
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (second[0].reason.as_str(), second[0].observed_generation),
            ("Failing", Some(2))
        );
        let third = conditions(
            &second,
            &[Finding::new("Ready", true, "Running", "")],
            Some(2),
            at(30),
        );
        assert_eq!(third[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "é".repeat(2000);
        let cut = shortened(&message);
        assert!(cut.len() <= LONGEST && cut.ends_with("..."), "{}", cut.len());
    }
}
