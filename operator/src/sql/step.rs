//! What may be changed in PostgreSQL, step by step, and in the words of an
//! event.

use std::fmt;

use serde_json::Value;

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
