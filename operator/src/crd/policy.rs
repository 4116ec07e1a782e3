//! What becomes of an object in SQL when its resource comes and goes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the object in SQL when its resource is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReclaimPolicy {
    /// It stays, with its data, and can be adopted again.
    #[default]
    Retain,
    /// It is dropped with its data.
    Delete,
}

/// Whether an object that is in SQL already, and that no resource has, is
/// taken over.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdoptionPolicy {
    /// It is left alone, and the resource is not ready.
    #[default]
    Never,
    /// It is taken over, and made to be as the resource says.
    Adopt,
}
