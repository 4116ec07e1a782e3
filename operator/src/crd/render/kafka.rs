//! Options of Kafka.

use super::config::Config;
use crate::crd::{KafkaConnection, KafkaSink, KafkaSource, Sasl};

pub(super) fn sink(kafka: &KafkaSink, config: &mut Config) -> String {
    connection(&kafka.connection, config);
    config.set("topic", &kafka.topic);
    config.option("key", kafka.key.as_ref());
    config.option("partition", kafka.partition.as_ref());
    config.option("acks", kafka.acks.as_ref());
    config.option("compression", kafka.compression.as_ref());
    config.option("linger_ms", kafka.linger_ms.as_ref());
    config.option("batch_bytes", kafka.batch_bytes.as_ref());
    if !kafka.headers.is_empty() {
        config.set("headers", &kafka.headers);
    }
    config.option("delivery", kafka.delivery.as_ref());
    kafka.topic.to_string()
}

pub(super) fn source(kafka: &KafkaSource, config: &mut Config) -> String {
    connection(&kafka.connection, config);
    config.set("topic", &kafka.topics);
    config.option("consumer_group", kafka.consumer_group.as_ref());
    config.option("start", kafka.start.as_ref());
    kafka.topics.join(",")
}

fn connection(kafka: &KafkaConnection, config: &mut Config) {
    config.set("brokers", &kafka.brokers);
    config.option("client_id", kafka.client_id.as_ref());
    let protocol = match (&kafka.tls, &kafka.sasl) {
        (None, None) => None,
        (Some(_), None) => Some("ssl"),
        (None, Some(_)) => Some("sasl_plaintext"),
        (Some(_), Some(_)) => Some("sasl_ssl"),
    };
    config.option("security_protocol", protocol.as_ref());
    if let Some(tls) = &kafka.tls {
        config.tls(tls.ca_secret_ref.as_ref(), tls.client_cert_secret_ref.as_ref());
        config.optional_secret("tls_key_password", tls.key_password_secret_ref.as_ref());
    }
    if let Some(sasl) = &kafka.sasl {
        login(sasl, config);
    }
    if !kafka.librdkafka.is_empty() {
        config.set("librdkafka", &kafka.librdkafka);
    }
}

fn login(sasl: &Sasl, config: &mut Config) {
    config.set("sasl_mechanism", sasl.mechanism);
    if let Some(secret) = &sasl.secret_ref {
        config.login(["sasl_username", "sasl_password"], sasl.username.as_ref(), secret);
    }
    if let Some(oauth) = &sasl.oauth {
        config.set("sasl_oauth_token_url", &oauth.token_url);
        config.plain("sasl_oauth_client_id", Some(&oauth.client_id));
        config.secret("sasl_oauth_client_secret", oauth.client_secret_ref.clone());
        config.option("sasl_oauth_scope", oauth.scope.as_ref());
    }
}
