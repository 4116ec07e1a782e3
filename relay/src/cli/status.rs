//! `pg-tide status`: the pipelines of a database as a table.

use clap::Args;

use super::PostgresArguments;
use crate::database::{Profile, describe};

/// Which database to show.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    postgres: PostgresArguments,
}

const COLUMNS: [&str; 7] = [
    "PIPELINE",
    "DIRECTION",
    "STATE",
    "OWNER",
    "LAG",
    "MESSAGES",
    "LAST ERROR",
];

pub(super) async fn run(arguments: Arguments) -> Result<(), String> {
    let database = arguments.postgres.database().map_err(|e| e.to_string())?;
    let session = database
        .connect(Profile::Command, None)
        .await
        .map_err(|e| e.to_string())?;
    let rows = session
        .client
        .query(
            "SELECT pipeline, direction, state, coalesce(owner, '-'), coalesce(lag::text, '-'),
                    coalesce(messages::text, '-'), coalesce(last_error, '')
               FROM tide.relay_pipeline_status ORDER BY pipeline",
            &[],
        )
        .await
        .map_err(|e| format!("reading the status at {}: {}", database.at(), describe(&e)))?;
    let mut table: Vec<Vec<String>> = vec![COLUMNS.map(str::to_owned).to_vec()];
    for row in &rows {
        let cells = (0..COLUMNS.len()).map(|n| {
            row.try_get::<_, Option<String>>(n)
                .ok()
                .flatten()
                .unwrap_or_default()
        });
        table.push(cells.collect());
    }
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|n| table.iter().map(|r| r[n].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &table {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
    Ok(())
}
