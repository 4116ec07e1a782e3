//! `pg-tide`: carries messages between PostgreSQL and brokers.
//!
//! Without a subcommand it is the relay; the subcommands look after the schema
//! and show what is going on.

mod broker;
mod cli;
mod config;
mod cursor;
mod database;
mod doctor;
mod encode;
mod failure;
mod human;
#[cfg(test)]
mod models;
mod ownership;
mod pipeline;
mod sabotage;
mod sink;
mod source;
mod status;
mod supervisor;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::main(cli::Arguments::parse())
}
