//! Secrets: watched by their metadata, read when they are needed, and read
//! again only when they have changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::crd::SecretKeyRef;
use crate::stores::Objects;

/// The keys of a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Why a key of a Secret cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no such Secret.
    #[error("Secret \"{0}\" does not exist in this namespace")]
    NoSecret(String),
    /// It lacks the key.
    #[error("Secret \"{secret}\" has no key \"{key}\"; it has {has}")]
    NoKey {
        /// The Secret.
        secret: String,
        /// The key that is missing.
        key: String,
        /// The keys that it has.
        has: String,
    },
    /// The API server did not give it.
    #[error("Secret \"{secret}\" cannot be read: {reason}")]
    Unreadable {
        /// The Secret.
        secret: String,
        /// Why.
        reason: String,
    },
}

impl SecretError {
    /// As a reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSecret(_) => "SecretNotFound",
            Self::NoKey { .. } => "SecretKeyNotFound",
            Self::Unreadable { .. } => "SecretUnreadable",
        }
    }
}

type Contents = HashMap<(String, String), (String, Arc<Data>)>;

/// Contents are kept while their resource version stands.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    known: Objects<PartialObjectMeta<Secret>>,
    /// By namespace and name: resource version and content.
    read: Arc<Mutex<Contents>>,
}

impl Secrets {
    /// Reads what `known` tells of.
    #[must_use]
    pub fn new(client: Client, known: Objects<PartialObjectMeta<Secret>>) -> Self {
        Self {
            client,
            known,
            read: Arc::default(),
        }
    }

    /// All keys of a Secret.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Arc<Data>, SecretError> {
        let place = (namespace.to_owned(), name.to_owned());
        let Some(version) = self
            .known
            .get(namespace, name)
            .and_then(|secret| secret.metadata.resource_version.clone())
        else {
            self.read.lock().remove(&place);
            return Err(SecretError::NoSecret(name.into()));
        };
        if let Some((read, data)) = self.read.lock().get(&place)
            && *read == version
        {
            return Ok(Arc::clone(data));
        }
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace)
            .get_opt(name)
            .await
            .map_err(|e| SecretError::Unreadable {
                secret: name.into(),
                reason: e.to_string(),
            })?
            .ok_or_else(|| SecretError::NoSecret(name.into()))?;
        let data: Data = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k, v.0))
            .collect();
        let data = Arc::new(data);
        // What was read may be newer than the watch knows: by its own version
        // it is read once more when the watch comes up to it, at most.
        let version = secret.metadata.resource_version.unwrap_or(version);
        self.read.lock().insert(place, (version, Arc::clone(&data)));
        Ok(data)
    }

    /// One key of a Secret.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn key(&self, namespace: &str, at: &SecretKeyRef) -> Result<Vec<u8>, SecretError> {
        let data = self.get(namespace, &at.name).await?;
        data.get(&at.key).cloned().ok_or_else(|| {
            let keys: Vec<&str> = data.keys().map(String::as_str).collect();
            SecretError::NoKey {
                secret: at.name.clone(),
                key: at.key.clone(),
                has: if keys.is_empty() {
                    "none".into()
                } else {
                    keys.join(", ")
                },
            }
        })
    }
}
