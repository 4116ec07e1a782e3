//! The options of connectors, read from the SQL that puts them into
//! `tide.connector_option`: for documentation, and for checks without a
//! database.

use crate::files::FILES;

/// A row of `tide.connector_option`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorOption {
    /// `forward` or `reverse`.
    pub direction: String,
    /// Sink or source; `*` for all of the direction.
    pub connector: String,
    /// The key; `retry.max` is max inside retry.
    pub key: String,
    /// Kind of value, as `tide.connector_option` names it.
    pub kind: String,
    /// Whether the connector cannot do without.
    pub required: bool,
    /// The values that are allowed, when they are few.
    pub allowed: Vec<String>,
    /// Smallest number; milliseconds of a duration.
    pub minimum: Option<i64>,
    /// Largest number; milliseconds of a duration.
    pub maximum: Option<i64>,
    /// For people.
    pub description: String,
}

const INSERT: &str = "INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES";

/// All options, in the order of the files.
#[must_use]
pub fn options() -> Vec<ConnectorOption> {
    FILES
        .iter()
        .flat_map(|(_, sql)| sql.split(INSERT).skip(1))
        .flat_map(rows)
        .collect()
}

/// The rows of a VALUES list, up to its semicolon.
fn rows(sql: &str) -> Vec<ConnectorOption> {
    let mut found = Vec::new();
    let mut row: Vec<Option<String>> = Vec::new();
    let mut word = String::new();
    let mut characters = sql.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '-' if characters.peek() == Some(&'-') => {
                characters.by_ref().find(|c| *c == '\n');
            }
            '(' => row.clear(),
            '\'' => {
                let mut text = String::new();
                while let Some(c) = characters.next() {
                    if c == '\'' && characters.next_if_eq(&'\'').is_none() {
                        break;
                    }
                    text.push(c);
                }
                row.push(Some(text));
            }
            ',' | ')' => {
                if !word.is_empty() {
                    row.push((word != "NULL").then(|| word.clone()));
                    word.clear();
                }
                if c == ')' {
                    found.extend(option(&row));
                    row.clear();
                }
            }
            ';' => break,
            c if c.is_whitespace() => {}
            c => word.push(c),
        }
    }
    found
}

fn option(row: &[Option<String>]) -> Option<ConnectorOption> {
    let [
        direction,
        connector,
        key,
        kind,
        required,
        allowed,
        minimum,
        maximum,
        description,
    ] = row
    else {
        return None;
    };
    let number = |text: &Option<String>| text.as_ref().and_then(|t| t.parse().ok());
    Some(ConnectorOption {
        direction: direction.clone()?,
        connector: connector.clone()?,
        key: key.clone()?,
        kind: kind.clone()?,
        required: required.as_deref() == Some("true"),
        allowed: allowed.as_deref().map_or_else(Vec::new, |list| {
            list.trim_matches(['{', '}'])
                .split(',')
                .map(|value| value.trim_matches('"').to_owned())
                .collect()
        }),
        minimum: number(minimum),
        maximum: number(maximum),
        description: description.clone()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_postgresql_reads_them() {
        let sql = "\n('forward', 'k', 'a', 'text', true, '{x,-1,\"y z\"}', NULL, NULL, 'It''s; (a, b).'),
                   -- a comment with ' and (
                   ('reverse', '*', 'b.c', 'integer', false, NULL, 1, 60000, 'B.');\nSELECT ('x');";
        let rows = rows(sql);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].allowed, ["x", "-1", "y z"]);
        assert_eq!(
            (rows[0].required, rows[0].description.as_str()),
            (true, "It's; (a, b).")
        );
        assert_eq!((rows[1].minimum, rows[1].maximum), (Some(1), Some(60_000)));
        assert_eq!((rows[1].key.as_str(), rows[1].required), ("b.c", false));
    }

    #[test]
    fn every_insert_is_found() {
        let inserts: usize = FILES
            .iter()
            .map(|(_, sql)| sql.matches("INTO tide.connector_option").count())
            .sum();
        let read: usize = FILES.iter().map(|(_, sql)| sql.matches(INSERT).count()).sum();
        assert_eq!(inserts, read, "write the INSERT as the other files have it");
        assert!(options().iter().any(|o| o.key == "brokers" && o.required));
    }
}
