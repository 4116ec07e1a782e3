//! Breaks relays, servers and the network under load, and checks by id that
//! nothing is lost or doubled. docs/design/chaos.md explains it.
//!
//! ```text
//! seed ─▶ plan ──────────────▶ inject ─┐            ┌─▶ timing ─┐
//!    └──▶ transaction ─▶ publishers ───┼─▶ world ───┼─▶ check ──┼─▶ report
//!                        senders ──────┘   readers ─┘           │
//!                                          inbox ───▶ inbox_check
//! ```
//!
//! `plan`, `transaction`, `check`, `inbox_check`, `timing` and `report` are
//! pure; the others touch the world.

// A suite that cannot go on fails by panicking, with what was wanted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::must_use_candidate)]

pub mod check;
#[cfg(test)]
mod check_tests;
pub mod dice;
pub mod fault;
pub mod inbox_check;
pub mod inject;
pub mod plan;
pub mod publishers;
pub mod readers;
pub mod report;
pub mod run;
pub mod senders;
pub mod timing;
pub mod transaction;
pub mod world;

pub use fault::{Kind, Sink};
pub use report::Report;
pub use run::{Length, Options, run};
