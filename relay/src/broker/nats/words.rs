//! What NATS servers say, and what to do about it.

/// A server that takes the connection and says nothing.
pub(super) const NO_ANSWER: &str =
    "no answer within 5 s (is it a NATS server? one that begins with TLS needs \"tls_first\": true)";

/// An error while connecting that is no refusal of TLS or login.
pub(super) fn connect_error(text: &str) -> String {
    let text = text.strip_prefix("IO error: ").unwrap_or(text);
    if text.contains("expected INFO") {
        return "the server ended the connection without a greeting (is it a NATS server? one that begins with TLS needs \"tls_first\": true)".into();
    }
    text.to_owned()
}

/// An error that the server sends on an open connection.
pub(super) fn server_error(text: &str) -> String {
    let text = text.strip_prefix("nats: ").unwrap_or(text).trim_matches('\'');
    if let Some(forbidden) = Forbidden::read(text) {
        return forbidden.explain();
    }
    let lower = text.to_ascii_lowercase();
    if lower.contains("authentication expired") {
        return format!("the credentials have expired ({text}); put new ones in place");
    }
    if lower.contains("revoked") {
        return format!("the user or its account was revoked ({text})");
    }
    format!("the server reports: {text}")
}

/// `Permissions Violation for Publish to "a.b"`
struct Forbidden<'a> {
    publish: bool,
    subject: &'a str,
}

impl<'a> Forbidden<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let what = text.strip_prefix("Permissions Violation for ")?;
        let publish = what.starts_with("Publish");
        let subject = what.split('"').nth(1)?;
        Some(Self { publish, subject })
    }

    fn explain(&self) -> String {
        let subject = self.subject;
        let (right, to) = if self.publish {
            ("publish", "publish to")
        } else {
            ("subscribe", "subscribe to")
        };
        let hint = if self.publish && subject.starts_with("$JS.API.") {
            "the JetStream API needs it; allow the user to publish to \"$JS.API.>\" (or only what the guide to NATS security lists)".into()
        } else if self.publish && subject.starts_with("$JS.ACK.") {
            "messages are acknowledged by it; allow the user to publish to \"$JS.ACK.>\"".into()
        } else if !self.publish && (subject.starts_with("_INBOX") || subject.ends_with(".*")) {
            "the server's answers come there; allow the user to subscribe to \"_INBOX.>\", or set \"inbox_prefix\" to what it may use"
                .into()
        } else {
            format!("add it to the user's permissions ({right})")
        };
        format!("no permission to {to} \"{subject}\": {hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_allow() {
        for (said, want) in [
            (
                "Permissions Violation for Publish to \"orders.new\"",
                "no permission to publish to \"orders.new\": add it to the user's permissions (publish)",
            ),
            (
                "Permissions Violation for Publish to \"$JS.API.INFO\"",
                "no permission to publish to \"$JS.API.INFO\": the JetStream API needs it",
            ),
            (
                "Permissions Violation for Subscription to \"orders\" using queue \"q\"",
                "no permission to subscribe to \"orders\": add it to the user's permissions (subscribe)",
            ),
            (
                "Permissions Violation for Subscription to \"_INBOX.x.*\"",
                "no permission to subscribe to \"_INBOX.x.*\": the server's answers come there",
            ),
            ("User Authentication Expired", "the credentials have expired"),
            (
                "Maximum Connections Exceeded",
                "the server reports: Maximum Connections Exceeded",
            ),
        ] {
            let text = server_error(said);
            assert!(text.starts_with(want), "{text}");
        }
    }
}
