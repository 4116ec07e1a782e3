//! Pipelines as a table that fits the terminal, and their last errors below.

use serde::Deserialize;

use crate::cli::output::{Table, one_line, shorten, wrap};
use crate::human::age;

/// A row of tide.relay_pipeline_status, as far as it is shown.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Pipeline {
    #[serde(rename = "pipeline")]
    pub(super) name: String,
    outbox: Option<String>,
    inbox: Option<String>,
    sink: Option<String>,
    source: Option<String>,
    owner: Option<String>,
    epoch: Option<i64>,
    state: String,
    lag: Option<i64>,
    messages: Option<i64>,
    lag_seconds: Option<f64>,
    rate: Option<f64>,
    dead_letters: Option<i64>,
    last_error: Option<String>,
    note: Option<String>,
    /// Seconds since the state began, by the database's clock.
    #[serde(skip)]
    pub(super) since: Option<f64>,
    /// Seconds since the last error.
    #[serde(skip)]
    pub(super) error_age: Option<f64>,
}

impl Pipeline {
    pub(super) fn is_well(&self) -> bool {
        matches!(self.state.as_str(), "running" | "starting" | "disabled")
    }

    fn route(&self) -> String {
        let name =
            |a: &Option<String>, b: &Option<String>| a.clone().or_else(|| b.clone()).unwrap_or_default();
        format!(
            "{} > {}",
            name(&self.outbox, &self.source),
            name(&self.sink, &self.inbox)
        )
    }
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn rate(pipeline: &Pipeline) -> String {
    match pipeline.rate {
        Some(rate) if pipeline.owner.is_some() => {
            if rate >= 10.0 || rate == 0.0 {
                format!("{rate:.0}/s")
            } else {
                format!("{rate:.1}/s")
            }
        }
        _ => "-".to_owned(),
    }
}

/// What a column is, and what happens to it when there is no room.
struct Column {
    heading: &'static str,
    right: bool,
    /// Goes in this order; 0 stays.
    drop: u8,
    /// May be shortened to so many characters.
    least: Option<usize>,
    cell: fn(&Pipeline) -> String,
}

const COLUMNS: [Column; 11] = [
    Column {
        heading: "PIPELINE",
        right: false,
        drop: 0,
        least: Some(20),
        cell: |p| one_line(&p.name),
    },
    Column {
        heading: "ROUTE",
        right: false,
        drop: 6,
        least: Some(16),
        cell: |p| one_line(&p.route()),
    },
    Column {
        heading: "STATE",
        right: false,
        drop: 0,
        least: None,
        cell: |p| p.state.clone(),
    },
    Column {
        heading: "SINCE",
        right: true,
        drop: 0,
        least: None,
        cell: |p| p.since.map_or_else(|| "-".to_owned(), age),
    },
    Column {
        heading: "LAG",
        right: true,
        drop: 0,
        least: None,
        cell: |p| number(p.lag),
    },
    Column {
        heading: "BEHIND",
        right: true,
        drop: 3,
        least: None,
        cell: |p| p.lag_seconds.map_or_else(|| "-".to_owned(), age),
    },
    Column {
        heading: "RATE",
        right: true,
        drop: 0,
        least: None,
        cell: rate,
    },
    Column {
        heading: "DEAD",
        right: true,
        drop: 4,
        least: None,
        cell: |p| number(p.dead_letters),
    },
    Column {
        heading: "MESSAGES",
        right: true,
        drop: 2,
        least: None,
        cell: |p| number(p.messages),
    },
    Column {
        heading: "OWNER",
        right: false,
        drop: 5,
        least: Some(16),
        cell: |p| p.owner.clone().unwrap_or_else(|| "-".to_owned()),
    },
    Column {
        heading: "EPOCH",
        right: true,
        drop: 1,
        least: None,
        cell: |p| number(p.epoch),
    },
];

/// Room that the last error needs to be worth a column.
const LEAST_ERROR: usize = 16;

/// The table and the last errors. Without a width nothing is shortened.
pub(super) fn lines(pipelines: &[Pipeline], width: Option<usize>) -> Vec<String> {
    if pipelines.is_empty() {
        return vec![
            "there are no pipelines; make one with tide.relay_set_outbox or tide.relay_set_inbox".into(),
        ];
    }
    let mut lines = table(pipelines, width);
    let mut below = Vec::new();
    for pipeline in pipelines {
        let name = one_line(&pipeline.name);
        if let Some(error) = &pipeline.last_error {
            let when = pipeline.error_age.map(age).unwrap_or_default();
            below.push(format!("{name}, {when} ago:"));
            below.extend(wrap(error, width.unwrap_or(usize::MAX), 2));
        }
        if let Some(note) = &pipeline.note {
            below.push(format!("{name}, note:"));
            below.extend(wrap(note, width.unwrap_or(usize::MAX), 2));
        }
    }
    if !below.is_empty() {
        lines.push(String::new());
        lines.push("Last errors and notes".into());
        lines.extend(below);
    }
    match width {
        Some(width) => lines.iter().map(|l| shorten(l, width)).collect(),
        None => lines,
    }
}

fn table(pipelines: &[Pipeline], width: Option<usize>) -> Vec<String> {
    let errors = pipelines.iter().any(|p| p.last_error.is_some());
    let all: Vec<Vec<String>> = COLUMNS
        .iter()
        .map(|column| pipelines.iter().map(|p| (column.cell)(p)).collect())
        .collect();
    let mut widths: Vec<usize> = COLUMNS
        .iter()
        .zip(&all)
        .map(|(column, cells)| {
            let longest = cells.iter().map(|c| c.chars().count()).max().unwrap_or(0);
            longest.max(column.heading.len())
        })
        .collect();
    let mut shown = [true; COLUMNS.len()];
    let mut error_room = usize::MAX;
    if let Some(width) = width {
        let needed = |widths: &[usize], shown: &[bool]| -> usize {
            let columns: usize = widths
                .iter()
                .zip(shown)
                .filter(|(_, s)| **s)
                .map(|(w, _)| w + 2)
                .sum();
            columns + if errors { LEAST_ERROR } else { 0 }
        };
        let mut next = 1;
        while needed(&widths, &shown) > width.saturating_add(2) {
            let long = COLUMNS
                .iter()
                .zip(&mut widths)
                .zip(&shown)
                .find(|((column, width), shown)| {
                    **shown && column.least.is_some_and(|least| **width > least)
                });
            if let Some(((column, width), _)) = long {
                *width = column.least.unwrap_or(*width);
            } else if let Some(n) = COLUMNS.iter().position(|c| c.drop == next) {
                shown[n] = false;
                next += 1;
            } else {
                break;
            }
        }
        error_room = (width + LEAST_ERROR)
            .saturating_sub(needed(&widths, &shown))
            .max(LEAST_ERROR);
    }
    let columns: Vec<usize> = (0..COLUMNS.len()).filter(|n| shown[*n]).collect();
    let headings = columns.iter().map(|n| (COLUMNS[*n].heading, COLUMNS[*n].right));
    let mut table = Table::new(headings.chain(errors.then_some(("LAST ERROR", false))));
    for (row, pipeline) in pipelines.iter().enumerate() {
        let cells = columns.iter().map(|n| shorten(&all[*n][row], widths[*n]));
        let error = errors.then(|| {
            let error = one_line(pipeline.last_error.as_deref().unwrap_or_default());
            shorten(&error, error_room.min(60))
        });
        table.row(cells.chain(error));
    }
    table.text().lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipelines() -> Vec<Pipeline> {
        let forward = Pipeline {
            name: "orders-to-kafka-in-the-other-region".into(),
            outbox: Some("orders".into()),
            sink: Some("kafka".into()),
            owner: Some("tide-relay-default-7c9d8f6b5-x2x4z-1".into()),
            epoch: Some(1234),
            state: "retrying".into(),
            lag: Some(1_234_567),
            messages: Some(98_765_432),
            last_error: Some(
                "kafka kafka-0.example:9092: topic \"order-events\" cannot be used: the topic does not exist; create it".into(),
            ),
            since: Some(12.0),
            error_age: Some(3.0),
            ..Pipeline::default()
        };
        let reverse = Pipeline {
            name: "p".into(),
            inbox: Some("payments".into()),
            source: Some("nats".into()),
            state: "no live relay".into(),
            ..Pipeline::default()
        };
        vec![forward, reverse]
    }

    #[test]
    fn it_fits_eighty_columns_and_keeps_what_matters() {
        for width in [80, 100, 132, 40] {
            let lines = lines(&pipelines(), Some(width));
            assert!(
                lines.iter().all(|l| l.chars().count() <= width),
                "{width}: {lines:#?}"
            );
            for part in ["retrying", "1234567"] {
                assert!(width < 80 || lines[1].contains(part), "{width}: {lines:#?}");
            }
            assert!(lines[1].starts_with("orders-to-kafka-in-"), "{lines:#?}");
            assert!(
                one_line(&lines.join(" ")).contains("create it"),
                "the whole error stands below: {lines:#?}"
            );
        }
        let lines = lines(&pipelines(), Some(80));
        assert!(
            lines[1].ends_with('…') && lines[1].contains("kafka kafka"),
            "{lines:#?}"
        );
        assert!(lines[2].contains("no live relay"), "{lines:#?}");
    }

    #[test]
    fn without_a_terminal_nothing_is_left_out() {
        let lines = lines(&pipelines(), None);
        for part in [
            "orders-to-kafka-in-the-other-region",
            "orders > kafka",
            "tide-relay-default-7c9d8f6b5-x2x4z-1",
            "1234",
        ] {
            assert!(lines[1].contains(part), "{lines:#?}");
        }
        assert!(
            lines[2].starts_with("p ") && lines[2].contains("nats > payments"),
            "{lines:#?}"
        );
    }

    #[test]
    fn numbers_that_are_nothing_are_dashes() {
        assert_eq!(rate(&running(0.0)), "0/s");
        assert_eq!(rate(&running(0.25)), "0.2/s");
        assert_eq!(rate(&running(1234.5)), "1234/s");
        assert_eq!(rate(&Pipeline::default()), "-");
    }

    fn running(rate: f64) -> Pipeline {
        Pipeline {
            owner: Some("a".into()),
            rate: Some(rate),
            ..Pipeline::default()
        }
    }
}
