//! Changes: steps that a plan names, all of one resource in one transaction.

use std::fmt;

use pg_tide_postgres::describe;
use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::observe::Right;

/// What a claim is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// An outbox.
    Outbox,
    /// An inbox.
    Inbox,
    /// A pipeline.
    Pipeline,
}

impl ObjectKind {
    /// As `tide.managed_object` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Inbox => "inbox",
            Self::Pipeline => "pipeline",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Outbox, Self::Inbox, Self::Pipeline]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// An object and the resource that is to manage it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name in SQL.
    pub object: String,
    /// Identity of the cluster.
    pub cluster: String,
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub resource: String,
    /// Its UID.
    pub uid: String,
    /// Retain or Delete.
    pub reclaim: String,
    /// Whether an object that nobody manages may be taken over.
    pub adopt: bool,
}

/// A pipeline as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSettings {
    /// Its name in SQL.
    pub name: String,
    /// Where it reads from or writes to.
    pub direction: Direction,
    /// Sink or source.
    pub connector: String,
    /// As `tide.relay_set_*` takes it.
    pub config: Value,
    /// In messages.
    pub batch_size: i32,
    /// Whether relays run it.
    pub enabled: bool,
    /// Whose relays.
    pub relay_group: String,
}

/// The side of a pipeline that is in the database.
#[derive(Debug, Clone, PartialEq)]
pub enum Direction {
    /// From an outbox.
    Forward {
        /// The outbox.
        outbox: String,
        /// The consumer group that it reads as.
        group: String,
    },
    /// Into an inbox.
    Reverse {
        /// The inbox.
        inbox: String,
        /// Attempts to store a message.
        max_retries: i32,
        /// Whether equal messages without an id are one.
        idempotent: bool,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Takes the object for a resource, or fails when another has it.
    Claim(Managed),
    /// Gives it up.
    Release(Managed),
    /// Remembers which rights the resource gave.
    RememberRights(Managed, Vec<Right>),
    /// Makes an outbox.
    MakeOutbox(OutboxSettings),
    /// Puts an outbox's tables and rows right.
    RepairOutbox(OutboxSettings),
    /// Changes how long delivered messages are kept.
    SetRetention(OutboxSettings),
    /// Lets an outbox take messages, or not.
    SwitchOutbox(String, bool),
    /// Makes a consumer group that begins there.
    MakeGroup(Group, &'static str),
    /// Drops a consumer group with its position.
    DropGroup(Group),
    /// Gives a role a right.
    Grant(ObjectKind, String, Right),
    /// Takes it back.
    Revoke(ObjectKind, String, Right),
    /// Goes on only when no message waits to be delivered or processed.
    RefuseUnlessDrained(ObjectKind, String),
    /// Drops an outbox with its messages.
    DropOutbox(String),
    /// Makes an inbox.
    MakeInbox(InboxSettings),
    /// Puts an inbox's table and rows right.
    RepairInbox(InboxSettings),
    /// Changes an inbox's settings.
    SetInbox(InboxSettings),
    /// Drops an inbox with its messages.
    DropInbox(String),
    /// Makes or replaces a pipeline.
    SetPipeline(PipelineSettings),
    /// Deletes a pipeline; its group stays.
    DeletePipeline(String),
}

/// An outbox as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Its name in SQL.
    pub name: String,
    /// How long delivered messages are kept, in hours.
    pub retention_hours: i32,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Of which outbox.
    pub outbox: String,
}

/// An inbox as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxSettings {
    /// Its name in SQL.
    pub name: String,
    /// Failures after which a message is a dead letter.
    pub max_retries: i32,
    /// In hours.
    pub processed_retention_hours: i32,
    /// In hours; 0 keeps them for ever.
    pub dead_letter_retention_hours: i32,
}

impl fmt::Display for Step {
    /// In the words of an event: what was done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(m) => write!(
                f,
                "{} \"{}\" is managed by this resource",
                m.kind.name(),
                m.object
            ),
            Self::Release(m) => write!(f, "{} \"{}\" is not managed any more", m.kind.name(), m.object),
            Self::RememberRights(..) => f.write_str("rights were recorded"),
            Self::MakeOutbox(outbox) => write!(f, "outbox \"{}\" was made", outbox.name),
            Self::RepairOutbox(outbox) => write!(f, "outbox \"{}\" was repaired", outbox.name),
            Self::SetRetention(outbox) => write!(
                f,
                "retention of outbox \"{}\" was set to {} hours",
                outbox.name, outbox.retention_hours
            ),
            Self::SwitchOutbox(name, enabled) => {
                write!(
                    f,
                    "outbox \"{name}\" was {}",
                    if *enabled { "enabled" } else { "disabled" }
                )
            }
            Self::MakeGroup(group, _) => write!(f, "consumer group \"{}\" was made", group.name),
            Self::DropGroup(group) => write!(f, "consumer group \"{}\" was dropped", group.name),
            Self::Grant(_, object, right) => {
                write!(
                    f,
                    "role \"{}\" may {} \"{object}\"",
                    right.role,
                    verb(&right.right)
                )
            }
            Self::Revoke(_, object, right) => {
                write!(
                    f,
                    "role \"{}\" may no longer {} \"{object}\"",
                    right.role,
                    verb(&right.right)
                )
            }
            Self::RefuseUnlessDrained(_, name) => write!(f, "nothing was pending in \"{name}\""),
            Self::DropOutbox(name) => write!(f, "outbox \"{name}\" was dropped with its messages"),
            Self::MakeInbox(inbox) => write!(f, "inbox \"{}\" was made", inbox.name),
            Self::RepairInbox(inbox) => write!(f, "inbox \"{}\" was repaired", inbox.name),
            Self::SetInbox(inbox) => write!(f, "settings of inbox \"{}\" were set", inbox.name),
            Self::DropInbox(name) => write!(f, "inbox \"{name}\" was dropped with its messages"),
            Self::SetPipeline(p) => write!(f, "pipeline \"{}\" was set", p.name),
            Self::DeletePipeline(name) => write!(f, "pipeline \"{name}\" was deleted"),
        }
    }
}

fn verb(right: &str) -> &'static str {
    match right {
        "publish" => "publish to",
        "consume" => "consume",
        _ => "process",
    }
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// There was no such object.
    New,
    /// This resource had it.
    Held,
    /// It was there, and nobody's.
    Adopted,
}

/// What a transaction did that its steps do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// How the claim went, if there was one.
    pub claimed: Option<Claimed>,
    /// What a repair found and did, in words.
    pub repaired: Vec<String>,
}

/// Why changes were not made; none of them was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The object is there, and no resource manages it.
    #[error("{0}")]
    AlreadyExists(String),
    /// Another resource manages it.
    #[error("{0}")]
    Conflict(String),
    /// PostgreSQL will refuse it until the resource, or something else, is
    /// changed.
    #[error("{0}")]
    Refused(String),
    /// It may go at another time.
    #[error("{0}")]
    Failed(String),
}

impl From<tokio_postgres::Error> for ChangeError {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = describe(&error);
        let Some(code) = error.code() else {
            return Self::Failed(text);
        };
        match code.code() {
            "TD010" => Self::AlreadyExists(text),
            "TD011" => Self::Conflict(text),
            _ if passes(code) => Self::Failed(text),
            _ => Self::Refused(text),
        }
    }
}

/// Errors of connections, resources, locks and of the server's state pass.
fn passes(code: &SqlState) -> bool {
    ["08", "40", "53", "55", "57", "58", "XX"]
        .iter()
        .any(|class| code.code().starts_with(class))
}

/// Makes all changes, or none.
///
/// # Errors
/// See [`ChangeError`].
pub async fn apply(client: &mut Client, steps: &[Step]) -> Result<Done, ChangeError> {
    let transaction = client.transaction().await?;
    let mut done = Done::default();
    for step in steps {
        run(&transaction, step, &mut done).await?;
    }
    transaction.commit().await?;
    Ok(done)
}

async fn run(sql: &Transaction<'_>, step: &Step, done: &mut Done) -> Result<(), ChangeError> {
    match step {
        Step::Claim(m) => {
            let claimed: String = sql
                .query_one(
                    "SELECT tide.object_claim($1, $2, $3, $4, $5, $6, $7, $8)",
                    &[
                        &m.kind.name(),
                        &m.object,
                        &m.cluster,
                        &m.namespace,
                        &m.resource,
                        &m.uid,
                        &m.reclaim,
                        &m.adopt,
                    ],
                )
                .await?
                .get(0);
            done.claimed = Some(match claimed.as_str() {
                "new" => Claimed::New,
                "adopted" => Claimed::Adopted,
                _ => Claimed::Held,
            });
        }
        Step::Release(m) => {
            sql.execute(
                "SELECT tide.object_release($1, $2, $3, $4, $5)",
                &[&m.kind.name(), &m.object, &m.cluster, &m.namespace, &m.resource],
            )
            .await?;
        }
        Step::RememberRights(m, rights) => {
            sql.execute(
                "SELECT tide.object_set_roles($1, $2, $3, $4, $5, $6::text::jsonb)",
                &[
                    &m.kind.name(),
                    &m.object,
                    &m.cluster,
                    &m.namespace,
                    &m.resource,
                    &roles(rights).to_string(),
                ],
            )
            .await?;
        }
        Step::MakeOutbox(outbox) => {
            sql.execute(
                "SELECT tide.outbox_create_if_not_exists($1, $2)",
                &[&outbox.name, &outbox.retention_hours],
            )
            .await?;
        }
        Step::RepairOutbox(outbox) => {
            let row = sql
                .query_one(
                    "SELECT tide.outbox_repair($1, $2)",
                    &[&outbox.name, &outbox.retention_hours],
                )
                .await?;
            done.repaired.extend(row.get::<_, Vec<String>>(0));
        }
        Step::SetRetention(outbox) => {
            sql.execute(
                "SELECT tide.outbox_set_retention($1, $2)",
                &[&outbox.name, &outbox.retention_hours],
            )
            .await?;
        }
        Step::SwitchOutbox(name, true) => {
            sql.execute("SELECT tide.outbox_enable($1)", &[name]).await?;
        }
        Step::SwitchOutbox(name, false) => {
            sql.execute("SELECT tide.outbox_disable($1)", &[name]).await?;
        }
        Step::MakeGroup(group, auto_offset_reset) => {
            sql.execute(
                "SELECT tide.create_consumer_group($1, $2, $3, true)",
                &[&group.name, &group.outbox, auto_offset_reset],
            )
            .await?;
        }
        Step::DropGroup(group) => {
            sql.execute(
                "SELECT tide.drop_consumer_group($1, $2, true)",
                &[&group.name, &group.outbox],
            )
            .await?;
        }
        Step::Grant(_, object, right) => {
            let function = match right.right.as_str() {
                "publish" => "SELECT tide.outbox_grant_publish($1, $2)",
                "consume" => "SELECT tide.outbox_grant_consume($1, $2)",
                _ => "SELECT tide.inbox_grant_process($1, $2)",
            };
            sql.execute(function, &[object, &right.role]).await?;
        }
        Step::Revoke(_, object, right) => {
            let function = match right.right.as_str() {
                "publish" => "SELECT tide.outbox_revoke_publish($1, $2)",
                "consume" => "SELECT tide.outbox_revoke_consume($1, $2)",
                _ => "SELECT tide.inbox_revoke_process($1, $2)",
            };
            sql.execute(function, &[object, &right.role]).await?;
        }
        Step::RefuseUnlessDrained(kind, name) => refuse_unless_drained(sql, *kind, name).await?,
        Step::DropOutbox(name) => {
            sql.execute("SELECT tide.outbox_drop($1, true)", &[name]).await?;
        }
        Step::DropInbox(name) => {
            sql.execute("SELECT tide.inbox_drop($1, true)", &[name]).await?;
        }
        Step::MakeInbox(inbox) => {
            inbox_call(
                sql,
                "SELECT tide.inbox_create_if_not_exists($1, $2, $3, $4)",
                inbox,
            )
            .await?;
        }
        Step::SetInbox(inbox) => {
            inbox_call(sql, "SELECT tide.inbox_set($1, $2, $3, $4)", inbox).await?;
        }
        Step::RepairInbox(inbox) => {
            let row = inbox_call(sql, "SELECT tide.inbox_repair($1, $2, $3, $4)", inbox).await?;
            done.repaired.extend(row.get::<_, Vec<String>>(0));
        }
        Step::SetPipeline(pipeline) => set_pipeline(sql, pipeline).await?,
        Step::DeletePipeline(name) => {
            sql.execute(
                "SELECT tide.relay_delete(p.name) FROM tide.pipeline p WHERE p.name = $1",
                &[name],
            )
            .await?;
        }
    }
    Ok(())
}

async fn refuse_unless_drained(
    sql: &Transaction<'_>,
    kind: ObjectKind,
    name: &str,
) -> Result<(), ChangeError> {
    let (query, waits) = match kind {
        ObjectKind::Outbox => (
            "SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = $1",
            "not delivered to all consumer groups (or there is no group)",
        ),
        _ => (
            "SELECT pending + dead_letter FROM tide.inbox_summary WHERE inbox_name = $1",
            "not processed",
        ),
    };
    let pending: i64 = sql.query_opt(query, &[&name]).await?.map_or(0, |row| row.get(0));
    if pending == 0 {
        return Ok(());
    }
    Err(ChangeError::Refused(format!(
        "{pending} messages of {} \"{name}\" are {waits}: wait for them, or annotate the resource with {}=true to drop them",
        kind.name(),
        crate::store::FORCE
    )))
}

async fn inbox_call(
    sql: &Transaction<'_>,
    function: &str,
    inbox: &InboxSettings,
) -> Result<tokio_postgres::Row, tokio_postgres::Error> {
    sql.query_one(
        function,
        &[
            &inbox.name,
            &inbox.max_retries,
            &inbox.processed_retention_hours,
            &inbox.dead_letter_retention_hours,
        ],
    )
    .await
}

async fn set_pipeline(
    sql: &Transaction<'_>,
    pipeline: &PipelineSettings,
) -> Result<(), tokio_postgres::Error> {
    let config = pipeline.config.to_string();
    match &pipeline.direction {
        Direction::Forward { outbox, .. } => {
            sql.execute(
                "SELECT tide.relay_set_outbox(p_name := $1, p_outbox := $2, p_sink := $3, p_config := $4::text::jsonb,
                        p_batch_size := $5, p_enabled := $6, p_relay_group := $7)",
                &[
                    &pipeline.name,
                    outbox,
                    &pipeline.connector,
                    &config,
                    &pipeline.batch_size,
                    &pipeline.enabled,
                    &pipeline.relay_group,
                ],
            )
            .await?;
        }
        Direction::Reverse {
            inbox,
            max_retries,
            idempotent,
        } => {
            sql.execute(
                "SELECT tide.relay_set_inbox(p_name := $1, p_inbox := $2, p_config := $3::text::jsonb, p_batch_size := $4,
                        p_source := $5, p_enabled := $6, p_max_retries := $7, p_idempotent := $8, p_relay_group := $9)",
                &[
                    &pipeline.name,
                    inbox,
                    &config,
                    &pipeline.batch_size,
                    &pipeline.connector,
                    &pipeline.enabled,
                    max_retries,
                    idempotent,
                    &pipeline.relay_group,
                ],
            )
            .await?;
        }
    }
    Ok(())
}

/// `{"publish": ["a", "b"], ...}`
fn roles(rights: &[Right]) -> Value {
    let mut roles = Map::new();
    for right in rights {
        let list = roles
            .entry(right.right.clone())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(right.role.clone().into());
        }
    }
    Value::Object(roles)
}
