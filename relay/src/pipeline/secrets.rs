//! Changed secrets are picked up without a restart of the relay.
//!
//! Secret files are compared by content, not by file events: the files of a
//! mounted Secret are links that are swapped as a whole, and content is what
//! counts. A few small files once a second cost nothing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Secret, SecretRef};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Cancels `stop` when one of these secrets is no longer what it was. Looks
/// for as long as the returned handle lives; none when nothing can change.
pub(super) fn restart_on_change(
    secrets: &[SecretRef],
    stop: CancellationToken,
) -> Option<AbortOnDropHandle<()>> {
    // The environment of a process does not change.
    let files: Vec<SecretRef> = secrets
        .iter()
        .filter(|secret| matches!(secret, SecretRef::File(_)))
        .cloned()
        .collect();
    if files.is_empty() {
        return None;
    }
    let before = read(&files);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A file that is missing for a moment is no change to act on.
            let now = read(&files);
            let changed = before.iter().zip(&now).any(|(b, n)| n.is_some() && n != b);
            if changed {
                stop.cancel();
                return;
            }
        }
    })))
}

fn read(files: &[SecretRef]) -> Vec<Option<Secret>> {
    files.iter().map(|file| file.read().ok()).collect()
}
