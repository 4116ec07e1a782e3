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
    pub(crate) fn is_off(self) -> bool {
        switched_off() == Some(self)
    }
}

#[cfg(not(feature = "sabotage"))]
const fn switched_off() -> Option<Protection> {
    None
}

#[cfg(feature = "sabotage")]
fn switched_off() -> Option<Protection> {
    static OFF: std::sync::OnceLock<Option<Protection>> = std::sync::OnceLock::new();
    *OFF.get_or_init(|| match std::env::var("PG_TIDE_SABOTAGE").ok()?.as_str() {
        "epoch-fence" => Some(Protection::EpochFence),
        "tail-scan" => Some(Protection::TailScan),
        "contiguous-prefix" => Some(Protection::ContiguousPrefix),
        "snapshot-cursor" => Some(Protection::SnapshotCursor),
        "commit-before-ack" => Some(Protection::CommitBeforeAck),
        _ => None,
    })
}
