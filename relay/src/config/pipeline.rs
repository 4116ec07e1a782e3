//! A pipeline: what moves where, parsed from its row.

use std::time::Duration;

use serde_json::Value;

use super::common::{self, DeadLetterPolicy, Ordering};
use super::options::{OptionError, Options};
use super::secret::SecretRef;
use super::sinks::{SinkSpec, SourceSpec};
use crate::encode::{Filter, Format, Identity};

/// A pipeline as it stands in SQL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PipelineRow {
    pub(crate) pipeline_id: i32,
    pub(crate) name: String,
    pub(crate) direction: String,
    pub(crate) connector: String,
    pub(crate) config: Value,
    pub(crate) batch_size: i32,
    pub(crate) idempotent: bool,
    pub(crate) max_retries: i32,
    /// Name of the outbox or inbox.
    pub(crate) store: String,
    pub(crate) table: String,
    pub(crate) group_id: Option<i32>,
    pub(crate) inbox_id: Option<i32>,
    /// The last redelivery that was asked for and is not yet done.
    pub(crate) redelivery: Option<i64>,
    pub(crate) enabled: bool,
    /// Changes whenever the row does, by whatever statement.
    pub(crate) version: i64,
    /// The name that it was made with; brokers know it by this one.
    pub(crate) first_name: String,
}

impl PipelineRow {
    /// Whether a pipeline that runs by this row must start anew for that one.
    /// A redelivery that is done is no reason, nor a row that was only touched.
    pub(crate) fn must_restart_for(&self, new: &Self) -> bool {
        let without = |row: &Self| Self {
            redelivery: None,
            version: 0,
            ..row.clone()
        };
        new.redelivery > self.redelivery || without(self) != without(new)
    }
}

/// A pipeline ready to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PipelineSpec {
    pub(crate) id: i32,
    pub(crate) name: String,
    /// The name that it was made with; brokers know it by this one.
    pub(crate) first_name: String,
    pub(crate) batch_size: usize,
    pub(crate) retry: Retry,
    /// Everything that its configuration keeps apart.
    pub(crate) secrets: Vec<SecretRef>,
    pub(crate) work: Work,
}

/// What a pipeline does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    Forward(Box<ForwardSpec>),
    Reverse(Box<ReverseSpec>),
}

/// From an outbox to a broker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ForwardSpec {
    pub(crate) outbox: String,
    /// The outbox's table in schema tide.
    pub(crate) table: String,
    pub(crate) group_id: i32,
    /// Messages sent and not yet acknowledged.
    pub(crate) max_in_flight: usize,
    pub(crate) format: Format,
    pub(crate) filter: Option<Filter>,
    pub(crate) ordering: Ordering,
    pub(crate) dead_letter: DeadLetterPolicy,
    pub(crate) sink: SinkSpec,
}

/// From a broker to an inbox.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReverseSpec {
    pub(crate) inbox: String,
    pub(crate) inbox_id: i32,
    /// Whether messages without an id are deduplicated by content.
    pub(crate) idempotent: bool,
    /// Header whose value is the event id.
    pub(crate) message_id_header: Option<String>,
    /// Path into the payload, by dots, to what stands for the content.
    pub(crate) dedup_key: Option<Vec<String>>,
    pub(crate) filter: Option<Filter>,
    pub(crate) dead_letter: DeadLetterPolicy,
    pub(crate) source: SourceSpec,
}

/// Pauses between attempts: doubling from `initial` up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

impl PipelineSpec {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            pipeline: self.first_name.clone(),
            outbox: match &self.work {
                Work::Forward(forward) => forward.outbox.clone(),
                Work::Reverse(reverse) => reverse.inbox.clone(),
            },
        }
    }

    pub(crate) fn direction(&self) -> &'static str {
        match self.work {
            Work::Forward(_) => "forward",
            Work::Reverse(_) => "reverse",
        }
    }

    /// Reads a row. The same checks run in SQL when a pipeline is set; this
    /// is the reader that counts, also for rows written by hand.
    ///
    /// # Errors
    /// The first thing that is wrong, by key.
    pub(crate) fn read(row: &PipelineRow) -> Result<Self, OptionError> {
        let Value::Object(map) = row.config.clone() else {
            return Err(OptionError::Kind {
                key: "config".into(),
                expected: "an object",
                found: row.config.to_string(),
            });
        };
        let mut options = Options::new(map);
        let mut retry = options.object("retry", "retry.")?;
        let initial = retry
            .duration("initial", 1..=60_000)?
            .unwrap_or(Duration::from_millis(100));
        let max = retry
            .duration("max", 1..=3_600_000)?
            .unwrap_or(Duration::from_secs(3));
        retry.finish()?;
        let work = if row.direction == "forward" {
            Work::Forward(Box::new(ForwardSpec::read(row, &mut options)?))
        } else {
            Work::Reverse(Box::new(ReverseSpec::read(row, &mut options)?))
        };
        let secrets = options.references();
        options.finish()?;
        Ok(Self {
            secrets,
            id: row.pipeline_id,
            name: row.name.clone(),
            first_name: row.first_name.clone(),
            batch_size: usize::try_from(row.batch_size).unwrap_or(1).max(1),
            retry: Retry {
                initial,
                max: max.max(initial),
            },
            work,
        })
    }
}

fn missing(key: &str) -> OptionError {
    OptionError::Missing { key: key.to_owned() }
}

impl ForwardSpec {
    fn read(row: &PipelineRow, options: &mut Options) -> Result<Self, OptionError> {
        // Bound to a group in SQL when the pipeline was set.
        options.text("consumer_group")?;
        let sink = SinkSpec::read(&row.connector, options)?;
        let max_in_flight = options
            .number("max_in_flight", 1..=100_000)?
            .unwrap_or(sink.default_in_flight());
        let format = common::format(options, &row.connector)?;
        sink.check_encoding(&format.encoding)?;
        Ok(Self {
            outbox: row.store.clone(),
            table: row.table.clone(),
            group_id: row.group_id.ok_or_else(|| missing("consumer_group"))?,
            max_in_flight: usize::try_from(max_in_flight).unwrap_or(usize::MAX),
            format,
            filter: options.filter("filter")?,
            ordering: Ordering::read(options)?,
            dead_letter: DeadLetterPolicy::read(options, 0)?,
            sink,
        })
    }
}

impl ReverseSpec {
    fn read(row: &PipelineRow, options: &mut Options) -> Result<Self, OptionError> {
        let message_id_header = options.text("message_id_header")?;
        let dedup_key: Option<Vec<String>> = options.text("dedup_key")?.map(|path| {
            path.trim_start_matches("payload.")
                .split('.')
                .map(str::to_owned)
                .collect()
        });
        let source = SourceSpec::read(&row.connector, &row.first_name, options)?;
        source.check_identity(message_id_header.is_some(), dedup_key.is_some())?;
        Ok(Self {
            inbox: row.store.clone(),
            inbox_id: row.inbox_id.ok_or_else(|| missing("inbox"))?,
            idempotent: row.idempotent,
            message_id_header,
            dedup_key,
            filter: options.filter("filter")?,
            dead_letter: DeadLetterPolicy::read(options, row.max_retries.try_into().unwrap_or(0))?,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Delivery;
    use serde_json::json;

    fn row(direction: &str, connector: &str, config: Value) -> PipelineRow {
        PipelineRow {
            pipeline_id: 1,
            name: "p".into(),
            direction: direction.into(),
            connector: connector.into(),
            config,
            batch_size: 100,
            idempotent: true,
            max_retries: 3,
            store: "orders".into(),
            table: "orders_outbox".into(),
            group_id: Some(1),
            inbox_id: Some(1),
            redelivery: None,
            enabled: true,
            version: 0,
            first_name: "p".into(),
        }
    }

    #[test]
    fn only_a_new_redelivery_or_another_configuration_restarts() {
        let before = row("forward", "kafka", json!({}));
        let asked = PipelineRow {
            redelivery: Some(3),
            ..before.clone()
        };
        assert!(before.must_restart_for(&asked));
        assert!(!asked.must_restart_for(&asked));
        assert!(!asked.must_restart_for(&before));
        let touched = PipelineRow {
            version: 9,
            ..before.clone()
        };
        assert!(!before.must_restart_for(&touched));
        let other = PipelineRow {
            batch_size: 7,
            ..before.clone()
        };
        assert!(before.must_restart_for(&other));
    }

    fn refusal(direction: &str, connector: &str, config: Value) -> String {
        PipelineSpec::read(&row(direction, connector, config))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_the_kafka_sink_of_the_tutorial() {
        let config = json!({"brokers": "localhost:9092", "topic": "order-events", "acks": "all",
                            "compression": "snappy", "key": "{event_type}"});
        let spec = PipelineSpec::read(&row("forward", "kafka", config)).unwrap();
        let Work::Forward(forward) = spec.work else {
            panic!("not a forward pipeline");
        };
        let SinkSpec::Kafka(kafka) = forward.sink else {
            panic!("not a Kafka sink");
        };
        assert_eq!((kafka.acks, kafka.compression), ("all", "snappy"));
        assert_eq!(kafka.topic.literal().as_deref(), Some("order-events"));
        assert_eq!(kafka.delivery, Delivery::ExactlyOnce);
    }

    #[test]
    fn says_what_is_wrong_by_key() {
        let kafka = |extra: Value| {
            let mut config = json!({"brokers": ["a:1", "b:2"], "topic": "t"});
            config
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            refusal("forward", "kafka", config)
        };
        for (extra, want) in [
            (
                json!({"compresion": "lz4"}),
                "unknown key \"compresion\"; did you mean \"compression\"?",
            ),
            (
                json!({"compression": "brotli"}),
                "\"compression\" must be one of \"none\", \"gzip\", \"snappy\", \"lz4\", \"zstd\", not \"brotli\"",
            ),
            (json!({"topic": 5}), "\"topic\" must be a text, not 5"),
            (
                json!({"key": "{a"}),
                "\"key\": template \"{a\": '{' without its '}'",
            ),
            (
                json!({"linger_ms": -1}),
                "\"linger_ms\": must be a whole number from 0 to 10000, not -1",
            ),
            (
                json!({"librdkafka": {"acks": 1}}),
                "\"librdkafka.acks\": delivery rests on this setting; it cannot be changed",
            ),
            (
                json!({"retry": {"maxx": 5}}),
                "unknown key \"retry.maxx\"; did you mean \"retry.max\"?",
            ),
            (json!({"zzzzzzzzz": 1}), "unknown key \"zzzzzzzzz\""),
        ] {
            assert_eq!(kafka(extra), want);
        }
        assert_eq!(
            refusal("forward", "kafka", json!({"topic": "t"})),
            "\"brokers\" is missing"
        );
        assert_eq!(
            refusal("forward", "rabbit", json!({})),
            "\"sink\" must be one of \"kafka\", \"nats\", \"inbox\", \"webhook\", \"stdout\", not \"rabbit\""
        );
    }

    #[test]
    fn a_subject_template_becomes_a_wildcard() {
        for (subject, want) in [("a.b", "a.b"), ("a.{x}", "a.>"), ("a.b-{x}", "a.>"), ("{x}", ">")] {
            let config = json!({"url": "nats://h", "subject": subject});
            let spec = PipelineSpec::read(&row("forward", "nats", config)).unwrap();
            let Work::Forward(forward) = spec.work else {
                panic!("not a forward pipeline");
            };
            let SinkSpec::Nats(nats) = forward.sink else {
                panic!("not a NATS sink");
            };
            assert_eq!(nats.subject_pattern(), want);
        }
    }

    /// The options that SQL accepts, read from the schema's own file.
    fn options_in_sql() -> Vec<(String, String, String)> {
        pg_tide_schema::FILES
            .iter()
            .filter(|(name, _)| name.contains("_options"))
            .flat_map(|(_, sql)| sql.lines())
            .filter(|line| line.starts_with("('forward'") || line.starts_with("('reverse'"))
            .map(|line| {
                let mut words = line.split('\'').skip(1).step_by(2).map(str::to_owned);
                (
                    words.next().unwrap(),
                    words.next().unwrap(),
                    words.next().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn every_option_that_sql_accepts_is_known_here() {
        let options = options_in_sql();
        assert!(options.len() > 25, "{options:?}");
        for (direction, connector, key) in options {
            let connectors = if connector == "*" {
                vec!["kafka", "nats", "inbox", "webhook", "stdout"]
            } else {
                vec![connector.as_str()]
            };
            for connector in connectors
                .into_iter()
                .filter(|c| direction == "forward" || ["kafka", "nats", "webhook"].contains(c))
            {
                let mut config = match connector {
                    "webhook" if direction == "reverse" => json!({"signature": "none"}),
                    "kafka" => json!({"brokers": "b", "topic": "t"}),
                    "nats" => json!({"url": "u", "subject": "s"}),
                    "inbox" => json!({"inbox": "i"}),
                    "webhook" => json!({"url": "https://h/"}),
                    _ => json!({}),
                };
                let object = config.as_object_mut().unwrap();
                match key.split_once('.') {
                    Some((outer, inner)) => object.entry(outer).or_insert(json!({}))[inner] = Value::Null,
                    None => drop(object.entry(key.as_str()).or_insert(Value::Null)),
                }
                let read = PipelineSpec::read(&row(&direction, connector, config));
                assert!(read.is_ok(), "{direction} {connector} {key}: {read:?}");
            }
        }
    }
}
