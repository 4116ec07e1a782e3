//! inbox.*: how fast a relay stores what comes in, and whether every message is there once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use crate::bench::Bench;
use crate::delivery::Delivery;
use crate::drain::STALL;
use crate::event::{self, Payload};
use crate::http::Poster;
use crate::kafka::Topic;
use crate::limits;
use crate::nats::Stream;
use crate::poll::{until, watch};
use crate::relay::{Options, Relay, free_port};
use crate::report::Values;
use crate::shape::Shape;

/// Senders of webhooks, each with one request under way.
const SENDERS: u64 = 32;

/// For the relay to take the first request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A stream.
    Nats,
    /// A topic of one partition.
    Kafka,
    /// Requests to the relay.
    Webhook,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nats, Self::Kafka, Self::Webhook];

    /// As in SQL and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Kafka => "kafka",
            Self::Webhook => "webhook",
        }
    }

    /// How many messages are stored.
    fn count(self, bench: &Bench) -> u64 {
        match self {
            Self::Nats | Self::Kafka => bench.sizes.inbox,
            Self::Webhook => bench.sizes.short,
        }
    }
}

/// A stream or topic that was filled beforehand.
enum Filled {
    Stream(Stream),
    Topic(Topic),
    Nothing,
}

impl Filled {
    /// Filled with messages that have no id of their own.
    async fn new(bench: &Bench, source: Source, label: &str) -> Result<Self> {
        let count = source.count(bench);
        Ok(match source {
            Source::Nats => {
                let stream = bench.nats.create_stream(label).await?;
                bench
                    .nats
                    .publish(&stream.subject, count, Shape::USUAL, false)
                    .await?;
                Self::Stream(stream)
            }
            Source::Kafka => {
                let topic = bench.kafka.create_topic(label, 1).await?;
                bench.kafka.produce(&topic, count, limits::RECORD)?;
                Self::Topic(topic)
            }
            Source::Webhook => Self::Nothing,
        })
    }

    fn config(&self, bench: &Bench) -> Value {
        match self {
            Self::Stream(stream) => json!({
                "url": bench.nats.url(),
                "subject": stream.subject,
                "stream": stream.name,
                "queue_group": stream.name,
            }),
            Self::Topic(topic) => json!({
                "brokers": bench.kafka.brokers(),
                "topic": topic.name,
                "consumer_group": topic.name,
            }),
            Self::Nothing => json!({"signature": "none"}),
        }
    }

    async fn delete(&self, bench: &Bench) -> Result<()> {
        match self {
            Self::Stream(stream) => bench.nats.delete_stream(&stream.name).await,
            Self::Topic(topic) => bench.kafka.delete_topic(topic).await,
            Self::Nothing => Ok(()),
        }
    }
}

/// Has a relay store messages in a new inbox.
pub async fn run(bench: &Bench, source: Source, run: usize) -> Result<Values> {
    let label = format!("inbox-{}-{run}", source.name());
    let filled = Filled::new(bench, source, &label).await?;
    let mut rows = Rows::of_new_inbox(bench, &label).await?;
    bench
        .set_inbox(&label, &label, source.name(), &filled.config(bench))
        .await?;

    let port = free_port()?;
    let options = Options {
        webhook_port: (source == Source::Webhook).then_some(port),
        ..Options::default()
    };
    let mut relay = bench.start_relay_with(&label, &options)?;
    let count = source.count(bench);
    let measured = match source {
        Source::Nats | Source::Kafka => store(&mut relay, &mut rows, count).await,
        Source::Webhook => send(&mut relay, &label, port, count).await,
    };
    let mut values = match measured {
        Ok((rate, total)) => vec![
            (format!("inbox.{}", source.name()), rate),
            (format!("inbox.{}.total", source.name()), total),
        ],
        Err(error) => return Err(relay.blame(&error)),
    };
    values.push((
        format!("cpu_per_million.inbox_{}", source.name()),
        relay.usage()?.cpu_seconds / count as f64 * 1e6,
    ));
    relay.stop().await?;
    bench.delete_pipeline(&label).await?;
    if source == Source::Webhook {
        rows.check_each_once_and_drop(count).await?;
    } else {
        rows.check_and_drop(count).await?;
    }
    filled.delete(bench).await?;
    Ok(values)
}

/// Waits until all that was there is stored: rows a second, and seconds since the relay's start.
async fn store(relay: &mut Relay, rows: &mut Rows, count: u64) -> Result<(f64, f64)> {
    let arrivals = watch(count, STALL, async || {
        relay.check()?;
        rows.count().await
    })
    .await?;
    let total = arrivals.last - relay.started();
    Ok((arrivals.rate()?, total.as_secs_f64()))
}

/// Posts the messages, side by side: requests answered a second, and seconds for them.
async fn send(relay: &mut Relay, pipeline: &str, port: u16, count: u64) -> Result<(f64, f64)> {
    let address = ([127, 0, 0, 1], port).into();
    let path = format!("/webhook/{pipeline}");
    let first = Payload::text(0);
    until(PATIENCE, "the relay to take requests", async || {
        relay.check()?;
        let Ok(mut poster) = Poster::connect(address).await else {
            return Ok(false);
        };
        Ok(poster.post(&path, 0, first.as_bytes()).await? == 200)
    })
    .await?;
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let path = path.clone();
        senders.spawn(async move {
            let mut poster = Poster::connect(address).await?;
            for n in (1 + sender..count).step_by(usize::try_from(SENDERS)?) {
                let status = poster.post(&path, n, Payload::text(n).as_bytes()).await?;
                ensure!(status == 200, "request {n} was answered with {status}");
            }
            Ok(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let took = began.elapsed().as_secs_f64();
    Ok(((count - 1) as f64 / took, took))
}

/// The rows of an inbox, as they come.
pub struct Rows {
    client: Client,
    look: Statement,
    inbox: String,
    seen: u64,
    last_id: i64,
}

impl Rows {
    /// Makes an inbox.
    pub async fn of_new_inbox(bench: &Bench, inbox: &str) -> Result<Self> {
        let client = bench.database.connect().await?;
        client.execute("SELECT tide.inbox_create($1)", &[&inbox]).await?;
        // The batches of an inbox commit one after the other, so rows become visible in id order and each look only has
        // to count what is new. A new table has no statistics: the planner is told to use the key.
        client
            .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            .await?;
        let look =
            format!("SELECT count(*), coalesce(max(id), $1) FROM tide.\"{inbox}_inbox\" WHERE id > $1");
        let look = client.prepare(&look).await?;
        Ok(Self {
            client,
            look,
            inbox: inbox.to_owned(),
            seen: 0,
            last_id: 0,
        })
    }

    /// How many there are.
    pub async fn count(&mut self) -> Result<u64> {
        let row = self.client.query_one(&self.look, &[&self.last_id]).await?;
        self.seen += u64::try_from(row.try_get::<_, i64>(0)?)?;
        self.last_id = row.try_get(1)?;
        Ok(self.seen)
    }

    async fn delivery(&self, expected: u64) -> Result<Delivery> {
        let mut delivery = Delivery::new(expected, Shape::USUAL);
        let rows = format!(
            "SELECT payload::text FROM tide.\"{}_inbox\" ORDER BY id",
            self.inbox
        );
        for row in self.client.query(&rows, &[]).await? {
            delivery.note(event::number(row.try_get::<_, &str>(0)?.as_bytes()));
        }
        Ok(delivery)
    }

    async fn drop(self) -> Result<()> {
        let dropped = self
            .client
            .execute("SELECT tide.inbox_drop($1)", &[&self.inbox])
            .await;
        dropped.map(drop).with_context(|| format!("inbox {}", self.inbox))
    }

    /// An error unless each event is there once, and in order per key. The inbox goes.
    pub async fn check_and_drop(self, expected: u64) -> Result<()> {
        self.delivery(expected).await?.check()?;
        self.drop().await
    }

    /// The same of messages that came side by side, in no order.
    pub async fn check_each_once_and_drop(self, expected: u64) -> Result<()> {
        self.delivery(expected).await?.check_each_once()?;
        self.drop().await
    }
}
