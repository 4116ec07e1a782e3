//! Applies objects: those that are missing, that should be otherwise, or that
//! somebody else touched since. What is as it was left costs no request.

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions,
};
use kube::core::params::ValidationDirective;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{Child, ChildKind, DATABASE_LABEL};
use crate::runtime::events::MANAGER;
use crate::stores::Objects;

/// What is there of what was made, by the watches.
#[derive(Clone)]
pub struct Children {
    /// Of this operator.
    pub deployments: Objects<Deployment>,
    /// All of them: the label tells which are ours.
    pub secrets: Objects<PartialObjectMeta<Secret>>,
    /// Of this operator.
    pub service_accounts: Objects<PartialObjectMeta<ServiceAccount>>,
    /// Of this operator.
    pub services: Objects<PartialObjectMeta<Service>>,
    /// Of this operator.
    pub budgets: Objects<PartialObjectMeta<PodDisruptionBudget>>,
    /// Of this operator.
    pub policies: Objects<PartialObjectMeta<NetworkPolicy>>,
}

impl Children {
    /// Waits until all that was there at the start has been read.
    pub async fn synced(&self) {
        self.deployments.synced().await;
        self.secrets.synced().await;
        self.service_accounts.synced().await;
        self.services.synced().await;
        self.budgets.synced().await;
        self.policies.synced().await;
    }

    fn get(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<ObjectMeta> {
        match kind {
            ChildKind::Deployment => self.deployments.get(namespace, name).map(|o| o.metadata.clone()),
            ChildKind::Secret => self.secrets.get(namespace, name).map(|o| o.metadata.clone()),
            ChildKind::ServiceAccount => self
                .service_accounts
                .get(namespace, name)
                .map(|o| o.metadata.clone()),
            ChildKind::Service => self.services.get(namespace, name).map(|o| o.metadata.clone()),
            ChildKind::PodDisruptionBudget => self.budgets.get(namespace, name).map(|o| o.metadata.clone()),
            ChildKind::NetworkPolicy => self.policies.get(namespace, name).map(|o| o.metadata.clone()),
            // Not watched: its CRD may not be there.
            ChildKind::PodMonitor => None,
        }
    }

    /// What was made for a database.
    fn of(&self, namespace: &str, database: &str) -> Vec<(ChildKind, ObjectMeta)> {
        let ours = |meta: &ObjectMeta| {
            meta.labels.as_ref().is_some_and(|labels| {
                labels.get(DATABASE_LABEL).map(String::as_str) == Some(database)
                    && labels.get("app.kubernetes.io/managed-by").map(String::as_str) == Some(MANAGER)
            })
        };
        let mut found = Vec::new();
        macro_rules! collect {
            ($($store:ident => $kind:ident),*) => {$(
                found.extend(
                    self.$store
                        .of(namespace, |o| ours(&o.metadata))
                        .iter()
                        .map(|o| (ChildKind::$kind, o.metadata.clone())),
                );
            )*};
        }
        collect!(
            deployments => Deployment,
            secrets => Secret,
            service_accounts => ServiceAccount,
            services => Service,
            budgets => PodDisruptionBudget,
            policies => NetworkPolicy
        );
        found
    }
}

impl ChildKind {
    fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::ServiceAccount => ("", "v1", "serviceaccounts"),
            Self::Secret => ("", "v1", "secrets"),
            Self::Service => ("", "v1", "services"),
            Self::Deployment => ("apps", "v1", "deployments"),
            Self::PodDisruptionBudget => ("policy", "v1", "poddisruptionbudgets"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies"),
            Self::PodMonitor => ("monitoring.coreos.com", "v1", "podmonitors"),
        };
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: if group.is_empty() {
                version.into()
            } else {
                format!("{group}/{version}")
            },
            kind: format!("{self:?}"),
            plural: plural.into(),
        }
    }

    /// What changes when somebody changes the object: where there is a
    /// generation, a status alone does not count.
    fn marker(self, meta: &ObjectMeta) -> String {
        match self {
            Self::Deployment | Self::PodDisruptionBudget | Self::NetworkPolicy | Self::PodMonitor => {
                format!("generation {:?} of {:?}", meta.generation, meta.uid)
            }
            Self::ServiceAccount | Self::Secret | Self::Service => {
                format!("version {:?} of {:?}", meta.resource_version, meta.uid)
            }
        }
    }
}

impl fmt::Display for ChildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What was applied, and how the object looked afterwards.
#[derive(Debug, Default)]
pub struct Applied(Mutex<HashMap<(String, ChildKind, String), Left>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    digest: [u8; 32],
    marker: String,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is as it was left.
    None,
    /// It was made, or changed since what it is made from has changed.
    Applied,
    /// Somebody had deleted or changed it.
    Repaired(String),
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
#[error("{kind} \"{name}\" could not be {what}: {source}")]
pub struct ApplyError {
    kind: ChildKind,
    name: String,
    what: &'static str,
    source: kube::Error,
}

impl ApplyError {
    /// Whether it is because the namespace is being deleted: nothing can be
    /// made in it any more, and nothing need be.
    #[must_use]
    pub fn namespace_ends(&self) -> bool {
        namespace_ends(&self.source)
    }
}

/// Whether a request was refused because the namespace is being deleted.
#[must_use]
pub fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden()
        && causes
            .map(|cause| cause.reason.as_str())
            .any(|reason| reason == "NamespaceTerminating")
}

impl Applied {
    /// Makes the object be as it should.
    ///
    /// # Errors
    /// What the API server refused.
    pub async fn apply(
        &self,
        client: &Client,
        there: &Children,
        namespace: &str,
        child: &Child,
    ) -> Result<Change, ApplyError> {
        let place = (namespace.to_owned(), child.kind, child.name.clone());
        let digest: [u8; 32] = Sha256::digest(child.body.to_string().as_bytes()).into();
        let now = there.get(child.kind, namespace, &child.name);
        let left = self.0.lock().get(&place).cloned();
        let marker = now.as_ref().map(|meta| child.kind.marker(meta));
        if let Some(left) = &left
            && left.digest == digest
            && (marker.as_ref() == Some(&left.marker) || child.kind == ChildKind::PodMonitor)
        {
            return Ok(Change::None);
        }
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &child.kind.resource());
        let params = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply(MANAGER).force()
        };
        let object = api
            .patch(&child.name, &params, &Patch::Apply(&child.body))
            .await
            .map_err(|source| ApplyError {
                kind: child.kind,
                name: child.name.clone(),
                what: "applied",
                source,
            })?;
        let changed = now.as_ref().and_then(|meta| meta.resource_version.as_ref())
            != object.metadata.resource_version.as_ref();
        let same = left.as_ref().is_some_and(|left| left.digest == digest);
        let leaves = Left {
            digest,
            marker: child.kind.marker(&object.metadata),
        };
        // Then only the watch has not come by what was made a moment ago.
        let untouched = left.as_ref() == Some(&leaves);
        self.0.lock().insert(place, leaves);
        Ok(match (same, now.is_some()) {
            _ if untouched => Change::None,
            (true, false) => Change::Repaired(format!(
                "{} \"{}\" was gone and was made again",
                child.kind, child.name
            )),
            (true, true) if changed => Change::Repaired(format!(
                "{} \"{}\" was changed and was set right",
                child.kind, child.name
            )),
            (true, true) => Change::None,
            (false, _) => Change::Applied,
        })
    }

    /// Deletes what was made for a database and is not wanted any more.
    ///
    /// # Errors
    /// What the API server refused.
    pub async fn delete_others(
        &self,
        client: &Client,
        there: &Children,
        namespace: &str,
        database: &str,
        wanted: &[(ChildKind, String)],
    ) -> Result<(), ApplyError> {
        for (kind, meta) in there.of(namespace, database) {
            let name = meta.name.clone().unwrap_or_default();
            if wanted.contains(&(kind, name.clone())) || meta.deletion_timestamp.is_some() {
                continue;
            }
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind.resource());
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: meta.uid,
                    resource_version: None,
                }),
                ..DeleteParams::background()
            };
            self.0.lock().remove(&(namespace.to_owned(), kind, name.clone()));
            match api.delete(&name, &params).await {
                Ok(_) => {
                    tracing::info!(namespace, %kind, name, "deleted: its relay group is not declared any more");
                }
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(source) => {
                    return Err(ApplyError {
                        kind,
                        name,
                        what: "deleted",
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}
