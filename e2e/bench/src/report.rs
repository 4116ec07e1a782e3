//! Values as they come in, and what is made of them: the table, the verdicts and `summary.json`.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::figures::{Bar, Figure};
use crate::statistics::{in_series, median, range};

/// The values of one run of a measurement, by figure name.
pub type Values = Vec<(String, f64)>;

/// All values measured so far.
pub struct Report {
    figures: Vec<Figure>,
    // By figure: run number and value. A measurement that fails leaves a gap, so runs are kept by number.
    values: HashMap<String, Vec<(usize, f64)>>,
}

/// A figure as `summary.json` has it.
#[derive(Debug, Serialize, PartialEq)]
pub struct SummaryEntry {
    /// The figure's name.
    pub name: String,
    /// The median of the runs.
    pub value: f64,
    /// The unit of the values.
    pub unit: &'static str,
    /// The values, run by run.
    pub runs: Vec<f64>,
}

/// Whether a figure holds its bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is no bar, or nothing to judge by.
    Unjudged,
    /// It does.
    Held,
    /// It does not.
    Missed,
}

impl Report {
    /// An empty report over these figures.
    pub fn new(figures: Vec<Figure>) -> Self {
        Self {
            figures,
            values: HashMap::new(),
        }
    }

    /// Takes values of one run. A figure that two measurements give, as the relay's memory, keeps the larger.
    pub fn add(&mut self, run: usize, values: Values) -> Result<()> {
        for (name, value) in values {
            self.figures
                .iter()
                .find(|figure| figure.name == name)
                .with_context(|| format!("unknown figure {name}"))?;
            let runs = self.values.entry(name).or_default();
            match runs.iter_mut().find(|(number, _)| *number == run) {
                Some((_, known)) => *known = known.max(value),
                None => runs.push((run, value)),
            }
        }
        Ok(())
    }

    fn runs(&self, name: &str) -> Vec<f64> {
        self.values
            .get(name)
            .map(|runs| runs.iter().map(|(_, value)| *value).collect())
            .unwrap_or_default()
    }

    fn in_run(&self, name: &str, run: usize) -> Option<f64> {
        self.values
            .get(name)?
            .iter()
            .find(|(number, _)| *number == run)
            .map(|(_, value)| *value)
    }

    /// The figure as a share of what it is compared to, run by run: both were measured in turn, so that what else the
    /// machine did at the time weighs on both.
    fn shares(&self, figure: &Figure) -> Vec<f64> {
        if figure.compared_to.is_empty() {
            return Vec::new();
        }
        let runs = self
            .values
            .get(&figure.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let share = |&(run, value): &(usize, f64)| {
            let others = figure.compared_to.iter().map(|other| self.in_run(other, run));
            Some(value / in_series(&others.collect::<Option<Vec<f64>>>()?))
        };
        runs.iter().filter_map(share).collect()
    }

    fn verdict(&self, figure: &Figure) -> Verdict {
        let value = median(&self.runs(&figure.name));
        let held = match figure.bar {
            Bar::None => None,
            Bar::AtLeast(bar) => value.map(|value| value >= bar),
            Bar::AtMost(bar) => value.map(|value| value <= bar),
            Bar::Share(bar) => median(&self.shares(figure)).map(|share| share >= bar),
        };
        held.map_or(Verdict::Unjudged, |held| {
            if held { Verdict::Held } else { Verdict::Missed }
        })
    }

    /// How many figures miss their bar.
    pub fn missed(&self) -> usize {
        self.figures
            .iter()
            .filter(|figure| self.verdict(figure) == Verdict::Missed)
            .count()
    }

    /// What `summary.json` has: the measured figures, and for each that is compared to others its share under
    /// `<name>.ratio`.
    pub fn summary(&self) -> Vec<SummaryEntry> {
        let mut entries = Vec::new();
        for figure in &self.figures {
            let mut add = |name: String, unit, runs: Vec<f64>| {
                if let Some(value) = median(&runs) {
                    entries.push(SummaryEntry {
                        name,
                        value,
                        unit,
                        runs,
                    });
                }
            };
            add(figure.name.clone(), figure.unit, self.runs(&figure.name));
            add(format!("{}.ratio", figure.name), "ratio", self.shares(figure));
        }
        entries
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut rows = vec![
            [
                "figure",
                "median",
                "min .. max",
                "unit",
                "runs",
                "compared",
                "bar",
                "",
            ]
            .map(String::from),
        ];
        for figure in &self.figures {
            let runs = self.runs(&figure.name);
            let (Some(value), Some((least, most))) = (median(&runs), range(&runs)) else {
                continue;
            };
            rows.push([
                figure.name.clone(),
                number(value),
                format!("{} .. {}", number(least), number(most)),
                figure.unit.to_owned(),
                runs.len().to_string(),
                median(&self.shares(figure))
                    .map(|share| compared(share, &figure.compared_to))
                    .unwrap_or_default(),
                bar(figure.bar),
                match self.verdict(figure) {
                    Verdict::Unjudged => "",
                    Verdict::Held => "ok",
                    Verdict::Missed => "MISSED",
                }
                .to_owned(),
            ]);
        }
        align(&rows, &[1, 2, 4])
    }
}

fn compared(share: f64, to: &[String]) -> String {
    format!("{share:.3} of {}", to.join(" + "))
}

fn bar(bar: Bar) -> String {
    match bar {
        Bar::None => String::new(),
        Bar::AtLeast(value) => format!(">= {}", number(value)),
        Bar::AtMost(value) => format!("<= {}", number(value)),
        Bar::Share(share) => format!(">= {share:.2} of it"),
    }
}

/// A value with as many digits as mean something: 12,345 or 123.4 or 1.23.
fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows as columns of equal width, those in `to_the_right` aligned to the right.
fn align(rows: &[[String; 8]], to_the_right: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = if to_the_right.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
