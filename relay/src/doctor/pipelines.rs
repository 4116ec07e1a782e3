//! Pipelines: configured, run by somebody, getting on; and their brokers.

use super::finding::{Finding, some};
use super::kafka::Kafka;
use super::nats::Nats;
use super::server::literal;
use crate::config::PipelineSpec;
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
    /// `kafka`, `nats`, `inbox` or `webhook`.
    pub(super) kind: &'static str,
    pub(super) reason: String,
}

impl Refusal {
    fn finding(&self, subject: &str) -> Finding {
        let lower = self.reason.to_lowercase();
        let has = |texts: &[&str]| texts.iter().any(|t| lower.contains(t));
        let authentication = has(&[
            "authentication",
            "authorization violation",
            "sasl",
            "credential",
            "nkey",
            "token",
        ]);
        let tls = has(&["ssl", "tls", "certificate", "handshake"]);
        let (code, hint) = match self.kind {
            "kafka" if authentication => (
                "kafka-authentication",
                "check sasl_mechanism, sasl_username and the file or variable that sasl_password names",
            ),
            "kafka" if tls => (
                "kafka-tls",
                "check security_protocol, tls_ca and the host names in the brokers' certificates",
            ),
            "kafka" => (
                "kafka-unreachable",
                "check brokers, that they run, the addresses that they advertise (advertised.listeners), and whether the \
                 listener wants TLS or SASL (security_protocol)",
            ),
            "inbox" => (
                "inbox-refused",
                "the inbox must be there, and the role be let in by tide.inbox_grant_feed; docs/guide/sink-inbox.md",
            ),
            "webhook" => (
                "webhook-unreachable",
                "check url, allow_private, the tls options and the secrets; docs/guide/sink-webhook.md goes by the error",
            ),
            _ if has(&["no permission"]) => (
                "nats-forbidden",
                "extend the user's permissions on the server; docs/guide tells which ones a pipeline needs",
            ),
            _ if authentication => (
                "nats-authentication",
                "check the credentials options of the pipeline and the server's accounts and users",
            ),
            _ if tls => (
                "nats-tls",
                "check the tls options and the host names in the server's certificate",
            ),
            _ => (
                "nats-unreachable",
                "check url, that the server runs and listens there, and whether it wants TLS",
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
                "start one: pg-tide --relay-group-id {} --postgres-url ...",
                self.relay_group
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
        for (kind, reason, code) in [
            (
                "kafka",
                "kafka b:1: SASL authentication error: Authentication failed",
                "kafka-authentication",
            ),
            (
                "kafka",
                "kafka b:1: SSL handshake failed: certificate verify failed",
                "kafka-tls",
            ),
            (
                "kafka",
                "kafka b:1: Connect to ipv4#1.1.1.1:1 failed: Connection refused",
                "kafka-unreachable",
            ),
            (
                "nats",
                "nats nats://h: authorization violation",
                "nats-authentication",
            ),
            (
                "nats",
                "nats nats://h: TLS error: invalid peer certificate",
                "nats-tls",
            ),
            (
                "nats",
                "nats nats://h: IO error: Connection refused",
                "nats-unreachable",
            ),
            (
                "webhook",
                "webhook https://h: its TLS certificate is out of date",
                "webhook-unreachable",
            ),
            ("inbox", "inbox \"i\" does not exist", "inbox-refused"),
        ] {
            let refusal = Refusal {
                kind,
                reason: reason.into(),
            };
            assert_eq!(
                with(|p| p.broker = Broker::Refused(refusal)).code,
                code,
                "{reason}"
            );
        }
    }
}
