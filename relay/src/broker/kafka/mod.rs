//! Kafka: settings of every client, and errors in words.

mod context;
mod oauth;
mod probe;
mod reason;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::{KafkaConnection, Sasl, SecretError};
use crate::failure::Failure;

pub(crate) use context::{Quiet, Watch};
pub(crate) use oauth::TIMEOUT as TOKEN_TIMEOUT;
pub(crate) use reason::Cause;

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
        .set("client.id", connection.client_id())
        .set("socket.nagle.disable", "true")
        .set("socket.timeout.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "4000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        // A closed connection may be all that is known of a wrong protocol.
        .set("log.connection.close", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    secure(&mut config, connection)
        .map_err(|e| Failure::transient(format!("kafka {}: {e}", connection.brokers)))?;
    Ok(config)
}

fn secure(config: &mut ClientConfig, connection: &KafkaConnection) -> Result<(), SecretError> {
    let security = &connection.security;
    config.set("security.protocol", security.protocol.name());
    if let Some(ca) = &security.tls.ca {
        config.set("ssl.ca.pem", ca.read()?);
    }
    if let Some(cert) = &security.tls.cert {
        config.set("ssl.certificate.pem", cert.read()?);
    }
    if let Some(key) = &security.tls.key {
        config.set("ssl.key.pem", key.read()?.expose());
    }
    if let Some(password) = &security.key_password {
        config.set("ssl.key.password", password.read()?.expose());
    }
    match &security.sasl {
        Some(Sasl::Password {
            mechanism,
            username,
            password,
        }) => {
            config
                .set("sasl.mechanism", *mechanism)
                .set("sasl.username", username.read()?)
                .set("sasl.password", password.read()?.expose());
        }
        // The tokens come from the client's context.
        Some(sasl @ Sasl::OAuth(_)) => {
            config.set("sasl.mechanism", sasl.mechanism());
        }
        None => {}
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

/// Whether the broker has let a newer producer of the same transactional id in.
pub(crate) fn is_fencing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
    )
}

/// Whether a call may be made again: on a transaction, or on a partition whose
/// leader is just being elected.
pub(crate) fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        _ => matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::OffsetNotAvailable
            )
        ),
    }
}

/// An error in words. Never shows the value of a setting: it may be a secret.
pub(crate) fn describe(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("librdkafka does not take the value of its setting \"{key}\"")
        }
        KafkaError::ClientCreation(reason) => describe_creation(reason),
        // What the library says of a transaction is more than its code.
        KafkaError::Transaction(error) => match error.code() {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed => describe_code(error.code()),
            _ => error.to_string(),
        },
        _ => match error.rdkafka_error_code() {
            Some(code) => describe_code(code),
            None => error.to_string(),
        },
    }
}

/// Why librdkafka makes no client, by the option that it stumbles over.
fn describe_creation(reason: &str) -> String {
    let option = [
        ("ssl.ca.pem", "tls_ca"),
        ("ssl.certificate.pem", "tls_cert"),
        ("ssl.key.pem", "tls_key"),
    ]
    .iter()
    .find(|(setting, _)| reason.contains(setting));
    match option {
        _ if reason.contains("key values mismatch") => {
            format!("\"tls_key\" is not the key of \"tls_cert\" (librdkafka: {reason})")
        }
        Some((_, "tls_key")) => format!(
            "\"tls_key\" cannot be used: it must be a private key in PEM, and \"tls_key_password\" must fit it if it is encrypted (librdkafka: {reason})"
        ),
        Some((_, option)) => {
            format!("\"{option}\" cannot be used: it must be certificates in PEM (librdkafka: {reason})")
        }
        None => reason.to_owned(),
    }
}

pub(crate) fn describe_code(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => "the message is larger than the broker allows".into(),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            "the topic does not exist".into()
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "no right to use the topic: allow the user DESCRIBE and WRITE on it, and READ unless \"delivery\" is \"at-least-once\"".into()
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "the user has no right to write idempotently: allow it IDEMPOTENT_WRITE on the cluster (or WRITE on the topic)".into()
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            "no right to use the consumer group: allow the user READ on it".into()
        }
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            "no right to use the transactional id: allow the user DESCRIBE and WRITE on transactional ids with the prefix \"pg-tide-\"".into()
        }
        RDKafkaErrorCode::InvalidTopic => {
            "Kafka does not take that name; letters, digits, '.', '_' and '-' are allowed, 249 of them".into()
        }
        RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::MessageTimedOut => "no answer in time".into(),
        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown => {
            "no connection to a broker".into()
        }
        RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight => "given up on".into(),
        other => other.to_string(),
    }
}
