//! Ranges of axes, and where ticks are. Positions are numbers on the axis as it is drawn: a logarithm on a logarithmic
//! one.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::Ranged;

/// An axis as it is drawn.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) ticks: Vec<f64>,
    log: bool,
}

/// What plotters asks an axis. Its own logarithmic ones have ticks at powers of ten alone.
impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "pixels")]
    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (place - self.from) / (self.to - self.from);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl Axis {
    /// From 0 to a bit above the largest value, in steps of 1, 2 or 5 times a power of ten.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        const STEPS: f64 = 6.0;
        let most = values.fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let power = 10_f64.powf((most / STEPS).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| most / step <= STEPS)
            .unwrap_or(most);
        let steps = (most * 1.02 / step).ceil();
        Self {
            from: 0.0,
            to: steps * step,
            ticks: (0..=9)
                .map(f64::from)
                .filter(|n| *n <= steps)
                .map(|n| n * step)
                .collect(),
            log: false,
        }
    }

    /// Around all values, with ticks at 1, 2 and 5 times powers of ten, or at fewer where these are many.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (0.1, 1.0);
        }
        let (from, to) = (least.log10() - 0.08, most.log10() + 0.08);
        let factors: &[f64] = if to - from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut ticks = Vec::new();
        let mut power = from.floor();
        while power <= to {
            ticks.extend(factors.iter().map(|factor| power + factor.log10()));
            power += 1.0;
        }
        ticks.retain(|tick| (from..=to).contains(tick));
        Self {
            from,
            to,
            ticks,
            log: true,
        }
    }

    /// With ticks at just these values, on a logarithmic axis.
    pub(super) fn at(values: &[f64]) -> Self {
        let ticks: Vec<f64> = values.iter().map(|value| value.log10()).collect();
        let least = ticks.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ticks.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let margin = ((most - least) * 0.06).max(0.1);
        Self {
            from: least - margin,
            to: most + margin,
            ticks,
            log: true,
        }
    }

    /// One place of width 1 for each of so many things.
    pub(super) fn of_things(count: usize) -> Self {
        Self {
            from: 0.0,
            to: count as f64,
            ticks: (0..count).map(|n| n as f64 + 0.5).collect(),
            log: false,
        }
    }

    /// Where a value is.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = if self.log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        place.clamp(self.from, self.to)
    }

    /// What is written at a place.
    pub(super) fn text(&self, place: f64) -> String {
        number(if self.log { 10_f64.powf(place) } else { place })
    }
}

/// A number with the digits that it has, with k and M for thousands and millions.
pub(super) fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 0.9999e6 => (value / 1e6, "M"),
        size if size >= 0.9999e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size >= 99.99 => 0,
        size if size >= 0.9999 => 1,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (0.02, "0.02"),
            (2.5, "2.5"),
            (200.0, "200"),
            (2_000.0, "2000"),
            (20_000.0, "20k"),
            (2_500_000.0, "2.5M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn an_axis_from_zero_has_round_ticks_and_holds_all() {
        let axis = Axis::from_zero([3.0, 17.2].into_iter());
        assert!(axis.to >= 17.2 && axis.from.total_cmp(&0.0).is_eq(), "{axis:?}");
        assert_eq!(axis.text(axis.ticks[1]), "5");
        assert!(Axis::from_zero(std::iter::empty()).to > 0.0);
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_within_its_range() {
        let axis = Axis::logarithmic([1.5, 120.0, 0.0].into_iter());
        let texts: Vec<_> = axis.ticks.iter().map(|tick| axis.text(*tick)).collect();
        assert_eq!(texts, ["2", "5", "10", "20", "50", "100"]);
        let wide = Axis::logarithmic([1.0, 100_000.0].into_iter());
        assert_eq!(wide.ticks.len(), 6);
        assert!(axis.place(0.0).total_cmp(&axis.from).is_eq());
    }
}
