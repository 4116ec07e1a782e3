//! Which pipelines take requests, by name.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

use super::keys::Keys;
use super::lane::{Lane, Waiting};
use super::request::{SIGNED_ID, USUAL_IDS};
use crate::config::{PipelineRow, PipelineSpec, ReverseSpec, SourceSpec, WebhookSourceSpec, Work};
use crate::database::Pool;
use crate::database::webhook::Fence;
use crate::source::identity::Rules;
use crate::status::{Intake, Metrics};

/// For how long a request waits for the configuration to be read anew.
const NEWS_WITHIN: Duration = Duration::from_millis(1_500);

/// How requests for a name are dealt with.
#[derive(Clone)]
pub(super) enum Route {
    Open(Arc<Open>),
    Disabled,
    /// Its configuration cannot be used.
    Misconfigured,
}

/// A pipeline that takes requests.
pub(super) struct Open {
    pub(super) name: Arc<str>,
    pub(super) spec: WebhookSourceSpec,
    pub(super) keys: Option<Keys>,
    pub(super) intake: Arc<Intake>,
    /// One for each request that may be in flight.
    pub(super) places: Arc<Semaphore>,
    pub(super) lane: mpsc::Sender<Waiting>,
    row: PipelineRow,
}

impl Open {
    /// Requests that are received or stored.
    pub(super) fn in_flight(&self) -> usize {
        self.spec
            .max_in_flight
            .saturating_sub(self.places.available_permits())
    }
}

/// What is known of the pipelines at a time.
#[derive(Clone, Default)]
struct Table {
    routes: HashMap<String, Route>,
    /// A database session keeps it up to date.
    current: bool,
}

/// The pipelines that take requests; kept up to date by the relay's sessions.
#[derive(Clone)]
pub(crate) struct Routes(Arc<Inner>);

struct Inner {
    table: watch::Sender<Arc<Table>>,
    /// A request found that a pipeline is no longer what it was.
    stale: AtomicBool,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    lanes: TaskTracker,
    last: Mutex<()>,
}

/// What there is for a name.
pub(super) enum Found {
    Route(Route),
    Unknown,
    /// It cannot be known without the database.
    NotYet,
}

impl Routes {
    pub(super) fn new(pool: Arc<Pool>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            table: watch::Sender::new(Arc::default()),
            stale: AtomicBool::new(false),
            pool,
            metrics,
            lanes: TaskTracker::new(),
            last: Mutex::new(()),
        }))
    }

    /// Takes in the webhook pipelines among these rows. One whose row is the
    /// same goes on undisturbed; one that is replaced stores what it has.
    pub(crate) fn configure(&self, rows: &[PipelineRow]) {
        let _one_at_a_time = self.0.last.lock();
        let before = Arc::clone(&self.0.table.borrow());
        let webhooks = rows
            .iter()
            .filter(|row| row.direction == "reverse" && row.connector == "webhook");
        let routes = webhooks
            .map(|row| {
                let route = match before.routes.get(&row.name) {
                    Some(Route::Open(open)) if open.row == *row => Route::Open(Arc::clone(open)),
                    _ => self.route(row),
                };
                (row.name.clone(), route)
            })
            .collect();
        self.0.table.send_replace(Arc::new(Table {
            routes,
            current: true,
        }));
    }

    /// There is no session: what is known may be out of date.
    pub(crate) fn lost(&self) {
        self.0.table.send_modify(|table| {
            *table = Arc::new(Table {
                current: false,
                ..Table::clone(table)
            });
        });
    }

    /// Takes no more; waits for what there is to be stored.
    pub(super) async fn close(&self, within: Duration) {
        self.0.table.send_replace(Arc::default());
        self.0.lanes.close();
        let _ = tokio::time::timeout(within, self.0.lanes.wait()).await;
    }

    /// Whether the configuration is to be read once more.
    pub(crate) fn take_stale(&self) -> bool {
        self.0.stale.swap(false, Ordering::Relaxed)
    }

    fn route(&self, row: &PipelineRow) -> Route {
        if !row.enabled {
            return Route::Disabled;
        }
        let Ok(spec) = PipelineSpec::read(row) else {
            // Its owner says what is wrong.
            return Route::Misconfigured;
        };
        let (batch_size, retry) = (spec.batch_size, spec.retry);
        let Work::Reverse(reverse) = spec.work else {
            return Route::Misconfigured;
        };
        let SourceSpec::Webhook(webhook) = &reverse.source else {
            return Route::Misconfigured;
        };
        let webhook = WebhookSourceSpec::clone(webhook);
        let name: Arc<str> = row.name.as_str().into();
        let intake = Arc::new(Intake::new(&self.0.metrics, &name));
        let (sender, receiver) = mpsc::channel(webhook.max_in_flight);
        let lane = Lane {
            pipeline: Arc::clone(&name),
            fence: Fence {
                pipeline_id: row.pipeline_id,
                version: row.version,
            },
            rules: Arc::new(rules(&reverse, &webhook)),
            spec: Arc::new(*reverse),
            retry,
            batch_size,
            pool: Arc::clone(&self.0.pool),
            intake: Arc::clone(&intake),
        };
        self.0.lanes.spawn(lane.run(receiver));
        Route::Open(Arc::new(Open {
            name,
            keys: webhook.signature.as_ref().map(|s| Keys::new(s.secrets.clone())),
            places: Arc::new(Semaphore::new(webhook.max_in_flight)),
            spec: webhook,
            intake,
            lane: sender,
            row: row.clone(),
        }))
    }

    pub(super) fn find(&self, name: &str) -> Found {
        let table = self.0.table.borrow();
        match table.routes.get(name) {
            Some(route) => Found::Route(route.clone()),
            None if table.current => Found::Unknown,
            None => Found::NotYet,
        }
    }

    /// Has the configuration read anew, since what stood there for a request
    /// is out of date; waits for it, but not for long.
    pub(super) async fn news(&self) {
        let mut table = self.0.table.subscribe();
        self.0.stale.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(NEWS_WITHIN, table.changed()).await;
    }
}

/// How requests are told apart.
fn rules(reverse: &ReverseSpec, webhook: &WebhookSourceSpec) -> Rules {
    Rules {
        usual_headers: if webhook.signature.is_some() {
            SIGNED_ID
        } else {
            USUAL_IDS
        },
        id_header: reverse.message_id_header.clone(),
        dedup_path: reverse.dedup_key.clone(),
        idempotent: reverse.idempotent,
    }
}
