//! What every measurement needs: the servers, the database, the sizes, the relay to start.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::database::Database;
use crate::kafka::Kafka;
use crate::nats::Nats;
use crate::relay::{Options, RELAY_GROUP, Relay};

/// The outbox that is published to, without a pipeline.
pub const PUBLISH_OUTBOX: &str = "bench";

/// The outbox that is drained.
pub const BACKLOG_OUTBOX: &str = "backlog";

/// The outbox that is drained to what is slower than a broker.
pub const SHORT_OUTBOX: &str = "short";

/// Messages of a batch, of every pipeline.
const BATCH_SIZE: i32 = 1000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Seconds of one run of pgbench; there are two for each figure and run.
    pub publish_seconds: u32,
    /// Messages drained, and sent to a broker from memory.
    pub backlog: u64,
    /// Messages stored in an inbox.
    pub inbox: u64,
    /// Messages drained to what is no broker, and posted as webhooks.
    pub short: u64,
    /// Seconds of steady load, the first of which is dropped.
    pub latency_seconds: u64,
    /// Messages drained in a family, and sent to a broker beside it; fewer where they are large.
    pub family: u64,
    /// The most bytes of payloads in a family's backlog.
    pub family_bytes: u64,
    /// Seconds of each load of the family `load`, the first of which is dropped.
    pub load_seconds: u64,
    /// Seconds without a message, before the first one and while what idling costs is measured.
    pub idle_seconds: u64,
}

impl Sizes {
    /// For figures to quote.
    pub const FULL: Self = Self {
        publish_seconds: 3,
        backlog: 500_000,
        inbox: 200_000,
        short: 100_000,
        latency_seconds: 10,
        family: 200_000,
        family_bytes: 150_000_000,
        load_seconds: 10,
        idle_seconds: 60,
    };
    /// For a quick look.
    pub const QUICK: Self = Self {
        publish_seconds: 1,
        backlog: 100_000,
        inbox: 50_000,
        short: 30_000,
        latency_seconds: 4,
        family: 60_000,
        family_bytes: 40_000_000,
        load_seconds: 5,
        idle_seconds: 10,
    };
}

/// Addresses and programs, as given to the harness.
pub struct Setup<'a> {
    /// A role that may create databases.
    pub postgres_url: &'a str,
    /// Kafka's bootstrap servers.
    pub kafka: &'a str,
    /// NATS' URL.
    pub nats: &'a str,
    /// The program pg-tide; without it only what needs no relay is measured.
    pub relay: Option<PathBuf>,
    /// How much is measured.
    pub sizes: Sizes,
    /// Where logs and results go.
    pub output: PathBuf,
}

/// Everything that measurements share.
pub struct Bench {
    /// The database of this run.
    pub database: Database,
    /// Kafka.
    pub kafka: Kafka,
    /// NATS.
    pub nats: Nats,
    /// How much is measured.
    pub sizes: Sizes,
    /// Where logs and results go.
    pub output: PathBuf,
    relay: Option<PathBuf>,
}

impl Bench {
    /// Connects to all servers and makes the database with the schema.
    pub async fn prepare(setup: Setup<'_>) -> Result<Self> {
        std::fs::create_dir_all(&setup.output)
            .with_context(|| format!("cannot make {}", setup.output.display()))?;
        let bench = Self {
            kafka: Kafka::connect(setup.kafka).await?,
            nats: Nats::connect(setup.nats).await?,
            database: Database::create(setup.postgres_url).await?,
            sizes: setup.sizes,
            output: setup.output,
            relay: setup.relay,
        };
        bench.database.install(bench.relay.as_deref()).await?;
        Ok(bench)
    }

    /// Whether a relay can be started.
    pub fn has_relay(&self) -> bool {
        self.relay.is_some()
    }

    /// Starts a relay; its log is named by the label.
    pub fn start_relay(&self, label: &str) -> Result<Relay> {
        self.start_relay_with(label, &Options::default())
    }

    /// The same with more than it needs.
    pub fn start_relay_with(&self, label: &str, options: &Options) -> Result<Relay> {
        let program: &Path = self
            .relay
            .as_deref()
            .context("no relay was given: --relay PATH")?;
        Relay::start(
            program,
            self.database.url(),
            self.output.join(format!("{label}.log")),
            options,
        )
    }

    /// Makes a pipeline from an outbox.
    pub async fn set_outbox(&self, pipeline: &str, outbox: &str, sink: &str, config: &Value) -> Result<()> {
        self.set_outbox_in(RELAY_GROUP, pipeline, outbox, sink, config)
            .await
    }

    /// The same for relays of another group.
    pub async fn set_outbox_in(
        &self,
        group: &str,
        pipeline: &str,
        outbox: &str,
        sink: &str,
        config: &Value,
    ) -> Result<()> {
        let client = self.database.connect().await?;
        let statement = "SELECT tide.relay_set_outbox($1::text, $2::text, $3::text, $4::text::jsonb,
                                                      p_batch_size := $5, p_relay_group := $6)";
        let config = config.to_string();
        client
            .execute(
                statement,
                &[&pipeline, &outbox, &sink, &config, &BATCH_SIZE, &group],
            )
            .await?;
        Ok(())
    }

    /// Makes a pipeline into an inbox, with deduplication.
    pub async fn set_inbox(&self, pipeline: &str, inbox: &str, source: &str, config: &Value) -> Result<()> {
        let client = self.database.connect().await?;
        let statement = "SELECT tide.relay_set_inbox($1::text, $2::text, $3::text::jsonb, p_batch_size := $4,
                                                     p_source := $6, p_idempotent := true, p_relay_group := $5)";
        let config = config.to_string();
        client
            .execute(
                statement,
                &[&pipeline, &inbox, &config, &BATCH_SIZE, &RELAY_GROUP, &source],
            )
            .await?;
        Ok(())
    }

    /// Deletes a pipeline.
    pub async fn delete_pipeline(&self, pipeline: &str) -> Result<()> {
        let client = self.database.connect().await?;
        client
            .execute("SELECT tide.relay_delete($1)", &[&pipeline])
            .await?;
        Ok(())
    }

    /// Removes what this run made on the servers, also after failed measurements.
    pub async fn clean_up(&self) -> Result<()> {
        self.kafka.clean_up().await?;
        self.nats.clean_up().await?;
        self.database.drop().await
    }
}
