//! Pictures of the families: from the summary to SVG. `families` says which there are, `points` takes what they
//! show out of the summary, `axis` chooses ranges, ticks and their texts, `draw` draws.

mod axis;
mod draw;
mod families;
mod points;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::report::SummaryEntry;

/// One picture: panels beside each other.
#[derive(Debug)]
struct Picture {
    /// The file's name without its ending.
    name: &'static str,
    title: &'static str,
    panels: Vec<Panel>,
}

/// One chart.
#[derive(Debug)]
struct Panel {
    title: &'static str,
    x: X,
    /// The axis' title, with its unit.
    y: &'static str,
    /// Whether the y axis is logarithmic; otherwise it begins at 0.
    y_log: bool,
    series: Vec<Series>,
}

/// What lies along the x axis.
#[derive(Debug)]
enum X {
    /// Numbers, on a logarithmic axis, with the texts of those that were measured.
    Numbers {
        title: &'static str,
        ticks: Vec<(f64, String)>,
    },
    /// Things: their values are bars.
    Things(Vec<String>),
}

/// Values that belong together: a line, or a bar of each thing.
#[derive(Debug)]
struct Series {
    label: &'static str,
    colour: Colour,
    /// What the plain client library reached: drawn dashed, or paler.
    limit: bool,
    points: Vec<Point>,
}

/// A figure: where on the x axis (a number, or which thing from 0), its median, smallest and largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    x: f64,
    median: f64,
    least: f64,
    most: f64,
}

/// Told apart by people who do not see all colours alike, too (Okabe and Ito).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Blue,
    Orange,
    Green,
    Purple,
}

/// Draws those pictures of which there are figures, as SVG files into a folder; returns which.
pub fn draw(summary: &[SummaryEntry], folder: &Path) -> Result<Vec<PathBuf>> {
    let drawn = families::pictures(summary).into_iter().map(|picture| {
        let path = folder.join(format!("{}.svg", picture.name));
        draw::draw(&picture, &path).map(|()| path)
    });
    drawn.collect()
}
