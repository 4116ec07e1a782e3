//! `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::get;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// The dispatcher beats every second; silence for so long means that it hangs.
const STALL: Duration = Duration::from_mins(1);

/// What the probes ask.
#[derive(Debug)]
pub struct Health {
    beat: Mutex<Instant>,
    not_ready: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            beat: Mutex::new(Instant::now()),
            not_ready: Mutex::new(Some("the resources are not read yet".into())),
        }
    }
}

impl Health {
    /// The dispatcher is alive.
    pub fn beat(&self) {
        *self.beat.lock() = Instant::now();
    }

    /// The resources are read: this operator can lead.
    pub fn ready(&self) {
        *self.not_ready.lock() = None;
    }

    /// Why it cannot.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.not_ready.lock() = Some(reason.into());
    }
}

#[derive(Clone)]
struct App {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// Begins to listen; the future serves until cancelled.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = ()>> {
    let app = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(App { metrics, health });
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /livez and /readyz");
    Ok(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!("serving metrics: {error}");
        }
    })
}

async fn scrape(State(app): State<App>) -> impl axum::response::IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        app.metrics.text(),
    )
}

async fn live(State(app): State<App>) -> (StatusCode, String) {
    let silent = app.health.beat.lock().elapsed();
    if silent > STALL {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the dispatcher hangs for {} s\n", silent.as_secs()),
        );
    }
    (StatusCode::OK, "ok\n".into())
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    match &*app.health.not_ready.lock() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
