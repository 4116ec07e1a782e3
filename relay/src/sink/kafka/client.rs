//! librdkafka: settings, delivery reports, errors in words.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use tokio::sync::Notify;

use crate::broker::kafka::{self, Watch, is_connection};
use crate::config::KafkaSinkSpec;
use crate::failure::Failure;

/// Longer than the pipeline waits for an acknowledgement.
const TRANSACTION_TIMEOUT_MS: &str = "15000";

const LINGER: Duration = Duration::from_millis(1);

/// A delivery report: partition and offset, or the error.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) opaque: usize,
    pub(super) result: Result<(i32, i64), RDKafkaErrorCode>,
}

#[derive(Debug)]
struct Shared {
    watch: Watch,
    delivered: Mutex<Vec<Delivered>>,
    /// What makes the producer useless until it is opened anew.
    trouble: Mutex<Option<Trouble>>,
    brokers: Mutex<Brokers>,
    news: Notify,
}

/// What makes a producer useless.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// No broker can be reached; the producer's watch may know why.
    NoBroker(String),
    /// For good; the library itself knows why.
    GaveUp,
    /// Another owner has shut this one out.
    Fenced,
    /// This topic has more partitions than before.
    Grown(String),
}

/// Which brokers are away. librdkafka tells when one goes, not when it is
/// back, and its own sign for «all» counts bootstrap addresses too.
#[derive(Debug, Default)]
struct Brokers {
    count: usize,
    down: HashSet<String>,
}

/// Collects what librdkafka's thread reports.
#[derive(Debug, Clone)]
pub(super) struct Reports(Arc<Shared>);

impl Reports {
    pub(super) fn new(watch: Watch) -> Self {
        Self(Arc::new(Shared {
            watch,
            delivered: Mutex::default(),
            trouble: Mutex::default(),
            brokers: Mutex::default(),
            news: Notify::new(),
        }))
    }

    /// Waits for reports or trouble; swaps the reports into `into`.
    pub(super) async fn take(&self, into: &mut Vec<Delivered>) {
        loop {
            {
                let mut delivered = self.0.delivered.lock();
                if !delivered.is_empty() {
                    std::mem::swap(&mut *delivered, into);
                    return;
                }
            }
            if self.0.trouble.lock().is_some() {
                return;
            }
            self.0.news.notified().await;
        }
    }

    /// A broker has answered; the cluster has so many. What was said of all
    /// of them being away was about the first addresses.
    pub(super) fn connected_to(&self, count: usize) {
        self.0.brokers.lock().count = count;
        self.0
            .trouble
            .lock()
            .take_if(|trouble| matches!(trouble, Trouble::NoBroker(_)));
    }

    pub(super) fn give_up(&self) {
        self.end(Trouble::GaveUp);
    }

    /// The first trouble stays; only that no broker could be reached may pass.
    pub(super) fn end(&self, trouble: Trouble) {
        let mut first = self.0.trouble.lock();
        if matches!(*first, None | Some(Trouble::NoBroker(_))) {
            *first = Some(trouble);
        }
        drop(first);
        self.0.news.notify_one();
    }

    /// More of them at once.
    pub(super) fn add(&self, more: impl IntoIterator<Item = Delivered>) {
        self.0.delivered.lock().extend(more);
        self.0.news.notify_one();
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.0.trouble.lock().clone()
    }

    /// A broker has taken messages: those that went are forgotten, as nobody
    /// tells which of them are back.
    pub(super) fn acknowledged(&self) {
        self.0.brokers.lock().down.clear();
    }

    /// Takes the word that no broker can be reached: the library goes on trying
    /// and will say so again.
    pub(super) fn take_no_broker(&self) -> Option<String> {
        let mut trouble = self.0.trouble.lock();
        match trouble.take_if(|trouble| matches!(trouble, Trouble::NoBroker(_))) {
            Some(Trouble::NoBroker(reason)) => Some(reason),
            _ => None,
        }
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.watch.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(target: "librdkafka", ?code, "{reason}");
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                *self.0.trouble.lock() = Some(Trouble::NoBroker(reason.to_owned()));
            }
            Some(RDKafkaErrorCode::Fatal) => {
                *self.0.trouble.lock() = Some(Trouble::GaveUp);
            }
            _ => {
                self.0.watch.note(reason);
                if let Some(broker) = broker_id(reason).filter(|_| is_connection(&error)) {
                    let mut brokers = self.0.brokers.lock();
                    brokers.down.insert(broker.to_owned());
                    if brokers.count > 0 && brokers.down.len() >= brokers.count {
                        *self.0.trouble.lock() = Some(Trouble::NoBroker(reason.to_owned()));
                    }
                }
            }
        }
        self.0.news.notify_one();
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.watch.token()
    }
}

/// The id in a reason that begins with `host:port/id: `; none for a bootstrap
/// address.
fn broker_id(reason: &str) -> Option<&str> {
    let (broker, _) = reason.split_once(": ")?;
    let (_, id) = broker.rsplit_once('/')?;
    id.bytes().all(|b| b.is_ascii_digit()).then_some(id)
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        let mut delivered = self.0.delivered.lock();
        delivered.push(Delivered { opaque, result });
        let first = delivered.len() == 1;
        drop(delivered);
        if first {
            self.0.news.notify_one();
        }
    }
}

pub(super) fn producer(
    spec: &KafkaSinkSpec,
    max_in_flight: usize,
    transactional_id: Option<&str>,
    reports: Reports,
) -> Result<BaseProducer<Reports>, Failure> {
    let mut config = kafka::client_config(&spec.connection)?;
    let idempotent = spec.acks == "all";
    // A refused batch must not leave a gap before later ones; in a transaction
    // it cannot.
    let gapless = idempotent && transactional_id.is_none();
    config
        .set("acks", spec.acks)
        .set("enable.idempotence", if idempotent { "true" } else { "false" })
        .set("enable.gapless.guarantee", if gapless { "true" } else { "false" })
        .set("compression.type", spec.compression)
        .set("linger.ms", spec.linger.unwrap_or(LINGER).as_millis().to_string())
        .set("batch.size", spec.batch_bytes.to_string())
        .set("batch.num.messages", "10000")
        // The window bounds what is queued; the library's limits lie above.
        .set(
            "queue.buffering.max.messages",
            (max_in_flight + 1_000).to_string(),
        )
        .set("queue.buffering.max.kbytes", "262144")
        // Never reached: a message that times out alone could be overtaken by
        // the next one. The pipeline gives up on the whole window sooner.
        .set("message.timeout.ms", "60000")
        .set("request.timeout.ms", "5000")
        .set("retry.backoff.ms", "50");
    if let Some(id) = transactional_id {
        // A dead owner that nobody replaces holds readers of committed
        // messages back for so long.
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
            .set("message.timeout.ms", TRANSACTION_TIMEOUT_MS);
    }
    kafka::set_properties(&mut config, &spec.connection);
    config
        .create_with_context(reports)
        .map_err(|e| spec.connection.failure("making a producer", &e))
}

/// Whether the broker refuses this one message for good.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::UnknownPartition
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_broker_in_a_reason() {
        assert_eq!(
            broker_id("h:9092/1: Connect to ipv4#1.2.3.4:9092 failed: Connection refused"),
            Some("1")
        );
        assert_eq!(
            broker_id("h:9092/bootstrap: Connect to ipv4#1.2.3.4:9092 failed"),
            None
        );
        assert_eq!(broker_id("2/3 brokers are down"), None);
    }
}
