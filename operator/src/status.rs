//! Writes a status when it differs from the one that is there; figures alone
//! not more often than somebody would look.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::resources::{Declared, Key};
use crate::runtime::events::MANAGER;
use crate::runtime::metrics::OfKind;

/// Between two writes that only move figures.
const FIGURES: Duration = Duration::from_secs(10);

/// When each status was written.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<Key, Instant>>);

impl Written {
    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

/// How much a new status differs from the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    None,
    /// In figures that move all the time.
    Figures,
    /// In what somebody must know at once.
    Material,
}

/// Writes the status if it is time to. A pause means that it was put off.
///
/// # Errors
/// What the API server refused.
pub async fn write<K>(
    context: &Context,
    resource: &K,
    status: &impl Serialize,
    difference: Difference,
) -> Result<Option<Duration>, kube::Error>
where
    K: Declared<Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let key = resource.key();
    match difference {
        Difference::None => return Ok(None),
        Difference::Figures => {
            let last = context.written.0.lock().get(&key).copied();
            if let Some(wait) = last.and_then(|last| FIGURES.checked_sub(last.elapsed())) {
                return Ok(Some(wait));
            }
        }
        Difference::Material => {}
    }
    let api = Api::<K>::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": resource.name_any(), "uid": resource.uid()},
        "status": status,
    });
    match api
        .patch_status(
            &key.name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&patch),
        )
        .await
    {
        Ok(_) => {
            context
                .metrics
                .status_writes
                .get_or_create(&OfKind { kind: K::KIND.name() })
                .inc();
            context.written.0.lock().insert(key, Instant::now());
            Ok(None)
        }
        // Deleted, or deleted and made again, meanwhile.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}
