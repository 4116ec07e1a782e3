//! What the end-to-end tests share: the bed's servers, a database per test,
//! the relay as a real process, and readers of Kafka and NATS that know
//! nothing of pg-tide.
//!
//! Every test works on names of its own ([`unique`]), so that all of them can
//! run side by side on one bed. Nothing here sleeps in place of a condition:
//! whatever takes time is awaited with a deadline ([`await_condition`]).

// Helpers of tests fail by panicking, with what was wanted and what was there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::must_use_candidate)]

mod bed;
pub mod certs;
mod database;
pub mod doctor;
mod http;
pub mod kafka;
mod kafka_secured;
mod load;
pub mod nats;
pub mod nats_auth;
mod network;
mod pipelines;
mod pooler;
mod process;
mod proxy;
mod receiver;
mod relay;
pub mod scene;
mod secret_files;
mod sender;
mod token_server;
mod wait;
pub mod webhooks;

pub use bed::{Bed, OwnBed};
pub use database::Database;
pub use http::get;
pub use kafka_secured::{Listener, SecuredKafka, reference};
pub use load::Load;
pub use network::{Host, Network, Way};
pub use pipelines::{assert_each_once, assert_in_order, numbers};
pub use pooler::Pooler;
pub use process::Signal;
pub use proxy::Proxy;
pub use receiver::{Answer, Received, Receiver};
pub use relay::{Background, Relay, RelayOptions, run_pg_tide, run_pg_tide_in};
pub use secret_files::SecretFiles;
pub use sender::{Post, Reply, Sender};
pub use wait::{alone, answer, await_condition, beside_others, holds, unique};
