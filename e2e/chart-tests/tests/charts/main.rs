//! What `charts/` and `config/` give to a cluster.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod argocd;
mod crds;
mod documents;
mod generated;
mod monitoring;
mod notes;
mod operator;
mod packages;
mod rbac;
mod schema;
mod security;
mod values;
