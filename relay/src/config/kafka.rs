//! The options of Kafka connectors.

use std::time::Duration;

use super::options::{OptionError, Options};
use super::sinks::Delivery;
use super::tls::TlsSpec;
use crate::encode::Template;

/// How Kafka is reached, by sinks and sources alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KafkaConnection {
    pub(crate) brokers: String,
    pub(crate) client_id: Option<String>,
    /// As librdkafka takes it.
    pub(crate) security_protocol: &'static str,
    pub(crate) tls: TlsSpec,
    /// Handed to librdkafka as they are.
    pub(crate) librdkafka: Vec<(String, String)>,
}

/// Options of a Kafka sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KafkaSinkSpec {
    pub(crate) connection: KafkaConnection,
    pub(crate) topic: Template,
    pub(crate) key: Option<Template>,
    pub(crate) partition: Option<i32>,
    /// As librdkafka takes it: `all`, `1` or `0`.
    pub(crate) acks: &'static str,
    pub(crate) compression: &'static str,
    pub(crate) linger: Duration,
    pub(crate) batch_bytes: u64,
    pub(crate) delivery: Delivery,
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

impl KafkaConnection {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let connection = Self {
            brokers: options.required_list("brokers")?.join(","),
            client_id: options.text("client_id")?,
            security_protocol: options
                .one_of(
                    "security_protocol",
                    &["plaintext", "ssl"].map(|name| (name, name)),
                )?
                .unwrap_or("plaintext"),
            tls: TlsSpec::read(options)?,
            librdkafka: options.object("librdkafka", "librdkafka.")?.into_texts()?,
        };
        if let Some((key, _)) = connection
            .librdkafka
            .iter()
            .find(|(k, _)| RESERVED.contains(&k.as_str()))
        {
            return Err(OptionError::Bad {
                key: format!("librdkafka.{key}"),
                reason: "delivery rests on this setting; it cannot be changed".into(),
            });
        }
        Ok(connection)
    }
}

impl KafkaSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            connection: KafkaConnection::read(options)?,
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
        })
    }
}
