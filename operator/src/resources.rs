//! The names of what is reconciled.

use std::fmt;

use kube::ResourceExt;

use crate::crd::{Inbox, Outbox, Pipeline, TideDatabase};

/// The four kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A database and its relays.
    TideDatabase,
    /// An outbox.
    Outbox,
    /// An inbox.
    Inbox,
    /// A pipeline.
    Pipeline,
}

impl Kind {
    /// As the API has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TideDatabase => "TideDatabase",
            Self::Outbox => "Outbox",
            Self::Inbox => "Inbox",
            Self::Pipeline => "Pipeline",
        }
    }
}

/// A resource by its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A key of these parts.
    #[must_use]
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// What the four kinds have in common.
pub trait Declared: kube::Resource<DynamicType = ()> + ResourceExt {
    /// Which kind it is.
    const KIND: Kind;

    /// The TideDatabase that it names; its own name for a TideDatabase.
    fn database(&self) -> String;

    /// Where it is found again.
    fn key(&self) -> Key {
        Key::new(Self::KIND, self.namespace().unwrap_or_default(), self.name_any())
    }

    /// The key of its TideDatabase.
    fn database_key(&self) -> Key {
        Key::new(
            Kind::TideDatabase,
            self.namespace().unwrap_or_default(),
            self.database(),
        )
    }

    /// Whether somebody asked for its deletion.
    fn deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}

impl Declared for TideDatabase {
    const KIND: Kind = Kind::TideDatabase;
    fn database(&self) -> String {
        self.name_any()
    }
}

impl Declared for Outbox {
    const KIND: Kind = Kind::Outbox;
    fn database(&self) -> String {
        self.spec.database_ref.name.clone()
    }
}

impl Declared for Inbox {
    const KIND: Kind = Kind::Inbox;
    fn database(&self) -> String {
        self.spec.database_ref.name.clone()
    }
}

impl Declared for Pipeline {
    const KIND: Kind = Kind::Pipeline;
    fn database(&self) -> String {
        self.spec.database_ref.name.clone()
    }
}
