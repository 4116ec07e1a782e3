//! The options of each sink and source.

use std::time::Duration;

use super::options::{OptionError, Options};
use crate::encode::Template;

/// What is promised to a plain consumer across a relay's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The tail of the broker's log is read at takeover; nothing is doubled.
    ExactlyOnce,
    /// What was in flight is sent again.
    AtLeastOnce,
}

impl Delivery {
    fn read(options: &mut Options) -> Result<Self, OptionError> {
        let allowed = [
            ("exactly-once", Self::ExactlyOnce),
            ("at-least-once", Self::AtLeastOnce),
        ];
        Ok(options.one_of("delivery", &allowed)?.unwrap_or(Self::ExactlyOnce))
    }
}

/// Where a forward pipeline delivers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SinkSpec {
    Kafka(KafkaSinkSpec),
    Nats(NatsSinkSpec),
}

/// Options of a Kafka sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KafkaSinkSpec {
    pub(crate) brokers: String,
    pub(crate) topic: Template,
    pub(crate) key: Option<Template>,
    pub(crate) partition: Option<i32>,
    /// As librdkafka takes it: `all`, `1` or `0`.
    pub(crate) acks: &'static str,
    pub(crate) compression: &'static str,
    pub(crate) linger: Duration,
    pub(crate) batch_bytes: u64,
    pub(crate) delivery: Delivery,
    pub(crate) client_id: Option<String>,
    /// Handed to librdkafka as they are.
    pub(crate) librdkafka: Vec<(String, String)>,
}

/// Settings of librdkafka on which delivery rests; not for users to change.
const RESERVED: [&str; 8] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "transactional.id",
    "delivery.report.only.error",
];

impl KafkaSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let spec = Self {
            brokers: options.required_list("brokers")?.join(","),
            topic: options.required_template("topic")?,
            key: options.template("key")?,
            partition: options
                .number("partition", 0..=1_000_000)?
                .map(|p| i32::try_from(p).unwrap_or(i32::MAX)),
            acks: options
                .one_of("acks", &[("all", "all"), ("-1", "all"), ("1", "1"), ("0", "0")])?
                .unwrap_or("all"),
            compression: options
                .one_of(
                    "compression",
                    &["none", "gzip", "snappy", "lz4", "zstd"].map(|name| (name, name)),
                )?
                .unwrap_or("none"),
            linger: options
                .millis("linger_ms", 0..=10_000)?
                .unwrap_or(Duration::from_millis(1)),
            batch_bytes: options
                .number("batch_bytes", 1_024..=100_000_000)?
                .unwrap_or(1_000_000),
            delivery: Delivery::read(options)?,
            client_id: options.text("client_id")?,
            librdkafka: options.object("librdkafka", "librdkafka.")?.into_texts()?,
        };
        if let Some((key, _)) = spec
            .librdkafka
            .iter()
            .find(|(k, _)| RESERVED.contains(&k.as_str()))
        {
            return Err(OptionError::Bad {
                key: format!("librdkafka.{key}"),
                reason: "delivery rests on this setting; it cannot be changed".into(),
            });
        }
        Ok(spec)
    }
}

/// Options of a NATS sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSinkSpec {
    pub(crate) url: String,
    pub(crate) subject: Template,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) delivery: Delivery,
}

impl NatsSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            url: options.required_list("url")?.join(","),
            subject: options.required_template("subject")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            delivery: Delivery::read(options)?,
        })
    }

    /// The subjects that the template can give, as a NATS wildcard.
    pub(crate) fn subject_pattern(&self) -> String {
        self.subject.literal().unwrap_or_else(|| {
            // A value may contain dots, so everything after the last dot of
            // the fixed beginning is open.
            let fixed = self.subject.literal_prefix();
            match fixed.rfind('.') {
                Some(dot) => format!("{}.>", &fixed[..dot]),
                None => ">".to_owned(),
            }
        })
    }
}

/// Options of a NATS source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSourceSpec {
    pub(crate) url: String,
    pub(crate) subject: String,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) durable: Option<String>,
    pub(crate) queue_group: Option<String>,
    pub(crate) message_id_header: Option<String>,
    /// Path into the payload, by dots.
    pub(crate) dedup_key: Option<Vec<String>>,
}

impl NatsSourceSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            url: options.required_list("url")?.join(","),
            subject: options.required_text("subject")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            durable: options.text("durable")?,
            queue_group: options.text("queue_group")?,
            message_id_header: options.text("message_id_header")?,
            dedup_key: options.text("dedup_key")?.map(|path| {
                path.trim_start_matches("payload.")
                    .split('.')
                    .map(str::to_owned)
                    .collect()
            }),
        })
    }
}
