//! PostgreSQL as the relay uses it: connections, pools, and one function per
//! statement, grouped by subject.

mod certificate;
mod conninfo;
pub(crate) mod cursor;
mod dial;
mod error;
pub(crate) mod feed;
pub(crate) mod inbox;
mod keys;
pub(crate) mod outbox;
pub(crate) mod ownership;
mod pool;
mod pooler;
pub(crate) mod redelivery;
pub(crate) mod report;
pub(crate) mod retention;
mod session;
mod target;
mod tls;
mod url;
mod verifier;
pub(crate) mod webhook;

pub(crate) use error::{Cause, DatabaseError, describe};
pub(crate) use pool::Pool;
pub(crate) use session::{Profile, Session};
pub(crate) use target::TlsOverrides;
pub(crate) use url::Database;
