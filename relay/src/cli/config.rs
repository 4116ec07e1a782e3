//! `pg-tide config`: configurations checked and explained without a database.

use std::io::Read;

use clap::{Args, Subcommand, ValueEnum};
use pg_tide_schema::ConnectorOption;
use serde::Serialize;
use serde_json::Value;

use super::output::{self, Format, OutputArguments, Table};
use super::{Ended, Outcome};
use crate::config::Declared;

/// What to do with configurations.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Validate(ValidateArguments),
    Options(OptionsArguments),
}

const FILE_FORMAT: &str = "\
The file is JSON: a pipeline, an array of pipelines, or {\"pipelines\": [...]} as pipeline list prints it:

  {\"name\": \"orders-to-kafka\", \"outbox\": \"orders\", \"sink\": \"kafka\",
   \"config\": {\"brokers\": \"kafka:9092\", \"topic\": \"order-events\"}}
  {\"name\": \"nats-to-payments\", \"inbox\": \"payments\", \"source\": \"nats\",
   \"config\": {\"url\": \"nats://nats:4222\", \"subject\": \"payments.confirmed\"}}

Further keys: batch_size, enabled, relay_group, max_retries, idempotent.

JSON: {\"pipelines\": [{\"name\", \"valid\", \"error\"}]}

Exit code 3 when one is refused.

Example:
  pg-tide config validate pipelines.json && pg-tide pipeline apply pipelines.json";

/// Check pipelines in a file with the reader that the relay uses.
#[derive(Debug, Args)]
#[command(after_long_help = FILE_FORMAT)]
pub(super) struct ValidateArguments {
    /// The file; - is standard input
    file: String,
    #[command(flatten)]
    output: OutputArguments,
}

/// List the options that a pipeline's config may have.
///
/// JSON: {"options": [{"direction", "connector", "key", "kind", "required", "allowed", "minimum", "maximum",
/// "description"}]}
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  pg-tide config options kafka --direction forward")]
pub(super) struct OptionsArguments {
    /// Sink or source, such as kafka; without it all
    connector: Option<String>,
    /// forward: options of sinks; reverse: of sources
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    Forward,
    Reverse,
}

pub(super) fn run(command: Command) -> Outcome {
    match command {
        Command::Validate(arguments) => validate(&arguments),
        Command::Options(arguments) => options(&arguments),
    }
}

/// The objects of a file of pipelines.
pub(super) fn read_pipelines(file: &str) -> Result<Vec<Value>, String> {
    let text = if file == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map(|_| text)
            .map_err(|e| format!("cannot read standard input: {e}"))?
    } else {
        std::fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| format!("{file} is no JSON: {e}"))?;
    let pipelines = match value {
        Value::Array(pipelines) => pipelines,
        Value::Object(mut map) => match map.remove("pipelines") {
            Some(Value::Array(pipelines)) => pipelines,
            Some(_) => return Err(format!("{file}: \"pipelines\" must be an array")),
            None => vec![Value::Object(map)],
        },
        _ => {
            return Err(format!(
                "{file} holds no pipelines; \"pg-tide config validate --help\" shows how it is written"
            ));
        }
    };
    if pipelines.is_empty() {
        return Err(format!("{file} holds no pipelines"));
    }
    Ok(pipelines)
}

/// What a pipeline of a file is called, also when it cannot be read.
pub(super) fn name_of(value: &Value, number: usize) -> String {
    value["name"]
        .as_str()
        .map_or_else(|| format!("pipeline {} of the file", number + 1), str::to_owned)
}

/// A pipeline of a file, read and checked.
pub(super) fn read_checked(value: &Value) -> Result<Declared, String> {
    let declared = Declared::read(value.clone()).map_err(|e| e.to_string())?;
    declared.check().map_err(|e| format!("config: {e}"))?;
    Ok(declared)
}

#[derive(Debug, Serialize)]
struct Validated {
    name: String,
    valid: bool,
    error: Option<String>,
}

fn validate(arguments: &ValidateArguments) -> Outcome {
    let mut seen = std::collections::BTreeSet::new();
    let results: Vec<Validated> = read_pipelines(&arguments.file)?
        .iter()
        .enumerate()
        .map(|(number, value)| {
            let name = name_of(value, number);
            let again = !seen.insert(name.clone());
            let error = match read_checked(value) {
                Ok(_) if again => Some("stands in the file twice".to_owned()),
                result => result.err(),
            };
            Validated {
                name,
                valid: error.is_none(),
                error,
            }
        })
        .collect();
    if arguments.output.format == Format::Json {
        output::print_json(&serde_json::json!({ "pipelines": results }))?;
    } else {
        output::print_lines(results.iter().map(|r| match &r.error {
            None => format!("{}: valid", r.name),
            Some(error) => format!("{}: {error}", r.name),
        }))?;
    }
    Ok(Ended::well_if(results.iter().all(|r| r.valid)))
}

#[derive(Debug, Serialize)]
struct OptionJson<'a> {
    direction: &'a str,
    connector: &'a str,
    key: &'a str,
    kind: &'a str,
    required: bool,
    allowed: Option<&'a [String]>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    description: &'a str,
}

fn options(arguments: &OptionsArguments) -> Outcome {
    let all = pg_tide_schema::options();
    let direction = arguments.direction.map(|d| match d {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
    });
    let mut connectors: Vec<&str> = all
        .iter()
        .map(|o| o.connector.as_str())
        .filter(|c| *c != "*")
        .collect();
    connectors.sort_unstable();
    connectors.dedup();
    if let Some(wanted) = &arguments.connector
        && !connectors.contains(&wanted.as_str())
    {
        return Err(format!(
            "there is no connector \"{wanted}\"; there are {}",
            connectors.join(", ")
        ));
    }
    // The directions that the connector has, so that "all sources" is not
    // shown for what is only a sink.
    let has = |o: &ConnectorOption, wanted: &str| {
        all.iter()
            .any(|other| other.direction == o.direction && other.connector == wanted)
    };
    let chosen: Vec<&ConnectorOption> = all
        .iter()
        .filter(|o| direction.is_none_or(|d| o.direction == d))
        .filter(|o| match &arguments.connector {
            None => true,
            Some(wanted) => o.connector == *wanted || o.connector == "*" && has(o, wanted),
        })
        .collect();
    if arguments.output.format == Format::Json {
        let rows: Vec<OptionJson> = chosen
            .iter()
            .map(|o| OptionJson {
                direction: &o.direction,
                connector: &o.connector,
                key: &o.key,
                kind: &o.kind,
                required: o.required,
                allowed: (!o.allowed.is_empty()).then_some(&o.allowed),
                minimum: o.minimum,
                maximum: o.maximum,
                description: &o.description,
            })
            .collect();
        output::print_json(&serde_json::json!({ "options": rows }))?;
        return Ok(Ended::Well);
    }
    let headings = [
        "DIRECTION",
        "CONNECTOR",
        "KEY",
        "VALUE",
        "REQUIRED",
        "DESCRIPTION",
    ];
    let mut table = Table::new(headings.into_iter().map(|h| (h, false)));
    for o in chosen {
        table.row(
            [
                o.direction.clone(),
                if o.connector == "*" { "all" } else { &o.connector }.to_owned(),
                o.key.clone(),
                allowed_values(o),
                if o.required { "yes" } else { "" }.to_owned(),
                o.description.clone(),
            ]
            .into_iter(),
        );
    }
    output::print(&table.text())?;
    Ok(Ended::Well)
}

/// What may stand there, in few words.
pub(super) fn allowed_values(option: &ConnectorOption) -> String {
    if !option.allowed.is_empty() {
        return option.allowed.join(", ");
    }
    let kind = match option.kind.as_str() {
        "text_list" => "list of texts",
        "template" => "template",
        "secret" => "secret reference",
        "secret_list" => "secret references",
        "setting" => "text or reference",
        other => other,
    };
    let unit = if option.kind == "duration" { " ms" } else { "" };
    match (option.minimum, option.maximum) {
        (Some(minimum), Some(maximum)) => format!("{kind} {minimum} to {maximum}{unit}"),
        (Some(minimum), None) => format!("{kind} from {minimum}{unit}"),
        (None, Some(maximum)) => format!("{kind} to {maximum}{unit}"),
        (None, None) => kind.to_owned(),
    }
}
