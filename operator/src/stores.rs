//! What is in the cluster: one watch per kind and namespace, each with its
//! store, and every change named to whoever must know.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

/// Between two lines of the log about a watch that fails.
const COMPLAINTS: Duration = Duration::from_secs(30);

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there, new or changed.
    There,
    /// It is gone.
    Deleted,
}

/// The objects of one kind, in all namespaces that are watched.
#[derive(Clone)]
pub struct Objects<K: Resource + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// The namespace of each, none for all of them.
    stores: Vec<(Option<String>, Store<K>)>,
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Begins to watch. `changed` hears of each object that is there at the
    /// start, made, changed or deleted.
    pub fn watch(
        client: &Client,
        namespaces: &[String],
        config: &watcher::Config,
        tasks: &mut JoinSet<()>,
        changed: impl Fn(Change, &K) + Clone + Send + Sync + 'static,
    ) -> Self
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        let places: Vec<Option<String>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().cloned().map(Some).collect()
        };
        let stores = places
            .into_iter()
            .map(|place| {
                let api = match &place {
                    None => Api::<K>::all(client.clone()),
                    Some(namespace) => Api::namespaced(client.clone(), namespace),
                };
                let (store, writer) = reflector::store();
                let changed = changed.clone();
                let stream = reflector::reflector(
                    writer,
                    watcher(api, config.clone()).default_backoff().modify(slim),
                );
                tasks.spawn(async move {
                    let mut stream = Box::pin(stream);
                    let mut complained = None::<Instant>;
                    loop {
                        match stream.try_next().await {
                            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                                changed(Change::There, &object);
                            }
                            Ok(Some(watcher::Event::Delete(object))) => changed(Change::Deleted, &object),
                            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
                            Ok(None) => break,
                            Err(error) => {
                                // It is tried again and again, for as long as a CRD is missing.
                                if complained.is_none_or(|at| at.elapsed() > COMPLAINTS) {
                                    complained = Some(Instant::now());
                                    tracing::warn!(kind = %K::kind(&()), "watching: {error}");
                                }
                            }
                        }
                    }
                });
                (place, store)
            })
            .collect();
        Self { stores }
    }

    /// Waits until all that was there at the start has been read.
    pub async fn synced(&self) {
        for (_, store) in &self.stores {
            // It fails only when the watch has ended, with the program.
            let _ = store.wait_until_ready().await;
        }
    }

    /// The object of this name.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.stores
            .iter()
            .filter(|(place, _)| place.as_deref().is_none_or(|place| place == namespace))
            .find_map(|(_, store)| store.get(&ObjectRef::new(name).within(namespace)))
    }

    /// All objects of a namespace that are so.
    pub fn of(&self, namespace: &str, so: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.stores
            .iter()
            .filter(|(place, _)| place.as_deref().is_none_or(|place| place == namespace))
            .flat_map(|(_, store)| {
                store.state_filter(|object| object.namespace().as_deref() == Some(namespace) && so(object))
            })
            .collect()
    }

    /// All objects.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.stores.iter().flat_map(|(_, store)| store.state()).collect()
    }
}

/// Takes off what nobody here reads: who set which field, and annotations of
/// Secrets, where kubectl leaves a copy of their content.
fn slim<K: Resource<DynamicType = ()>>(object: &mut K) {
    object.managed_fields_mut().clear();
    if K::kind(&()) == "Secret" {
        object.annotations_mut().clear();
    }
}

/// A watch of what this operator made.
#[must_use]
pub fn ours() -> watcher::Config {
    watcher::Config::default().labels("app.kubernetes.io/managed-by=pg-tide-operator")
}
