//! Whether the numbers of one sender arrive at one recipient each once and in order.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Numbers that are missing in one flow are remembered up to so many; what comes in for a forgotten one counts as duplicated.
const MISSING_MAX: usize = 10_000;

/// What went wrong, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Sent, and not there when the run gave up waiting.
    pub lost: u64,
    /// Came again.
    pub duplicated: u64,
    /// Came after a later one.
    pub reordered: u64,
    /// Refused with an error stanza.
    pub errors: u64,
}

impl Faults {
    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        *self == Faults::default()
    }

    /// Adds another count.
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.errors += other.errors;
    }
}

/// One flow's numbers, from 0.
#[derive(Debug, Default)]
pub struct Order {
    next: u64,
    missing: BTreeSet<u64>,
    duplicated: u64,
    reordered: u64,
}

/// How a number arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// None above it was there.
    InOrder,
    /// As a new one, after a later one.
    Late,
    /// Not for the first time.
    Again,
}

impl Order {
    /// Takes the number of a message that arrived; whether it is a new one.
    pub fn arrived(&mut self, number: u64) -> bool {
        self.judge(number) != Arrival::Again
    }

    /// Takes the number of a message that arrived.
    pub fn judge(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let room = MISSING_MAX.saturating_sub(self.missing.len());
            self.missing.extend((self.next..number).take(room));
            self.next = number + 1;
            return Arrival::InOrder;
        }
        let late = self.missing.remove(&number);
        self.reordered += u64::from(late);
        self.duplicated += u64::from(!late);
        if late { Arrival::Late } else { Arrival::Again }
    }

    /// What is known when `sent` messages were sent, `arrived` of which came as new ones.
    pub fn faults(&self, sent: u64, arrived: u64) -> Faults {
        Faults { lost: sent.saturating_sub(arrived), duplicated: self.duplicated, reordered: self.reordered, errors: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: u64, numbers: &[u64], lost: u64, duplicated: u64, reordered: u64) {
        let mut order = Order::default();
        let arrived = numbers.iter().filter(|n| order.arrived(**n)).count();
        let wanted = Faults { lost, duplicated, reordered, errors: 0 };
        assert_eq!(order.faults(sent, u64::try_from(arrived).unwrap()), wanted, "{numbers:?}");
    }

    #[test]
    fn faults_are_seen() {
        check(0, &[], 0, 0, 0);
        check(3, &[0, 1, 2], 0, 0, 0);
        check(3, &[0, 2], 1, 0, 0);
        check(3, &[0, 1], 1, 0, 0);
        check(3, &[0, 1, 1, 2, 0], 0, 2, 0);
        check(4, &[0, 2, 3, 1], 0, 0, 1);
        check(4, &[1, 3, 0, 2, 2], 0, 1, 2);
    }
}
