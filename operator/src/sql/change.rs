//! Changes: steps that a plan names, all of one resource in one transaction.

use pg_tide_postgres::describe;
use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::observe::Right;
use super::step::{Direction, InboxSettings, ObjectKind, PipelineSettings, Step};

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// There was no such object.
    New,
    /// This resource had it.
    Held,
    /// It was kept when a resource of this name was deleted.
    Returned,
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
                "returned" => Claimed::Returned,
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
