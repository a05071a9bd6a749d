//! A load in parts that add up to it: every unit of it (a pair, a room, a login) belongs to one part, a rate is shared out in
//! proportion to units, and no account belongs to two parts.

use crate::file::{Accounts, File, Work};
use crate::scenario::{Archive, Chat, Group, Idle, Mixed, Offline, Presence, Reconnect, Register, Storm};
use anyhow::{Result, ensure};

/// A part of a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// What it does, with which accounts. The server's process and metrics are none of its business.
    pub file: File,
    /// The share of the whole load that the parts before it make; 1 is all.
    pub before: f64,
    /// The share that it makes.
    pub share: f64,
}

/// Divides a file among so many workers, or fewer if there is not enough of something for all of them.
///
/// # Errors
/// Fewer accounts than are needed.
pub fn split(file: &File, workers: usize) -> Result<Vec<Share>> {
    let parts = works(file, workers);
    let all: usize = parts.iter().map(|(_, units)| units).sum();
    let part_of_all = |units: usize| if parts.len() > 1 { units as f64 / all as f64 } else { 1.0 };
    let (mut first, mut needed, mut before, mut shares) = (file.accounts.first.unwrap_or(0), 0, 0, Vec::new());
    for (work, units) in &parts {
        let count = if let Work::Register(_) = work { *units } else { work.accounts() };
        let mut part = File { work: work.clone(), ..file.clone() };
        part.accounts = Accounts { first: Some(first), count: Some(count), ..part.accounts };
        (part.server.pid, part.server.metrics, part.server.ca) = (None, None, None);
        let before_it = if before > 0 { part_of_all(before) } else { 0.0 };
        shares.push(Share { file: part, before: before_it, share: part_of_all(*units) });
        (first, needed, before) = (first + count, needed + count, before + units);
    }
    let there = file.accounts.count.unwrap_or(needed);
    ensure!(there >= needed, "{} needs {needed} accounts, not {there}", file.work.name());
    Ok(shares)
}

/// So many in so many parts that differ by one at most.
fn spread(all: usize, parts: usize) -> impl Fn(usize) -> usize {
    move |i| all / parts + usize::from(i < all % parts)
}

/// As many parts as there are workers, and not more than there is of anything that each needs one of.
fn parts(workers: usize, units: &[usize]) -> usize {
    units.iter().fold(workers, |n, units| n.min(*units)).max(1)
}

/// The load of each part, and how many units it has.
fn works(file: &File, workers: usize) -> Vec<(Work, usize)> {
    match file.work.clone() {
        Work::Register(all) => {
            let accounts = file.accounts.count.unwrap_or_else(|| file.work.accounts());
            let n = parts(workers, &[accounts, all.concurrency]);
            let (of, at_once) = (spread(accounts, n), spread(all.concurrency, n));
            (0..n).map(|i| (Work::Register(Register { concurrency: at_once(i), ..all }), of(i))).collect()
        }
        Work::Login(all) => {
            let n = parts(workers, &[all.logins, all.concurrency]);
            let (of, at_once) = (spread(all.logins, n), spread(all.concurrency, n));
            let one = |i| Storm { logins: of(i), concurrency: at_once(i), rate: rate(all.rate, of(i), all.logins), resume: all.resume };
            (0..n).map(|i| (Work::Login(one(i)), of(i))).collect()
        }
        Work::Idle(all) => {
            let n = parts(workers, &[all.sessions]);
            let (of, base) = (spread(all.sessions, n), spread(all.base, n));
            (0..n).map(|i| (Work::Idle(Idle { base: base(i), sessions: of(i), ..all }), of(i))).collect()
        }
        Work::Chat(all) => {
            let n = parts(workers, &[all.pairs]);
            let of = spread(all.pairs, n);
            let one = |i| Chat { pairs: of(i), rate: rate(all.rate, of(i), all.pairs), ..all };
            (0..n).map(|i| (Work::Chat(one(i)), of(i))).collect()
        }
        Work::Group(all) => {
            let n = parts(workers, &[all.rooms]);
            let of = spread(all.rooms, n);
            let one = |i| Group { rooms: of(i), rate: rate(all.rate, of(i), all.rooms), ..all.clone() };
            (0..n).map(|i| (Work::Group(one(i)), of(i))).collect()
        }
        Work::Presence(all) => {
            // Nobody is their own contact.
            let n = parts(workers, &[all.clients / all.contacts.saturating_add(1)]);
            let of = spread(all.clients, n);
            let one = |i| Presence { clients: of(i), rate: rate(all.rate, of(i), all.clients), ..all };
            (0..n).map(|i| (Work::Presence(one(i)), of(i))).collect()
        }
        Work::Offline(all) => {
            let n = parts(workers, &[all.senders, all.recipients, all.concurrency]);
            let (of, senders, at_once) = (spread(all.recipients, n), spread(all.senders, n), spread(all.concurrency, n));
            let one = |i| Offline { senders: senders(i), recipients: of(i), concurrency: at_once(i), ..all };
            (0..n).map(|i| (Work::Offline(one(i)), of(i))).collect()
        }
        Work::Archive(all) => {
            let n = parts(workers, &[all.pairs]);
            let of = spread(all.pairs, n);
            let one = |i| Archive { pairs: of(i), rate: rate(all.rate, of(i), all.pairs), ..all };
            (0..n).map(|i| (Work::Archive(one(i)), of(i))).collect()
        }
        Work::Reconnect(all) => {
            let n = parts(workers, &[all.pairs]);
            let of = spread(all.pairs, n);
            let part = |rate: f64, i| rate * of(i) as f64 / all.pairs.max(1) as f64;
            let one = |i| Reconnect { pairs: of(i), rate: part(all.rate, i), cuts: part(all.cuts, i), ..all };
            (0..n).map(|i| (Work::Reconnect(one(i)), of(i))).collect()
        }
        Work::Mixed(all) => mixed(&all, workers),
    }
}

fn rate(all: Option<f64>, units: usize, of: usize) -> Option<f64> {
    all.map(|rate| rate * units as f64 / of.max(1) as f64)
}

/// Whole rooms stay together, so that there are as many as in one process, and pairs do.
fn mixed(all: &Mixed, workers: usize) -> Vec<(Work, usize)> {
    let unit = match all.occupants {
        n if all.weights.group <= 0.0 || n < 2 => 2,
        n if n.is_multiple_of(2) => n,
        n => n.saturating_mul(2),
    };
    let least = if all.weights.presence > 0.0 { all.contacts.saturating_add(1) } else { 2 };
    let units = all.clients / unit;
    let mut n = parts(workers, &[units]);
    if all.weights.login > 0.0 {
        n = parts(n, &[all.visitors]);
    }
    // Who has contacts needs them among the clients of the same worker.
    while n > 1 && units / n * unit < least {
        n -= 1;
    }
    let (of, visitors) = (spread(units, n), spread(all.visitors, n));
    let clients = |i: usize| of(i) * unit + if i + 1 == n { all.clients % unit } else { 0 };
    let one = |i: usize| {
        let share = clients(i) as f64 / all.clients.max(1) as f64;
        let day = all.day.iter().map(|(at, rate)| (*at, rate * share)).collect();
        Mixed { clients: clients(i), visitors: visitors(i), day, ..all.clone() }
    };
    (0..n).map(|i| (Work::Mixed(one(i)), clients(i))).collect()
}

#[cfg(test)]
mod tests;
