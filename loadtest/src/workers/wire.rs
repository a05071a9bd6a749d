//! What the scenarios know, as it goes over the wire, and back. What comes in is data: it may be wrong.

use super::proto::{self, report::What};
use super::{VERSION, WORDS_MAX};
use crate::histogram::Counts;
use crate::order::Faults;
use crate::scenario::{Event, Latency, Outcome, Tick};
use anyhow::{Context as _, Result, ensure};

/// Buckets of a histogram, problems of a worker, other figures: more of any of them is no report.
const ENTRIES_MAX: usize = 4_096;
/// A run ends before.
const SECONDS_MAX: f64 = 1e9;

/// As many characters of a text as may go over the wire.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(WORDS_MAX).collect()
}

/// Who this is, if it is of another version than the other side.
///
/// # Errors
/// That, in words.
pub(super) fn same_version(other: &str) -> Result<()> {
    ensure!(other == VERSION, "runs version {VERSION}, its controller {}: both must run the same", bounded(other));
    Ok(())
}

pub(super) fn report(what: What) -> proto::Report {
    proto::Report { what: Some(what) }
}

pub(super) fn of_event(event: Event) -> proto::Report {
    report(match event {
        Event::Ready(name, unit) => What::Ready(proto::Ready { name: name.into(), unit: unit.into() }),
        Event::Second(tick) => What::Second(proto::Second {
            at: tick.at,
            length: tick.length,
            count: tick.count,
            wrong: tick.wrong,
            faults: Some(of_faults(tick.faults)),
            latency: Some(of_pairs(tick.latency.pairs(), tick.latency.largest())),
        }),
        Event::Measuring => What::Measuring(proto::Measuring {}),
        Event::Finished => What::Finished(proto::Finished {}),
    })
}

pub(super) fn to_tick(second: proto::Second) -> Result<Tick> {
    let proto::Second { at, length, count, wrong, faults, latency } = second;
    ensure!((0.0..SECONDS_MAX).contains(&at) && (0.0..SECONDS_MAX).contains(&length), "a second from nowhere");
    let (pairs, largest) = to_pairs(latency.unwrap_or_default())?;
    Ok(Tick { at, length, count, wrong, faults: to_faults(faults.unwrap_or_default()), latency: Counts::of_pairs(pairs, largest) })
}

/// Without the seconds, which have been told, and without the server, which the controller looks at.
pub(super) fn of_outcome(outcome: Outcome) -> proto::Outcome {
    let largest = outcome.latency.map_or(0, |latency| (latency.largest * 1e3).round() as u64);
    proto::Outcome {
        count: outcome.count,
        seconds: outcome.seconds,
        latency: Some(of_pairs(outcome.histogram, largest)),
        faults: Some(of_faults(outcome.faults)),
        problems: outcome.problems.iter().map(|problem| bounded(problem)).collect(),
        parts: outcome.parts,
    }
}

pub(super) fn to_outcome(outcome: proto::Outcome) -> Result<Outcome> {
    let proto::Outcome { count, seconds, latency, faults, problems, parts } = outcome;
    ensure!(problems.len().max(parts.len()) <= ENTRIES_MAX, "an outcome without an end");
    ensure!((0.0..SECONDS_MAX).contains(&seconds), "an outcome of no time");
    let (pairs, largest) = to_pairs(latency.context("an outcome without a histogram")?)?;
    let counts = Counts::of_pairs(pairs, largest);
    Ok(Outcome {
        count,
        seconds,
        latency: Latency::of(&counts),
        histogram: counts.pairs(),
        faults: to_faults(faults.unwrap_or_default()),
        problems: problems.iter().map(|problem| bounded(problem)).collect(),
        parts,
        ..Outcome::default()
    })
}

fn of_pairs(pairs: Vec<(u64, u64)>, largest: u64) -> proto::Histogram {
    let (values, counts) = pairs.into_iter().unzip();
    proto::Histogram { values, counts, largest }
}

fn to_pairs(histogram: proto::Histogram) -> Result<(Vec<(u64, u64)>, u64)> {
    let proto::Histogram { values, counts, largest } = histogram;
    ensure!(values.len() == counts.len() && values.len() <= ENTRIES_MAX, "a histogram of {} and {} entries", values.len(), counts.len());
    Ok((values.into_iter().zip(counts).collect(), largest))
}

fn of_faults(faults: Faults) -> proto::Faults {
    let Faults { lost, duplicated, reordered, errors } = faults;
    proto::Faults { lost, duplicated, reordered, errors }
}

pub(super) fn to_faults(faults: proto::Faults) -> Faults {
    let proto::Faults { lost, duplicated, reordered, errors } = faults;
    Faults { lost, duplicated, reordered, errors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;
    use prost::Message as _;

    fn counts() -> Counts {
        let histogram = Histogram::default();
        (0..3_000).for_each(|v| histogram.record(v * v));
        histogram.counts()
    }

    #[test]
    fn what_goes_out_comes_in() {
        let faults = Faults { lost: 1, duplicated: 2, reordered: 3, errors: 4 };
        let tick = Tick { at: 1.5, length: 0.5, count: 9, wrong: 2, faults, latency: counts() };
        let Some(What::Second(second)) = of_event(Event::Second(tick.clone())).what else { panic!() };
        assert_eq!(to_tick(second).unwrap(), tick);
        let outcome = Outcome {
            count: 9,
            seconds: 2.5,
            latency: Latency::of(&counts()),
            histogram: counts().pairs(),
            faults,
            problems: vec!["why".into()],
            parts: [("stored".to_owned(), 5.0)].into(),
            ..Outcome::default()
        };
        assert_eq!(to_outcome(of_outcome(outcome.clone())).unwrap(), outcome);
    }

    #[test]
    fn a_full_histogram_fits_into_a_report() {
        let histogram = Histogram::default();
        (0..64).for_each(|shift| (0..64).for_each(|part| histogram.record((1_u64 << shift).saturating_add(((1 << shift) / 64) * part))));
        let counts = Counts::of_pairs(histogram.counts().pairs().into_iter().map(|(v, _)| (v, u64::MAX)), u64::MAX);
        let tick = Tick { at: 1.0, length: 1.0, count: u64::MAX, wrong: 0, faults: Faults::default(), latency: counts };
        let bytes = of_event(Event::Second(tick)).encoded_len();
        assert!((10_000..super::super::REPORT_BYTES_MAX).contains(&bytes), "{bytes}");
        let problems = vec!["\u{10ffff}".repeat(2 * WORDS_MAX); 15];
        let outcome = of_outcome(Outcome { problems, ..Outcome::default() });
        assert!(report(What::Outcome(outcome)).encoded_len() < super::super::REPORT_BYTES_MAX);
    }

    #[test]
    fn nonsense_is_told() {
        let uneven = proto::Histogram { values: vec![1], counts: vec![], largest: 1 };
        let second = proto::Second { latency: Some(uneven.clone()), ..proto::Second::default() };
        assert!(to_tick(second).unwrap_err().to_string().contains("1 and 0 entries"));
        assert!(to_tick(proto::Second { at: f64::NAN, ..proto::Second::default() }).is_err());
        assert!(to_outcome(proto::Outcome { latency: Some(uneven), ..proto::Outcome::default() }).is_err());
        let endless = proto::Outcome { problems: vec![String::new(); ENTRIES_MAX + 1], ..proto::Outcome::default() };
        assert!(to_outcome(endless).is_err());
        assert!(same_version("0.0.0/0").unwrap_err().to_string().contains("both must run the same") && same_version(VERSION).is_ok());
    }
}
