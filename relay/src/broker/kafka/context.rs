//! What every Kafka client of the relay has in common: it remembers why its
//! connections fail, and fetches the tokens that it logs in with.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use super::reason::{self, Cause};
use super::{is_connection, oauth, probe};
use crate::config::{KafkaConnection, Sasl};

/// A reason so old explains nothing that fails now.
const STALE: Duration = Duration::from_secs(30);

/// Why connections fail, the most telling reason first of all. Clones share
/// what they know.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: KafkaConnection,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug, Clone)]
struct Trouble {
    cause: Cause,
    reason: String,
    at: Instant,
}

impl Watch {
    pub(crate) fn new(connection: &KafkaConnection) -> Self {
        Self(Arc::new(Inner {
            connection: connection.clone(),
            trouble: Mutex::default(),
        }))
    }

    /// The options that it watches over.
    pub(crate) fn connection(&self) -> &KafkaConnection {
        &self.0.connection
    }

    /// A line of the library's log.
    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Troubles come back as errors of the pipeline; the library's own
        // lines would only repeat them.
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
        if facility == "FAIL" {
            // "[thrd:...]: host:port/id: reason"
            self.note(message.split_once("]: ").map_or(message, |(_, rest)| rest));
        }
    }

    /// An error that the library reports beside those of single calls.
    pub(crate) fn note(&self, reason: &str) {
        let Some(cause) = Cause::of(reason, &self.0.connection) else {
            return;
        };
        let mut trouble = self.0.trouble.lock();
        let says_more = trouble
            .as_ref()
            .is_some_and(|old| old.cause.is_telling() && old.cause > cause && old.at.elapsed() < STALE);
        if !says_more {
            *trouble = Some(Trouble {
                cause,
                reason: reason::shorten(reason),
                at: Instant::now(),
            });
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        self.0
            .trouble
            .lock()
            .clone()
            .filter(|trouble| trouble.at.elapsed() < STALE)
    }

    /// Whether waiting longer for a connection is in vain.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.trouble().is_some_and(|trouble| trouble.cause.is_telling())
    }

    /// The kind of reason why there is no connection.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.trouble().map(|trouble| trouble.cause)
    }

    /// A reason why our own client has no connection, with what to do about it.
    pub(crate) fn explain(&self, reason: &str) -> String {
        let connection = &self.0.connection;
        match Cause::of(reason, connection).and_then(|cause| cause.words(reason, connection)) {
            Some(words) => format!("{words} ({reason})"),
            None => reason.to_owned(),
        }
    }

    /// Why there is no connection.
    pub(crate) fn reason(&self) -> Option<String> {
        let Trouble { cause, reason, .. } = self.trouble()?;
        Some(match cause.words(&reason, &self.0.connection) {
            Some(words) => reason::joined(&words, &reason),
            None => reason,
        })
    }

    /// The same; where the library does not tell what is wrong with a
    /// certificate, the broker is asked for it.
    pub(crate) async fn explained(&self) -> Option<String> {
        let trouble = self.trouble()?;
        if trouble.cause == Cause::NotVerified
            && let Some(words) = probe::certificate(&self.0.connection, &trouble.reason).await
        {
            return Some(reason::joined(&words, &trouble.reason));
        }
        self.reason()
    }

    /// An error of a call in words: why there is no connection, if that is
    /// what it says, else what it says.
    pub(crate) fn describe(&self, error: &KafkaError) -> String {
        match self.reason().filter(|_| is_connection(error)) {
            Some(reason) => reason,
            None => super::describe(error),
        }
    }

    /// A token to log in with. Called on the library's threads, which wait.
    pub(crate) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.0.connection.security.sasl {
            Some(Sasl::OAuth(spec)) => Ok(oauth::fetch(spec, &self.0.connection.security.tls)?),
            _ => Err("no token server is configured".into()),
        }
    }
}

/// For clients whose errors come back from `poll`.
#[derive(Debug, Clone)]
pub(crate) struct Quiet(pub(crate) Watch);

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, _: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{reason}");
        self.0.note(reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }
}

impl ConsumerContext for Quiet {}
