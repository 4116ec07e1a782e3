//! What users do by kubectl. Tests that bear others beside them: one program,
//! so that they wait at the same time.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod admission;
mod charts;
mod claims;
mod cluster_itself;
mod deletion;
mod drift;
mod honest;
mod live;
mod rotation;
mod scene;
mod side_by_side;
mod tutorial;
