//! Kafka: settings of every client, and errors in words.

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::{KafkaConnection, SecretError};
use crate::failure::Failure;

/// For clients whose errors come back from `poll`.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{reason}");
    }
}

impl ConsumerContext for Quiet {}

impl KafkaConnection {
    /// An error of a client of these brokers.
    pub(crate) fn failure(&self, what: &str, error: &KafkaError) -> Failure {
        Failure::transient(format!("kafka {}: {what}: {}", self.brokers, describe(error)))
    }
}

/// Settings shared by all clients; reads the connection's secrets.
pub(crate) fn client_config(connection: &KafkaConnection) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &connection.brokers)
        .set("client.id", connection.client_id.as_deref().unwrap_or("pg-tide"))
        .set("socket.nagle.disable", "true")
        .set("socket.timeout.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    secure(&mut config, connection)
        .map_err(|e| Failure::transient(format!("kafka {}: {e}", connection.brokers)))?;
    Ok(config)
}

fn secure(config: &mut ClientConfig, connection: &KafkaConnection) -> Result<(), SecretError> {
    config.set("security.protocol", connection.security_protocol);
    let tls = &connection.tls;
    if let Some(ca) = &tls.ca {
        config.set("ssl.ca.pem", ca.read()?);
    }
    if let Some(cert) = &tls.cert {
        config.set("ssl.certificate.pem", cert.read()?);
    }
    if let Some(key) = &tls.key {
        config.set("ssl.key.pem", key.read()?.expose());
    }
    Ok(())
}

/// The user's own properties, after all others.
pub(crate) fn set_properties(config: &mut ClientConfig, connection: &KafkaConnection) {
    for (name, value) in &connection.librdkafka {
        config.set(name, value);
    }
}

/// Whether the error only says that no connection could be had.
pub(crate) fn is_connection(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::MessageTimedOut
        )
    )
}

/// An error in words.
pub(crate) fn describe(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => describe_code(code),
        None => error.to_string(),
    }
}

pub(crate) fn describe_code(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => "the message is larger than the broker allows".into(),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            "the topic does not exist".into()
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => "no right to use the topic".into(),
        RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight => "given up on".into(),
        other => other.to_string(),
    }
}
