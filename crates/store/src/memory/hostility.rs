//! The knobs of [`super::Hostile`].

use rand::Rng;

/// How hostile the store is. Times in milliseconds, ranges inclusive, probabilities 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Hostility {
    /// One way between two nodes.
    pub hop_ms: (u64, u64),
    /// A message to a replica takes `late_ms` instead.
    pub late: f64,
    /// How long a late one takes.
    pub late_ms: (u64, u64),
    /// A message to one replica is lost.
    pub lost: f64,
    /// A request is lost before any replica has it.
    pub request_lost: f64,
    /// The answer to the caller is lost, though the request was done.
    pub answer_lost: f64,
    /// Per replica and second: it stops answering for `down_ms`. It keeps what it has.
    pub down: f64,
    /// How long it is down.
    pub down_ms: (u64, u64),
    /// A write that finds its replica down is kept and arrives when it is up again (a hint); otherwise it is lost.
    pub hint: f64,
    /// Per replica and second: its messages take `slow_ms` longer for `slow_for_ms`.
    pub slow: f64,
    /// How much longer.
    pub slow_ms: (u64, u64),
    /// For how long.
    pub slow_for_ms: (u64, u64),
    /// The caller gives up waiting for an attempt; what it sent may still arrive.
    pub timeout_ms: u64,
    /// Pause before the next attempt.
    pub retry_ms: (u64, u64),
    /// Attempts of a read before it is answered with `Timeout`.
    pub read_attempts: u32,
    /// A read writes what it merged back to the replicas it asked, before it answers.
    pub read_repair: f64,
    /// A message of a dead client that is under way is lost.
    pub orphan_lost: f64,
    /// It arrives `orphan_late_ms` later.
    pub orphan_late: f64,
    /// How much later.
    pub orphan_late_ms: (u64, u64),
}

impl Hostility {
    /// No faults, only hops.
    pub fn none() -> Hostility {
        Hostility {
            hop_ms: (0, 1),
            late: 0.0,
            late_ms: (0, 0),
            lost: 0.0,
            request_lost: 0.0,
            answer_lost: 0.0,
            down: 0.0,
            down_ms: (0, 0),
            hint: 1.0,
            slow: 0.0,
            slow_ms: (0, 0),
            slow_for_ms: (0, 0),
            timeout_ms: 2_000,
            retry_ms: (100, 500),
            read_attempts: 5,
            read_repair: 1.0,
            orphan_lost: 0.0,
            orphan_late: 0.0,
            orphan_late_ms: (0, 0),
        }
    }

    /// Everything happens, often.
    pub fn harsh() -> Hostility {
        Hostility {
            hop_ms: (0, 20),
            late: 0.05,
            late_ms: (500, 60_000),
            lost: 0.05,
            request_lost: 0.03,
            answer_lost: 0.05,
            down: 0.02,
            down_ms: (100, 20_000),
            hint: 0.5,
            slow: 0.02,
            slow_ms: (10, 3_000),
            slow_for_ms: (100, 10_000),
            timeout_ms: 1_000,
            retry_ms: (10, 1_000),
            read_attempts: 10,
            read_repair: 0.5,
            orphan_lost: 0.3,
            orphan_late: 0.5,
            orphan_late_ms: (10, 120_000),
        }
    }

    /// A swarm's member: each fault of [`Hostility::harsh`] is on or off, and when on up to three times as frequent.
    pub fn draw(rng: &mut impl Rng) -> Hostility {
        let harsh = Hostility::harsh();
        let mut knob = |p: f64| if rng.random_bool(0.5) { (p * rng.random_range(0.1..3.0)).min(1.0) } else { 0.0 };
        Hostility {
            late: knob(harsh.late),
            lost: knob(harsh.lost),
            request_lost: knob(harsh.request_lost),
            answer_lost: knob(harsh.answer_lost),
            down: knob(harsh.down),
            hint: knob(harsh.hint),
            slow: knob(harsh.slow),
            read_repair: knob(harsh.read_repair),
            orphan_lost: knob(harsh.orphan_lost),
            orphan_late: knob(harsh.orphan_late),
            ..harsh
        }
    }
}

impl Default for Hostility {
    /// A cluster on a bad day: a tenth of [`Hostility::harsh`].
    fn default() -> Hostility {
        let h = Hostility::harsh();
        Hostility {
            late: h.late / 10.0,
            lost: h.lost / 10.0,
            request_lost: h.request_lost / 10.0,
            answer_lost: h.answer_lost / 10.0,
            down: h.down / 10.0,
            slow: h.slow / 10.0,
            ..h
        }
    }
}
