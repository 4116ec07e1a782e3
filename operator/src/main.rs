//! `pg-tide-operator`.

fn main() {}
