//! Which measurements there are, and their order.

use anyhow::Result;

use crate::bench::{BACKLOG_OUTBOX, Bench, SHORT_OUTBOX};
use crate::broker::Broker;
use crate::figures::CLIENTS;
use crate::inbox::Source;
use crate::report::{Report, Values};
use crate::sinks::Sink;
use crate::{drain, fanout, inbox, latency, limits, maintenance, publish, sinks};

/// One thing that can be measured; it gives one or more figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement {
    /// Publishing with so many clients.
    Publish(usize),
    /// Reading the backlog by COPY.
    CopyOut,
    /// Sending to a broker from memory.
    BrokerLimit(Broker),
    /// Delivering the backlog.
    Drain(Broker),
    /// Storing into an inbox's table from memory.
    InboxInsert,
    /// Storing what comes into an inbox.
    Inbox(Source),
    /// Posting to an HTTP server from memory.
    WebhookPost,
    /// Delivering a backlog to what is no broker.
    DrainSink(Sink),
    /// Sending by a client library at a steady rate.
    LatencyLimit(Broker),
    /// Delivering at a steady rate.
    Latency(Broker),
    /// The same while partitions come and go.
    Maintenance,
    /// So many pipelines on one outbox.
    Fanout(usize),
}

const BROKERS: [Broker; 2] = [Broker::Kafka, Broker::Nats];

/// All of them. A limit stands beside what is compared to it, so that both meet the same machine.
pub fn all() -> Vec<Measurement> {
    use Measurement::{
        BrokerLimit, CopyOut, Drain, DrainSink, Fanout, Inbox, InboxInsert, Latency, LatencyLimit,
        Maintenance, Publish, WebhookPost,
    };
    let mut all: Vec<_> = CLIENTS.map(Publish).into();
    all.push(CopyOut);
    for broker in BROKERS {
        all.extend([BrokerLimit(broker), Drain(broker)]);
    }
    all.extend([InboxInsert, WebhookPost]);
    all.extend(Source::ALL.map(Inbox));
    all.extend(Sink::ALL.map(DrainSink));
    for broker in BROKERS {
        all.extend([LatencyLimit(broker), Latency(broker)]);
    }
    all.extend(fanout::PIPELINES.map(Fanout));
    all.push(Maintenance);
    all
}

impl Measurement {
    /// The figures it gives; figures of two measurements are under both.
    pub fn figures(self) -> Vec<String> {
        match self {
            Self::Publish(clients) => ["bare", "insert", "outbox"]
                .map(|variant| format!("publish.{variant}.c{clients}"))
                .into(),
            Self::CopyOut => vec!["limit.pg_copy_out".into()],
            Self::BrokerLimit(Broker::Kafka) => vec!["limit.kafka_produce".into()],
            Self::BrokerLimit(Broker::Nats) => vec!["limit.nats_publish".into()],
            Self::Drain(broker) => {
                let broker = broker.name();
                vec![
                    format!("drain.{broker}"),
                    format!("cpu_per_million.{broker}"),
                    "rss.relay".into(),
                ]
            }
            Self::InboxInsert => vec!["limit.inbox_insert".into()],
            Self::Inbox(source) => ["inbox.", "cpu_per_million.inbox_"]
                .map(|figure| format!("{figure}{}", source.name()))
                .into(),
            Self::WebhookPost => vec!["limit.webhook_post".into(), "limit.webhook_post_batch".into()],
            Self::DrainSink(sink) => ["drain.", "cpu_per_million."]
                .map(|figure| format!("{figure}{}", sink.name()))
                .into(),
            Self::LatencyLimit(broker) => vec![format!("limit.latency.{}.r1000", broker.name())],
            Self::Latency(broker) => vec![format!("latency.{}.r1000", broker.name())],
            Self::Maintenance => maintenance::PHASES.map(str::to_owned).into(),
            Self::Fanout(pipelines) => vec![format!("fanout.p{pipelines}")],
        }
    }

    /// Whether it is wanted by one of the patterns, each a part of a figure's name. Without patterns all are.
    pub fn selected(self, patterns: &[String]) -> bool {
        let figures = self.figures();
        patterns.is_empty()
            || patterns
                .iter()
                .any(|part| figures.iter().any(|figure| figure.contains(part.as_str())))
    }

    /// Whether it starts a relay.
    pub fn needs_relay(self) -> bool {
        matches!(
            self,
            Self::Drain(_)
                | Self::DrainSink(_)
                | Self::Inbox(_)
                | Self::Latency(_)
                | Self::Maintenance
                | Self::Fanout(_)
        )
    }

    fn needs_backlog(self) -> bool {
        matches!(self, Self::CopyOut | Self::Drain(_))
    }

    fn uses_kafka(self) -> bool {
        use Broker::Kafka;
        matches!(
            self,
            Self::BrokerLimit(Kafka)
                | Self::Drain(Kafka)
                | Self::LatencyLimit(Kafka)
                | Self::Latency(Kafka)
                | Self::Inbox(Source::Kafka)
                | Self::Maintenance
                | Self::Fanout(_)
        )
    }

    async fn run(self, bench: &Bench, run: usize) -> Result<Values> {
        match self {
            Self::Publish(clients) => publish::run(bench, clients, run).await,
            Self::CopyOut => limits::pg_copy_out(bench).await,
            Self::BrokerLimit(Broker::Kafka) => limits::kafka_produce(bench, run).await,
            Self::BrokerLimit(Broker::Nats) => limits::nats_publish(bench, run).await,
            Self::Drain(broker) => drain::run(bench, broker, run).await,
            Self::InboxInsert => limits::inbox_insert(bench, run).await,
            Self::Inbox(source) => inbox::run(bench, source, run).await,
            Self::WebhookPost => limits::webhook_post(bench).await,
            Self::DrainSink(sink) => sinks::run(bench, sink, run).await,
            Self::LatencyLimit(broker) => latency::limit(bench, broker, run).await,
            Self::Latency(broker) => latency::run(bench, broker, run).await,
            Self::Maintenance => maintenance::run(bench, run).await,
            Self::Fanout(pipelines) => fanout::run(bench, pipelines, run).await,
        }
    }
}

/// Runs the measurements in turn, `runs` times over. One that fails does not stop the others; returns the failures.
pub async fn run(
    bench: &Bench,
    measurements: &[Measurement],
    runs: usize,
    report: &mut Report,
) -> Result<Vec<String>> {
    if measurements
        .iter()
        .any(|measurement| matches!(measurement, Measurement::Publish(_)))
    {
        publish::prepare(bench).await?;
    }
    if measurements.iter().any(|measurement| measurement.needs_backlog()) {
        eprintln!("making a backlog of {} messages", bench.sizes.backlog);
        bench
            .database
            .create_backlog(BACKLOG_OUTBOX, bench.sizes.backlog)
            .await?;
    }
    if measurements
        .iter()
        .any(|measurement| matches!(measurement, Measurement::DrainSink(_) | Measurement::Fanout(_)))
    {
        bench
            .database
            .create_backlog(SHORT_OUTBOX, bench.sizes.short)
            .await?;
    }
    if measurements.iter().any(|measurement| measurement.uses_kafka()) {
        eprintln!("warming Kafka up");
        limits::warm_up_kafka(bench).await?;
    }
    let mut failures = Vec::new();
    for run in 0..runs {
        for measurement in measurements {
            let label = format!("run {} of {runs}: {}", run + 1, measurement.figures().join(", "));
            match measurement.run(bench, run).await {
                Ok(values) => {
                    let shown: Vec<_> = values
                        .iter()
                        .map(|(name, value)| format!("{name} {value:.2}"))
                        .collect();
                    eprintln!("run {} of {runs}: {}", run + 1, shown.join(", "));
                    report.add(run, values)?;
                }
                Err(error) => {
                    eprintln!("{label}: FAILED: {error:#}");
                    failures.push(format!("{label}: {error:#}"));
                }
            }
        }
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::catalogue;

    #[test]
    fn a_pattern_is_a_part_of_a_figures_name() {
        let names = |pattern: &str| -> Vec<_> {
            all()
                .into_iter()
                .filter(|measurement| measurement.selected(&[pattern.to_owned()]))
                .collect()
        };
        assert_eq!(names("publish.outbox.c8"), [Measurement::Publish(8)]);
        assert_eq!(
            names("rss"),
            [
                Measurement::Drain(Broker::Kafka),
                Measurement::Drain(Broker::Nats)
            ]
        );
        assert!(names("nothing").is_empty());
        assert!(all().iter().all(|measurement| measurement.selected(&[])));
    }

    #[test]
    fn every_measurement_gives_figures_of_the_catalogue() {
        let known = catalogue();
        for figure in all().into_iter().flat_map(Measurement::figures) {
            assert!(
                known.iter().any(|known| known.name.starts_with(&figure)),
                "{figure}"
            );
        }
    }
}
