//! What is aimed at, and how far it is reached in the same run.

use super::page::{median, of};
use super::rows::{Goal, HALF_ARCHIVES, TARGETS};
use super::{Figures, Row};
use crate::scenario::{Latency, Outcome};
use std::fmt::Write as _;

/// The server whose targets these are.
pub(super) const OURS: &str = "Chappe";
/// No server, and no peer.
pub(super) const RELAY: &str = "bare relay";

/// Whether a run's name, variant included, is that of a server that ours is held against.
pub(super) fn is_peer(name: &str) -> bool {
    name != RELAY && name.split(", ").next() != Some(OURS)
}

type Figure = fn(&Outcome) -> Option<f64>;

/// A peer's runs, by the name of the server with its variant.
type Peer<'a> = (&'a str, &'a [Outcome]);

/// The peer, in whatever variant, of which a figure has the least median. Memory that shrank while sessions came, as that of a
/// garbage collector can, says nothing of a session.
fn better(row: &Row, figure: Figure) -> Option<Peer<'_>> {
    let peers = row.runs.iter().filter(|(name, _)| is_peer(name));
    let known = peers.filter_map(|(name, runs)| Some((of(runs, figure)?.0, (name.as_str(), runs.as_slice()))));
    known.filter(|k| k.0 > 0.0).min_by(|a, b| a.0.total_cmp(&b.0)).map(|found| found.1)
}

/// `1/7.3 (1/6.9–1/8.0)`: ours by theirs, with the spread over the rounds, least part first.
fn part(ours: &[Outcome], theirs: &[Outcome], figure: Figure) -> Option<(f64, String)> {
    let whole = of(theirs, figure)?.0 / of(ours, figure)?.0;
    let rounds = ours.iter().zip(theirs).filter_map(|(o, t)| Some(figure(t)? / figure(o)?)).collect();
    let (_, least, greatest) = median(rounds)?;
    Some((whole, format!("1/{whole:.1} (1/{greatest:.1}–1/{least:.1})")))
}

fn state(reached: bool) -> &'static str {
    if reached { "reached" } else { "**missed**" }
}

pub(super) fn table(out: &mut String, figures: &Figures) {
    out.push_str(
        "\n## Targets\n\nCPU or memory of the server against the better peer of the same run, whichever its variant: median by median, in brackets \
         round by round. A variant of ours has a line of its own, as theirs count.\n\n| | target | here | better peer | state |\n|---|---|---|---|---|\n",
    );
    for (key, goal) in TARGETS {
        let row = figures.rows.iter().find(|r| r.key == key);
        let wanted = match goal {
            Goal::Part(n) => format!("1/{n:.0}"),
            Goal::Kib(n) => format!("{n:.0} KiB"),
        };
        let line = row.and_then(|row| target(row, goal, OURS));
        let _ = writeln!(out, "| {key} | {wanted} | {} |", line.unwrap_or_else(|| "– | – | not measured".into()));
        for (name, variant) in row.iter().flat_map(|row| variants(row)) {
            let line = row.and_then(|row| target(row, goal, name)).unwrap_or_default();
            let _ = writeln!(out, "| {key}, {variant} | {wanted} | {line} |");
        }
    }
    durable(out, figures);
    out.push_str("\nLatencies are to be below those of both peers in every row, p50 and p99. ");
    let late: Vec<_> = figures.rows.iter().flat_map(late).collect();
    if late.is_empty() {
        out.push_str("They are.\n");
    } else {
        let _ = writeln!(out, "They are not in:\n\n{}", late.join("\n"));
    }
}

/// Against the raw disk: p50 within 2 ms of one `fdatasync`, p99 within 5 ms.
fn durable(out: &mut String, figures: &Figures) {
    let middle = |figure: fn(&Latency) -> f64| Some(median(figures.syncs.iter().map(figure).collect())?.0);
    let ours = figures.rows.iter().find(|r| r.key == HALF_ARCHIVES).and_then(|r| r.runs.get(OURS));
    let Some((ours, raw50, raw99)) = ours.zip(middle(|l| l.p50)).zip(middle(|l| l.p99)).map(|((o, a), b)| (o, a, b)) else { return };
    let (p50, p99) = (of(ours, |o| Some(o.latency?.p50)), of(ours, |o| Some(o.latency?.p99)));
    let Some(((p50, ..), (p99, ..))) = p50.zip(p99) else { return };
    let _ = writeln!(
        out,
        "\n{HALF_ARCHIVES}: p50 {p50:.2} ms, a raw fdatasync of 4 KiB in the same run {raw50:.2} ms (+ 2: {}); p99 {p99:.2} ms, the raw one's {raw99:.2} ms (+ 5: {}).",
        state(p50 <= raw50 + 2.0),
        state(p99 <= raw99 + 5.0),
    );
}

/// The variants of ours that a row was measured with: the names of their runs, and of the variants.
fn variants(row: &Row) -> impl Iterator<Item = (&str, &str)> {
    let named = row.runs.keys().filter_map(|name| Some((name.as_str(), name.split_once(", ")?)));
    named.filter(|(_, (server, _))| *server == OURS).map(|(name, (_, variant))| (name, variant))
}

/// How far a goal is reached by ours, in the variant whose runs have that name.
fn target(row: &Row, goal: Goal, ours: &str) -> Option<String> {
    let ours = row.runs.get(ours)?;
    let figure: Figure = match goal {
        Goal::Part(_) => |o| o.cpu_us_each,
        Goal::Kib(_) => |o| o.kib_each,
    };
    let (value, least, greatest) = of(ours, figure)?;
    let peer = better(row, figure);
    let ratio = peer.and_then(|(name, theirs)| Some((name, part(ours, theirs, figure)?)));
    let name = ratio.as_ref().map_or("–", |(name, _)| name);
    Some(match goal {
        Goal::Part(n) => {
            let (whole, text) = &ratio.as_ref()?.1;
            format!("{text} | {name} | {}", state(*whole >= n))
        }
        Goal::Kib(n) => {
            let text = ratio.as_ref().map_or("–", |(_, (_, text))| text);
            format!("{value:.1} KiB ({least:.1}–{greatest:.1}), {text} | {name} | {}", state(value <= n))
        }
    })
}

/// Latencies of a row that are not below the better peer's.
fn late(row: &Row) -> Vec<String> {
    let parts: [(&str, Figure); 2] = [("p50", |o| o.latency.map(|l| l.p50)), ("p99", |o| o.latency.map(|l| l.p99))];
    let one = |(name, figure): (&str, fn(&Outcome) -> Option<f64>)| {
        let ours = of(row.runs.get(OURS)?, figure)?.0;
        let (peer, theirs) = better(row, figure)?;
        let theirs = of(theirs, figure)?.0;
        (ours >= theirs).then(|| format!("- {}, {name}: {ours:.2} ms, {peer} {theirs:.2} ms", row.key))
    };
    parts.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64], p50: f64) -> Vec<Outcome> {
        let latency = Some(Latency { p50, p99: 10.0 * p50, ..Latency::default() });
        values.iter().map(|v| Outcome { cpu_us_each: Some(*v), kib_each: Some(*v), latency, ..Outcome::default() }).collect()
    }

    fn row(ours: &[f64]) -> Row {
        let peers = [("Prosody", runs(&[100.0, 120.0, 110.0], 3.0)), ("ejabberd", runs(&[150.0; 3], 1.0)), (RELAY, runs(&[1.0; 3], 0.1))];
        let mut all: std::collections::BTreeMap<_, _> = peers.map(|(name, runs)| (name.to_owned(), runs)).into();
        all.insert(OURS.into(), runs(ours, 2.0));
        Row { key: "chat".into(), runs: all }
    }

    #[test]
    fn the_better_peer_counts() {
        let goal = Goal::Part(10.0);
        assert_eq!(target(&row(&[10.0, 10.0, 11.0]), goal, OURS).unwrap(), "1/11.0 (1/12.0–1/10.0) | Prosody | reached");
        assert_eq!(target(&row(&[20.0, 20.0, 20.0]), goal, OURS).unwrap(), "1/5.5 (1/6.0–1/5.0) | Prosody | **missed**");
        assert_eq!(target(&row(&[4.0; 3]), Goal::Kib(4.0), OURS).unwrap(), "4.0 KiB (4.0–4.0), 1/27.5 (1/30.0–1/25.0) | Prosody | reached");
        let mut shrunk = row(&[4.0; 3]);
        shrunk.runs.insert("ejabberd".into(), runs(&[-20.0; 3], 1.0));
        assert_eq!(better(&shrunk, |o| o.kib_each).unwrap().0, "Prosody");
        assert_eq!(target(&Row { key: "x".into(), runs: Default::default() }, goal, OURS), None);
        let mut more = row(&[20.0; 3]);
        assert_eq!(variants(&more).next(), None, "nor is a peer's one of ours");
        more.runs.insert("Chappe, one plane".into(), runs(&[10.0; 3], 1.0));
        more.runs.insert("ejabberd, all CPUs".into(), runs(&[200.0; 3], 1.0));
        let found: Vec<_> = variants(&more).collect();
        assert_eq!(found, [("Chappe, one plane", "one plane")]);
        assert_eq!(target(&more, goal, found[0].0).unwrap(), "1/11.0 (1/12.0–1/10.0) | Prosody | reached");
        assert_eq!(late(&row(&[1.0; 3])), ["- chat, p50: 2.00 ms, ejabberd 1.00 ms", "- chat, p99: 20.00 ms, ejabberd 10.00 ms"]);
    }
}
