//! The SQL of schema `tide`, and its installer.
//!
//! The SQL is the product: plain files in `sql/`, one subject each, put
//! together in the order of their names. They are installed three ways, with
//! the same result: by [`install`], by the operator (which calls it), and as
//! `CREATE EXTENSION pg_tide` (`make-extension`).

mod files;
mod install;
mod options;

pub use files::{FILES, print, print_upgrade};
pub use install::{Error, Installed, Origin, Status, install, status, upgrade};
pub use options::{ConnectorOption, options};

/// Version of the schema; rises with every release that changes it.
pub const VERSION: i32 = 2;

/// Release of the crates that this schema comes with.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
