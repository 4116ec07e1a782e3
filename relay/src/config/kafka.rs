//! The options of Kafka connectors.

use std::time::Duration;

use super::kafka_security::KafkaSecurity;
use super::options::{OptionError, Options};
use super::sinks::Delivery;
use crate::encode::Template;

/// How Kafka is reached, by sinks and sources alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KafkaConnection {
    pub(crate) brokers: String,
    pub(crate) client_id: Option<String>,
    pub(crate) security: KafkaSecurity,
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
    /// None: as the producer thinks best.
    pub(crate) linger: Option<Duration>,
    pub(crate) batch_bytes: u64,
    pub(crate) delivery: Delivery,
}

/// Settings of librdkafka on which delivery rests; not for users to change.
const RESERVED: [&str; 18] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
    "group.id",
    "group.instance.id",
    "group.protocol",
];

/// Settings of librdkafka for which there is an option.
const OWN: [(&str, &str); 14] = [
    ("batch.size", "batch_bytes"),
    ("client.id", "client_id"),
    ("compression.codec", "compression"),
    ("compression.type", "compression"),
    ("linger.ms", "linger_ms"),
    ("queue.buffering.max.ms", "linger_ms"),
    ("sasl.mechanism", "sasl_mechanism"),
    ("sasl.mechanisms", "sasl_mechanism"),
    ("sasl.username", "sasl_username"),
    ("security.protocol", "security_protocol"),
    ("ssl.ca.location", "tls_ca"),
    ("ssl.certificate.location", "tls_cert"),
    ("ssl.key.location", "tls_key"),
    ("ssl.keystore.location", "tls_key"),
];

impl KafkaConnection {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let connection = Self {
            brokers: options.required_list("brokers")?.join(","),
            client_id: options.text("client_id")?,
            security: KafkaSecurity::read(options)?,
            librdkafka: options.object("librdkafka", "librdkafka.")?.into_texts()?,
        };
        for (name, _) in &connection.librdkafka {
            if let Some(reason) = refused_property(name) {
                return Err(OptionError::Bad {
                    key: format!("librdkafka.{name}"),
                    reason,
                });
            }
        }
        Ok(connection)
    }

    /// What the relay calls itself to the brokers.
    pub(crate) fn client_id(&self) -> &str {
        self.client_id.as_deref().unwrap_or("pg-tide")
    }
}

#[cfg(test)]
impl KafkaConnection {
    /// A connection by its options.
    pub(crate) fn for_tests(options: serde_json::Value) -> Self {
        let serde_json::Value::Object(options) = options else {
            unreachable!("options are an object")
        };
        Self::read(&mut Options::new(options)).unwrap_or_else(|e| unreachable!("{e}"))
    }
}

/// Why a property of librdkafka cannot be set by hand. Never shows its value.
fn refused_property(name: &str) -> Option<String> {
    let secret = ["password", "secret", "oauthbearer.config", ".pem"]
        .iter()
        .any(|part| name.contains(part));
    if secret {
        return Some(
            "is a secret; use the option of its own, such as \"sasl_password\", with a reference".into(),
        );
    }
    if RESERVED.contains(&name) {
        return Some("delivery rests on this setting; it cannot be changed".into());
    }
    OWN.iter()
        .find(|(own, _)| *own == name)
        .map(|(_, option)| format!("is set by the option \"{option}\""))
}

impl KafkaSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let spec = Self {
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
            linger: options.millis("linger_ms", 0..=10_000)?,
            batch_bytes: options
                .number("batch_bytes", 1_024..=100_000_000)?
                .unwrap_or(1_000_000),
            delivery: options
                .one_of(
                    "delivery",
                    &[
                        ("exactly-once", Delivery::ExactlyOnce),
                        ("at-least-once", Delivery::AtLeastOnce),
                        ("transactional", Delivery::Transactional),
                    ],
                )?
                .unwrap_or(Delivery::ExactlyOnce),
        };
        if spec.delivery == Delivery::Transactional && spec.acks != "all" {
            return Err(OptionError::Bad {
                key: "acks".into(),
                reason: format!(
                    "must be \"all\" with \"delivery\" \"transactional\", not \"{}\"",
                    spec.acks
                ),
            });
        }
        Ok(spec)
    }
}

impl KafkaSinkSpec {
    /// Whether each message shall be in the log once, for readers of all that
    /// is there.
    pub(crate) fn is_exactly_once(&self) -> bool {
        self.delivery == Delivery::ExactlyOnce && self.acks == "all"
    }

    /// What the relay's own producer does not do of all that is asked for: then
    /// librdkafka sends, whose earlier owners cannot be shut out.
    pub(crate) fn needs_library(&self) -> Option<&'static str> {
        if !self.connection.librdkafka.is_empty() {
            Some("the config has properties under \"librdkafka\"")
        } else if self.connection.security.key_password.is_some() {
            Some("\"tls_key\" is encrypted")
        } else {
            None
        }
    }

    /// Whether the relay's own producer sends, if the brokers let it.
    pub(crate) fn may_be_fenced(&self) -> bool {
        self.is_exactly_once() && self.needs_library().is_none()
    }
}

/// Where to begin in a topic of which nobody has an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Earliest,
    Latest,
}

/// Options of a Kafka source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KafkaSourceSpec {
    pub(crate) connection: KafkaConnection,
    pub(crate) topics: Vec<String>,
    pub(crate) consumer_group: String,
    pub(crate) start: Start,
}

impl KafkaSourceSpec {
    pub(super) fn read(pipeline: &str, options: &mut Options) -> Result<Self, OptionError> {
        let mut topics = options.required_list("topic")?;
        topics.sort();
        topics.dedup();
        Ok(Self {
            connection: KafkaConnection::read(options)?,
            topics,
            consumer_group: options
                .text("consumer_group")?
                .unwrap_or_else(|| format!("pg-tide-{pipeline}")),
            start: options
                .one_of(
                    "start",
                    &[("earliest", Start::Earliest), ("latest", Start::Latest)],
                )?
                .unwrap_or(Start::Earliest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_refuses_the_same_properties_of_librdkafka() {
        let (_, sql) = pg_tide_schema::FILES
            .iter()
            .find(|(name, _)| *name == "56_options_kafka.sql")
            .unwrap();
        for name in RESERVED {
            assert!(sql.contains(&format!("'{name}'")), "{name}");
        }
        for (name, option) in OWN {
            assert!(sql.contains(&format!("\"{name}\": \"{option}\"")), "{name}");
        }
        for (name, want) in [
            ("sasl.password", "is a secret"),
            ("ssl.key.pem", "is a secret"),
            ("acks", "delivery rests on this"),
            ("linger.ms", "is set by the option \"linger_ms\""),
        ] {
            assert!(refused_property(name).unwrap().contains(want), "{name}");
        }
        assert_eq!(refused_property("socket.keepalive.enable"), None);
    }
}
