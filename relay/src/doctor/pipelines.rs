//! Pipelines: configured, run by somebody, getting on; and their brokers.

use super::finding::{Finding, some};
use super::kafka::Kafka;
use super::nats::Nats;
use super::server::literal;
use crate::broker::kafka;
use crate::config::{PipelineSpec, SourceSpec, WebhookSourceSpec, Work};
use crate::human::age;

/// A moment without an owner is usual when relays come and go.
const UNOWNED: f64 = 10.0;

/// A pipeline and what its owner says.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) name: String,
    pub(super) enabled: bool,
    pub(super) relay_group: String,
    pub(super) owner: Option<String>,
    pub(super) state: String,
    /// Seconds since the state began.
    pub(super) since: f64,
    pub(super) last_error: Option<String>,
    pub(super) note: Option<String>,
    pub(super) spec: Result<PipelineSpec, String>,
    /// Why secrets cannot be read here.
    pub(super) secrets: Vec<String>,
    pub(super) broker: Broker,
}

/// What a look at the other side gave.
#[derive(Debug, Clone)]
pub(super) enum Broker {
    /// Nothing to look at, or no way to.
    Unknown,
    /// It cannot be reached or does not let us in; says why.
    Refused(Refusal),
    Kafka(Box<Kafka>),
    Nats(Box<Nats>),
}

/// Why a broker could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    side: Side,
    about: About,
    reason: String,
}

/// Whom a pipeline connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Kafka,
    Nats,
    Inbox,
    Webhook,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Connection,
    Tls,
    Login,
    Permission,
}

impl Refusal {
    pub(super) fn kafka(reason: String, cause: Option<kafka::Cause>) -> Self {
        use kafka::Cause;
        let about = match cause {
            Some(Cause::Login | Cause::Token | Cause::Mechanism | Cause::NoSasl | Cause::WantsSasl) => {
                About::Login
            }
            Some(
                Cause::WantsTls
                | Cause::NoTls
                | Cause::WantsCertificate
                | Cause::CertificateRefused
                | Cause::NotVerified,
            ) => About::Tls,
            _ => About::Connection,
        };
        Self {
            about,
            reason,
            side: Side::Kafka,
        }
    }

    /// NATS says what it is in words alone.
    pub(super) fn nats(reason: String) -> Self {
        let lower = reason.to_lowercase();
        let has = |texts: &[&str]| texts.iter().any(|t| lower.contains(t));
        let about = if has(&["no permission"]) {
            About::Permission
        } else if has(&["authorization violation", "credentials", "nkey", "revoked"]) {
            About::Login
        } else if has(&["tls", "certificate"]) {
            About::Tls
        } else {
            About::Connection
        };
        Self {
            about,
            reason,
            side: Side::Nats,
        }
    }

    /// Of anybody, about nothing that would be known.
    pub(super) fn of(side: Side, reason: String) -> Self {
        Self {
            side,
            about: About::Connection,
            reason,
        }
    }

    fn finding(&self, subject: &str) -> Finding {
        let (code, hint) = match (self.side, self.about) {
            (Side::Kafka, About::Login) => (
                "kafka-authentication",
                "check the sasl options of the pipeline, and the secrets that they name",
            ),
            (Side::Kafka, About::Tls) => (
                "kafka-tls",
                "check security_protocol and the tls options, and the host names in the brokers' certificates",
            ),
            (Side::Kafka, _) => (
                "kafka-unreachable",
                "check brokers, that they run, and the addresses that they advertise (advertised.listeners)",
            ),
            (Side::Inbox, _) => (
                "inbox-refused",
                "the inbox must be there, and the role be let in by tide.inbox_grant_feed; docs/guide/sink-inbox.md",
            ),
            (Side::Webhook, _) => (
                "webhook-unreachable",
                "check url, allow_private, the tls options and the secrets; docs/guide/sink-webhook.md goes by the error",
            ),
            (Side::Nats, About::Permission) => (
                "nats-forbidden",
                "extend the user's permissions on the server; docs/guide/security-nats.md tells which ones a pipeline needs",
            ),
            (Side::Nats, About::Login) => (
                "nats-authentication",
                "check the login options of the pipeline, and the server's accounts and users",
            ),
            (Side::Nats, About::Tls) => (
                "nats-tls",
                "check the tls options of the pipeline, and the host names in the server's certificate",
            ),
            (Side::Nats, About::Connection) => (
                "nats-unreachable",
                "check url, and that the server runs and listens there",
            ),
        };
        Finding::problem(code, subject, format!("{}.", self.reason.trim_end_matches('.'))).hint(hint)
    }
}

impl Pipeline {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let subject = format!("pipeline {}", self.name);
        let mut found = vec![self.state(&subject)];
        if let Some(note) = &self.note {
            found.push(Finding::warning(
                "pipeline-note",
                &subject,
                format!("{}.", note.trim_end_matches('.')),
            ));
        }
        if matches!(self.webhook(), Some(webhook) if webhook.signature.is_none()) {
            found.push(
                Finding::warning(
                    "webhook-unsigned",
                    &subject,
                    "Its requests are not signed: whoever reaches the listener can send.",
                )
                .hint("have them signed (\"signing_secret\"), or let only the sender reach the listener"),
            );
        }
        if !self.secrets.is_empty() {
            found.push(
                Finding::warning(
                    "secret-unreadable",
                    &subject,
                    format!("This process {}; its broker was not looked at.", some(&self.secrets, 3)),
                )
                .hint("fine when only relays have them: run doctor where a relay runs (kubectl exec, same user and environment)"),
            );
        }
        match &self.broker {
            Broker::Unknown => {}
            Broker::Refused(refusal) => found.push(refusal.finding(&subject)),
            Broker::Kafka(kafka) => found.extend(kafka.findings(&subject)),
            Broker::Nats(nats) => found.extend(nats.findings(&subject)),
        }
        found
    }

    /// The source, when it is a webhook.
    fn webhook(&self) -> Option<&WebhookSourceSpec> {
        match &self.spec.as_ref().ok()?.work {
            Work::Reverse(reverse) if let SourceSpec::Webhook(webhook) = &reverse.source => Some(webhook),
            _ => None,
        }
    }

    fn state(&self, subject: &str) -> Finding {
        if let Err(error) = &self.spec {
            return Finding::problem(
                "pipeline-misconfigured",
                subject,
                format!("Its configuration cannot be used: {error}."),
            )
            .hint("set it again with tide.relay_set_outbox or relay_set_inbox; \"pg-tide config options\" lists the options");
        }
        if !self.enabled {
            return Finding::warning("pipeline-disabled", subject, "It is disabled.")
                .hint(format!("SELECT tide.relay_enable({})", literal(&self.name)));
        }
        let error = self.last_error.as_deref().map_or_else(
            || "no error is known".to_owned(),
            |e| e.trim_end_matches('.').to_owned(),
        );
        let since = age(self.since);
        match self.state.as_str() {
            "no live relay" => Finding::problem(
                "pipeline-no-relay",
                subject,
                format!("No relay of its group \"{}\" is running, for {since}.", self.relay_group),
            )
            .hint(format!(
                "start one: pg-tide --relay-group-id {} --postgres-url ...{}",
                self.relay_group,
                if self.webhook().is_some() {
                    " --webhook-addr 0.0.0.0:8080"
                } else {
                    ""
                }
            )),
            "unowned" if self.since > UNOWNED => Finding::problem(
                "pipeline-unowned",
                subject,
                format!("Relays of its group run, but none has taken it for {since}: {error}."),
            )
            .hint("the relays' logs say why; does the relay's role have all rights, and is every relay of this version?"),
            "retrying" => Finding::problem(
                "pipeline-retrying",
                subject,
                format!("It has been failing for {since}: {error}."),
            ),
            "misconfigured" => Finding::problem(
                "pipeline-misconfigured",
                subject,
                format!("Its relay cannot use its configuration: {error}."),
            )
            .hint("is the relay older than this pg-tide? Its log says more"),
            state => Finding::ok(
                "pipeline",
                subject,
                match &self.owner {
                    Some(owner) => format!("It is {state}, for {since}, in relay {owner}."),
                    None => format!("It is {state}."),
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Declared;
    use crate::doctor::finding::Severity;

    fn running() -> Pipeline {
        let declared = serde_json::json!({"name": "p", "outbox": "o", "sink": "kafka",
                                          "config": {"brokers": "b:1", "topic": "t"}});
        Pipeline {
            name: "p".into(),
            enabled: true,
            relay_group: "default".into(),
            owner: Some("relay-1".into()),
            state: "running".into(),
            since: 120.0,
            last_error: Some("kafka b:1: topic \"t\" cannot be used".into()),
            note: None,
            spec: Ok(Declared::read(declared).unwrap().check().unwrap()),
            secrets: Vec::new(),
            broker: Broker::Unknown,
        }
    }

    fn with(edit: impl FnOnce(&mut Pipeline)) -> Finding {
        let mut pipeline = running();
        edit(&mut pipeline);
        let mut found = pipeline.findings();
        found.retain(|f| f.severity != Severity::Ok);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    #[test]
    fn states_are_told_with_what_to_do() {
        assert!(running().findings().iter().all(|f| f.severity == Severity::Ok));
        for (state, code) in [
            ("no live relay", "pipeline-no-relay"),
            ("unowned", "pipeline-unowned"),
            ("retrying", "pipeline-retrying"),
            ("misconfigured", "pipeline-misconfigured"),
        ] {
            let finding = with(|p| p.state = state.into());
            assert_eq!((finding.severity, finding.code), (Severity::Problem, code));
        }
        assert!(
            with(|p| p.state = "retrying".into())
                .message
                .contains("failing for 2m: kafka b:1")
        );
        let mut moment = running();
        (moment.state, moment.since) = ("unowned".into(), 0.2);
        assert!(moment.findings().iter().all(|f| f.severity == Severity::Ok));
        assert_eq!(with(|p| p.enabled = false).code, "pipeline-disabled");
    }

    #[test]
    fn a_webhook_without_signature_or_listener_is_told() {
        let webhook = |config: serde_json::Value| {
            let declared =
                serde_json::json!({"name": "p", "inbox": "i", "source": "webhook", "config": config});
            Ok(Declared::read(declared).unwrap().check().unwrap())
        };
        let unsigned = with(|p| p.spec = webhook(serde_json::json!({"signature": "none"})));
        assert_eq!(
            (unsigned.severity, unsigned.code),
            (Severity::Warning, "webhook-unsigned")
        );
        let alone = with(|p| {
            p.spec = webhook(serde_json::json!({"signing_secret": "${env:KEY}"}));
            p.state = "no live relay".into();
        });
        assert_eq!(alone.code, "pipeline-no-relay");
        assert!(alone.hint.unwrap_or_default().contains("--webhook-addr"));
    }

    #[test]
    fn a_broken_configuration_goes_before_everything() {
        let finding = with(|p| {
            p.spec = Err("\"topic\" is missing".into());
            p.state = "no live relay".into();
        });
        assert_eq!(finding.code, "pipeline-misconfigured");
        assert!(finding.message.contains("\"topic\" is missing"));
    }

    #[test]
    fn secrets_and_refusals_are_told_apart() {
        let finding = with(|p| p.secrets = vec!["cannot read the secret file /run/x: gone".into()]);
        assert_eq!(
            (finding.severity, finding.code),
            (Severity::Warning, "secret-unreadable")
        );
        for (reason, code) in [
            (
                "nats h: the server refuses the token (authorization violation)",
                "nats-authentication",
            ),
            (
                "nats h: no permission to publish to \"$JS.API.INFO\": allow it",
                "nats-forbidden",
            ),
            (
                "nats h: the server's certificate is not signed by the authority in \"tls_ca\" (wrong CA)",
                "nats-tls",
            ),
            ("nats h: Connection refused", "nats-unreachable"),
        ] {
            let refusal = Refusal::nats(reason.into());
            assert_eq!(
                with(|p| p.broker = Broker::Refused(refusal)).code,
                code,
                "{reason}"
            );
        }
        for (cause, code) in [
            (Some(kafka::Cause::Login), "kafka-authentication"),
            (Some(kafka::Cause::NotVerified), "kafka-tls"),
            (Some(kafka::Cause::Refused), "kafka-unreachable"),
            (None, "kafka-unreachable"),
        ] {
            let refusal = Refusal::kafka("kafka b:1: so it is".into(), cause);
            assert_eq!(with(|p| p.broker = Broker::Refused(refusal)).code, code);
        }
        for (side, code) in [
            (Side::Inbox, "inbox-refused"),
            (Side::Webhook, "webhook-unreachable"),
        ] {
            let refusal = Refusal::of(side, "so it is".into());
            assert_eq!(with(|p| p.broker = Broker::Refused(refusal)).code, code);
        }
    }
}
