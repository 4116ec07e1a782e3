//! Leader election by a Lease, with a deadline of our own: whoever could not
//! renew in time stops, whatever the API server says later.
//!
//! It keeps two operators from doing the same work twice. It fences nothing:
//! what must not be done twice is decided in PostgreSQL.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

/// For how long others leave an unrenewed lease to its holder.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the holder stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between renewals, and between attempts to get the lease.
const PERIOD: Duration = Duration::from_secs(3);

/// A candidate.
#[derive(Debug, Clone)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// What a candidate knows of the lease: a foreign clock is not trusted, only
/// how long the lease has not changed under our eyes.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What may be done about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is ours already, or nobody's, or its holder let it lapse.
    Take,
    /// Its holder is at work.
    Wait,
}

fn judge(lease: &LeaseSpec, identity: &str, unchanged: Duration) -> Verdict {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let duration = lease
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
        .map_or(DURATION, Duration::from_secs);
    if holder.is_empty() || holder == identity || unchanged >= duration {
        Verdict::Take
    } else {
        Verdict::Wait
    }
}

impl Candidate {
    /// A candidate for the lease `name` in `namespace`; `identity` must be
    /// its alone.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&self) -> Lease {
        let mut seen = Seen {
            version: None,
            since: Instant::now(),
        };
        let mut told = false;
        loop {
            match tokio::time::timeout(DEADLINE, self.attempt(&mut seen)).await {
                Ok(Ok(Some(lease))) => return lease,
                Ok(Ok(None)) => {
                    if !told {
                        tracing::info!(lease = self.name, "another operator leads; waiting for its lease");
                        told = true;
                    }
                }
                Ok(Err(error)) => tracing::warn!(lease = self.name, "cannot get the lease: {error}"),
                Err(_) => tracing::warn!(
                    lease = self.name,
                    "cannot get the lease: the API server does not answer"
                ),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn attempt(&self, seen: &mut Seen) -> Result<Option<Lease>, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(0, None)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(lease) => Ok(Some(lease)),
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
                Err(error) => Err(error),
            };
        };
        if seen.version != lease.metadata.resource_version {
            *seen = Seen {
                version: lease.metadata.resource_version.clone(),
                since: Instant::now(),
            };
        }
        let spec = lease.spec.clone().unwrap_or_default();
        if judge(&spec, &self.identity, seen.since.elapsed()) == Verdict::Wait {
            return Ok(None);
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + 1;
        self.write(lease, self.spec(transitions, None)).await
    }

    /// Renews the lease until it is lost, and says why.
    pub async fn hold(&self, mut lease: Lease) -> String {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(PERIOD).await;
            let spec = lease.spec.clone().unwrap_or_default();
            let next = self.spec(spec.lease_transitions.unwrap_or(0), spec.acquire_time);
            let left = (renewed + DEADLINE).saturating_duration_since(Instant::now());
            let begun = Instant::now();
            let error = match tokio::time::timeout(left, self.write(lease.clone(), next)).await {
                Ok(Ok(Some(written))) => {
                    lease = written;
                    renewed = begun;
                    continue;
                }
                // Changed under our hands: is it still ours?
                Ok(Ok(None)) => match tokio::time::timeout(left, self.api.get(&self.name)).await {
                    Ok(Ok(now)) => {
                        let spec = now.spec.clone().unwrap_or_default();
                        if spec.holder_identity.as_deref() != Some(&self.identity) {
                            return format!(
                                "the lease went to {}",
                                spec.holder_identity.unwrap_or_else(|| "nobody".into())
                            );
                        }
                        lease = now;
                        continue;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".into(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".into(),
            };
            if renewed.elapsed() + PERIOD >= DEADLINE {
                return format!(
                    "the lease could not be renewed for {} s: {error}",
                    renewed.elapsed().as_secs()
                );
            }
            tracing::warn!(lease = self.name, "the lease was not renewed: {error}");
        }
    }

    /// Gives the lease up, so that the next one need not wait for it to lapse.
    pub async fn release(&self) {
        let release = async {
            let lease = self.api.get(&self.name).await?;
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                let free = LeaseSpec {
                    holder_identity: None,
                    ..spec
                };
                self.write(lease, free).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(PERIOD, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.name, "the lease was not released: {error}"),
            Err(_) => tracing::warn!(lease = self.name, "the lease was not released in time"),
        }
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// None when somebody else changed it meanwhile.
    async fn write(&self, mut lease: Lease, spec: LeaseSpec) -> Result<Option<Lease>, kube::Error> {
        lease.spec = Some(spec);
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_lapsed() {
        let held = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let seconds = Duration::from_secs;
        for (lease, unchanged, verdict) in [
            (held("a"), 0, Verdict::Take),
            (held("b"), 14, Verdict::Wait),
            (held("b"), 15, Verdict::Take),
            (held(""), 0, Verdict::Take),
            (LeaseSpec::default(), 0, Verdict::Take),
        ] {
            assert_eq!(judge(&lease, "a", seconds(unchanged)), verdict, "{lease:?}");
        }
    }

    #[test]
    fn the_holder_stops_before_another_may_begin() {
        assert!(DEADLINE < DURATION);
    }
}
