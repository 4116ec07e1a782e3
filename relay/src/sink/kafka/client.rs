//! librdkafka: settings, delivery reports, errors in words.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use crate::broker::kafka::{self, is_connection};
use crate::config::KafkaSinkSpec;
use crate::failure::Failure;

/// A delivery report: partition and offset, or the error.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) opaque: usize,
    pub(super) result: Result<(i32, i64), RDKafkaErrorCode>,
}

#[derive(Debug, Default)]
struct Shared {
    delivered: Mutex<Vec<Delivered>>,
    /// What makes the producer useless until it is opened anew.
    trouble: Mutex<Option<String>>,
    last_reason: Mutex<Option<String>>,
    brokers: Mutex<Brokers>,
    news: Notify,
}

/// Which brokers are away. librdkafka tells when one goes, not when it is
/// back, and its own sign for «all» counts bootstrap addresses too.
#[derive(Debug, Default)]
struct Brokers {
    count: usize,
    down: HashSet<String>,
}

/// Collects what librdkafka's thread reports.
#[derive(Debug, Default, Clone)]
pub(super) struct Reports(Arc<Shared>);

impl Reports {
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

    /// How many brokers the cluster has.
    pub(super) fn set_broker_count(&self, count: usize) {
        self.0.brokers.lock().count = count;
    }

    pub(super) fn give_up(&self, reason: &str) {
        self.0.trouble.lock().get_or_insert_with(|| reason.to_owned());
        self.0.news.notify_one();
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
    }

    pub(super) fn last_reason(&self) -> Option<String> {
        self.0.last_reason.lock().clone()
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Broker troubles come back as errors of the pipeline; the library's
        // own lines would only repeat them.
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(target: "librdkafka", ?code, "{reason}");
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                let last = self.last_reason().unwrap_or_else(|| reason.to_owned());
                *self.0.trouble.lock() = Some(format!("no broker can be reached: {last}"));
            }
            Some(RDKafkaErrorCode::Fatal) => {
                *self.0.trouble.lock() = Some(format!("the producer gave up: {reason}"));
            }
            _ => {
                *self.0.last_reason.lock() = Some(shorten(reason));
                if let Some(broker) = broker_id(reason).filter(|_| is_connection(&error)) {
                    let mut brokers = self.0.brokers.lock();
                    brokers.down.insert(broker.to_owned());
                    if brokers.count > 0 && brokers.down.len() >= brokers.count {
                        *self.0.trouble.lock() =
                            Some(format!("no broker can be reached: {}", shorten(reason)));
                    }
                }
            }
        }
        self.0.news.notify_one();
    }
}

/// The id in a reason that begins with `host:port/id: `; none for a bootstrap
/// address.
fn broker_id(reason: &str) -> Option<&str> {
    let (broker, _) = reason.split_once(": ")?;
    let (_, id) = broker.rsplit_once('/')?;
    id.bytes().all(|b| b.is_ascii_digit()).then_some(id)
}

/// librdkafka's reasons end with timings; they would make each one differ.
fn shorten(reason: &str) -> String {
    reason.split(" (after ").next().unwrap_or(reason).to_owned()
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
    reports: Reports,
) -> Result<ThreadedProducer<Reports>, Failure> {
    let mut config = kafka::client_config(&spec.connection)?;
    let idempotent = spec.acks == "all";
    config
        .set("acks", spec.acks)
        .set("enable.idempotence", if idempotent { "true" } else { "false" })
        // A refused batch must not leave a gap before later ones.
        .set(
            "enable.gapless.guarantee",
            if idempotent { "true" } else { "false" },
        )
        .set("compression.type", spec.compression)
        .set("linger.ms", spec.linger.as_millis().to_string())
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

    #[test]
    fn reasons_lose_their_timings() {
        assert_eq!(shorten("Disconnected (after 17ms in state UP)"), "Disconnected");
    }
}
