//! Who runs which pipeline: the division among members, and the lease by
//! which an owner knows how long it may rely on its locks. Pure but for the
//! clock. The locks themselves are in `database::ownership`.

mod balance;
mod lease;

pub(crate) use balance::assign;
pub(crate) use lease::Lease;
