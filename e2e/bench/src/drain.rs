//! Draining backlogs: how fast relays deliver what is there, what they and PostgreSQL use for that, and whether every
//! event arrived once. drain.* and most families are made of it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench::{BACKLOG_OUTBOX, Bench};
use crate::broker::{Broker, Target};
use crate::poll::{Arrivals, watch};
use crate::relay::{Options, Relay};
use crate::report::Values;
use crate::server::Server;
use crate::shape::Shape;

/// No delivery for this long: the relay is stuck.
pub const STALL: Duration = Duration::from_secs(30);

/// A backlog, and the empty topic or stream it goes to.
pub struct Route {
    /// The pipeline to be made, with a group of its own.
    pub pipeline: String,
    /// Where the backlog is.
    pub outbox: String,
    /// Where it goes.
    pub target: Target,
    /// How many messages it has.
    pub count: u64,
    /// What they look like.
    pub shape: Shape,
}

impl Route {
    /// To a new topic of one partition, or a new stream, named like the pipeline.
    pub async fn new(
        bench: &Bench,
        broker: Broker,
        pipeline: String,
        outbox: &str,
        count: u64,
        shape: Shape,
    ) -> Result<Self> {
        Ok(Self {
            target: broker.create_target(bench, &pipeline).await?,
            pipeline,
            outbox: outbox.to_owned(),
            count,
            shape,
        })
    }

    /// Makes the pipeline.
    pub async fn open(&self, bench: &Bench) -> Result<()> {
        let config = self.target.config(bench, self.shape);
        let sink = self.target.broker().name();
        bench
            .set_outbox(&self.pipeline, &self.outbox, sink, &config)
            .await
    }

    /// After the relays have left, so that what is there is all that they sent: an error unless everything came once
    /// and in order. Pipeline and target go.
    pub async fn close(self, bench: &Bench) -> Result<()> {
        let delivery = self.target.read_back(bench, self.count, self.shape).await?;
        delivery.check()?;
        bench.delete_pipeline(&self.pipeline).await?;
        self.target.delete(bench).await
    }
}

/// What was seen and used while backlogs were drained.
pub struct Drained {
    /// How the number of deliveries rose.
    pub arrivals: Arrivals,
    /// From the start of the first relay's process until all was there.
    pub total: Duration,
    /// CPU time of all relays, from their start on.
    pub relay_cpu: f64,
    /// CPU time of PostgreSQL in the same time; none when it is on another machine.
    pub postgres_cpu: Option<f64>,
    /// The largest resident memory of a relay.
    pub peak_rss_mib: f64,
}

impl Drained {
    /// Seconds of something for a million deliveries.
    pub fn per_million(&self, seconds: f64) -> f64 {
        seconds / self.arrivals.count as f64 * 1e6
    }

    /// Deliveries a second and CPU time for a million, by these names: `<figure>`, `<figure>.relay_cpu` and
    /// `<figure>.postgres_cpu`.
    pub fn values(&self, figure: &str) -> Result<Values> {
        let mut values = vec![
            (figure.to_owned(), self.arrivals.rate()?),
            (format!("{figure}.relay_cpu"), self.per_million(self.relay_cpu)),
        ];
        values.extend(
            self.postgres_cpu
                .map(|seconds| (format!("{figure}.postgres_cpu"), self.per_million(seconds))),
        );
        Ok(values)
    }
}

/// Drains all routes at once by so many relays of one group; checks what came and removes pipelines and targets.
pub async fn through(bench: &Bench, label: &str, routes: Vec<Route>, relays: usize) -> Result<Drained> {
    for route in &routes {
        route.open(bench).await?;
    }
    let server = Server::find(bench).await.ok();
    let before = server.as_ref().map(Server::cpu_seconds).transpose()?;
    let began = Instant::now();
    let mut running = Vec::new();
    for n in 0..relays {
        let label = if n == 0 {
            label.to_owned()
        } else {
            format!("{label}-relay{n}")
        };
        running.push(bench.start_relay_with(&label, &Options::default())?);
    }
    let arrivals = match watch_all(bench, &routes, &mut running).await {
        Ok(arrivals) => arrivals,
        Err(error) => {
            return Err(running.iter().fold(error, |error, relay| relay.blame(&error)));
        }
    };
    let mut drained = Drained {
        total: arrivals.last - began,
        arrivals,
        relay_cpu: 0.0,
        postgres_cpu: None,
        peak_rss_mib: 0.0,
    };
    for relay in &running {
        let usage = relay.usage()?;
        drained.relay_cpu += usage.cpu_seconds;
        drained.peak_rss_mib = drained.peak_rss_mib.max(usage.peak_rss_mib);
    }
    if let (Some(server), Some(before)) = (server, before) {
        drained.postgres_cpu = Some(server.cpu_seconds()? - before);
    }
    for relay in running {
        relay.stop().await?;
    }
    for route in routes {
        route.close(bench).await?;
    }
    Ok(drained)
}

/// Watches the sum of what has come.
async fn watch_all(bench: &Bench, routes: &[Route], relays: &mut [Relay]) -> Result<Arrivals> {
    ensure!(!routes.is_empty(), "there is nothing to drain");
    let targets: Vec<_> = routes.iter().map(|route| &route.target).collect();
    watch(routes.iter().map(|route| route.count).sum(), STALL, async || {
        for relay in relays.iter_mut() {
            relay.check()?;
        }
        Target::count_all(&targets, bench).await
    })
    .await
}

/// drain.*: the backlog once, through a new pipeline, into a new topic or stream.
pub async fn run(bench: &Bench, broker: Broker, run: usize) -> Result<Values> {
    let name = broker.name();
    let label = format!("drain-{name}-{run}");
    let route = Route::new(
        bench,
        broker,
        label.clone(),
        BACKLOG_OUTBOX,
        bench.sizes.backlog,
        Shape::USUAL,
    );
    let drained = through(bench, &label, vec![route.await?], 1).await?;
    Ok(vec![
        (format!("drain.{name}"), drained.arrivals.rate()?),
        (format!("drain.{name}.total"), drained.total.as_secs_f64()),
        (
            format!("cpu_per_million.{name}"),
            drained.per_million(drained.relay_cpu),
        ),
        ("rss.relay".to_owned(), drained.peak_rss_mib),
    ])
}
