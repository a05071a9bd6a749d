//! A failing run made small: fewer faults, fewer things said, less of everything else, as long as something goes wrong.

use crate::{Keep, Less, Mode, Outcome, Without, run_less};
use std::collections::BTreeSet;
use types::unlucky::Bound;

/// Runs that one shrinking may take.
const RUNS_MAX: u32 = 400;

/// A smaller run that fails, too, and how it fails. `None`: the seed does not fail.
pub fn shrink(seed: u64, mode: Mode, mut tell: impl FnMut(&Less, &Outcome)) -> Option<(Less, Outcome)> {
    let first = run_less(seed, mode, &Less::default(), Keep::Hash);
    first.failure.as_ref()?;
    let mut s = Shrinker { seed, mode, runs: 1, best: Less::default(), outcome: first };
    for (_, without) in Without::ALL {
        let mut less = s.best.clone();
        less.without.insert(without);
        s.attempt(less, &mut tell);
    }
    s.fewer_faults(&mut tell);
    s.fewer_acts(&mut tell);
    if !s.best.without.contains(&Without::Lucky) {
        for bound in Bound::ALL {
            let mut less = s.best.clone();
            less.bounds = Some(less.bounds.unwrap_or(u32::MAX >> (32 - Bound::ALL.len())) & !(1 << bound as u32));
            s.attempt(less, &mut tell);
        }
    }
    s.fewer_faults(&mut tell);
    Some((s.best, s.outcome))
}

struct Shrinker {
    seed: u64,
    mode: Mode,
    runs: u32,
    best: Less,
    outcome: Outcome,
}

impl Shrinker {
    fn attempt(&mut self, less: Less, tell: &mut impl FnMut(&Less, &Outcome)) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let outcome = run_less(self.seed, self.mode, &less, Keep::Hash);
        let fails = outcome.failure.is_some();
        if fails {
            tell(&less, &outcome);
            (self.best, self.outcome) = (less, outcome);
        }
        fails
    }

    /// Leave out half of them, then a quarter, … then each.
    fn fewer_faults(&mut self, tell: &mut impl FnMut(&Less, &Outcome)) {
        let mut kept: Vec<u32> = match &self.best.faults {
            Some(kept) => kept.iter().copied().collect(),
            None => (1..=self.outcome.faults).collect(),
        };
        let mut size = kept.len();
        while size > 0 {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + size).min(kept.len());
                let rest: BTreeSet<u32> = kept[..at].iter().chain(&kept[end..]).copied().collect();
                if self.attempt(Less { faults: Some(rest.clone()), ..self.best.clone() }, tell) {
                    kept = rest.into_iter().collect();
                } else {
                    at = end;
                }
            }
            size /= 2;
        }
    }

    fn fewer_acts(&mut self, tell: &mut impl FnMut(&Less, &Outcome)) {
        let (mut low, mut high) = (0, self.best.acts.unwrap_or(self.outcome.acts));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.attempt(Less { acts: Some(middle), ..self.best.clone() }, tell) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
    }
}
