//! What can be measured: each thing with the figures that it gives, what it needs, and about how long it takes.

use anyhow::Result;

use crate::bench::{Bench, Sizes};
use crate::broker::Broker;
use crate::families::spread::Spread;
use crate::families::{backlog, idle, load, pipelines, size, spread};
use crate::inbox::Source;
use crate::report::Values;
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
    /// Reading payloads of so many bytes by COPY.
    SizeCopyOut(usize),
    /// Sending them from memory.
    SizeLimit(Broker, usize),
    /// Delivering them.
    Size(Broker, usize),
    /// Sending messages that are spread so from memory.
    SpreadLimit(Spread),
    /// Delivering them.
    Spread(Spread),
    /// So many pipelines on an outbox each.
    Pipelines(usize),
    /// So many relays.
    Relays(usize),
    /// What a message costs when so many wait.
    Backlog(u64),
    /// Sending by a client library so many events a second.
    LoadLimit(Broker, u64),
    /// Delivering them.
    Load(Broker, u64),
    /// So many pipelines with nothing to send.
    Idle(Broker, usize),
    /// The first event after that.
    First,
}

impl Measurement {
    /// The figures it gives, or what their names begin with; figures of two measurements are under both.
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
            Self::SizeCopyOut(bytes) => vec![format!("limit.size.pg_copy_out.{bytes}")],
            Self::SizeLimit(broker, bytes) => vec![format!("limit.size.{}.{bytes}", broker.name())],
            Self::Size(broker, bytes) => vec![format!("size.{}.{bytes}", broker.name())],
            Self::SpreadLimit(spread) => spread.limits(),
            Self::Spread(spread) => spread.figures(),
            Self::Pipelines(number) => vec![format!("pipelines.p{number}")],
            Self::Relays(number) => vec![format!("relays.{number}")],
            Self::Backlog(count) => vec![format!("backlog.{}", backlog::name(count))],
            Self::LoadLimit(broker, rate) => vec![format!("limit.load.{}.r{rate}.", broker.name())],
            Self::Load(broker, rate) => vec![format!("load.{}.r{rate}.", broker.name())],
            Self::Idle(broker, number) => ["idle", "first"]
                .map(|family| format!("{family}.{}.p{number}", broker.name()))
                .into(),
            Self::First => Broker::ALL
                .map(|broker| format!("first.{}.p1", broker.name()))
                .into(),
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
        !matches!(
            self,
            Self::Publish(_)
                | Self::CopyOut
                | Self::BrokerLimit(_)
                | Self::InboxInsert
                | Self::WebhookPost
                | Self::LatencyLimit(_)
                | Self::SizeCopyOut(_)
                | Self::SizeLimit(..)
                | Self::SpreadLimit(_)
                | Self::LoadLimit(..)
        )
    }

    /// Whether it reads the backlog that several measurements share.
    pub fn needs_backlog(self) -> bool {
        matches!(self, Self::CopyOut | Self::Drain(_))
    }

    /// Whether it reads the shorter one.
    pub fn needs_short_backlog(self) -> bool {
        matches!(self, Self::DrainSink(_) | Self::Fanout(_))
    }

    /// Whether it sends to Kafka, or reads from there.
    pub fn uses_kafka(self) -> bool {
        use Broker::Kafka;
        match self {
            Self::BrokerLimit(broker)
            | Self::Drain(broker)
            | Self::LatencyLimit(broker)
            | Self::Latency(broker)
            | Self::SizeLimit(broker, _)
            | Self::Size(broker, _)
            | Self::LoadLimit(broker, _)
            | Self::Load(broker, _)
            | Self::Idle(broker, _) => broker == Kafka,
            Self::Spread(spread) | Self::SpreadLimit(spread) => spread.broker() == Kafka,
            Self::Inbox(source) => source == Source::Kafka,
            Self::Maintenance
            | Self::Fanout(_)
            | Self::Pipelines(_)
            | Self::Relays(_)
            | Self::Backlog(_)
            | Self::First => true,
            Self::Publish(_)
            | Self::CopyOut
            | Self::InboxInsert
            | Self::WebhookPost
            | Self::DrainSink(_)
            | Self::SizeCopyOut(_) => false,
        }
    }

    /// About how many seconds one run takes on two quiet cores, the making of backlogs included, which is done once. A
    /// little too long rather than too short.
    pub fn seconds(self, sizes: &Sizes) -> f64 {
        // Messages a second with everything around: a backlog made, drained, read back; a limit; a relay's start.
        let (made, drained, read) = (100_000.0, 80_000.0, 250_000.0);
        let start = 1.5;
        let family = sizes.family as f64;
        let backlog = |count: f64| count / made + start + count / drained + count / read;
        match self {
            Self::Publish(_) => f64::from(sizes.publish_seconds) * 6.0 + 1.0,
            Self::CopyOut => sizes.backlog as f64 / read + sizes.backlog as f64 / made,
            Self::BrokerLimit(_) => sizes.backlog as f64 / drained,
            Self::Drain(_) => start + sizes.backlog as f64 / drained + sizes.backlog as f64 / read,
            Self::InboxInsert => sizes.inbox as f64 / 40_000.0,
            Self::Inbox(Source::Webhook) => start + sizes.short as f64 / 8_000.0,
            Self::Inbox(_) => start + sizes.inbox as f64 / 25_000.0,
            Self::WebhookPost => sizes.short as f64 / 20_000.0,
            Self::DrainSink(Sink::Webhook) => start + sizes.short as f64 / 10_000.0,
            Self::DrainSink(_) => start + sizes.short as f64 / 30_000.0,
            Self::LatencyLimit(_) | Self::Latency(_) => sizes.latency_seconds as f64 + 2.0,
            Self::Maintenance => 2.0 * sizes.latency_seconds as f64 + 12.0,
            Self::Fanout(pipelines) => {
                2.0 * start
                    + sizes.short as f64 * pipelines as f64 / drained
                    + sizes.latency_seconds as f64 / 2.0
                    + 2.0
            }
            Self::SizeCopyOut(_) => family / read + family / made,
            Self::SizeLimit(..) | Self::SpreadLimit(_) => family / drained,
            Self::Size(..) => start + family / drained + family / read,
            Self::Spread(_) => backlog(family),
            Self::Pipelines(number) => backlog(family) + number as f64 * 0.1,
            Self::Relays(_) => backlog(2.0 * family),
            Self::Backlog(count) => backlog(count.max(100_000) as f64),
            Self::LoadLimit(..) | Self::Load(..) => sizes.load_seconds as f64 + 2.0,
            Self::Idle(_, number) => sizes.idle_seconds as f64 + 15.0 + number as f64 * 0.09,
            Self::First => sizes.idle_seconds as f64 + 3.0,
        }
    }

    /// Measures once.
    pub async fn run(self, bench: &Bench, run: usize) -> Result<Values> {
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
            Self::SizeCopyOut(bytes) => size::copy_out(bench, bytes).await,
            Self::SizeLimit(broker, bytes) => size::limit(bench, broker, bytes, run).await,
            Self::Size(broker, bytes) => size::run(bench, broker, bytes, run).await,
            Self::SpreadLimit(spread) => spread::limit(bench, spread, run).await,
            Self::Spread(spread) => spread::run(bench, spread, run).await,
            Self::Pipelines(number) => pipelines::run(bench, number, run).await,
            Self::Relays(number) => pipelines::run_relays(bench, number, run).await,
            Self::Backlog(count) => backlog::run(bench, count, run).await,
            Self::LoadLimit(broker, rate) => load::limit(bench, broker, rate, run).await,
            Self::Load(broker, rate) => load::run(bench, broker, rate, run).await,
            Self::Idle(broker, number) => idle::run(bench, broker, number, run).await,
            Self::First => idle::first(bench, run).await,
        }
    }
}
