//! Two sets of runs held against each other: what is better, what is worse, what is noise.

use crate::figures::median;
use crate::runs::{self, Group};
use crate::scenario::Outcome;
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::path::Path;

/// From where on a difference counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// A smaller change of the median, in percent, is noise. So is one where the two spreads overlap.
    pub noise: f64,
    /// A change for the worse by more than this, in percent, is a regression.
    pub threshold: f64,
}

/// What can be said of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    Regression,
    Noise,
}

/// A figure: its name, whether more of it is better, and where it stands.
type Figure = (&'static str, bool, fn(&Outcome) -> Option<f64>);

const FIGURES: [Figure; 6] = [
    ("a second", true, |o| Some(o.rate)),
    ("CPU each, µs", false, |o| o.cpu_us_each),
    ("memory each, KiB", false, |o| o.kib_each),
    ("p50, ms", false, |o| o.latency.map(|l| l.p50)),
    ("p90, ms", false, |o| o.latency.map(|l| l.p90)),
    ("p99, ms", false, |o| o.latency.map(|l| l.p99)),
];

/// Reads two files and tells how the second differs from the first, and what of it is a regression.
///
/// # Errors
/// A file without outcomes, or two that have nothing in common.
pub fn files(before: &Path, after: &Path, limits: Limits) -> Result<(String, Vec<String>)> {
    let pairs = pairs(runs::merge(runs::read(before)?), runs::merge(runs::read(after)?));
    ensure!(!pairs.is_empty(), "no scenario and server is in both files");
    let (mut out, mut regressions) = (String::new(), Vec::new());
    for pair in &pairs {
        pair.tell(&mut out, &mut regressions, limits);
    }
    Ok((out, regressions))
}

/// The same scenario and server, before and after.
struct Pair {
    title: String,
    before: Vec<Outcome>,
    after: Vec<Outcome>,
}

fn pairs(before: Vec<Group>, after: Vec<Group>) -> Vec<Pair> {
    // Outcomes by themselves are compared whatever their files are called.
    if let ([a], [b]) = (before.as_slice(), after.as_slice())
        && let ([(a_name, a_runs)], [(b_name, b_runs)]) = (a.servers.as_slice(), b.servers.as_slice())
        && a.title.is_empty()
        && b.title.is_empty()
    {
        let title = if a_name == b_name { a_name.clone() } else { format!("{a_name} → {b_name}") };
        return vec![Pair { title, before: a_runs.clone(), after: b_runs.clone() }];
    }
    let mut all = Vec::new();
    for group in before {
        let Some(other) = after.iter().find(|g| g.title == group.title) else { continue };
        for (name, before) in group.servers {
            if let Some((_, after)) = other.servers.iter().find(|s| s.0 == name) {
                all.push(Pair { title: format!("{}: {name}", group.title), before, after: after.clone() });
            }
        }
    }
    all
}

impl Pair {
    fn tell(&self, out: &mut String, regressions: &mut Vec<String>, limits: Limits) {
        let title = self.title.trim_start_matches(": ");
        let _ = writeln!(out, "{title} (rounds: {} before, {} after)", self.before.len(), self.after.len());
        for (name, more_is_better, figure) in FIGURES {
            let of = |runs: &[Outcome]| median(runs.iter().filter_map(figure).collect());
            let Some((a, b)) = of(&self.before).zip(of(&self.after)).filter(|(a, _)| a.0 > 0.0) else { continue };
            let verdict = verdict(a, b, more_is_better, limits);
            let word = match verdict {
                Verdict::Better => "better",
                Verdict::Worse => "worse",
                Verdict::Regression => "WORSE",
                Verdict::Noise => "within noise",
            };
            let _ = writeln!(out, "  {name:<18}{:>24}{:>24}{:>8.2}  {word}", spread(a), spread(b), b.0 / a.0);
            if verdict == Verdict::Regression {
                regressions.push(format!("{title}: {name} × {:.2}", b.0 / a.0));
            }
        }
        let faults =
            |runs: &[Outcome]| runs.iter().map(|o| o.faults.lost + o.faults.duplicated + o.faults.reordered + o.faults.errors).sum();
        let (a, b): (u64, u64) = (faults(&self.before), faults(&self.after));
        if a + b > 0 {
            let _ = writeln!(out, "  {:<18}{a:>24}{b:>24}{:>8}  {}", "faults", "", if b > a { "WORSE" } else { "" });
        }
        if b > a {
            regressions.push(format!("{title}: faults {a} → {b}"));
        }
    }
}

/// Medians with the least and the greatest.
fn verdict(a: (f64, f64, f64), b: (f64, f64, f64), more_is_better: bool, limits: Limits) -> Verdict {
    let change = 100.0 * (b.0 / a.0 - 1.0);
    let overlap = a.1 <= b.2 && b.1 <= a.2;
    let worse = if more_is_better { 100.0 * (a.0 / b.0 - 1.0) } else { change };
    match () {
        () if overlap || change.abs() < limits.noise => Verdict::Noise,
        () if worse > limits.threshold => Verdict::Regression,
        () if worse > 0.0 => Verdict::Worse,
        () => Verdict::Better,
    }
}

fn spread((median, least, greatest): (f64, f64, f64)) -> String {
    let digits = if greatest >= 100.0 { 0 } else { 2 };
    format!("{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Better, Noise, Regression, Worse};

    const LIMITS: Limits = Limits { noise: 3.0, threshold: 10.0 };

    fn runs(cpu: &[f64], lost: u64) -> Vec<Outcome> {
        let faults = crate::order::Faults { lost, ..Default::default() };
        cpu.iter().map(|c| Outcome { count: 1, rate: 100.0, cpu_us_each: Some(*c), faults, ..Outcome::default() }).collect()
    }

    #[test]
    fn verdicts() {
        let check = |a, b, more, wanted| assert_eq!(verdict(a, b, more, LIMITS), wanted, "{a:?} {b:?}");
        check((10.0, 9.0, 11.0), (12.0, 11.5, 13.0), false, Regression);
        check((10.0, 9.0, 11.0), (12.0, 10.5, 13.0), false, Noise);
        check((10.0, 9.9, 10.1), (10.8, 10.7, 10.9), false, Worse);
        check((10.0, 9.9, 10.1), (8.0, 7.9, 8.1), false, Better);
        check((10.0, 9.9, 10.1), (8.0, 7.9, 8.1), true, Regression);
        check((10.0, 9.9, 10.1), (12.0, 11.9, 12.1), true, Better);
        check((10.0, 10.0, 10.0), (10.2, 10.2, 10.2), false, Noise);
    }

    #[test]
    fn what_is_in_both() {
        let group =
            |title: &str, name: &str, cpu: &[f64], lost| Group { title: title.into(), servers: vec![(name.into(), runs(cpu, lost))] };
        let told = |a, b| {
            let (mut out, mut regressions) = (String::new(), Vec::new());
            pairs(a, b).iter().for_each(|p| p.tell(&mut out, &mut regressions, LIMITS));
            (out, regressions)
        };
        let (out, regressions) = told(vec![group("", "old", &[10.0, 11.0, 12.0], 0)], vec![group("", "new", &[14.0, 15.0, 16.0], 0)]);
        assert_eq!(regressions, ["old → new: CPU each, µs × 1.36"]);
        assert!(out.contains("11.00 (10.00–12.00)") && out.contains("15.00 (14.00–16.00)") && out.contains("within noise"), "{out}");
        let (out, regressions) = told(
            vec![group("chat", "A", &[1.0], 0), group("login", "A", &[1.0], 0)],
            vec![group("chat", "A", &[1.0], 2), group("idle", "A", &[1.0], 0)],
        );
        assert_eq!(regressions, ["chat: A: faults 0 → 2"]);
        assert!(!out.contains("login") && !out.contains("idle"), "{out}");
    }
}
