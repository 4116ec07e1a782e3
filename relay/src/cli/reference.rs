//! docs/reference/cli.md, options.md and metrics.md are written from the code:
//! these tests fail when one is stale, and write it when UPDATE_REFERENCE is
//! set.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory};
use pg_tide_schema::ConnectorOption;

use super::config::allowed_values;
use crate::status::Metrics;

const WIDTH: usize = 100;

/// Compares a file of docs/reference with what it should be.
fn check(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/reference")
        .join(file);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = found.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        found == text,
        "docs/reference/{file} is stale (first difference in line {}). Run: UPDATE_REFERENCE=1 cargo test -p pg-tide reference",
        line.unwrap_or_else(|| found.lines().count().min(text.lines().count())) + 1
    );
}

/// A heading and the long help of a command, then those of its subcommands.
fn describe(command: &Command, path: &str, text: &mut String) {
    let help = command.clone().bin_name(path).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(
        text,
        "\n## {path}\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    );
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        describe(sub, &format!("{path} {}", sub.get_name()), text);
    }
}

/// What the environment of this test says is nobody's documentation.
fn without_values(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.hide_env_values(true));
    let names: Vec<String> = command
        .get_subcommands()
        .map(|s| s.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, without_values)
    })
}

#[test]
fn the_reference_of_the_command_line_is_fresh() {
    let mut command = without_values(super::Arguments::command().term_width(WIDTH));
    command.build();
    let mut text = String::from(
        "# The command line\n\n<!-- Written by a test: UPDATE_REFERENCE=1 cargo test -p pg-tide reference -->\n\n\
         What `--help` says, for every command. Arguments may come from the environment where `[env: NAME]` says so.\n",
    );
    describe(&command, "pg-tide", &mut text);
    check("cli.md", &text);
}

#[test]
fn every_command_says_what_it_does_and_takes_help() {
    fn visit(command: &Command, path: &str) {
        assert!(command.get_about().is_some(), "{path} has no description");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{path}: {argument} has no description"
            );
        }
        for sub in command.get_subcommands() {
            visit(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    let command = super::Arguments::command();
    command.clone().debug_assert();
    visit(&command, "pg-tide");
}

fn table(options: &[&ConnectorOption], text: &mut String) {
    text.push_str("\n| key | value | required | meaning |\n|---|---|---|---|\n");
    for option in options {
        let values = if option.allowed.is_empty() {
            allowed_values(option)
        } else {
            let quoted: Vec<String> = option.allowed.iter().map(|v| format!("`{v}`")).collect();
            quoted.join(", ")
        };
        let _ = writeln!(
            text,
            "| `{}` | {values} | {} | {} |",
            option.key,
            if option.required { "yes" } else { "" },
            option.description.replace('|', "\\|")
        );
    }
}

#[test]
fn the_reference_of_the_options_is_fresh() {
    let options = pg_tide_schema::options();
    let mut text = String::from(
        "# Options of pipelines\n\n<!-- Written by a test: UPDATE_REFERENCE=1 cargo test -p pg-tide reference -->\n\n\
         What `p_config` of `tide.relay_set_outbox` and `tide.relay_set_inbox` may contain; `pg-tide config options` and\n\
         `SELECT * FROM tide.connector_option` show the same. How they work together and what holds without them is in\n\
         [pipelines.md](pipelines.md).\n\n\
         - template: a text with `{placeholders}`\n\
         - list of texts: an array, or one text with commas\n\
         - duration: `\"250ms\"`, `\"3s\"`, `\"5m\"`, `\"2h\"`, or a number of milliseconds\n\
         - secret reference: `\"${file:/absolute/path}\"` or `\"${env:NAME}\"`, read by the relay; a secret itself is refused\n\
         - text or reference: a text, or such a reference\n\
         - `retry.max` is `max` inside the object `retry`\n",
    );
    for (direction, role) in [("forward", "sink"), ("reverse", "source")] {
        let of = |wanted: &str| -> Vec<&ConnectorOption> {
            options
                .iter()
                .filter(|o| o.direction == direction && o.connector == wanted)
                .collect()
        };
        let _ = write!(text, "\n## Every {role}\n");
        table(&of("*"), &mut text);
        let mut connectors: Vec<&str> = options
            .iter()
            .filter(|o| o.direction == direction && o.connector != "*")
            .map(|o| o.connector.as_str())
            .collect();
        connectors.sort_unstable();
        connectors.dedup();
        for connector in connectors {
            let _ = write!(text, "\n## {role} `{connector}`\n");
            table(&of(connector), &mut text);
        }
    }
    check("options.md", &text);
}

#[test]
fn the_reference_of_the_metrics_is_fresh() {
    let exposed = Metrics::sample().text();
    let mut text = String::from(
        "# Metrics\n\n<!-- Written by a test: UPDATE_REFERENCE=1 cargo test -p pg-tide reference -->\n\n\
         Served at `/metrics` of every relay (`--metrics-addr`). A pipeline's series are those of the relay that owns it.\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut lines = exposed.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let kind = lines
            .next()
            .and_then(|l| l.rsplit_once(' '))
            .map(|(_, kind)| kind)
            .unwrap_or_default();
        let sample = lines.find(|l| !l.starts_with('#')).unwrap_or_default();
        let full = sample.split(['{', ' ']).next().unwrap_or(name);
        let full = if kind == "histogram" { name } else { full };
        let labels: Vec<&str> = sample
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| labels.split(',').filter_map(|l| l.split('=').next()).collect())
            .unwrap_or_default();
        let labels: Vec<&str> = labels.into_iter().filter(|l| *l != "le").collect();
        let _ = writeln!(
            text,
            "| `{full}` | {kind} | {} | {} |",
            labels.join(", "),
            help.trim_end_matches('.')
        );
        count += 1;
    }
    let registered = include_str!("../status/metrics.rs")
        .matches("registry.register(")
        .count();
    assert_eq!(
        count, registered,
        "Metrics::sample leaves out a metric, or it has no help:\n{exposed}"
    );
    check("metrics.md", &text);
}
