//! The SQL files: what is installed, and the steps from earlier versions.
//!
//! The first file makes the tables and runs once. All others can run again and
//! again; an upgrade runs the steps from the version found, which change the
//! tables, and then all of those.

use std::fmt::Write as _;

macro_rules! sql_files {
    ($folder:literal, $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../", $folder, "/", $name)))),*]
    };
}

/// Name and text of each file, in the order in which they are run.
pub const FILES: &[(&str, &str)] = sql_files![
    "sql",
    "10_tables.sql",
    "15_names.sql",
    "16_cluster.sql",
    "18_config_version.sql",
    "20_outbox.sql",
    "22_partitions.sql",
    "25_publish.sql",
    "30_consumer_group.sql",
    "32_consumer_lease.sql",
    "33_poll_outbox.sql",
    "40_inbox.sql",
    "45_inbox_messages.sql",
    "50_pipeline.sql",
    "52_rename.sql",
    "55_options.sql",
    "56_options_kafka.sql",
    "57_options_nats.sql",
    "58_options_inbox.sql",
    "58_options_stdout.sql",
    "58_options_webhook.sql",
    "60_relay.sql",
    "62_inbox_position.sql",
    "63_inbox_feed.sql",
    "64_webhook.sql",
    "65_dead_letter.sql",
    "66_managed.sql",
    "67_outbox_repair.sql",
    "68_inbox_repair.sql",
    "70_views.sql",
    "80_retention.sql",
    "82_purge.sql",
    "84_retention_status.sql",
    "86_rights.sql",
    "90_roles.sql",
    "95_grants.sql",
    "99_version.sql",
];

/// The file that makes the tables.
const TABLES: &str = "10_tables.sql";

/// The file that records the version.
const VERSION_FILE: &str = "99_version.sql";

/// What leads from a version to the next; the first is that of version 1.
const UPGRADES: &[(&str, &str)] = sql_files!["upgrade", "1-2.sql"];

/// All of the SQL, as it is run on a database without schema `tide`.
#[must_use]
pub fn print() -> String {
    let mut sql = String::from("CREATE SCHEMA tide;\n");
    for (_, text) in FILES {
        let _ = write!(sql, "\n{text}");
    }
    sql
}

/// The SQL that brings a schema of an earlier version to this one; of this
/// version, what puts functions, views and rights back as they should be.
/// None when no step leads from that version.
#[must_use]
pub fn print_upgrade(from: i32) -> Option<String> {
    let done = usize::try_from(from).ok()?.checked_sub(1)?;
    let steps = UPGRADES.get(done..)?;
    let code = FILES
        .iter()
        .filter(|(name, _)| *name != TABLES && (*name != VERSION_FILE || !steps.is_empty()));
    let mut sql = String::new();
    for (_, text) in steps.iter().chain(code) {
        let _ = writeln!(sql, "{text}");
    }
    Some(sql)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn folder(name: &str) -> Vec<String> {
        let mut found: Vec<String> = std::fs::read_dir(format!("{}/{name}", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn every_file_of_the_folder_is_installed_in_name_order() {
        let listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(folder("sql"), listed);
    }

    #[test]
    fn the_sql_records_version_and_release_of_the_crate() {
        let (_, text) = FILES.last().unwrap();
        let values = format!("VALUES ({}, '{}');", crate::VERSION, crate::RELEASE);
        assert!(text.contains(&values), "{text}");
    }

    #[test]
    fn a_step_leads_from_every_earlier_version_and_says_so() {
        let steps: Vec<String> = (1..crate::VERSION)
            .map(|from| format!("{from}-{}.sql", from + 1))
            .collect();
        let listed: Vec<&str> = UPGRADES.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, steps);
        let mut found = folder("upgrade");
        found.sort_by_key(|name| name.split('-').next().unwrap().parse::<u32>().unwrap());
        assert_eq!(found, steps);
        for (from, (name, text)) in (1..).zip(UPGRADES) {
            // make-extension reads the release from it.
            let first = text.lines().next().unwrap();
            let version = first.strip_prefix(&format!("-- Version {from} (release "));
            assert!(
                version.is_some_and(|v| v.ends_with(&format!(") to version {}.", from + 1))),
                "{name}: {first}"
            );
        }
        assert_eq!(print_upgrade(0), None);
        assert_eq!(print_upgrade(crate::VERSION + 1), None);
        assert!(
            !print_upgrade(crate::VERSION)
                .unwrap()
                .contains("CREATE TABLE tide.outbox ")
        );
    }

    /// All but the tables are run again by an upgrade.
    #[test]
    fn what_can_be_made_only_once_is_in_the_file_of_tables() {
        for (name, text) in FILES.iter().filter(|(name, _)| *name != TABLES) {
            for line in text.lines().filter(|line| line.starts_with("CREATE ")) {
                assert!(
                    line.starts_with("CREATE OR REPLACE "),
                    "{name}: {line}\nwrite CREATE OR REPLACE, or put it into {TABLES} and into upgrade/"
                );
            }
        }
    }
}
