//! The operator of pg-tide: `TideDatabase`, `Outbox`, `Inbox` and `Pipeline`
//! resources become objects of schema `tide` and relay Deployments
//! (docs/design/operator.md).
//!
//! - [`crd`]: the resources as users write them
//! - [`database`], [`outbox`], [`inbox`], [`pipeline`]: one reconciliation each
//! - [`relay_deployment`]: what is made in Kubernetes
//! - [`sql`]: what is looked at and changed in PostgreSQL
//! - [`runtime`]: queue, lease, conditions, events, metrics

pub mod args;
pub mod context;
pub mod crd;
pub mod database;
pub mod inbox;
pub mod outbox;
pub mod pipeline;
pub mod reconcile;
pub mod relay_deployment;
pub mod resources;
pub mod run;
pub mod runtime;
pub mod secrets;
pub mod sql;
pub mod status;
pub mod store;
pub mod stores;
mod wake;
