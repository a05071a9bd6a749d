//! Limits per connection and per address: token buckets that slow reading, counts, and failed logins.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use types::Instant;

/// Addresses whose failed logins are remembered, in each of two generations: about 3 MiB at most. With more, those that
/// failed longest ago are forgotten first; an address that goes on failing stays.
const FAILING_ADDRESSES_MAX: usize = 32_768;

/// A rate with a burst. What exceeds it is not refused: reading pauses until it is paid back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units (bytes or stanzas) that come back each second, at least 1.
    pub per_second: u32,
    /// Units that may be used at once after a quiet time.
    pub burst: u32,
}

/// How many logins of one address may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// One failure is forgiven after this, at least a millisecond.
    pub every: Duration,
    /// Failures after a quiet time that have no effect yet.
    pub burst: u32,
}

impl FailureRate {
    fn every_ms(&self) -> u64 {
        u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn burst_ms(&self) -> u64 {
        self.every_ms().saturating_mul(u64::from(self.burst))
    }
}

const NS_PER_MS: u64 = 1_000_000;

/// A token bucket, as the time at which it is full again: in nanoseconds of the monotonic clock, so that slow rates lose
/// nothing to rounding, and in one word, since every connection has some.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    fn ns(rate: Rate, units: u64) -> u64 {
        let ns = u128::from(units) * 1_000_000_000 / u128::from(rate.per_second.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Charge `units` that were used. It may owe more than it holds: a read is charged when it has happened.
    pub(crate) fn charge(&mut self, rate: Rate, now: Instant, units: usize) {
        let now_ns = now.0.saturating_mul(NS_PER_MS);
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(Bucket::ns(rate, units as u64));
    }

    /// When more may be used: `now` or earlier if at once.
    pub(crate) fn ready_at(&self, rate: Rate, now: Instant) -> Instant {
        let ready_ns = self.full_at_ns.saturating_sub(Bucket::ns(rate, u64::from(rate.burst)));
        now.max(Instant(ready_ns.div_ceil(NS_PER_MS)))
    }
}

/// What counts as one address: an IPv4 address, or the /64 that an IPv6 host can draw addresses from at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    pub(crate) fn of(address: IpAddr) -> AddressKey {
        match address {
            IpAddr::V4(_) => AddressKey(address),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => AddressKey(IpAddr::V4(v4)),
                None => AddressKey(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
            },
        }
    }
}

/// Of one address: budgets that its connections share. Gone when its last connection is.
#[derive(Debug)]
struct Shared {
    addresses: Arc<Addresses>,
    key: AddressKey,
    budgets: Mutex<Budgets>,
}

#[derive(Debug, Default)]
struct Budgets {
    bytes: Bucket,
    stanzas: Bucket,
}

/// All addresses that have a connection, on all planes. Its size is bounded by the number of connections.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<HashMap<AddressKey, (usize, Arc<Shared>)>>);

/// One connection's place at its address; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Place(Arc<Shared>);

impl Addresses {
    /// Take a place for a connection from `address`, unless it has `connections_max` already.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, connections_max: Option<usize>) -> Option<Place> {
        let key = AddressKey::of(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry =
            table.entry(key).or_insert_with(|| (0, Arc::new(Shared { addresses: Arc::clone(self), key, budgets: Mutex::default() })));
        if connections_max.is_some_and(|max| entry.0 >= max) {
            let vacant = entry.0 == 0;
            if vacant {
                table.remove(&key);
            }
            return None;
        }
        entry.0 += 1;
        Some(Place(Arc::clone(&entry.1)))
    }

    /// Addresses with at least one connection.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Place {
    /// One more for the same connection, while it moves: no bound forbids it.
    pub(crate) fn again(&self) -> Place {
        let mut table = self.0.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.entry(self.0.key).or_insert_with(|| (0, Arc::clone(&self.0))).0 += 1;
        Place(Arc::clone(&self.0))
    }

    /// Which address it is at.
    pub(crate) fn key(&self) -> AddressKey {
        self.0.key
    }

    /// Charge bytes read to the address, and say when more may be read.
    pub(crate) fn charge_bytes(&self, rate: Rate, now: Instant, bytes: usize) -> Instant {
        self.charge(rate, now, bytes, |budgets| &mut budgets.bytes)
    }

    /// Charge a stanza read to the address, and say when more may be read.
    pub(crate) fn charge_stanza(&self, rate: Rate, now: Instant) -> Instant {
        self.charge(rate, now, 1, |budgets| &mut budgets.stanzas)
    }

    fn charge(&self, rate: Rate, now: Instant, units: usize, of: impl Fn(&mut Budgets) -> &mut Bucket) -> Instant {
        let mut budgets = self.0.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = of(&mut budgets);
        bucket.charge(rate, now, units);
        bucket.ready_at(rate, now)
    }
}

/// Addresses whose logins failed of late, on all planes. It outlives their connections: who guesses comes back.
///
/// Kept for each is the instant at which all its failures are forgiven.
#[derive(Debug, Default)]
pub(crate) struct FailingAddresses(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<AddressKey, Instant>,
    old: HashMap<AddressKey, Instant>,
    /// When everything in `old` is forgiven.
    turn_at: Instant,
}

impl Generations {
    fn forgiven_at(&self, key: AddressKey) -> Instant {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied().unwrap_or_default()
    }

    /// Forget the old, if that is due or there is no room.
    fn turn(&mut self, now: Instant) {
        if self.young.len() < FAILING_ADDRESSES_MAX && now < self.turn_at {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        self.turn_at = self.old.values().copied().max().unwrap_or_default();
    }
}

impl FailingAddresses {
    /// A login from this address failed.
    pub(crate) fn charge(&self, rate: FailureRate, now: Instant, key: AddressKey) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.turn(now);
        let forgiven_at = table.forgiven_at(key).max(now);
        table.young.insert(key, Instant(forgiven_at.0.saturating_add(rate.every_ms())));
    }

    /// Whether so many failed that none is let try for now.
    pub(crate) fn is_over(&self, rate: FailureRate, now: Instant, key: AddressKey) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.forgiven_at(key).0 > now.0.saturating_add(rate.burst_ms().saturating_sub(rate.every_ms()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.0.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get_mut(&self.0.key) {
            entry.0 -= 1;
            if entry.0 == 0 {
                table.remove(&self.0.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_pays_back_at_its_rate() {
        let rate = Rate { per_second: 1_000, burst: 5_000 };
        let mut bucket = Bucket::default();
        bucket.charge(rate, Instant(1), 5_000);
        assert_eq!(bucket.ready_at(rate, Instant(1)), Instant(1), "the burst is free");
        bucket.charge(rate, Instant(1), 2_500);
        assert_eq!(bucket.ready_at(rate, Instant(1)), Instant(2_501));
        assert_eq!(bucket.ready_at(rate, Instant(1_001)), Instant(2_501), "waiting does not move the end");
        assert_eq!(bucket.ready_at(rate, Instant(2_501)), Instant(2_501));
        bucket.charge(rate, Instant(1_000_000), 5_000);
        assert_eq!(bucket.ready_at(rate, Instant(1_000_000)), Instant(1_000_000), "no more than the burst is saved");
        bucket.charge(rate, Instant(1_000_000), 1);
        assert_eq!(bucket.ready_at(rate, Instant(1_000_000)), Instant(1_000_001));
        // A clock that stands still pays nothing back.
        bucket.charge(rate, Instant(1_000_000), 10);
        assert_eq!(bucket.ready_at(rate, Instant(1_000_000)), Instant(1_000_011));
    }

    #[test]
    fn the_sum_over_time_is_the_rate() {
        let rate = Rate { per_second: 7, burst: 3 };
        let (mut bucket, mut now, mut used) = (Bucket::default(), Instant(0), 0_u64);
        while now.0 < 100_000 {
            bucket.charge(rate, now, 1);
            used += 1;
            now = bucket.ready_at(rate, now);
        }
        assert!((700..=705).contains(&used), "{used}");
    }

    #[test]
    fn addresses_are_counted_by_v4_and_by_slash_64() {
        let table = Arc::new(Addresses::default());
        let enter = |text: &str| table.enter(text.parse().unwrap(), Some(2));
        let a = enter("2001:db8:1:2::1").unwrap();
        let _b = enter("2001:db8:1:2:ffff::9").unwrap();
        assert!(enter("2001:db8:1:2::3").is_none(), "same /64");
        let _c = enter("2001:db8:1:3::1").unwrap();
        let _d = enter("192.0.2.1").unwrap();
        let e = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none(), "a mapped address is the IPv4 one");
        assert_eq!(table.len(), 3);
        drop((a, e));
        assert!(enter("2001:db8:1:2::3").is_some() && enter("192.0.2.1").is_some());
        assert!(table.enter("192.0.2.1".parse().unwrap(), None).is_some(), "switched off");
        assert!(table.enter("192.0.2.77".parse().unwrap(), Some(0)).is_none());
        assert_eq!(table.len(), 3, "a refusal leaves nothing");
    }

    #[test]
    fn connections_of_an_address_share_its_bytes() {
        let table = Arc::new(Addresses::default());
        let rate = Rate { per_second: 100, burst: 1_000 };
        let [a, b] = [(); 2].map(|()| table.enter("192.0.2.1".parse().unwrap(), None).unwrap());
        assert_eq!(a.charge_bytes(rate, Instant(1), 1_000), Instant(1));
        assert_eq!(b.charge_bytes(rate, Instant(1), 100), Instant(1_001));
        let rate = Rate { per_second: 1, burst: 2 };
        assert_eq!([&a, &b, &a].map(|place| place.charge_stanza(rate, Instant(1))), [Instant(1), Instant(1), Instant(1_001)]);
        drop((a, b));
        assert_eq!(table.len(), 0);
    }

    fn address(n: u32) -> AddressKey {
        AddressKey::of(IpAddr::V4(n.into()))
    }

    #[test]
    fn failed_logins_are_forgiven_one_by_one() {
        let rate = FailureRate { every: Duration::from_secs(3), burst: 2 };
        let failing = FailingAddresses::default();
        let over = |now| failing.is_over(rate, Instant(now), address(1));
        failing.charge(rate, Instant(1_000), address(1));
        assert!(!over(1_000));
        failing.charge(rate, Instant(1_000), address(1));
        assert!(over(1_000) && over(3_999), "as many as the burst");
        assert!(!over(4_000), "one is forgiven");
        failing.charge(rate, Instant(4_000), address(1));
        assert!(over(6_999) && !over(7_000));
        assert!(!failing.is_over(rate, Instant(4_000), address(2)));
    }

    #[test]
    fn failing_addresses_are_bounded_and_the_oldest_go_first() {
        let rate = FailureRate { every: Duration::from_secs(3), burst: 1 };
        let failing = FailingAddresses::default();
        let size = || {
            let table = failing.0.lock().unwrap();
            table.young.len() + table.old.len()
        };
        for n in 0..3 * u32::try_from(FAILING_ADDRESSES_MAX).unwrap() {
            failing.charge(rate, Instant(1), address(n));
            // It fails now and then while all others come and go.
            if n % 1_000 == 0 {
                failing.charge(rate, Instant(1), address(0));
            }
            assert!(size() <= 2 * FAILING_ADDRESSES_MAX);
        }
        assert!(size() > FAILING_ADDRESSES_MAX, "the bound was reached");
        assert!(failing.is_over(rate, Instant(1), address(0)));
        assert!(!failing.is_over(rate, Instant(1), address(1)), "forgotten");
        failing.charge(rate, Instant(3_600_000), address(7));
        failing.charge(rate, Instant(7_200_000), address(8));
        assert!(size() <= 2, "what is forgiven is not kept");
    }
}
