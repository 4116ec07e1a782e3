//! The schema against a real PostgreSQL. Each test makes a database of its
//! own and drops it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod catalogue;
mod consumer_group;
mod dead_letter;
mod edges;
mod guides;
mod inbox;
mod inbox_claim;
mod inbox_feed;
mod inbox_position;
mod install;
mod lease;
mod lease_random;
mod managed;
mod operator_role;
mod outbox;
mod pipeline;
mod publish;
mod purge;
mod reference;
mod rename;
mod repair;
mod repair_inbox;
mod retention;
mod rights;
mod sink_options;
mod support;
mod tutorial;
mod unattended;
mod upgrade;
mod views;
mod webhook;
