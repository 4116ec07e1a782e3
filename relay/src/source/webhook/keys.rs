//! The keys of a pipeline's senders, as their files have them now.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::signature::SigningKeys;
use crate::config::SecretRef;

/// Files are read anew when they were read so long ago.
const FRESH: Duration = Duration::from_secs(1);
/// The same when a signature does not match: it may be by a key that came since.
const FRESH_ENOUGH: Duration = Duration::from_millis(50);
/// Files that are missing for so long are no longer only being replaced.
const MISSING: Duration = Duration::from_secs(10);

/// Reads secrets as keys.
///
/// # Errors
/// Which one cannot be read or used, without its value.
pub(crate) fn read(secrets: &[SecretRef]) -> Result<SigningKeys, String> {
    let mut all: Option<SigningKeys> = None;
    for reference in secrets {
        let secret = reference.read().map_err(|e| e.to_string())?;
        let keys =
            SigningKeys::read(secret.expose()).map_err(|e| format!("the secret at {reference} {e}"))?;
        all = Some(match all {
            None => keys,
            Some(before) => before.and(keys),
        });
    }
    all.ok_or_else(|| "no signing secret is named".to_owned())
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Keys {
    secrets: Vec<SecretRef>,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    keys: SigningKeys,
    read_at: Instant,
    looked_at: Instant,
}

impl Keys {
    pub(super) fn new(secrets: Vec<SecretRef>) -> Self {
        Self {
            secrets,
            known: Mutex::new(None),
        }
    }

    fn not_older_than(&self, age: Duration) -> Result<SigningKeys, String> {
        let now = Instant::now();
        let mut known = self.known.lock();
        if let Some(known) = &*known
            && now.duration_since(known.looked_at) < age
        {
            return Ok(known.keys.clone());
        }
        match (read(&self.secrets), known.as_mut()) {
            (Ok(keys), _) => {
                *known = Some(Known {
                    keys: keys.clone(),
                    read_at: now,
                    looked_at: now,
                });
                Ok(keys)
            }
            (Err(_), Some(known)) if now.duration_since(known.read_at) < MISSING => {
                known.looked_at = now;
                Ok(known.keys.clone())
            }
            (Err(error), _) => {
                *known = None;
                Err(error)
            }
        }
    }

    /// The keys; at most a second old.
    pub(super) fn get(&self) -> Result<SigningKeys, String> {
        self.not_older_than(FRESH)
    }

    /// The keys once more, for a signature that does not match.
    pub(super) fn again(&self) -> Result<SigningKeys, String> {
        self.not_older_than(FRESH_ENOUGH)
    }
}
