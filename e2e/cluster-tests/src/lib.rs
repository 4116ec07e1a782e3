//! What the tests on Kubernetes share: the cluster of `e2e/cluster`, used as
//! its users do, by kubectl and helm.
//!
//! Every test has a [`Namespace`] of its own, so that they run side by side.
//! Servers are the bed's, started with `TIDE_BED_HOST` so that pods reach them
//! at the addresses that the tests have.

// Helpers of tests fail by panicking, with what was wanted and what was there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::must_use_candidate)]

mod cluster;
mod namespace;
mod operator;
mod pods;
mod watch;

pub use cluster::{Cluster, Refusal};
pub use namespace::Namespace;
pub use operator::{CHARTS, CHARTS_0_1_0, OPERATOR_NAMESPACE};
pub use pods::restricted_pod;
pub use watch::Condition;
