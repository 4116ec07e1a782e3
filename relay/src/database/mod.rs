//! PostgreSQL as the relay uses it: one function per statement, grouped by
//! subject. Connections and pools are those of `pg_tide_postgres`.

pub(crate) mod cursor;
pub(crate) mod feed;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod ownership;
pub(crate) mod redelivery;
pub(crate) mod report;
pub(crate) mod retention;
pub(crate) mod webhook;

pub(crate) use pg_tide_postgres::{
    Cause, Database, DatabaseError, Pool, Profile, Session, TlsOverrides, describe,
};
