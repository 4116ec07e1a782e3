//! What doctor says, and how it is written.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    /// Works now, and may hurt later or without notice.
    Warning,
    /// Does not work, or does not keep its promise.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A word that stays the same between versions.
    pub(crate) code: &'static str,
    /// What it is about: `database`, `outbox orders`, `pipeline p`.
    pub(crate) subject: String,
    /// One sentence.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, subject: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            subject: subject.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn ok(code: &'static str, subject: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, code, subject, message)
    }

    pub(crate) fn warning(code: &'static str, subject: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, subject, message)
    }

    pub(crate) fn problem(code: &'static str, subject: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Problem, code, subject, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Something that could not be looked at.
    pub(crate) fn not_checked(subject: &str, reason: impl Into<String>) -> Self {
        Self::warning("not-checked", subject, reason)
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    problems: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        Self {
            problems: count(Severity::Problem),
            warnings: count(Severity::Warning),
            findings,
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.problems == 0
    }

    /// For people: what belongs together under one heading, in the order in
    /// which it was found.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut subjects: Vec<&str> = Vec::new();
        for finding in &self.findings {
            if !subjects.contains(&finding.subject.as_str()) {
                subjects.push(&finding.subject);
            }
        }
        for subject in subjects {
            let _ = writeln!(text, "{subject}");
            for finding in self.findings.iter().filter(|f| f.subject == subject) {
                let _ = match finding.severity {
                    Severity::Ok => writeln!(text, "  ok       {}", finding.message),
                    Severity::Warning => writeln!(text, "  warning  {} [{}]", finding.message, finding.code),
                    Severity::Problem => writeln!(text, "  PROBLEM  {} [{}]", finding.message, finding.code),
                };
                if let Some(hint) = &finding.hint {
                    let _ = writeln!(text, "           -> {hint}");
                }
            }
        }
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        text + &format!(
            "\n{}, {}\n",
            plural(self.problems, "problem"),
            plural(self.warnings, "warning")
        )
    }
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: i64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first few, and how many more there are.
pub(super) fn some(names: &[String], most: usize) -> String {
    let shown = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > most {
        format!("{shown} and {} more", names.len() - most)
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_under_their_subjects() {
        let report = Report::new(vec![
            Finding::ok("a", "database", "It is there."),
            Finding::problem("kafka-topic-missing", "pipeline p", "There is none.").hint("Make one."),
            Finding::warning("b", "database", "It is slow."),
        ]);
        assert_eq!(
            report.text(),
            "database\n  ok       It is there.\n  warning  It is slow. [b]\n\
             pipeline p\n  PROBLEM  There is none. [kafka-topic-missing]\n           -> Make one.\n\n\
             1 problem, 1 warning\n"
        );
        assert!(!report.is_well());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][1]["severity"], "problem");
        assert_eq!(json["findings"][1]["hint"], "Make one.");
        assert_eq!(
            (json["problems"].as_i64(), json["warnings"].as_i64()),
            (Some(1), Some(1))
        );
    }
}
