//! PostgreSQL as the relay uses it: connections, pools, and one function per
//! statement, grouped by subject.

mod connect;
pub(crate) mod cursor;
pub(crate) mod feed;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod ownership;
pub(crate) mod redelivery;
pub(crate) mod report;

pub(crate) use connect::{Database, DatabaseError, Pool, Profile, Session, describe};
