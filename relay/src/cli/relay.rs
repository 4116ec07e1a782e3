//! Running the relay: logging, metrics, signals, the main loop.

use std::sync::Arc;
use std::time::Duration;

use pg_tide_probes::Health;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{RelayArguments, logging};
use crate::source::webhook::Listener;
use crate::status::Metrics;
use crate::supervisor::{self, Settings};

/// The main loop looks at its locks many times a second; silence for so long
/// means that it hangs.
const STALL: Duration = Duration::from_secs(30);

pub(super) async fn run(arguments: RelayArguments) -> super::Outcome {
    let database = arguments.postgres.database().map_err(|e| e.to_string())?;
    let group = arguments.relay_group_id.trim();
    if group.is_empty() {
        return Err("--relay-group-id is empty".into());
    }
    logging::init(arguments.log_format, &arguments.log_level)?;

    let stop = CancellationToken::new();
    stop_on_signal(&stop).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new("main loop", STALL, "starting"));
    let serving_stop = CancellationToken::new();
    let scraped = Arc::clone(&metrics);
    let serving = pg_tide_probes::serve(
        arguments.metrics_addr,
        move || scraped.text(),
        Arc::clone(&health),
        serving_stop.clone(),
    )
    .await
    .map_err(|e| {
        format!(
            "cannot serve metrics on {}: {e}; choose another address with --metrics-addr",
            arguments.metrics_addr
        )
    })?;
    let serving = tokio::spawn(serving);

    let listener = match arguments.webhook_addr {
        None => None,
        Some(address) => {
            let listener = Listener::bind(address, database.clone(), group, &metrics);
            Some(listener.map_err(|e| {
                format!(
                    "cannot listen for webhooks on {address}: {e}; choose another address with --webhook-addr"
                )
            })?)
        }
    };
    let webhooks = listener.as_ref().map(|l| (l.address(), l.routes()));
    let listening = listener.map(|listener| tokio::spawn(listener.run(stop.clone())));
    let name = arguments.relay_name.clone().unwrap_or_else(|| {
        let host = hostname::get().map_or_else(|_| "relay".into(), |h| h.to_string_lossy().into_owned());
        format!("{host}-{}", std::process::id())
    });
    let settings = Settings {
        relay_group: group.to_owned(),
        name,
        webhooks,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        database = database.at(),
        relay_group = group,
        "pg-tide relay"
    );
    supervisor::run(database, settings, metrics, health, stop).await;
    if let Some(listening) = listening {
        let _ = listening.await;
    }
    serving_stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    Ok(super::Ended::Well)
}

/// The first SIGTERM or SIGINT stops gracefully, the second at once.
fn stop_on_signal(stop: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("stopping at once");
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}
