//! What users do by kubectl. Tests that bear others beside them: one program,
//! so that they wait at the same time.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod cluster_itself;
