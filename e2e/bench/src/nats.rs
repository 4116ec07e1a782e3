//! NATS JetStream by its plain client library: streams, counting, publishing from memory, reading everything back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, Context, stream};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::delivery::Delivery;
use crate::event::{self, Payload};
use crate::shape::Shape;

/// All streams made here begin so.
const PREFIX: &str = "tide-bench-";

/// Unacknowledged publishes at a time, and the most bytes of them.
const WINDOW: usize = 4096;
const WINDOW_BYTES: usize = 64 << 20;

/// Messages asked for at a time when everything is read back, and the most bytes of them.
const PAGE: usize = 5000;
const PAGE_BYTES: usize = 16 << 20;

const TIMEOUT: Duration = Duration::from_secs(30);

/// One NATS server with JetStream.
pub struct Nats {
    url: String,
    context: Context,
}

/// A stream and its only subject.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The stream's name.
    pub name: String,
    /// What it stores.
    pub subject: String,
}

impl Nats {
    /// Connects, and deletes streams that an earlier run left behind.
    pub async fn connect(url: &str) -> Result<Self> {
        let client = async_nats::connect(url)
            .await
            .with_context(|| format!("NATS on {url} does not answer"))?;
        let context = jetstream::context::ContextBuilder::new()
            .max_ack_inflight(2 * WINDOW)
            .build(client);
        let nats = Self {
            url: url.to_owned(),
            context,
        };
        nats.clean_up().await?;
        Ok(nats)
    }

    /// Deletes all streams that the harness made, now or in a run that was cut off.
    pub async fn clean_up(&self) -> Result<()> {
        let names: Vec<String> = self.context.stream_names().try_collect().await?;
        for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
            self.delete_stream(name).await?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a stream in a file, with the server's usual settings; the name is unique to this process.
    pub async fn create_stream(&self, label: &str) -> Result<Stream> {
        let name = format!("{PREFIX}{}-{label}", std::process::id());
        let subject = format!("{}.events", name.replace('-', "."));
        let config = stream::Config {
            name: name.clone(),
            subjects: vec![subject.clone()],
            ..Default::default()
        };
        self.context.create_stream(config).await?;
        Ok(Stream { name, subject })
    }

    /// Deletes a stream.
    pub async fn delete_stream(&self, name: &str) -> Result<()> {
        self.context
            .delete_stream(name)
            .await
            .with_context(|| format!("cannot delete stream {name}"))?;
        Ok(())
    }

    /// How many messages the stream has.
    pub async fn count(&self, name: &str) -> Result<u64> {
        let stream = self
            .context
            .get_stream(name)
            .await
            .with_context(|| format!("stream {name}"))?;
        Ok(stream.cached_info().state.messages)
    }

    /// Publishes the orders 0 to `count` - 1 with their headers and, if wanted, a Nats-Msg-Id; returns the time until
    /// the last acknowledgement.
    pub async fn publish(&self, subject: &str, count: u64, shape: Shape, with_id: bool) -> Result<Duration> {
        let mut payload = Payload::of(shape.bytes);
        let mut waiting: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW);
        let window = WINDOW.min(WINDOW_BYTES / shape.bytes);
        let began = Instant::now();
        for n in 0..count {
            if waiting.len() == window {
                acknowledged(waiting.pop_front()).await?;
            }
            let payload = payload.set(n).to_vec().into();
            waiting.push_back(
                self.context
                    .publish_with_headers(subject.to_owned(), headers(n, shape, with_id), payload)
                    .await?,
            );
        }
        while !waiting.is_empty() {
            acknowledged(waiting.pop_front()).await?;
        }
        Ok(began.elapsed())
    }

    /// Reads the stream from its beginning to its present end.
    pub async fn read_back(&self, name: &str, expected: u64, shape: Shape) -> Result<Delivery> {
        let stream = self.context.get_stream(name).await?;
        let end = stream.cached_info().state.messages;
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            ..Default::default()
        };
        let consumer: PullConsumer = stream.create_consumer(config).await?;
        let page = PAGE.min(PAGE_BYTES / shape.bytes);
        let mut messages = consumer.stream().max_messages_per_batch(page).messages().await?;
        let mut delivery = Delivery::new(expected, shape);
        for read in 0..end {
            match tokio::time::timeout(TIMEOUT, messages.next()).await {
                Ok(Some(message)) => delivery.note(event::number(&message?.payload)),
                _ => bail!("{read} of {end} messages came"),
            }
        }
        Ok(delivery)
    }

    /// A publisher of single events that waits for no acknowledgement.
    pub fn sender(&self) -> Sender {
        Sender(Arc::new(self.context.clone()))
    }

    /// An ordinary consumer of a stream: pull, from the beginning, with explicit acknowledgements.
    pub async fn consumer(&self, name: &str) -> Result<pull::Stream> {
        let stream = self.context.get_stream(name).await?;
        let consumer: PullConsumer = stream.create_consumer(pull::Config::default()).await?;
        Ok(consumer.messages().await?)
    }
}

/// Publishes to JetStream with a Nats-Msg-Id.
#[derive(Clone)]
pub struct Sender(Arc<Context>);

impl Sender {
    /// Hands an event to the library; what becomes of its acknowledgement is seen by who consumes.
    pub async fn send(&self, subject: &str, n: u64, payload: String) -> Result<()> {
        drop(
            self.0
                .publish_with_headers(subject.to_owned(), headers(n, Shape::USUAL, true), payload.into())
                .await?,
        );
        Ok(())
    }
}

fn headers(n: u64, shape: Shape, with_id: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in shape.headers(n) {
        headers.insert(name, value);
    }
    if with_id {
        headers.insert(NATS_MESSAGE_ID, format!("bench:{n}"));
    }
    headers
}

async fn acknowledged(publish: Option<PublishAckFuture>) -> Result<()> {
    if let Some(publish) = publish {
        publish.await?;
    }
    Ok(())
}
