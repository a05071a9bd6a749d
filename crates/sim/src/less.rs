//! Less of a run: what is left out of a seed's plan, so that a failure has few causes. `faults=3,9 acts=40 lucky calm`.

use crate::plan::Plan;
use anyhow::{Context as _, bail};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use store::memory::Hostility;
use store_embedded::sim::SimFaults;
use types::unlucky::Bound;

/// One kind of trouble that a run can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Without {
    /// All bounds are as usual.
    Lucky,
    /// No account panics.
    Healthy,
    /// Disk and replicas are quick.
    Calm,
    /// Links are quick.
    Near,
    /// Processes die between inputs only.
    Whole,
    /// Not everything stops at the end.
    Light,
    /// Nobody goes away by habit, nor acknowledges late.
    Steady,
    /// One shard.
    One,
    /// All accounts keep archives.
    Kept,
    /// No word on how soon it must serve again.
    Patient,
}

impl Without {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Without); 10] = [
        ("lucky", Without::Lucky),
        ("healthy", Without::Healthy),
        ("calm", Without::Calm),
        ("near", Without::Near),
        ("whole", Without::Whole),
        ("light", Without::Light),
        ("steady", Without::Steady),
        ("one", Without::One),
        ("kept", Without::Kept),
        ("patient", Without::Patient),
    ];
}

/// See the module. The default leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Less {
    /// Of the faults, by number, only these.
    pub faults: Option<BTreeSet<u32>>,
    /// Clients do so many things in all.
    pub acts: Option<u32>,
    /// Two edges, two cores, and so many accounts with one client each, of which each knows all others.
    pub crowd: Option<usize>,
    /// Only these bounds are unusual.
    pub bounds: Option<u32>,
    /// What else is left out.
    pub without: BTreeSet<Without>,
}

impl Less {
    /// Leave it out of a plan.
    pub(crate) fn apply(&self, plan: &mut Plan) {
        if let Some(clients) = self.crowd {
            plan.crowd(clients.max(2));
        }
        if let Some(bounds) = self.bounds {
            plan.unlucky.1 &= bounds;
        }
        for without in &self.without {
            match without {
                Without::Lucky => plan.unlucky.1 = 0,
                Without::Healthy => plan.poison = 0,
                Without::Calm => (plan.disk, plan.hostility) = (SimFaults::none(), Hostility::none()),
                Without::Near => plan.delay_ms = (0, 3),
                Without::Whole => plan.cut_short = 0,
                Without::Light => plan.blackout = false,
                Without::Steady => plan.steady(),
                Without::One => plan.shards = 1,
                Without::Kept => plan.forgetful.fill(false),
                Without::Patient => plan.prompt = false,
            }
        }
    }

    pub(crate) fn has_fault(&self, number: u32) -> bool {
        self.faults.as_ref().is_none_or(|f| f.contains(&number))
    }

    pub(crate) fn has_act(&self, number: u32) -> bool {
        self.acts.is_none_or(|max| number <= max)
    }
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        if let Some(faults) = &self.faults {
            words.push(format!("faults={}", faults.iter().map(u32::to_string).collect::<Vec<_>>().join(",")));
        }
        words.extend(self.acts.map(|n| format!("acts={n}")));
        words.extend(self.crowd.map(|n| format!("crowd={n}")));
        words.extend(self.bounds.map(|mask| {
            let names = Bound::ALL.iter().filter(|b| mask & (1 << **b as u32) != 0).map(|b| format!("{b:?}"));
            format!("bounds={}", names.collect::<Vec<_>>().join(","))
        }));
        words.extend(Without::ALL.iter().filter(|(_, w)| self.without.contains(w)).map(|(name, _)| (*name).to_owned()));
        f.write_str(&words.join(" "))
    }
}

impl FromStr for Less {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Less> {
        let mut less = Less::default();
        for word in text.split_whitespace() {
            let list = |text: &str| text.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            match word.split_once('=') {
                Some(("faults", numbers)) => {
                    less.faults = Some(list(numbers).iter().map(|n| n.parse()).collect::<Result<_, _>>().context("a number of a fault")?);
                }
                Some(("acts", n)) => less.acts = Some(n.parse().context("how many acts")?),
                Some(("crowd", n)) => less.crowd = Some(n.parse().context("how many clients")?),
                Some(("bounds", names)) => {
                    let mut mask = 0;
                    for name in list(names) {
                        let bound = Bound::ALL.iter().find(|b| format!("{b:?}") == name);
                        mask |= 1 << *bound.with_context(|| format!("{name} is no bound"))? as u32;
                    }
                    less.bounds = Some(mask);
                }
                _ => match Without::ALL.iter().find(|(name, _)| *name == word) {
                    Some((_, without)) => drop(less.without.insert(*without)),
                    None => {
                        let known: Vec<&str> = Without::ALL.iter().map(|(name, _)| *name).collect();
                        bail!("{word}: known are faults=…, acts=…, crowd=…, bounds=…, {}", known.join(", "));
                    }
                },
            }
        }
        Ok(less)
    }
}

#[cfg(test)]
mod tests {
    use super::Less;

    #[test]
    fn what_it_says_it_reads() {
        for text in ["", "faults=1,7 acts=30 crowd=9 bounds=LoadPage,InputsHeld lucky calm", "faults= one"] {
            let less: Less = text.parse().unwrap();
            assert_eq!(less.to_string(), text);
        }
        assert!("faults=x".parse::<Less>().is_err());
        assert!("gentle".parse::<Less>().unwrap_err().to_string().contains("healthy"));
    }
}
