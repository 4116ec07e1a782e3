//! Options of NATS.

use super::config::Config;
use crate::crd::{NatsConnection, NatsSink, NatsSource};

pub(super) fn sink(nats: &NatsSink, config: &mut Config) -> String {
    connection(&nats.connection, config);
    config.set("subject", &nats.subject);
    config.option("stream", nats.stream.as_ref());
    config.option("create_stream", nats.create_stream.as_ref());
    if !nats.headers.is_empty() {
        config.set("headers", &nats.headers);
    }
    config.option("delivery", nats.delivery.as_ref());
    nats.subject.to_string()
}

pub(super) fn source(nats: &NatsSource, config: &mut Config) -> String {
    connection(&nats.connection, config);
    config.set("subject", &nats.subject);
    config.option("jetstream", nats.jetstream.as_ref());
    config.option("stream", nats.stream.as_ref());
    config.option("create_stream", nats.create_stream.as_ref());
    config.option("durable", nats.durable.as_ref());
    config.option("queue_group", nats.queue_group.as_ref());
    nats.subject.clone()
}

fn connection(nats: &NatsConnection, config: &mut Config) {
    config.set("url", &nats.url);
    config.optional_secret("credentials", nats.credentials_secret_ref.as_ref());
    config.optional_secret("nkey", nats.nkey_secret_ref.as_ref());
    config.optional_secret("token", nats.token_secret_ref.as_ref());
    if let Some(login) = &nats.login {
        config.login(["user", "password"], login.username.as_ref(), &login.secret_ref);
    }
    if let Some(tls) = &nats.tls {
        config.set("tls_required", true);
        config.tls(tls.ca_secret_ref.as_ref(), tls.client_cert_secret_ref.as_ref());
        config.option("tls_first", tls.handshake_first.as_ref());
    }
    config.option("inbox_prefix", nats.inbox_prefix.as_ref());
}
