//! Outcomes as one HTML page: plots beside each other and a table of all. The page needs nothing but itself.

mod plot;

use crate::element::escape;
use crate::order::Faults;
use crate::runs::{self, Group};
use crate::scenario::{Latency, Outcome, Second};
use anyhow::{Context as _, Result};
use plot::{Line, Plot, Points, Scale};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Colours that the page knows; a further server begins again.
const COLOURS: usize = 8;
/// Steps of a histogram for each power of ten.
const STEPS: f64 = 12.0;
const STYLE: &str = include_str!("report/page.css");

/// Reads outcomes and writes the page.
///
/// # Errors
/// A file that holds no outcomes, or a page that cannot be written.
pub fn write(files: &[PathBuf], title: &str, page: &Path) -> Result<()> {
    let mut all = Vec::new();
    for file in files {
        all.extend(runs::read(file)?);
    }
    std::fs::write(page, html(&runs::merge(all), title, &crate::clock::today())).with_context(|| format!("{}", page.display()))
}

/// The page.
fn html(groups: &[Group], title: &str, date: &str) -> String {
    let title = escape(title);
    let mut out = format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>\
         <title>{title}</title><style>\n{STYLE}</style></head>\n<body><h1>{title}</h1>\n<p class='dim'>Written by loadtest on {date}. CPU and memory are \
         those of the server. What is shaded is warm-up.</p>\n"
    );
    // One server has one colour on the whole page.
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in groups.iter().flat_map(|g| &g.servers) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let colour = |name: &str| names.iter().position(|n| *n == name).unwrap_or(0) % COLOURS;
    for group in groups {
        section(&mut out, group, &colour);
    }
    out + "</body></html>\n"
}

fn section(out: &mut String, group: &Group, colour: &dyn Fn(&str) -> usize) {
    if !group.title.is_empty() {
        let _ = writeln!(out, "<h2>{}</h2>", escape(&group.title));
    }
    out.push_str("<ul class='legend'>");
    for (name, _) in &group.servers {
        let line = format!("<svg viewBox='0 0 40 10'><path class='line s{}' d='M2 5H38'/></svg>", colour(name));
        let _ = write!(out, "<li>{line}{}</li>", escape(name));
    }
    out.push_str("</ul>\n<div class='plots'>\n");
    for svg in plots(group, colour).iter().filter_map(Plot::svg) {
        let _ = writeln!(out, "{svg}");
    }
    out.push_str("</div>\n");
    let without: Vec<_> = group.servers.iter().filter(|s| s.1.iter().any(|o| o.series.is_empty())).map(|s| escape(&s.0)).collect();
    if !without.is_empty() {
        let _ = writeln!(out, "<p class='dim'>No seconds were kept of every run of: {}.</p>", without.join(", "));
    }
    table(out, group);
}

fn plots(group: &Group, colour: &dyn Fn(&str) -> usize) -> Vec<Plot> {
    let over_time = |title: &str, y, y_range, value: &dyn Fn(&Second) -> Option<f64>| {
        let lines = group.servers.iter().flat_map(|(name, rounds)| {
            let faint = rounds.len() > 1;
            rounds.iter().map(move |outcome| Line {
                colour: colour(name),
                name: name.clone(),
                points: outcome.series.iter().map(|s| (s.at, value(s))).collect(),
                faint,
            })
        });
        Plot { title: title.into(), x_title: "seconds", x: Scale::Linear, y, y_range, warm_up: true, lines: lines.collect() }
    };
    let seconds = || group.servers.iter().flat_map(|s| &s.1).flat_map(|o| &o.series);
    // The three percentiles have one scale.
    let latencies = || seconds().filter_map(|s| s.latency);
    let least = latencies().map(|l| l.p50).filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
    let range = Some((least, latencies().map(|l| l.p99).fold(least, f64::max)));
    let percentile = |title: &str, part: fn(Latency) -> f64| over_time(title, Scale::Log, range, &|s| s.latency.map(part));
    let mut all = vec![
        over_time("rate, a second", Scale::Linear, None, &|s| Some(s.count as f64)),
        over_time("CPU, in CPUs", Scale::Linear, None, &|s| s.cpu),
        over_time("resident memory, MiB", Scale::Linear, None, &|s| s.rss_kib.map(|kib| kib as f64 / 1024.0)),
        percentile("latency, p50, ms", |l| l.p50),
        percentile("latency, p90, ms", |l| l.p90),
        percentile("latency, p99, ms", |l| l.p99),
    ];
    if seconds().any(|s| s.errors > 0) {
        all.push(over_time("errors, a second", Scale::Linear, None, &|s| Some(s.errors as f64)));
    }
    let lines = |points: fn(&[(u64, u64)]) -> Points| {
        let line = |(name, rounds): &(String, Vec<Outcome>)| Line {
            colour: colour(name),
            name: name.clone(),
            points: points(&together(rounds)),
            faint: false,
        };
        group.servers.iter().map(line).collect()
    };
    let (x_title, y_range, warm_up) = ("milliseconds", None, false);
    all.push(Plot {
        title: "histogram: % of all at a latency".into(),
        x_title,
        x: Scale::Log,
        y: Scale::Log,
        y_range,
        warm_up,
        lines: lines(histogram_points),
    });
    all.push(Plot {
        title: "latency that so many do not exceed, ms".into(),
        x_title: "part of all",
        x: Scale::Nines,
        y: Scale::Log,
        y_range,
        warm_up,
        lines: lines(quantile_points),
    });
    all
}

/// The histograms of all rounds as one, by latency.
fn together(rounds: &[Outcome]) -> Vec<(u64, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for (micros, count) in rounds.iter().flat_map(|o| &o.histogram) {
        *sums.entry(*micros).or_insert(0) += count;
    }
    sums.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Steps that are as wide as each other on a logarithmic axis, each with its share in percent. A step without any breaks
/// the line.
fn histogram_points(buckets: &[(u64, u64)]) -> Points {
    let total: u64 = buckets.iter().map(|b| b.1).sum();
    let step = |micros: u64| ((micros.max(1) as f64 / 1e3).log10() * STEPS).floor() as i64;
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return Vec::new() };
    let mut points = Vec::new();
    for index in step(first.0)..=step(last.0) {
        let count: u64 = buckets.iter().filter(|b| step(b.0) == index).map(|b| b.1).sum();
        let share = Some(100.0 * count as f64 / total as f64).filter(|s| *s > 0.0);
        let edge = |index: i64| 10_f64.powf(index as f64 / STEPS);
        points.extend([(edge(index), share), (edge(index + 1), share)]);
    }
    points
}

fn quantile_points(buckets: &[(u64, u64)]) -> Points {
    let total: u64 = buckets.iter().map(|b| b.1).sum();
    let (mut below, mut points) = (0, Vec::new());
    for (micros, count) in buckets {
        points.push((below as f64 / total as f64, Some(*micros as f64 / 1e3)));
        below += count;
    }
    points
}

/// A column of the table: its head, and where its figure comes from.
type Column = (&'static str, fn(&Outcome) -> Option<f64>);

const COLUMNS: [Column; 13] = [
    ("count", |o| Some(o.count as f64)),
    ("seconds", |o| Some(o.seconds)),
    ("a second", |o| Some(o.rate)),
    ("CPU each, µs", |o| o.cpu_us_each),
    ("memory each, KiB", |o| o.kib_each),
    ("CPUs", |o| o.server.map(|u| u.cpu_us as f64 / 1e6 / u.seconds.max(1e-9))),
    ("kernel, %", |o| o.server.map(|u| 100.0 * u.system_us as f64 / u.cpu_us.max(1) as f64)),
    ("waits each", |o| o.server.map(|u| u.waits as f64 / o.count.max(1) as f64)),
    ("written each, bytes", |o| o.server.map(|u| u.written_bytes as f64 / o.count.max(1) as f64)),
    ("p50, ms", |o| o.latency.map(|l| l.p50)),
    ("p90, ms", |o| o.latency.map(|l| l.p90)),
    ("p99, ms", |o| o.latency.map(|l| l.p99)),
    ("largest, ms", |o| o.latency.map(|l| l.largest)),
];
const FAULTS: [&str; 4] = ["lost", "doubled", "reordered", "errors"];

fn table(out: &mut String, group: &Group) {
    let all = || group.servers.iter().flat_map(|s| &s.1);
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| all().any(|o| (c.1)(o).is_some())).collect();
    let heads = columns.iter().map(|c| c.0).chain(FAULTS);
    let head: String = heads.map(|h| format!("<th>{h}</th>")).collect();
    let _ = writeln!(out, "<div class='wide'><table><thead><tr><th>server</th><th>run</th>{head}</tr></thead><tbody>");
    for (name, rounds) in &group.servers {
        let name = escape(name);
        for (i, outcome) in rounds.iter().enumerate() {
            let cells: String = columns.iter().map(|c| format!("<td>{}</td>", figure((c.1)(outcome)))).collect();
            let Faults { lost, duplicated, reordered, errors } = outcome.faults;
            let fault = |n: u64| format!("<td{}>{n}</td>", if n > 0 { " class='bad'" } else { "" });
            let faults: String = [lost, duplicated, reordered, errors].map(fault).concat();
            let _ = writeln!(out, "<tr><td>{name}</td><td>{}</td>{cells}{faults}</tr>", i + 1);
        }
        if rounds.len() > 1 {
            let median = |c: &&Column| crate::figures::median(rounds.iter().filter_map(c.1).collect()).map(|m| m.0);
            let cells: String = columns.iter().map(|c| format!("<td>{}</td>", figure(median(c)))).collect();
            let _ = writeln!(out, "<tr class='median'><td>{name}</td><td>median</td>{cells}<td colspan='4'></td></tr>");
        }
    }
    out.push_str("</tbody></table></div>\n");
}

/// About three digits.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(v) if v == 0.0 || v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(factor: f64) -> Outcome {
        let latency = |at: f64| Some(Latency { p50: factor, p90: factor * 2.0, p99: factor * (3.0 + at.sin()), largest: factor * 9.0 });
        let second = |i: i32| Second {
            at: f64::from(i),
            count: (10_000.0 / factor) as u64,
            errors: u64::from(i == 5),
            latency: latency(f64::from(i)).filter(|_| i != 7),
            cpu: Some(0.8 / factor),
            rss_kib: Some(50_000 + 300 * u64::try_from(i + 3).unwrap()),
        };
        Outcome {
            count: 100_000,
            seconds: 20.0,
            rate: 5_000.0,
            cpu_us_each: Some(15.0 * factor),
            latency: latency(0.0),
            series: (-3..=20).map(second).collect(),
            histogram: (1..200).map(|i| ((f64::from(i) * factor * 50.0) as u64, 1 + 100_000 / u64::try_from(i * i).unwrap())).collect(),
            ..Outcome::default()
        }
    }

    fn group(title: &str, servers: &[(&str, Vec<Outcome>)]) -> Group {
        Group { title: title.into(), servers: servers.iter().map(|(n, o)| ((*n).to_owned(), o.clone())).collect() }
    }

    #[test]
    fn one_page_that_needs_nothing_else() {
        let servers = [("A <b>", vec![outcome(1.0)]), ("B", vec![outcome(3.0), outcome(3.5)])];
        let page = html(&[group("chat & more", &servers)], "A & B", "2024-02-29");
        assert_eq!(page.matches("<figure>").count(), 9);
        assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (11, 11));
        assert!(page.contains("A &lt;b&gt;") && page.contains("chat &amp; more") && !page.contains("<b>"));
        for outside in ["http:", "https:", "url(", "<script", "<link", "@import", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn an_outcome_without_seconds_has_its_row() {
        let bare = Outcome { count: 7, faults: Faults { lost: 2, ..Default::default() }, ..Outcome::default() };
        let page = html(&[group("", &[("bare", vec![bare.clone()])])], "x", "");
        assert_eq!(page.matches("<figure>").count(), 0);
        assert!(page.contains("<td class='bad'>2</td>") && page.contains("No seconds were kept of every run of: bare."));
        let beside = html(&[group("", &[("bare", vec![bare]), ("full", vec![outcome(1.0)])])], "x", "");
        assert_eq!(beside.matches("<figure>").count(), 9);
        assert!(html(&[], "x", "").ends_with("</html>\n"));
    }

    #[test]
    fn histograms() {
        assert!(histogram_points(&[]).is_empty() && quantile_points(&[]).is_empty());
        let points = histogram_points(&[(1_000, 3), (100_000, 1)]);
        let shares: f64 = points.iter().step_by(2).filter_map(|p| p.1).sum();
        assert!((shares - 100.0).abs() < 1e-9 && points.iter().any(|p| p.1.is_none()));
        assert_eq!(quantile_points(&[(1_000, 3), (100_000, 1)]), [(0.0, Some(1.0)), (0.75, Some(100.0))]);
    }
}
