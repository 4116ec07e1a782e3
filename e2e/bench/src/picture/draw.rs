//! Drawing a picture as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::{Colour, Panel, Picture, Series, X};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const PANEL: (u32, u32) = (600, 440);
const TITLE_HEIGHT: u32 = 40;
const LINE_HEIGHT: u32 = 20;
const FONT: &str = "sans-serif";
// Plotters makes texts smaller by a quarter than it is told.
const TEXT: f64 = 16.0;
const GREY: RGBColor = RGBColor(90, 90, 90);

/// Entries of a legend beside each other.
const LEGEND_COLUMNS: usize = 2;

/// Of the place of a thing, how much its bars take.
const BARS_SHARE: f64 = 0.7;

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Self::Blue => RGBColor(0, 114, 178),
            Self::Orange => RGBColor(213, 94, 0),
            Self::Green => RGBColor(0, 158, 115),
            Self::Purple => RGBColor(150, 80, 160),
        }
    }
}

/// Writes the picture to a file.
pub(super) fn draw(picture: &Picture, path: &Path) -> Result<()> {
    let panels = u32::try_from(picture.panels.len())?;
    let size = (PANEL.0 * panels, PANEL.1 + TITLE_HEIGHT);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw_all(picture, &root).map_err(|error| anyhow!("cannot draw {}: {error}", picture.name))?;
    }
    Ok(std::fs::write(path, svg)?)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_all(picture: &Picture, root: &Area<'_>) -> Drawn {
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(TITLE_HEIGHT);
    let middle = i32::try_from(root.dim_in_pixel().0 / 2)?;
    text(&head, picture.title, (middle, 24), 24.0, BLACK)?;
    let areas = body.split_evenly((1, picture.panels.len()));
    for (panel, area) in picture.panels.iter().zip(&areas) {
        draw_panel(panel, area)?;
    }
    Ok(root.present()?)
}

/// A text around a point.
fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: f64, colour: RGBColor) -> Drawn {
    let style = (FONT, size)
        .into_font()
        .color(&colour)
        .pos(Pos::new(HPos::Center, VPos::Center));
    Ok(area.draw_text(text, &style, at)?)
}

fn draw_panel(panel: &Panel, area: &Area<'_>) -> Drawn {
    let area = if panel.title.is_empty() {
        area.clone()
    } else {
        let (head, rest) = area.split_vertically(LINE_HEIGHT + 4);
        let middle = i32::try_from(area.dim_in_pixel().0 / 2)?;
        text(&head, panel.title, (middle, 10), 19.0, BLACK)?;
        rest
    };
    let lines = u32::try_from(panel.series.len().div_ceil(LEGEND_COLUMNS))?;
    let (head, body) = area.split_vertically(lines * LINE_HEIGHT + 6);
    draw_legend(panel, &head)?;

    let points = || panel.series.iter().flat_map(|series| &series.points);
    let values = || points().flat_map(|point| [point.least, point.median, point.most]);
    let y = if panel.y_log {
        Axis::logarithmic(values())
    } else {
        Axis::from_zero(values())
    };
    let x = match &panel.x {
        X::Numbers { ticks, .. } => Axis::at(&ticks.iter().map(|(x, _)| *x).collect::<Vec<_>>()),
        X::Things(things) => Axis::of_things(things.len()),
    };
    let mut chart = ChartBuilder::on(&body)
        .margin_right(20)
        .margin_top(6)
        .margin_left(6)
        .x_label_area_size(52)
        .y_label_area_size(74)
        .build_cartesian_2d(x.clone(), y.clone())?;
    draw_axes(panel, &mut chart, (&x, &y))?;
    if let X::Things(things) = &panel.x {
        for (n, thing) in things.iter().enumerate() {
            let (left, bottom) = chart.backend_coord(&(n as f64 + 0.5, y.from));
            let (base_left, base_top) = body.get_base_pixel();
            for (line, part) in (0..).zip(thing.split('|')) {
                let at = (left - base_left, bottom - base_top + 14 + line * 16);
                text(&body, part, at, TEXT - 1.0, GREY)?;
            }
        }
    }
    for (n, series) in panel.series.iter().enumerate() {
        match &panel.x {
            X::Numbers { .. } => draw_line(series, &mut chart, (&x, &y))?,
            X::Things(_) => draw_bars(series, (n, panel.series.len()), &mut chart, &y)?,
        }
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

fn draw_axes(panel: &Panel, chart: &mut Chart<'_, '_>, (x, y): (&Axis, &Axis)) -> Drawn {
    let title = match &panel.x {
        X::Numbers { title, .. } => title,
        X::Things(_) => "",
    };
    let label = |place: &f64| match &panel.x {
        X::Numbers { ticks, .. } => ticks
            .iter()
            .find(|(number, _)| (x.place(*number) - place).abs() < 1e-9)
            .map(|(_, text)| text.clone())
            .unwrap_or_default(),
        // They may have two lines, which plotters cannot.
        X::Things(_) => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    if matches!(panel.x, X::Things(_)) {
        mesh.disable_x_mesh();
    }
    mesh.axis_style(GREY)
        .bold_line_style(RGBColor(220, 220, 220))
        .light_line_style(TRANSPARENT)
        .x_labels(x.ticks.len())
        .y_labels(y.ticks.len())
        .x_label_formatter(&label)
        .y_label_formatter(&|place| y.text(*place))
        .label_style((FONT, TEXT).into_font().color(&GREY))
        .axis_desc_style((FONT, TEXT).into_font().color(&BLACK))
        .x_desc(title)
        .y_desc(panel.y)
        .draw()?;
    Ok(())
}

/// Medians as dots on a line, and through each a thin one from the smallest to the largest value.
fn draw_line(series: &Series, chart: &mut Chart<'_, '_>, (x, y): (&Axis, &Axis)) -> Drawn {
    let style = series.style();
    let places = || {
        let points = series.points.iter();
        points.map(|point| (x.place(point.x), y.place(point.median)))
    };
    if series.limit {
        chart.draw_series(DashedLineSeries::new(places(), 6, 4, style))?;
    } else {
        chart.draw_series(LineSeries::new(places(), style))?;
    }
    let dot = if series.limit { style } else { style.filled() };
    chart.draw_series(places().map(|place| Circle::new(place, 4, dot)))?;
    chart.draw_series(series.points.iter().map(|point| {
        let x = x.place(point.x);
        let ends = vec![(x, y.place(point.least)), (x, y.place(point.most))];
        PathElement::new(ends, style.stroke_width(1))
    }))?;
    Ok(())
}

/// Medians as the n-th of so many bars beside each other, with the same thin line.
fn draw_bars(series: &Series, (n, number): (usize, usize), chart: &mut Chart<'_, '_>, y: &Axis) -> Drawn {
    let width = BARS_SHARE / number as f64;
    let left = |x: f64| x + (1.0 - BARS_SHARE) / 2.0 + n as f64 * width;
    let right = |x: f64| left(x) + width * 0.92;
    chart.draw_series(series.points.iter().map(|point| {
        let corners = [(left(point.x), y.from), (right(point.x), y.place(point.median))];
        Rectangle::new(corners, series.style().filled())
    }))?;
    chart.draw_series(series.points.iter().map(|point| {
        let x = f64::midpoint(left(point.x), right(point.x));
        let ends = vec![(x, y.place(point.least)), (x, y.place(point.most))];
        PathElement::new(ends, BLACK.stroke_width(1))
    }))?;
    Ok(())
}

impl Series {
    /// Of a limit paler. Not transparent: lines of the grid would be seen through bars.
    fn style(&self) -> ShapeStyle {
        let RGBColor(red, green, blue) = self.colour.rgb();
        let pale = |part: u8| part / 2 + 120;
        if self.limit {
            RGBColor(pale(red), pale(green), pale(blue)).stroke_width(2)
        } else {
            RGBColor(red, green, blue).stroke_width(2)
        }
    }
}

/// Which line or bar is what, above the chart.
fn draw_legend(panel: &Panel, area: &Area<'_>) -> Drawn {
    const SAMPLE: i32 = 28;
    let (width, _) = area.dim_in_pixel();
    let column = i32::try_from(width)? / i32::try_from(LEGEND_COLUMNS)? - 40;
    for (n, series) in panel.series.iter().enumerate() {
        let (row, place) = (n / LEGEND_COLUMNS, n % LEGEND_COLUMNS);
        let x = 80 + i32::try_from(place)? * column;
        let y = i32::try_from(row)? * i32::try_from(LINE_HEIGHT)? + 10;
        let style = series.style();
        match &panel.x {
            X::Numbers { .. } => {
                let pieces = if series.limit {
                    vec![(0, 7), (10, 17), (20, 27)]
                } else {
                    vec![(0, SAMPLE)]
                };
                for (from, to) in pieces {
                    area.draw(&PathElement::new(vec![(x + from, y), (x + to, y)], style))?;
                }
                let dot = if series.limit { style } else { style.filled() };
                area.draw(&Circle::new((x + SAMPLE / 2, y), 4, dot))?;
            }
            X::Things(_) => {
                area.draw(&Rectangle::new(
                    [(x + 6, y - 6), (x + SAMPLE - 6, y + 6)],
                    style.filled(),
                ))?;
            }
        }
        let text = (FONT, TEXT)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(series.label, &text, (x + SAMPLE + 8, y))?;
    }
    Ok(())
}
