//! What commands print: tables for people, JSON for programs.

use std::io::{ErrorKind, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::{Ended, Outcome, PostgresArguments};
use crate::database::describe;
use crate::human::bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people; may change between versions
    #[value(alias = "table")]
    Text,
    /// For programs; the names of fields stay
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArguments {
    /// How the answer is written
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub(super) format: Format,
}

/// Writes to standard output. That nobody reads on (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("writing to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes lines to standard output.
pub(super) fn print_lines(lines: impl IntoIterator<Item = String>) -> Result<(), String> {
    print(
        &lines
            .into_iter()
            .flat_map(|line| [line, "\n".to_owned()])
            .collect::<String>(),
    )
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| e.to_string())?;
    print(&format!("{text}\n"))
}

/// A row of a query, as PostgreSQL wrote it (numbers keep all their digits)
/// and as read.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) json: String,
    pub(super) fields: Map<String, Value>,
}

/// The rows of a query, each as a JSON object.
pub(super) async fn rows(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, String> {
    let sql = format!("SELECT to_jsonb(r)::text FROM ({sql}) AS r");
    let rows = client.query(&sql, parameters).await.map_err(|e| describe(&e))?;
    rows.iter()
        .map(|row| {
            let json: String = row.try_get(0).map_err(|e| describe(&e))?;
            let fields = serde_json::from_str(&json).map_err(|e| e.to_string())?;
            Ok(Row { json, fields })
        })
        .collect()
}

/// The single value of a query.
pub(super) async fn value<T>(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<T, String>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    client
        .query_one(sql, parameters)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|e| describe(&e))
}

/// `{"name": [...]}`, a row per line.
pub(super) fn json_list(name: &str, rows: &[Row]) -> String {
    let rows: Vec<&str> = rows.iter().map(|r| r.json.as_str()).collect();
    format!("{{\"{name}\": [\n{}\n]}}\n", rows.join(",\n"))
}

/// How a field is shown in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Time,
    Bytes,
}

/// A column: its heading, the field, how it is shown.
pub(super) type Column = (&'static str, &'static str, Kind);

/// Where the rows of a command come from, and what is shown of them.
pub(super) struct Listing<'a> {
    pub(super) sql: &'a str,
    pub(super) parameters: &'a [&'a (dyn ToSql + Sync)],
    /// Of the list, in JSON.
    pub(super) name: &'a str,
    pub(super) columns: &'a [Column],
}

impl Listing<'_> {
    /// Asks and prints.
    pub(super) async fn print(&self, postgres: &PostgresArguments, output: &OutputArguments) -> Outcome {
        let session = postgres.connect().await?;
        let found = rows(&session.client, self.sql, self.parameters).await?;
        print_rows(output.format, self.name, self.columns, &found)?;
        Ok(Ended::Well)
    }
}

/// Prints rows as a table, or as JSON under a name.
pub(super) fn print_rows(format: Format, name: &str, columns: &[Column], rows: &[Row]) -> Result<(), String> {
    if format == Format::Json {
        return print(&json_list(name, rows));
    }
    let mut table = Table::new(
        columns
            .iter()
            .map(|(heading, _, kind)| (*heading, *kind == Kind::Number || *kind == Kind::Bytes)),
    );
    for row in rows {
        table.row(
            columns
                .iter()
                .map(|(_, field, kind)| cell(row.fields.get(*field), *kind)),
        );
    }
    print(&table.text())
}

fn cell(value: Option<&Value>, kind: Kind) -> String {
    match (value, kind) {
        (None | Some(Value::Null), _) => "-".to_owned(),
        (Some(Value::String(text)), Kind::Time) => time(text),
        (Some(Value::String(text)), _) => one_line(text),
        (Some(Value::Bool(flag)), _) => if *flag { "yes" } else { "no" }.to_owned(),
        (Some(number), Kind::Bytes) => number.as_i64().map_or_else(|| number.to_string(), bytes),
        (Some(other), _) => other.to_string(),
    }
}

/// `2026-01-15T10:05:00.123+00:00` as `2026-01-15 10:05:00Z`.
pub(super) fn time(text: &str) -> String {
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) if text.ends_with("+00:00") => format!("{day} {time}Z"),
        _ => text.to_owned(),
    }
}

/// Text without what would break a table.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Cells in columns two blanks apart.
#[derive(Debug)]
pub(super) struct Table {
    /// Whether the column is aligned to the right.
    right: Vec<bool>,
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<'a>(columns: impl Iterator<Item = (&'a str, bool)>) -> Self {
        let (headings, right) = columns.map(|(h, r)| (h.to_owned(), r)).unzip();
        Self {
            right,
            lines: vec![headings],
        }
    }

    pub(super) fn row(&mut self, cells: impl Iterator<Item = String>) {
        self.lines.push(cells.collect());
    }

    pub(super) fn text(&self) -> String {
        let width = |n: usize| {
            self.lines
                .iter()
                .filter_map(|l| l.get(n))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let cells: Vec<String> = line
                .iter()
                .zip(widths.iter().zip(&self.right))
                .map(|(cell, (width, right))| {
                    if *right {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:width$}")
                    }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Shortens to so many characters, with `…` for what is missing.
pub(super) fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Breaks a text into lines of at most this width, at blanks where it can.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let room = width.saturating_sub(indent).max(10);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().map_or(0, |l| l.chars().count());
            let blank = usize::from(line > 0);
            if line + blank + word.len() <= room {
                if let Some(last) = lines.last_mut() {
                    last.extend(std::iter::repeat_n(' ', blank).chain(word));
                }
                break;
            }
            if word.len() <= room || line > 0 {
                lines.push(String::new());
                if word.len() <= room {
                    continue;
                }
            }
            let rest = word.split_off(room.min(word.len()));
            if let Some(last) = lines.last_mut() {
                last.extend(word);
            }
            word = rest;
        }
    }
    let indent = " ".repeat(indent);
    lines.iter().map(|l| format!("{indent}{l}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new([("NAME", false), ("LAG", true), ("X", false)].into_iter());
        table.row(["a".to_owned(), "12345".to_owned(), "x".to_owned()].into_iter());
        table.row(["längere".to_owned(), "1".to_owned(), String::new()].into_iter());
        assert_eq!(
            table.text(),
            "NAME       LAG  X\na        12345  x\nlängere      1\n"
        );
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time("2026-01-15T10:05:00.123456+00:00"), "2026-01-15 10:05:00Z");
        assert_eq!(time("infinity"), "infinity");
    }

    #[test]
    fn long_texts_are_broken_or_shortened() {
        assert_eq!(wrap("one two three four", 12, 2), ["  one two", "  three four"]);
        assert_eq!(
            wrap("abcdefghijklmnopqrstuvwxyz", 10, 0),
            ["abcdefghij", "klmnopqrst", "uvwxyz"]
        );
        assert_eq!(wrap("a abcdefghijklm", 10, 0), ["a", "abcdefghij", "klm"]);
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("abcd", 4), "abcd");
    }
}
