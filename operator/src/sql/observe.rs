//! What is there: read in a few queries for all resources of a database.
//!
//! Three looks, by what they cost: the catalogue (what is configured), the
//! relays' report (a few milliseconds for a thousand pipelines), and amounts,
//! which are counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use pg_tide_postgres::Session;
use serde_json::Value;
use tokio_postgres::Row;

use super::step::ObjectKind;

/// All that is configured in schema `tide`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// By name.
    pub outboxes: HashMap<String, OutboxSeen>,
    /// By name.
    pub inboxes: HashMap<String, InboxSeen>,
    /// By name.
    pub pipelines: HashMap<String, PipelineSeen>,
    /// Who manages what, of all clusters.
    pub claims: HashMap<(ObjectKind, String), Claim>,
}

/// An outbox as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutboxSeen {
    /// Its table in schema `tide`.
    pub table: String,
    /// In hours.
    pub retention_hours: i64,
    /// Whether it takes messages.
    pub enabled: bool,
    /// Its consumer groups, with where each began.
    pub groups: BTreeMap<String, String>,
    /// Groups that a pipeline has, with its name.
    pub bound: BTreeMap<String, String>,
    /// What is broken about its tables, in words.
    pub faults: Vec<String>,
    /// Which role has which right, given to it directly.
    pub rights: BTreeSet<Right>,
}

/// A right and the role that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// publish, consume or process.
    pub right: String,
    /// The role.
    pub role: String,
}

/// An inbox as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InboxSeen {
    /// Its table in schema `tide`.
    pub table: String,
    /// Failures after which a message is a dead letter.
    pub max_retries: i32,
    /// In hours.
    pub processed_retention_hours: i64,
    /// In hours; none keeps them for ever.
    pub dead_letter_retention_hours: Option<i64>,
    /// What is broken about its table, in words.
    pub faults: Vec<String>,
    /// Which role has which right, given to it directly.
    pub rights: BTreeSet<Right>,
}

/// A pipeline as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSeen {
    /// Of a forward pipeline.
    pub outbox: Option<String>,
    /// Of a reverse pipeline.
    pub inbox: Option<String>,
    /// Sink or source.
    pub connector: String,
    /// The group that a forward pipeline reads as.
    pub consumer_group: Option<String>,
    /// As given to `tide.relay_set_*`.
    pub config: Value,
    /// In messages.
    pub batch_size: i32,
    /// Whether relays run it.
    pub enabled: bool,
    /// Whose relays.
    pub relay_group: String,
    /// Of a reverse pipeline.
    pub max_retries: i32,
    /// Of a reverse pipeline.
    pub idempotent: bool,
}

/// Which resource manages an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Identity of its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub resource: String,
    /// Its UID.
    pub uid: String,
    /// What becomes of the object when it goes: Retain or Delete.
    pub reclaim: String,
    /// Rights that it gave.
    pub rights: BTreeSet<Right>,
    /// Whether the resource is gone, and the object is kept for it.
    pub released: bool,
}

/// What the relays tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reports {
    /// By pipeline.
    pub pipelines: HashMap<String, Report>,
    /// Names of the live relays, by relay group.
    pub relays: BTreeMap<String, BTreeSet<String>>,
}

/// What is known of a pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// starting, running, retrying, stopped, misconfigured; disabled, unowned
    /// or "no live relay" without an owner.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The relay that has it.
    pub owner: Option<String>,
    /// Messages moved since it was acquired.
    pub messages: i64,
    /// Messages a second.
    pub rate: f64,
    /// The last error, in the words of the server that refused.
    pub last_error: Option<String>,
    /// When.
    pub last_error_at: Option<Timestamp>,
    /// Of a reverse pipeline: messages known to wait in the source.
    pub source_lag: Option<i64>,
    /// Where a guarantee is less than usual.
    pub note: Option<String>,
}

/// What must be counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Amounts {
    /// By outbox: messages that a group lacks, and since when the oldest waits.
    pub outboxes: HashMap<String, (i64, Option<Timestamp>)>,
    /// By inbox.
    pub inboxes: HashMap<String, InboxAmounts>,
    /// By forward pipeline: lag in messages, and in seconds.
    pub lags: HashMap<String, (i64, f64)>,
    /// By pipeline: dead letters that wait for somebody.
    pub dead_letters: HashMap<String, i64>,
}

/// Messages of an inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InboxAmounts {
    /// Neither processed nor dead.
    pub pending: i64,
    /// Kept although processed.
    pub processed: i64,
    /// Failed too often.
    pub dead_letters: i64,
    /// Since when the oldest pending one waits.
    pub oldest_pending_at: Option<Timestamp>,
}

/// A failed look.
pub type LookError = tokio_postgres::Error;

/// Reads the catalogue.
///
/// # Errors
/// What PostgreSQL refused.
pub async fn catalogue(session: &Session) -> Result<Catalogue, LookError> {
    let client = &session.client;
    let (outboxes, groups, inboxes, pipelines, claims, rights, outbox_faults, inbox_faults) = tokio::try_join!(
        client.query(
            "SELECT o.name, o.table_name::text, (extract(epoch FROM o.retention) / 3600)::bigint, o.enabled FROM tide.outbox o",
            &[]
        ),
        client.query(
            "SELECT o.name, g.name, g.auto_offset_reset, p.name
               FROM tide.consumer_group g JOIN tide.outbox o USING (outbox_id)
               LEFT JOIN tide.pipeline p ON p.group_id = g.group_id",
            &[]
        ),
        client.query(
            "SELECT i.name, i.table_name::text, i.max_retries, (extract(epoch FROM i.processed_retention) / 3600)::bigint,
                    (extract(epoch FROM i.dlq_retention) / 3600)::bigint
               FROM tide.inbox i",
            &[]
        ),
        client.query(
            "SELECT name, outbox, inbox, connector, consumer_group, config::text, batch_size, enabled, relay_group, max_retries, idempotent
               FROM tide.relay_list_configs()",
            &[]
        ),
        client.query(
            "SELECT kind, object, cluster, namespace, resource, uid, reclaim, roles::text, released_at IS NOT NULL
               FROM tide.managed_object",
            &[]
        ),
        client.query(r#"SELECT kind, object, "right", role FROM tide.granted_roles()"#, &[]),
        client.query("SELECT outbox_name, fault FROM tide.outbox_faults()", &[]),
        client.query("SELECT inbox_name, fault FROM tide.inbox_faults()", &[]),
    )?;

    let mut seen = Catalogue::default();
    for row in outboxes {
        let outbox = OutboxSeen {
            table: row.get(1),
            retention_hours: row.get(2),
            enabled: row.get(3),
            ..OutboxSeen::default()
        };
        seen.outboxes.insert(row.get(0), outbox);
    }
    for row in groups {
        if let Some(outbox) = seen.outboxes.get_mut(row.get::<_, &str>(0)) {
            outbox.groups.insert(row.get(1), row.get(2));
            if let Some(pipeline) = row.get(3) {
                outbox.bound.insert(row.get(1), pipeline);
            }
        }
    }
    for row in inboxes {
        let inbox = InboxSeen {
            table: row.get(1),
            max_retries: row.get(2),
            processed_retention_hours: row.get(3),
            dead_letter_retention_hours: row.get(4),
            ..InboxSeen::default()
        };
        seen.inboxes.insert(row.get(0), inbox);
    }
    seen.pipelines = pipelines.iter().map(|row| (row.get(0), pipeline(row))).collect();
    for row in claims {
        let Some(kind) = ObjectKind::from_name(row.get(0)) else {
            continue;
        };
        seen.claims.insert((kind, row.get(1)), claim(&row));
    }
    for row in rights {
        let right = Right {
            right: row.get(2),
            role: row.get(3),
        };
        let (kind, object): (&str, &str) = (row.get(0), row.get(1));
        match kind {
            "outbox" => seen.outboxes.get_mut(object).map(|o| o.rights.insert(right)),
            "inbox" => seen.inboxes.get_mut(object).map(|i| i.rights.insert(right)),
            _ => None,
        };
    }
    // Something broken about what has no row: it is broken all the same.
    for row in outbox_faults {
        let outbox = seen.outboxes.entry(row.get(0)).or_default();
        outbox.faults.push(row.get(1));
    }
    for row in inbox_faults {
        let inbox = seen.inboxes.entry(row.get(0)).or_default();
        inbox.faults.push(row.get(1));
    }
    Ok(seen)
}

fn pipeline(row: &Row) -> PipelineSeen {
    PipelineSeen {
        outbox: row.get(1),
        inbox: row.get(2),
        connector: row.get(3),
        consumer_group: row.get(4),
        config: serde_json::from_str(row.get(5)).unwrap_or_default(),
        batch_size: row.get(6),
        enabled: row.get(7),
        relay_group: row.get(8),
        max_retries: row.get(9),
        idempotent: row.get(10),
    }
}

fn claim(row: &Row) -> Claim {
    let roles: BTreeMap<String, Vec<String>> = serde_json::from_str(row.get(7)).unwrap_or_default();
    Claim {
        cluster: row.get(2),
        namespace: row.get(3),
        resource: row.get(4),
        uid: row.get(5),
        reclaim: row.get(6),
        rights: roles
            .into_iter()
            .flat_map(|(right, roles)| {
                roles.into_iter().map(move |role| Right {
                    right: right.clone(),
                    role,
                })
            })
            .collect(),
        released: row.get(8),
    }
}

/// Reads what the relays report.
///
/// # Errors
/// What PostgreSQL refused.
pub async fn reports(session: &mut Session) -> Result<Reports, LookError> {
    let states = session
        .prepare(
            "SELECT pipeline, state, extract(epoch FROM state_since)::float8, owner, messages, rate::float8, last_error,
                    extract(epoch FROM last_error_at)::float8, source_lag, note
               FROM tide.relay_pipeline_state",
        )
        .await?;
    let relays = session
        .prepare(
            "SELECT m.relay_group, m.name FROM tide.relay_member m
               JOIN tide._held_locks() h ON h.classid = 1953064045 AND h.objid = m.member_id",
        )
        .await?;
    let client = &session.client;
    let (states, relays) = tokio::try_join!(client.query(&states, &[]), client.query(&relays, &[]))?;
    let mut reports = Reports::default();
    for row in states {
        let report = Report {
            state: row.get(1),
            since: time(row.get(2)),
            owner: row.get(3),
            messages: row.get(4),
            rate: row.get(5),
            last_error: row.get(6),
            last_error_at: time(row.get(7)),
            source_lag: row.get(8),
            note: row.get(9),
        };
        reports.pipelines.insert(row.get(0), report);
    }
    for row in relays {
        reports.relays.entry(row.get(0)).or_default().insert(row.get(1));
    }
    Ok(reports)
}

/// Counts.
///
/// # Errors
/// What PostgreSQL refused, or that it took too long.
pub async fn amounts(session: &mut Session) -> Result<Amounts, LookError> {
    let client = &session.client;
    let mut amounts = Amounts::default();
    for row in client
        .query(
            "SELECT outbox_name, pending_count, extract(epoch FROM oldest_at)::float8 FROM tide.outbox_pending",
            &[],
        )
        .await?
    {
        amounts.outboxes.insert(row.get(0), (row.get(1), time(row.get(2))));
    }
    for row in client
        .query(
            "SELECT inbox_name, pending, processed, dead_letter, extract(epoch FROM oldest_pending_at)::float8 FROM tide.inbox_summary",
            &[],
        )
        .await?
    {
        let inbox = InboxAmounts {
            pending: row.get(1),
            processed: row.get(2),
            dead_letters: row.get(3),
            oldest_pending_at: time(row.get(4)),
        };
        amounts.inboxes.insert(row.get(0), inbox);
    }
    for row in client
        .query(
            "SELECT pipeline, lag, lag_seconds::float8, dead_letters FROM tide.relay_pipeline_status",
            &[],
        )
        .await?
    {
        if let (Some(lag), seconds) = (row.get::<_, Option<i64>>(1), row.get::<_, Option<f64>>(2)) {
            amounts
                .lags
                .insert(row.get(0), (lag, seconds.unwrap_or_default()));
        }
        amounts.dead_letters.insert(row.get(0), row.get(3));
    }
    Ok(amounts)
}

fn time(seconds: Option<f64>) -> Option<Timestamp> {
    // Milliseconds are enough for people.
    #[allow(clippy::cast_possible_truncation)]
    seconds.and_then(|s| Timestamp::from_millisecond((s * 1000.0) as i64).ok())
}
