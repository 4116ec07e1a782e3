//! Options of inboxes, webhooks and standard output.

use serde_json::{Map, Value};

use super::config::Config;
use crate::crd::{InboxSink, StdoutSink, WebhookSink, WebhookSource};

pub(super) fn inbox(sink: &InboxSink, config: &mut Config) -> String {
    config.set("inbox", &sink.inbox);
    config.plain("url", sink.url.as_deref());
    config.optional_secret("url", sink.url_secret_ref.as_ref());
    config.plain("user", sink.user.as_deref());
    config.optional_secret("user", sink.user_secret_ref.as_ref());
    config.optional_secret("password", sink.password_secret_ref.as_ref());
    config.option("message_id_header", sink.message_id_header.as_ref());
    config.option("origin", sink.origin.as_ref());
    if !sink.skip_if_passed.is_empty() {
        config.set("skip_if_passed", &sink.skip_if_passed);
    }
    config.option("delivery", sink.delivery.as_ref());
    sink.inbox.clone()
}

pub(super) fn webhook(sink: &WebhookSink, config: &mut Config) -> String {
    config.plain("url", sink.url.as_deref());
    config.optional_secret("url", sink.url_secret_ref.as_ref());
    config.option("method", sink.method.as_ref());
    config.option("mode", sink.mode.as_ref());
    config.option("max_bytes", sink.max_bytes.as_ref());
    if !sink.headers.is_empty() {
        let mut headers = Map::new();
        for header in &sink.headers {
            let value = match (&header.value, &header.value_from) {
                (Some(value), _) => config.checked("headers", value),
                (None, Some(from)) => config.reference(from.secret_key_ref.clone()),
                (None, None) => String::new(),
            };
            headers.insert(header.name.clone(), Value::String(value));
        }
        config.set("headers", headers);
    }
    config.optional_secret("signing_secret", sink.signing_secret_ref.as_ref());
    config.option("timeout", sink.timeout.as_ref());
    config.option("key", sink.key.as_ref());
    config.option("concurrency", sink.concurrency.as_ref());
    config.option("allow_private", sink.allow_private.as_ref());
    if let Some(tls) = &sink.tls {
        config.tls(tls.ca_secret_ref.as_ref(), tls.client_cert_secret_ref.as_ref());
    }
    config.option("delivery", sink.delivery.as_ref());
    sink.url.as_deref().map(host).unwrap_or_default().to_owned()
}

pub(super) fn webhook_source(source: &WebhookSource, config: &mut Config) -> String {
    config.option("signature", source.signature.as_ref());
    if !source.signing_secret_refs.is_empty() {
        let keys: Vec<String> = source
            .signing_secret_refs
            .iter()
            .map(|key| config.reference(key.clone()))
            .collect();
        config.set("signing_secret", keys);
    }
    config.option("tolerance", source.tolerance.as_ref());
    config.option("max_body_bytes", source.max_body_bytes.as_ref());
    config.option("max_in_flight", source.max_in_flight.as_ref());
    config.option("timeout", source.timeout.as_ref());
    String::new()
}

/// Host and port of a URL: its path may be long, or private.
fn host(url: &str) -> &str {
    let after = url.split_once("//").map_or(url, |(_, after)| after);
    after.split(['/', '?']).next().unwrap_or_default()
}

pub(super) fn stdout(sink: StdoutSink, config: &mut Config) -> String {
    config.option("delivery", sink.delivery.as_ref());
    String::new()
}
