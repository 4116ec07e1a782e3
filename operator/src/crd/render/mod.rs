//! A Pipeline as `tide.relay_set_outbox` and `tide.relay_set_inbox` take it.
//!
//! Pure: references to outboxes and inboxes stay references, and a key of a
//! Secret becomes the path of the file where the relay finds it. All Secrets
//! of a Deployment are one folder there, so a file's name has both names.

mod config;
mod filter;
mod kafka;
mod nats;
mod others;

use std::collections::BTreeSet;

use serde_json::Value;

use self::config::Config;
use super::{Forward, Pipeline, Reverse, SecretKeyRef, Sink, Source};

/// Folder of the relay's files that come from Secrets.
pub const SECRETS_FOLDER: &str = "/etc/pg-tide/secrets";

/// Longest name that a key of a Secret may have, which a file's name is.
const LONGEST_FILE_NAME: usize = 253;

/// Name of the file that has a key of a Secret: no Secret has an underscore
/// in its name, so the first one separates the two.
#[must_use]
pub fn file_name(reference: &SecretKeyRef) -> String {
    format!("{}_{}", reference.name, reference.key)
}

/// What SQL takes for a Pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Name of the pipeline in SQL.
    pub name: String,
    /// Which way it goes, and what only that way has.
    pub direction: Direction,
    /// Sink or source: kafka, nats, inbox, webhook, stdout.
    pub connector: String,
    /// `p_config`.
    pub config: Value,
    /// `p_batch_size`.
    pub batch_size: i32,
    /// `p_enabled`.
    pub enabled: bool,
    /// `p_relay_group`.
    pub relay_group: String,
    /// Keys of Secrets that `config` refers to, by files of
    /// [`SECRETS_FOLDER`].
    pub secrets: BTreeSet<SecretKeyRef>,
    /// Where it reads, for people: outbox/orders.
    pub source_text: String,
    /// Where it delivers, for people: kafka/order-events.
    pub sink_text: String,
}

/// Which way a pipeline goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// From an outbox.
    Forward {
        /// Name of the Outbox resource.
        outbox_ref: String,
        /// The group it names; the same is in the config.
        consumer_group: Option<String>,
    },
    /// Into an inbox.
    Reverse {
        /// Name of the Inbox resource.
        inbox_ref: String,
        /// `p_max_retries`.
        max_retries: i32,
        /// `p_idempotent`.
        idempotent: bool,
    },
}

/// What SQL takes for this Pipeline.
///
/// # Errors
///
/// What is wrong with the Pipeline, each as a sentence for its author. Most of
/// it the API server refuses before; a filter, which has no schema, it does
/// not.
pub fn render(pipeline: &Pipeline) -> Result<Rendered, Vec<String>> {
    let spec = &pipeline.spec;
    let (drawn, mut config) = match (&spec.forward, &spec.reverse) {
        (Some(forward), None) => render_forward(forward),
        (None, Some(reverse)) => render_reverse(reverse),
        _ => return Err(vec!["spec: set exactly one of forward and reverse".into()]),
    };
    if pipeline.sql_name().is_empty() {
        config.errors.push("the pipeline has no name".into());
    }
    if !config.errors.is_empty() {
        return Err(config.errors);
    }
    Ok(Rendered {
        name: pipeline.sql_name().to_owned(),
        direction: drawn.direction,
        connector: drawn.connector.to_owned(),
        config: Value::Object(config.entries),
        batch_size: drawn.batch_size,
        enabled: spec.enabled,
        relay_group: spec.relay_group_id.clone(),
        secrets: config.secrets,
        source_text: drawn.source_text,
        sink_text: drawn.sink_text,
    })
}

/// What the two directions have in common, when their options are told.
struct Drawn {
    direction: Direction,
    connector: &'static str,
    batch_size: i32,
    source_text: String,
    sink_text: String,
}

fn render_forward(forward: &Forward) -> (Drawn, Config) {
    let mut config = Config::new("spec.forward");
    config.option("consumer_group", forward.consumer_group.as_ref());
    config.option("max_in_flight", forward.max_in_flight.as_ref());
    config.option("encoding", forward.encoding.as_ref());
    config.option("cloudevents", forward.cloudevents.as_ref());
    config.option("ordering", forward.ordering.as_ref());
    config.common(
        forward.filter.as_ref(),
        forward.dead_letter,
        forward.retry.as_ref(),
    );
    let (connector, place) = render_sink(&forward.sink, &mut config);
    let drawn = Drawn {
        direction: Direction::Forward {
            outbox_ref: forward.outbox_ref.name.clone(),
            consumer_group: forward.consumer_group.clone(),
        },
        connector,
        batch_size: forward.batch_size,
        source_text: format!("outbox/{}", forward.outbox_ref.name),
        sink_text: text(connector, &place),
    };
    (drawn, config)
}

fn render_reverse(reverse: &Reverse) -> (Drawn, Config) {
    let mut config = Config::new("spec.reverse");
    config.common(
        reverse.filter.as_ref(),
        reverse.dead_letter,
        reverse.retry.as_ref(),
    );
    config.option("message_id_header", reverse.message_id_header.as_ref());
    config.option("dedup_key", reverse.dedup_key.as_ref());
    let (connector, place) = render_source(&reverse.source, &mut config);
    let drawn = Drawn {
        direction: Direction::Reverse {
            inbox_ref: reverse.inbox_ref.name.clone(),
            max_retries: reverse.max_retries,
            idempotent: reverse.idempotent,
        },
        connector,
        batch_size: reverse.batch_size,
        source_text: text(connector, &place),
        sink_text: format!("inbox/{}", reverse.inbox_ref.name),
    };
    (drawn, config)
}

/// The connector, and where it delivers to.
fn render_sink(sink: &Sink, config: &mut Config) -> (&'static str, String) {
    match (&sink.kafka, &sink.nats, &sink.inbox, &sink.webhook, &sink.stdout) {
        (Some(kafka), None, None, None, None) => ("kafka", kafka::sink(kafka, config)),
        (None, Some(nats), None, None, None) => ("nats", nats::sink(nats, config)),
        (None, None, Some(inbox), None, None) => ("inbox", others::inbox(inbox, config)),
        (None, None, None, Some(webhook), None) => ("webhook", others::webhook(webhook, config)),
        (None, None, None, None, Some(stdout)) => ("stdout", others::stdout(*stdout, config)),
        _ => {
            config
                .errors
                .push("spec.forward.sink: set exactly one of kafka, nats, inbox, webhook, stdout".into());
            ("", String::new())
        }
    }
}

/// The connector, and where it reads from.
fn render_source(source: &Source, config: &mut Config) -> (&'static str, String) {
    match (&source.kafka, &source.nats, &source.webhook) {
        (Some(kafka), None, None) => ("kafka", kafka::source(kafka, config)),
        (None, Some(nats), None) => ("nats", nats::source(nats, config)),
        (None, None, Some(webhook)) => ("webhook", others::webhook_source(webhook, config)),
        _ => {
            config
                .errors
                .push("spec.reverse.source: set exactly one of kafka, nats, webhook".into());
            ("", String::new())
        }
    }
}

fn text(connector: &str, place: &str) -> String {
    if place.is_empty() {
        return connector.to_owned();
    }
    format!("{connector}/{place}")
}

#[cfg(test)]
mod tests;
