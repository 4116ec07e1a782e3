//! `/metrics`, `/livez`, `/readyz`, as relay and operator serve them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What the probes ask.
#[derive(Debug)]
pub struct Health {
    /// What beats, in the words of the answer.
    heart: &'static str,
    stall: Duration,
    beat: Mutex<Instant>,
    not_ready: Mutex<Option<String>>,
}

impl Health {
    /// A program that is alive for as long as its `heart` beats more often
    /// than every `stall`, and that is not ready yet for a reason.
    #[must_use]
    pub fn new(heart: &'static str, stall: Duration, not_ready: &str) -> Self {
        Self {
            heart,
            stall,
            beat: Mutex::new(Instant::now()),
            not_ready: Mutex::new(Some(not_ready.into())),
        }
    }

    /// It is alive.
    pub fn beat(&self) {
        *self.beat.lock() = Instant::now();
    }

    /// It can do its work.
    pub fn ready(&self) {
        *self.not_ready.lock() = None;
    }

    /// Why it cannot.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.not_ready.lock() = Some(reason.into());
    }

    fn live(&self) -> (StatusCode, String) {
        let silent = self.beat.lock().elapsed();
        if silent > self.stall {
            let why = format!("the {} hangs for {} s\n", self.heart, silent.as_secs());
            return (StatusCode::SERVICE_UNAVAILABLE, why);
        }
        (StatusCode::OK, "ok\n".into())
    }

    fn readiness(&self) -> (StatusCode, String) {
        match &*self.not_ready.lock() {
            None => (StatusCode::OK, "ok\n".into()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    }
}

/// Begins to listen; the future serves until cancelled. `metrics` writes what a
/// scrape gets, as OpenMetrics has it.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    health: Arc<Health>,
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = ()>> {
    let app = Router::new()
        .route(
            "/livez",
            get(async |State(health): State<Arc<Health>>| health.live()),
        )
        .route(
            "/readyz",
            get(async |State(health): State<Arc<Health>>| health.readiness()),
        )
        .route("/metrics", get(async move || scrape(metrics())))
        .with_state(health);
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /livez and /readyz");
    Ok(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!("serving metrics: {error}");
        }
    })
}

fn scrape(text: String) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_that_stands_still_is_told_and_so_is_its_recovery() {
        let health = Health::new("main loop", Duration::ZERO, "starting");
        std::thread::sleep(Duration::from_millis(1));
        let (status, said) = health.live();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(said, "the main loop hangs for 0 s\n");
        let health = Health::new("main loop", Duration::from_mins(1), "starting");
        health.beat();
        assert_eq!(health.live().0, StatusCode::OK);
    }

    #[test]
    fn whoever_is_not_ready_says_why() {
        let health = Health::new("main loop", Duration::from_mins(1), "starting");
        let unready = |said: &str| (StatusCode::SERVICE_UNAVAILABLE, said.to_owned());
        assert_eq!(health.readiness(), unready("starting\n"));
        health.ready();
        assert_eq!(health.readiness().0, StatusCode::OK);
        health.not_ready("the database is gone");
        assert_eq!(health.readiness(), unready("the database is gone\n"));
    }
}
