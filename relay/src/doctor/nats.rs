//! A NATS server against what a pipeline needs of it.

use std::time::Duration;

use super::finding::{Finding, some};
use crate::human::{age, bytes};

/// Shorter, and a message that is sent again after a takeover may not be
/// recognised any more.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);
/// Headers that are added to a message.
const OVERHEAD: i64 = 512;

/// How long a stream keeps messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    Limits,
    Interest,
    WorkQueue,
}

/// A stream that covers the pipeline's subject, or the one it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) subjects: Vec<String>,
    /// Whether it takes what the pipeline sends or receives.
    pub(super) covers: bool,
    pub(super) retention: Retention,
    pub(super) replicas: usize,
    pub(super) duplicate_window: Duration,
    /// Largest message; none without limit.
    pub(super) max_message: Option<i64>,
    pub(super) consumers: usize,
    /// Refuses new messages, and has reached a limit.
    pub(super) full: bool,
    pub(super) sealed: bool,
}

/// The durable consumer of a source, when it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) filter: String,
    /// Whether that is what the pipeline wants.
    pub(super) fits: bool,
    /// Whether this pipeline made it: then it is changed as needed.
    pub(super) ours: bool,
    /// What makes it useless to any pipeline.
    pub(super) unfit: Option<&'static str>,
}

/// Which way the pipeline goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Direction {
    Sink {
        largest: Option<i64>,
    },
    Source {
        consumer: Option<Consumer>,
        /// Whether a plain subscription will do.
        may_be_plain: bool,
    },
}

/// Everything about one pipeline's server and streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nats {
    pub(super) at: String,
    pub(super) subject: String,
    pub(super) named: Option<String>,
    pub(super) create_stream: bool,
    pub(super) clustered: bool,
    pub(super) max_payload: i64,
    pub(super) jetstream: bool,
    pub(super) streams: Vec<Stream>,
    pub(super) direction: Direction,
}

impl Nats {
    fn is_sink(&self) -> bool {
        matches!(self.direction, Direction::Sink { .. })
    }

    pub(super) fn findings(&self, subject: &str) -> Vec<Finding> {
        if !self.jetstream {
            return vec![self.no_jetstream(subject)];
        }
        let usable: Vec<&Stream> = self.streams.iter().filter(|s| s.covers).collect();
        if usable.is_empty() {
            return vec![self.no_stream(subject)];
        }
        let mut found = Vec::new();
        if !self.is_sink() && usable.len() > 1 {
            let names: Vec<String> = usable.iter().map(|s| s.name.clone()).collect();
            found.push(
                Finding::problem(
                    "nats-stream-ambiguous",
                    subject,
                    format!(
                        "Several streams take the subject \"{}\": {}.",
                        self.subject,
                        some(&names, 5)
                    ),
                )
                .hint("name one of them in \"stream\""),
            );
        }
        for stream in &usable {
            found.extend(self.stream(subject, stream));
        }
        match &self.direction {
            Direction::Source {
                consumer: Some(consumer),
                ..
            } => found.extend(self.consumer(subject, consumer)),
            Direction::Sink {
                largest: Some(largest),
            } => found.extend(self.size(subject, &usable, *largest)),
            _ => {}
        }
        if found.is_empty() {
            let names: Vec<String> = usable.iter().map(|s| format!("\"{}\"", s.name)).collect();
            found.push(Finding::ok(
                "nats-stream",
                subject,
                format!(
                    "NATS {}: \"{}\" is taken by stream {}.",
                    self.at,
                    self.subject,
                    some(&names, 5)
                ),
            ));
        }
        found
    }

    fn no_jetstream(&self, subject: &str) -> Finding {
        let message = format!("NATS {} has no JetStream for this account", self.at);
        let hint =
            "start the server with -js (jetstream {} in its configuration), or enable it for the account";
        if let Direction::Source {
            may_be_plain: true, ..
        } = self.direction
        {
            return Finding::warning(
                "nats-jetstream-off",
                subject,
                format!("{message}: what arrives while no relay listens is lost (at most once)."),
            )
            .hint(hint);
        }
        let nothing = if self.is_sink() { "delivered" } else { "received" };
        Finding::problem(
            "nats-jetstream-off",
            subject,
            format!("{message}: nothing can be {nothing}."),
        )
        .hint(hint)
    }

    fn no_stream(&self, subject: &str) -> Finding {
        if let Some(stream) = self.streams.first() {
            return Finding::problem(
                "nats-subject-not-taken",
                subject,
                format!(
                    "Stream \"{}\" does not take the subject \"{}\" (it takes: {}).",
                    stream.name,
                    self.subject,
                    some(&stream.subjects, 5)
                ),
            )
            .hint(format!(
                "nats stream edit {} --subjects ..., or correct \"subject\" or \"stream\"",
                stream.name
            ));
        }
        let message = match &self.named {
            Some(name) => format!("NATS {} has no stream \"{name}\"", self.at),
            None => format!(
                "No stream of NATS {} takes the subject \"{}\"",
                self.at, self.subject
            ),
        };
        if self.create_stream && !(self.subject == ">" && self.named.is_none()) {
            return Finding::warning(
                "nats-stream-missing",
                subject,
                format!("{message}; the relay will make it, with one replica and without limits."),
            )
            .hint(
                "create it yourself to choose replicas and limits; set \"create_stream\" to false to be sure",
            );
        }
        Finding::problem("nats-stream-missing", subject, format!("{message}.")).hint(format!(
            "create it: nats stream add --subjects '{}'",
            self.subject
        ))
    }

    fn stream(&self, subject: &str, stream: &Stream) -> Vec<Finding> {
        let name = &stream.name;
        let mut found = Vec::new();
        if self.is_sink() && (stream.sealed || stream.full) {
            let reason = if stream.sealed {
                "is sealed"
            } else {
                "is full and refuses new messages (discard: new)"
            };
            found.push(
                Finding::problem(
                    "nats-stream-full",
                    subject,
                    format!("Stream \"{name}\" {reason}."),
                )
                .hint("raise its limits, or let consumers work it off"),
            );
        }
        match stream.retention {
            Retention::Interest if self.is_sink() && stream.consumers == 0 => found.push(
                Finding::warning(
                    "nats-messages-vanish",
                    subject,
                    format!(
                        "Stream \"{name}\" keeps messages only while consumers want them, and it has none: what is \
                         delivered vanishes at once."
                    ),
                )
                .hint("make its consumers first, or use retention \"limits\""),
            ),
            Retention::Interest | Retention::WorkQueue if self.is_sink() => found.push(
                Finding::warning(
                    "nats-retention",
                    subject,
                    format!(
                        "Stream \"{name}\" drops a message when it is consumed: after a takeover the relay cannot find it \
                         there, and only the duplicate window of {} keeps it from being doubled.",
                        age(stream.duplicate_window.as_secs_f64())
                    ),
                )
                .hint("use retention \"limits\", with an age as limit"),
            ),
            _ => {}
        }
        if self.is_sink() && stream.duplicate_window < DUPLICATE_WINDOW {
            found.push(
                Finding::warning(
                    "nats-duplicate-window",
                    subject,
                    format!(
                        "The duplicate window of stream \"{name}\" is {}: a message that is sent again later is stored twice.",
                        age(stream.duplicate_window.as_secs_f64())
                    ),
                )
                .hint(format!("nats stream edit {name} --dupe-window 2m")),
            );
        }
        if stream.replicas < 2 {
            found.push(
                Finding::warning(
                    "nats-replicas",
                    subject,
                    format!("Stream \"{name}\" has a single replica: it is away while its server is, and lost with its disk."),
                )
                .hint(if self.clustered {
                    format!("nats stream edit {name} --replicas 3")
                } else {
                    "fine for development; otherwise run three servers as a cluster, and the stream with three replicas".into()
                }),
            );
        }
        found
    }

    fn size(&self, subject: &str, streams: &[&Stream], largest: i64) -> Option<Finding> {
        let stream = streams
            .iter()
            .filter_map(|s| {
                Some((
                    s.max_message?,
                    format!("stream \"{}\" takes", s.name),
                    "max_msg_size of the stream",
                ))
            })
            .min();
        let server = (
            self.max_payload,
            "the server takes".to_owned(),
            "max_payload of the server",
        );
        let (limit, whose, what) = stream.filter(|s| s.0 < server.0).unwrap_or(server);
        (largest + OVERHEAD > limit).then(|| {
            Finding::problem(
                "nats-message-too-large",
                subject,
                format!(
                    "The largest of the outbox's latest messages has {}, {whose} {}: such messages become dead letters.",
                    bytes(largest),
                    bytes(limit)
                ),
            )
            .hint(format!("raise {what}, or keep large contents elsewhere and publish where they are"))
        })
    }

    fn consumer(&self, subject: &str, consumer: &Consumer) -> Option<Finding> {
        let name = &consumer.name;
        if let Some(what) = consumer.unfit {
            return Some(
                Finding::problem(
                    "nats-consumer-unfit",
                    subject,
                    format!("Consumer \"{name}\" {what}."),
                )
                .hint("name another \"durable\" or \"queue_group\": the relay makes its own consumer"),
            );
        }
        (!consumer.fits && !consumer.ours).then(|| {
            Finding::problem(
                "nats-consumer-filter",
                subject,
                format!(
                    "Consumer \"{name}\" is of somebody else and reads the subject \"{}\", not \"{}\".",
                    consumer.filter, self.subject
                ),
            )
            .hint("name another \"durable\" or \"queue_group\", or delete that consumer")
        })
    }
}

#[cfg(test)]
#[path = "nats_tests.rs"]
mod tests;
