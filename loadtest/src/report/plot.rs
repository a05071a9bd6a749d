//! A plot as inline SVG. Colours and fonts are those of the page, so it follows its light and dark mode.

use crate::element::escape;
use std::fmt::Write as _;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 230.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;
/// The width of a long number.
const NUMBER: f64 = 62.0;
/// About so many numbers at an axis.
const TICKS: f64 = 6.0;

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0, or from the least value if that is below.
    Linear,
    /// By powers of ten; values must be above 0.
    Log,
    /// Parts of a whole, 0 to below 1: each further nine takes as much room.
    Nines,
}

/// Where there is no value, the line is broken.
pub type Points = Vec<(f64, Option<f64>)>;

/// A line of values.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which of the page's colours.
    pub colour: usize,
    /// Whose it is.
    pub name: String,
    /// Its values, from left to right.
    pub points: Points,
    /// One of several of the same colour.
    pub faint: bool,
}

/// One plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x_title: &'static str,
    /// How x counts.
    pub x: Scale,
    /// How y counts.
    pub y: Scale,
    /// What y must reach at least, so that plots can be held side by side.
    pub y_range: Option<(f64, f64)>,
    /// What is left of 0 was not measured.
    pub warm_up: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

struct Axis {
    scale: Scale,
    least: f64,
    greatest: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A value as its axis counts it.
    fn of(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-12).log10(),
            Scale::Nines => -(1.0 - value.min(1.0 - 1e-9)).log10(),
        }
    }
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite() && (scale != Scale::Log || *v > 0.0)).map(|v| scale.of(v)) {
            (least, greatest) = (least.min(value), greatest.max(value));
        }
        if !least.is_finite() {
            (least, greatest) = (0.0, 1.0);
        }
        match scale {
            Scale::Linear => least = least.min(0.0),
            Scale::Log => (least, greatest) = (least - 0.05, greatest + 0.05),
            Scale::Nines => least = 0.0,
        }
        if greatest - least < 1e-9 {
            greatest = least + 1.0;
        }
        Axis { scale, least, greatest, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (self.scale.of(value) - self.least) / (self.greatest - self.least);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values that get a number.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => linear(self.least, self.greatest),
            Scale::Nines => [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999].into_iter().filter(|v| self.holds(*v)).collect(),
            Scale::Log => {
                let (from, to) = (self.least.floor() as i32, self.greatest.ceil() as i32);
                let few = self.greatest - self.least < 2.0;
                let steps: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let all = (from..=to).flat_map(|decade| steps.iter().map(move |s| s * 10_f64.powi(decade)));
                all.filter(|v| self.holds(*v)).collect()
            }
        }
    }

    fn holds(&self, value: f64) -> bool {
        let value = self.scale.of(value);
        value >= self.least - 1e-9 && value <= self.greatest + 1e-9
    }
}

fn linear(least: f64, greatest: f64) -> Vec<f64> {
    let rough = (greatest - least) / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let (first, last) = ((least / step).ceil() as i64, (greatest / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number at an axis: short.
pub fn short(value: f64) -> String {
    let (value, suffix) = if value.abs() >= 1e6 {
        (value / 1e6, "M")
    } else if value.abs() >= 1e4 {
        (value / 1e3, "k")
    } else {
        (value, "")
    };
    let digits = (2 - value.abs().max(1e-4).log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

impl Plot {
    /// The plot, or nothing if no line has a value.
    pub fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|l| l.points.iter());
        if !points().any(|(_, y)| y.is_some_and(|y| y.is_finite() && (self.y != Scale::Log || y > 0.0))) {
            return None;
        }
        let x = Axis::new(self.x, points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let range = self.y_range.into_iter().flat_map(|(a, b)| [a, b]);
        let y = Axis::new(self.y, points().filter_map(|p| p.1).chain(range), HEIGHT - BOTTOM, TOP);
        let mut out = format!(
            "<figure><figcaption>{0}</figcaption><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{0}'>",
            escape(&self.title)
        );
        if self.warm_up && x.least < 0.0 {
            let (height, end) = (HEIGHT - BOTTOM - TOP, x.at(0.0));
            let _ = write!(out, "<rect class='warm' x='{LEFT}' y='{TOP}' width='{:.1}' height='{height}'/>", end - LEFT);
            if end - LEFT > 52.0 {
                let _ =
                    write!(out, "<text x='{:.1}' y='{}' text-anchor='middle'>warm-up</text>", (LEFT + end) / 2.0, HEIGHT - BOTTOM - 6.0);
            }
        }
        self.axes(&mut out, &x, &y);
        self.lines.iter().for_each(|line| line.path(&mut out, &x, &y, self.y));
        out += "</svg></figure>";
        Some(out)
    }

    fn axes(&self, out: &mut String, x: &Axis, y: &Axis) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = write!(out, "<path class='grid' d='M{LEFT} {at:.1}H{right}'/>");
            let _ = write!(out, "<text x='{}' y='{:.1}' text-anchor='end'>{}</text>", LEFT - 6.0, at + 4.0, short(tick));
        }
        let mut last = f64::NEG_INFINITY;
        for tick in x.ticks() {
            let at = x.at(tick);
            let text = if self.x == Scale::Nines { format!("{} %", short_percent(tick)) } else { short(tick) };
            let _ = write!(out, "<path class='grid' d='M{at:.1} {TOP}V{floor}'/>");
            if at - last < NUMBER {
                continue;
            }
            last = at;
            // The last one must not leave the picture.
            let (at, anchor) = if right - at < 24.0 { (right, "end") } else { (at, "middle") };
            let _ = write!(out, "<text x='{at:.1}' y='{}' text-anchor='{anchor}'>{text}</text>", floor + 15.0);
        }
        let _ = write!(out, "<path class='axis' d='M{LEFT} {TOP}V{floor}H{right}'/>");
        let middle = (LEFT + right) / 2.0;
        let _ = write!(out, "<text x='{middle}' y='{}' text-anchor='middle'>{}</text>", HEIGHT - 5.0, escape(self.x_title));
    }
}

fn short_percent(part: f64) -> String {
    let text = format!("{:.4}", part * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Line {
    fn path(&self, out: &mut String, x: &Axis, y: &Axis, scale: Scale) {
        let mut path = String::new();
        let mut pen = 'M';
        for (at, value) in &self.points {
            let Some(value) = value.filter(|v| v.is_finite() && (scale != Scale::Log || *v > 0.0)) else {
                pen = 'M';
                continue;
            };
            let _ = write!(path, "{pen}{:.1} {:.1}", x.at(*at), y.at(value));
            // A value alone is a dot: a line of no length with round ends.
            if pen == 'M' {
                path += "h0";
            }
            pen = 'L';
        }
        let faint = if self.faint { " faint" } else { "" };
        let _ = write!(out, "<path class='line s{}{faint}' d='{path}'><title>{}</title></path>", self.colour, escape(&self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_axes() {
        assert_eq!(linear(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear(-2.0, 5.0), [-2.0, 0.0, 2.0, 4.0]);
        let log = Axis::new(Scale::Log, [0.5, 900.0].into_iter(), 0.0, 1.0);
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        let near = Axis::new(Scale::Log, [3.0, 30.0].into_iter(), 0.0, 1.0);
        assert_eq!(near.ticks(), [5.0, 10.0, 20.0]);
        let nines = Axis::new(Scale::Nines, [0.0, 0.999].into_iter(), 0.0, 3.0);
        assert_eq!(nines.ticks(), [0.5, 0.9, 0.99, 0.999]);
        assert!((nines.at(0.9) - 1.0).abs() < 1e-9);
        let texts = [0.0, 0.25, 3.0, 12.5, 1500.0, 25_000.0, 3_400_000.0].map(short);
        assert_eq!(texts, ["0", "0.25", "3", "12.5", "1500", "25k", "3.4M"]);
    }

    #[test]
    fn a_line_breaks_where_nothing_is() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(2.0)), (3.0, Some(f64::NAN)), (4.0, Some(3.0)), (5.0, Some(3.0))];
        let line = Line { colour: 0, name: "<x>".into(), points, faint: false };
        let mut plot = Plot {
            title: "a & b".into(),
            x_title: "seconds",
            x: Scale::Linear,
            y: Scale::Linear,
            y_range: None,
            warm_up: true,
            lines: vec![line],
        };
        let svg = plot.svg().unwrap();
        assert_eq!((svg.matches("h0").count(), svg.matches('L').count()), (3, 1));
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;x&gt;") && !svg.contains("NaN"), "{svg}");
        plot.lines[0].points = vec![(0.0, None), (1.0, Some(0.0))];
        plot.y = Scale::Log;
        assert!(plot.svg().is_none());
    }
}
