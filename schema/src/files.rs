//! The SQL files, in the order in which they are run.

macro_rules! sql_files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../sql/", $name)))),*]
    };
}

/// Name and text of each file.
pub const FILES: &[(&str, &str)] = sql_files![
    "10_tables.sql",
    "15_names.sql",
    "16_cluster.sql",
    "18_config_version.sql",
    "20_outbox.sql",
    "22_partitions.sql",
    "25_publish.sql",
    "30_consumer_group.sql",
    "40_inbox.sql",
    "45_inbox_messages.sql",
    "50_pipeline.sql",
    "55_options.sql",
    "56_options_kafka.sql",
    "57_options_nats.sql",
    "59_options_sinks.sql",
    "60_relay.sql",
    "63_inbox_feed.sql",
    "65_dead_letter.sql",
    "70_views.sql",
    "80_retention.sql",
    "90_roles.sql",
    "95_grants.sql",
    "99_version.sql",
];

/// All of the SQL, as it is run on a database without schema `tide`.
#[must_use]
pub fn print() -> String {
    let mut sql = String::from("CREATE SCHEMA tide;\n");
    for (_, text) in FILES {
        sql.push('\n');
        sql.push_str(text);
    }
    sql
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_installed_in_name_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, listed);
    }

    #[test]
    fn the_sql_records_version_and_release_of_the_crate() {
        let (_, text) = FILES.last().unwrap();
        let values = format!("VALUES ({}, '{}');", crate::VERSION, crate::RELEASE);
        assert!(text.contains(&values), "{text}");
    }
}
