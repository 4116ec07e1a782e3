//! drain.inbox, drain.webhook*, drain.stdout: how fast a relay delivers a backlog to what is no broker.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bench::{Bench, SHORT_OUTBOX};
use crate::delivery::Delivery;
use crate::drain::STALL;
use crate::event;
use crate::http::Receiver;
use crate::inbox::Rows;
use crate::poll::watch;
use crate::relay::Options;
use crate::report::Values;
use crate::shape::Shape;

/// Connections of the webhook sink when keys go beside each other; its default.
pub const CONNECTIONS: u64 = 8;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// An inbox of the same database.
    Inbox,
    /// A request for each message.
    Webhook,
    /// A request for a batch.
    WebhookBatch,
    /// The relay's standard output, into a file.
    Stdout,
}

/// Where the messages of one run arrive.
enum Arrival {
    Rows(Rows),
    Receiver(Receiver),
    Lines(Lines),
}

impl Sink {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Inbox, Self::Webhook, Self::WebhookBatch, Self::Stdout];

    /// As in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Webhook => "webhook",
            Self::WebhookBatch => "webhook_batch",
            Self::Stdout => "stdout",
        }
    }

    /// As in SQL, with its configuration, and where the messages will be.
    async fn open(self, bench: &Bench, label: &str) -> Result<(&'static str, Value, Arrival)> {
        let count = bench.sizes.short;
        Ok(match self {
            Self::Inbox => {
                let rows = Rows::of_new_inbox(bench, label).await?;
                ("inbox", json!({ "inbox": label }), Arrival::Rows(rows))
            }
            Self::Webhook | Self::WebhookBatch => {
                let receiver = Receiver::start(count).await?;
                let url = format!("http://{}/", receiver.address());
                let config = if self == Self::Webhook {
                    json!({"url": url, "allow_private": true, "key": "{id}"})
                } else {
                    json!({"url": url, "allow_private": true, "mode": "batch"})
                };
                ("webhook", config, Arrival::Receiver(receiver))
            }
            Self::Stdout => {
                let lines = Lines::new(bench.output.join(format!("{label}.jsonl")), count)?;
                ("stdout", json!({}), Arrival::Lines(lines))
            }
        })
    }
}

impl Arrival {
    async fn count(&mut self) -> Result<u64> {
        match self {
            Self::Rows(rows) => rows.count().await,
            Self::Receiver(receiver) => Ok(receiver.count()),
            Self::Lines(lines) => lines.count(),
        }
    }
}

/// Drains the short backlog once, through a new pipeline with a group of its own.
pub async fn run(bench: &Bench, sink: Sink, run: usize) -> Result<Values> {
    let label = format!("drain-{}-{run}", sink.name());
    let (name, config, mut arrival) = sink.open(bench, &label).await?;
    bench.set_outbox(&label, SHORT_OUTBOX, name, &config).await?;
    let options = Options {
        stdout: match &arrival {
            Arrival::Lines(lines) => Some(lines.path.clone()),
            _ => None,
        },
        ..Options::default()
    };
    let mut relay = bench.start_relay_with(&label, &options)?;
    let watched = watch(bench.sizes.short, STALL, async || {
        relay.check()?;
        arrival.count().await
    });
    let arrivals = match watched.await {
        Ok(arrivals) => arrivals,
        Err(error) => return Err(relay.blame(&error)),
    };
    let usage = relay.usage()?;
    relay.stop().await?;

    // The relay has left: what is there now is all that it sent.
    let all = arrival.count().await?;
    ensure!(
        all == bench.sizes.short,
        "{all} of {} messages came",
        bench.sizes.short
    );
    match arrival {
        Arrival::Rows(rows) => rows.check_and_drop(bench.sizes.short).await?,
        // Connections side by side keep no order among them.
        Arrival::Receiver(receiver) if sink == Sink::Webhook => receiver.check_each_once()?,
        Arrival::Receiver(receiver) => receiver.check()?,
        Arrival::Lines(lines) => {
            lines.delivery.check()?;
            std::fs::remove_file(lines.path)?;
        }
    }
    bench.delete_pipeline(&label).await?;
    let name = sink.name();
    Ok(vec![
        (format!("drain.{name}"), arrivals.rate()?),
        (
            format!("cpu_per_million.{name}"),
            usage.cpu_seconds / bench.sizes.short as f64 * 1e6,
        ),
    ])
}

/// A file that a relay writes lines into.
struct Lines {
    path: PathBuf,
    file: File,
    /// A line whose end was not there yet.
    rest: Vec<u8>,
    seen: u64,
    delivery: Delivery,
}

impl Lines {
    fn new(path: PathBuf, expected: u64) -> Result<Self> {
        File::create(&path)?;
        Ok(Self {
            file: File::open(&path)?,
            path,
            rest: Vec::new(),
            seen: 0,
            delivery: Delivery::new(expected, Shape::USUAL),
        })
    }

    /// How many whole lines there are.
    fn count(&mut self) -> Result<u64> {
        self.file.read_to_end(&mut self.rest)?;
        let end = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        for line in self.rest[..end].split_inclusive(|byte| *byte == b'\n') {
            self.delivery.note(event::number(line));
            self.seen += 1;
        }
        self.rest.drain(..end);
        Ok(self.seen)
    }
}
