//! Families: the same thing measured along one axis, such as the size of a payload, each with what the plain client
//! libraries reach in the same shape. The main table says how fast; a family says what that depends on.
//!
//! Each module has the measurements of a family, and the figures they give. Backlogs are in outboxes whose names begin
//! like the family; they are made at their first use and dropped when the family is through.

pub mod backlog;
pub mod idle;
pub mod load;
pub mod pipelines;
pub mod size;
pub mod spread;

use crate::figures::Figure;

/// The figures of all families, in the order of the table.
pub fn figures() -> Vec<Figure> {
    [
        size::figures(),
        spread::figures(),
        pipelines::figures(),
        backlog::figures(),
        load::figures(),
        idle::figures(),
    ]
    .concat()
}
