//! The operator of pg-tide: `TideDatabase`, `Outbox`, `Inbox` and `Pipeline`
//! resources become objects of schema `tide` and relay Deployments
//! (docs/design/operator.md).

pub mod crd;
