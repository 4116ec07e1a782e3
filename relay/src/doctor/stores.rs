//! Outboxes, inboxes, dead letters: who reads them, what piles up.

use super::finding::{Finding, count, some};
use super::server::literal;
use crate::human::{age, bytes};

/// A group that has not given a sign of life for so long is forgotten.
const FORGOTTEN: f64 = 3_600.0;
/// Messages of an inbox that wait for so long are not processed.
const UNPROCESSED: f64 = 3_600.0;

/// A consumer group of an outbox.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) pipeline: Option<String>,
    pub(super) lag: i64,
    /// Since its last sign of life, else since it was made.
    pub(super) silent: f64,
    /// Whether there never was one.
    pub(super) never: bool,
}

/// An outbox and its partitions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outbox {
    pub(super) name: String,
    pub(super) enabled: bool,
    pub(super) retention: String,
    pub(super) pending: i64,
    pub(super) bytes: i64,
    pub(super) groups: Vec<Group>,
    /// Partitions that are older than the retention.
    pub(super) passed: i64,
    pub(super) passed_bytes: i64,
    /// How far ahead there are partitions, in seconds.
    pub(super) ahead: f64,
    pub(super) period: f64,
    /// Whether the partition behind the last one holds messages.
    pub(super) rest_used: bool,
}

/// An inbox.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inbox {
    pub(super) name: String,
    pub(super) pending: i64,
    pub(super) oldest: Option<f64>,
    pub(super) dead: i64,
}

/// Unresolved dead letters of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DeadLetters {
    pub(super) pipeline: String,
    pub(super) number: i64,
    pub(super) oldest: f64,
    pub(super) error: String,
}

impl Outbox {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let subject = format!("outbox {}", self.name);
        let mut found = Vec::new();
        if !self.enabled {
            found.push(
                Finding::warning(
                    "outbox-disabled",
                    &subject,
                    "It is disabled: publishing to it fails.",
                )
                .hint(format!("SELECT tide.outbox_enable({})", literal(&self.name))),
            );
        }
        if self.groups.is_empty() {
            found.push(
                Finding::warning(
                    "outbox-without-reader",
                    &subject,
                    "It has neither a pipeline nor a consumer group: nobody gets its messages, and they go with the retention.",
                )
                .hint("make a pipeline with tide.relay_set_outbox, or a group with tide.create_consumer_group"),
            );
        }
        let mut retention = self.retention(&subject);
        // A group that holds the retention back is named there.
        let held: Vec<&str> = self.behind().map(|g| g.name.as_str()).collect();
        if self.passed == 0 {
            retention.extend(self.forgotten(&subject, &held));
        }
        found.extend(retention);
        if self.rest_used {
            found.push(
                Finding::warning(
                    "partition-rest-used",
                    &subject,
                    "Messages lie beyond the last partition: none were made ahead for days.",
                )
                .hint(self.maintain_hint()),
            );
        } else if self.ahead < self.period {
            found.push(
                Finding::warning(
                    "partitions-run-out",
                    &subject,
                    format!("Its partitions reach only {} ahead.", age(self.ahead)),
                )
                .hint(self.maintain_hint()),
            );
        }
        if found.is_empty() {
            let message = format!(
                "{}, {} pending, {}.",
                count(
                    i64::try_from(self.groups.len()).unwrap_or(i64::MAX),
                    "consumer group"
                ),
                count(self.pending, "message"),
                bytes(self.bytes)
            );
            found.push(Finding::ok("outbox", &subject, message));
        }
        found
    }

    fn maintain_hint(&self) -> String {
        format!(
            "a running relay does it; by hand: SELECT * FROM tide.maintain_outbox({})",
            literal(&self.name)
        )
    }

    fn behind(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|g| g.lag > 0)
    }

    /// Partitions older than the retention are still there.
    fn retention(&self, subject: &str) -> Vec<Finding> {
        if self.passed == 0 {
            return Vec::new();
        }
        let kept = format!(
            "{} ({}) older than the retention of {} still kept",
            count(self.passed, "partition"),
            bytes(self.passed_bytes),
            self.retention
        );
        let verb = if self.passed == 1 { "is" } else { "are" };
        let kept = kept.replacen(" still", &format!(" {verb} still"), 1);
        let groups: Vec<String> = self
            .behind()
            .map(|g| {
                let since = if g.never {
                    "never committed, made"
                } else {
                    "last seen"
                };
                format!(
                    "\"{}\" ({} behind, {since} {} ago)",
                    g.name,
                    count(g.lag, "message"),
                    age(g.silent)
                )
            })
            .collect();
        if groups.is_empty() {
            return vec![
                Finding::warning(
                    "retention-not-run",
                    subject,
                    format!("{kept}, though nobody needs them."),
                )
                .hint(self.maintain_hint()),
            ];
        }
        let first = self.behind().max_by(|a, b| a.silent.total_cmp(&b.silent));
        let hint = match first {
            Some(Group {
                pipeline: Some(pipeline),
                ..
            }) => format!(
                "let pipeline \"{pipeline}\" deliver; or, if nobody wants its messages: SELECT tide.relay_delete({})",
                literal(pipeline)
            ),
            Some(group) => format!(
                "let its consumer go on; or, if there is none any more: {}",
                self.drop_group(group)
            ),
            None => self.maintain_hint(),
        };
        vec![
            Finding::warning(
                "retention-held",
                subject,
                format!("{kept} for {}.", some(&groups, 3)),
            )
            .hint(hint),
        ]
    }

    fn drop_group(&self, group: &Group) -> String {
        format!(
            "SELECT tide.drop_consumer_group({}, {})",
            literal(&group.name),
            literal(&self.name)
        )
    }

    /// Groups that nobody reads as; those of pipelines are told there.
    fn forgotten<'a>(&'a self, subject: &'a str, behind: &'a [&str]) -> impl Iterator<Item = Finding> + 'a {
        self.groups
            .iter()
            .filter(|g| g.pipeline.is_none() && g.silent > FORGOTTEN && behind.contains(&g.name.as_str()))
            .map(move |g| {
                Finding::warning(
                    "group-forgotten",
                    subject,
                    format!(
                        "Consumer group \"{}\" {}, and {} wait for it: they will be kept beyond the retention of {}.",
                        g.name,
                        if g.never {
                            format!("was made {} ago and has never committed", age(g.silent))
                        } else {
                            format!("was last seen {} ago", age(g.silent))
                        },
                        count(g.lag, "message"),
                        self.retention
                    ),
                )
                .hint(format!(
                    "let its consumer go on; or, if there is none any more: {}",
                    self.drop_group(g)
                ))
            })
    }
}

impl Inbox {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let subject = format!("inbox {}", self.name);
        let mut found = Vec::new();
        if self.dead > 0 {
            found.push(
                Finding::warning(
                    "inbox-dead-letters",
                    &subject,
                    format!(
                        "{} failed too often and wait for somebody.",
                        count(self.dead, "message")
                    ),
                )
                .hint(format!(
                    "look at last_error in its table; then SELECT tide.replay_inbox_messages({}, ARRAY[...])",
                    literal(&self.name)
                )),
            );
        }
        if let Some(oldest) = self.oldest.filter(|o| *o > UNPROCESSED) {
            found.push(
                Finding::warning(
                    "inbox-not-processed",
                    &subject,
                    format!(
                        "{} wait to be processed, the oldest for {}.",
                        count(self.pending, "message"),
                        age(oldest)
                    ),
                )
                .hint("does the application run that claims and marks them?"),
            );
        }
        if found.is_empty() {
            found.push(Finding::ok(
                "inbox",
                &subject,
                format!("{} pending.", count(self.pending, "message")),
            ));
        }
        found
    }
}

impl DeadLetters {
    pub(super) fn finding(&self) -> Finding {
        Finding::warning(
            "dead-letters",
            &format!("pipeline {}", self.pipeline),
            format!(
                "{} could not be delivered, the oldest {} ago; the last error: {}.",
                count(self.number, "message"),
                age(self.oldest),
                self.error.trim_end_matches('.')
            ),
        )
        .hint(format!(
            "pg-tide dlq list --pipeline {0}; then pg-tide dlq retry or discard",
            self.pipeline
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn group(name: &str, lag: i64) -> Group {
        Group {
            name: name.into(),
            pipeline: None,
            lag,
            silent: 7_200.0,
            never: false,
        }
    }

    fn outbox(groups: Vec<Group>) -> Outbox {
        Outbox {
            name: "or'ders".into(),
            enabled: true,
            retention: "24:00:00".into(),
            pending: 5,
            bytes: 2_048,
            groups,
            passed: 0,
            passed_bytes: 0,
            ahead: 80_000.0,
            period: 21_600.0,
            rest_used: false,
        }
    }

    fn only(outbox: &Outbox) -> Finding {
        let mut found = outbox.findings();
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    #[test]
    fn an_outbox_in_order_is_ok() {
        let found = only(&outbox(vec![group("g", 0)]));
        assert_eq!(found.severity, Severity::Ok);
        assert_eq!(found.message, "1 consumer group, 5 messages pending, 2.0 kB.");
    }

    #[test]
    fn what_holds_the_retention_back_is_named_with_its_size() {
        let held = Outbox {
            passed: 3,
            passed_bytes: 5 << 30,
            ..outbox(vec![group("a", 0), group("old", 12)])
        };
        let found = only(&held);
        assert_eq!(found.code, "retention-held");
        assert_eq!(
            found.message,
            "3 partitions (5.0 GB) older than the retention of 24:00:00 are still kept for \"old\" (12 messages behind, last seen 2h ago)."
        );
        assert!(
            found
                .hint
                .unwrap()
                .ends_with("SELECT tide.drop_consumer_group('old', 'or''ders')")
        );
        let by_pipeline = Group {
            pipeline: Some("p".into()),
            ..group("p", 12)
        };
        let found = only(&Outbox {
            groups: vec![by_pipeline],
            ..held.clone()
        });
        assert!(found.hint.unwrap().contains("SELECT tide.relay_delete('p')"));
        let found = only(&Outbox {
            groups: vec![group("a", 0)],
            ..held
        });
        assert_eq!(found.code, "retention-not-run");
    }

    #[test]
    fn a_forgotten_group_is_told_before_it_hurts() {
        assert_eq!(only(&outbox(vec![group("old", 1)])).code, "group-forgotten");
        let busy = Group {
            silent: 10.0,
            ..group("busy", 1)
        };
        assert_eq!(only(&outbox(vec![busy])).severity, Severity::Ok);
    }

    #[test]
    fn outboxes_that_nobody_reads_and_partitions_that_run_out_are_told() {
        assert_eq!(only(&outbox(Vec::new())).code, "outbox-without-reader");
        let fine = outbox(vec![group("g", 0)]);
        for (edited, code) in [
            (
                Outbox {
                    rest_used: true,
                    ..fine.clone()
                },
                "partition-rest-used",
            ),
            (
                Outbox {
                    ahead: 60.0,
                    ..fine.clone()
                },
                "partitions-run-out",
            ),
            (
                Outbox {
                    enabled: false,
                    ..fine
                },
                "outbox-disabled",
            ),
        ] {
            assert_eq!(only(&edited).code, code);
        }
    }

    #[test]
    fn inboxes_tell_what_waits() {
        let inbox = Inbox {
            name: "payments".into(),
            pending: 2,
            oldest: Some(7_300.0),
            dead: 1,
        };
        let codes: Vec<&str> = inbox.findings().iter().map(|f| f.code).collect();
        assert_eq!(codes, ["inbox-dead-letters", "inbox-not-processed"]);
    }
}
