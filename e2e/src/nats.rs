//! NATS as an ordinary client sees it.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use futures::StreamExt;

use crate::await_condition;

/// A message as it lies in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Subject.
    pub subject: String,
    /// Headers; the first value of each name.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: String,
}

impl Stored {
    /// The value of its header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A client and its JetStream context.
#[derive(Debug, Clone)]
pub struct Nats {
    /// Plain NATS.
    pub client: Client,
    /// JetStream.
    pub jetstream: Context,
}

impl Nats {
    /// Connects.
    pub async fn connect(url: &str) -> Self {
        Self::connect_as(url, ConnectOptions::new()).await
    }

    /// Connects with options, such as a user and password.
    pub async fn connect_as(url: &str, options: ConnectOptions) -> Self {
        let client = options
            .connect(url)
            .await
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        let jetstream = jetstream::new(client.clone());
        Self { client, jetstream }
    }

    /// Makes a stream of one subject, with default settings but for `edit`.
    pub async fn create_stream(&self, name: &str, subject: &str, edit: impl FnOnce(&mut Config)) {
        let mut config = Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            ..Config::default()
        };
        edit(&mut config);
        self.jetstream.create_stream(config).await.unwrap();
    }

    /// Waits until some stream takes the subject; returns its name.
    pub async fn await_stream_of(&self, subject: &str, within: Duration) -> String {
        await_condition(within, &format!("a stream takes {subject}"), async || {
            self.jetstream.stream_by_subject(subject).await.ok()
        })
        .await
    }

    /// Publishes without waiting, as `nats pub` does.
    pub async fn publish(&self, subject: &str, payload: &str) {
        self.client
            .publish(subject.to_owned(), payload.to_owned().into())
            .await
            .unwrap();
        self.client.flush().await.unwrap();
    }

    /// The same with a header.
    pub async fn publish_with(&self, subject: &str, header: (&str, &str), payload: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(header.0, header.1);
        self.client
            .publish_with_headers(subject.to_owned(), headers, payload.to_owned().into())
            .await
            .unwrap();
        self.client.flush().await.unwrap();
    }

    /// Publishes raw bytes.
    pub async fn publish_bytes(&self, subject: &str, payload: &[u8]) {
        self.client
            .publish(subject.to_owned(), payload.to_vec().into())
            .await
            .unwrap();
        self.client.flush().await.unwrap();
    }

    /// Messages that a stream holds; 0 when there is none of that name.
    pub async fn count(&self, stream: &str) -> u64 {
        match self.jetstream.get_stream(stream).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// All messages of a stream, in order.
    pub async fn messages(&self, stream: &str) -> Vec<Stored> {
        let stream = self.jetstream.get_stream(stream).await.unwrap();
        let count = stream.cached_info().state.messages;
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let mut incoming = stream
            .create_consumer(config)
            .await
            .unwrap()
            .messages()
            .await
            .unwrap();
        let mut stored = Vec::new();
        while (stored.len() as u64) < count {
            let next = tokio::time::timeout(Duration::from_secs(10), incoming.next()).await;
            let message = next.expect("the stream's messages come").unwrap().unwrap();
            stored.push(Stored {
                sequence: message.info().unwrap().stream_sequence,
                subject: message.subject.to_string(),
                headers: message
                    .headers
                    .iter()
                    .flat_map(HeaderMap::iter)
                    .map(|(name, values)| {
                        (
                            name.to_string(),
                            values.first().map(ToString::to_string).unwrap_or_default(),
                        )
                    })
                    .collect(),
                payload: String::from_utf8_lossy(&message.payload).into_owned(),
            });
        }
        stored
    }
}

/// The `n` of each message, see [`crate::numbers`].
pub fn values(messages: &[Stored]) -> Vec<i64> {
    crate::numbers(messages.iter().map(|m| m.payload.as_str()))
}
