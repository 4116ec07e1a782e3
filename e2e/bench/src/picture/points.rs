//! The points of a picture, out of the summary.

use super::{Colour, Panel, Point, Series, X};
use crate::report::SummaryEntry;
use crate::statistics::range;

impl Panel {
    /// A quick look measures less: ticks and things without a value would be empty places.
    pub(super) fn drop_what_nothing_stands_at(&mut self) {
        let points = |x: f64, series: &[Series]| {
            let mut all = series.iter().flat_map(|series| &series.points);
            all.any(|point| point.x.total_cmp(&x).is_eq())
        };
        match &mut self.x {
            X::Numbers { ticks, .. } => ticks.retain(|(x, _)| points(*x, &self.series)),
            X::Things(things) => {
                let kept: Vec<f64> = (0..things.len())
                    .map(|n| n as f64)
                    .filter(|n| points(*n, &self.series))
                    .collect();
                let mut n = 0.0;
                things.retain(|_| {
                    n += 1.0;
                    kept.contains(&(n - 1.0))
                });
                for point in self.series.iter_mut().flat_map(|series| &mut series.points) {
                    let place = kept.iter().position(|x| x.total_cmp(&point.x).is_eq());
                    point.x = place.unwrap_or_default() as f64;
                }
            }
        }
    }
}

/// The summary, by name.
pub(super) struct Figures<'a>(&'a [SummaryEntry]);

impl<'a> Figures<'a> {
    pub(super) fn of(summary: &'a [SummaryEntry]) -> Self {
        Self(summary)
    }

    fn point(&self, x: f64, name: &str) -> Option<Point> {
        let entry = self.0.iter().find(|entry| entry.name == name)?;
        let (least, most) = range(&entry.runs)?;
        Some(Point {
            x,
            median: entry.value,
            least,
            most,
        })
    }

    /// The figures that are there of a name with an x in it each.
    pub(super) fn series(
        &self,
        label: &'static str,
        colour: Colour,
        names: impl IntoIterator<Item = (f64, String)>,
    ) -> Series {
        let points = names.into_iter().filter_map(|(x, name)| self.point(x, &name));
        Series {
            label,
            colour,
            limit: false,
            points: points.collect(),
        }
    }
}

impl Series {
    pub(super) fn limit(self) -> Self {
        Self { limit: true, ..self }
    }
}
