//! Protections that a build with the feature `sabotage` can do without, one at
//! a time, named by the environment variable `PG_TIDE_SABOTAGE`: the chaos
//! suite must find what each of them protects from (docs/design/chaos.md).
//! Without the feature, which no release has, all of them are on.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature \"sabotage\" is for the chaos suite alone, never for a release build");

/// What keeps messages from being lost or doubled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Checkpoints carry the epoch and do nothing under another one.
    EpochFence,
    /// A takeover reads the log beyond the checkpoint.
    TailScan,
    /// Only the contiguous acknowledged prefix moves the cursor.
    ContiguousPrefix,
    /// What is new is told by snapshots, not by ids.
    SnapshotCursor,
    /// Incoming messages are acknowledged after their transaction.
    CommitBeforeAck,
}

impl Protection {
    /// Whether this process does without it.
    #[cfg(not(feature = "sabotage"))]
    pub(crate) const fn is_off(self) -> bool {
        false
    }

    /// Whether this process does without it.
    #[cfg(feature = "sabotage")]
    pub(crate) fn is_off(self) -> bool {
        static OFF: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let off = OFF.get_or_init(|| std::env::var("PG_TIDE_SABOTAGE").ok());
        off.as_deref() == Some(self.name())
    }

    #[cfg(feature = "sabotage")]
    fn name(self) -> &'static str {
        match self {
            Self::EpochFence => "epoch-fence",
            Self::TailScan => "tail-scan",
            Self::ContiguousPrefix => "contiguous-prefix",
            Self::SnapshotCursor => "snapshot-cursor",
            Self::CommitBeforeAck => "commit-before-ack",
        }
    }
}
