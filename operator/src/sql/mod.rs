//! What the operator does in PostgreSQL: looks, and one function per change.

pub mod change;
pub mod observe;
pub mod step;
