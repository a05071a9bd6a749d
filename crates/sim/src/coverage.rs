//! Which event met which state: what the seeds have tried, and what they never did.

use entity::Account;
use entity::session::Link;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use types::SessionId;

/// What has states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// A client's stream on its edge: `edge::core::Connection`.
    Connection,
    /// A session at its account, met by a frame of its edge.
    Session,
    /// An account, met by a frame of another one.
    Account,
}

/// How often each pair was seen.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    seen: BTreeMap<(Of, &'static str, String), u64>,
}

impl Coverage {
    /// This event met this state.
    pub fn note(&mut self, of: Of, state: &'static str, event: String) {
        *self.seen.entry((of, state, event)).or_default() += 1;
    }

    /// Add what another run has seen.
    pub fn add(&mut self, other: Coverage) {
        for (pair, n) in other.seen {
            *self.seen.entry(pair).or_default() += n;
        }
    }

    /// One table for each kind: states down, events across, how often each pair was seen.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for of in [Of::Connection, Of::Session, Of::Account] {
            let pairs: Vec<_> = self.seen.iter().filter(|((o, ..), _)| *o == of).collect();
            let mut states: Vec<&'static str> = pairs.iter().map(|((_, s, _), _)| *s).collect();
            let mut events: Vec<&str> = pairs.iter().map(|((.., e), _)| e.as_str()).collect();
            if of == Of::Connection {
                // Also those that were never met.
                states.extend(edge::core::Connection::STATES);
            }
            states.sort_unstable();
            states.dedup();
            events.sort_unstable();
            events.dedup();
            let _ = writeln!(out, "\n{of:?}: {} of {} pairs\n", pairs.len(), states.len() * events.len());
            let _ = writeln!(out, "| | {} |", events.join(" | "));
            let _ = writeln!(out, "|---|{}", "---:|".repeat(events.len()));
            for state in states {
                let cell = |event: &&str| {
                    let n = self.seen.get(&(of, state, (*event).to_owned())).copied().unwrap_or(0);
                    if n == 0 { "–".to_owned() } else { n.to_string() }
                };
                let _ = writeln!(out, "| {state} | {} |", events.iter().map(cell).collect::<Vec<_>>().join(" | "));
            }
        }
        out
    }
}

/// How an account has a session.
pub fn session_state(account: Option<&Account>, session: Option<SessionId>) -> &'static str {
    let Some(account) = account else { return "asleep or loading" };
    let Some(session) = session else { return "awake" };
    match account.state.session(session).map(|s| &s.link) {
        None => "unknown",
        Some(Link::Attached(_)) => "attached",
        Some(Link::Detached { .. }) => "detached",
        Some(Link::Attaching { .. }) => "attaching",
    }
}

/// What an account has to do.
pub fn account_state(account: Option<&Account>) -> &'static str {
    match account {
        None => "asleep or loading",
        Some(a) => match (a.outbox().is_empty(), a.state.sessions.is_empty()) {
            (true, true) => "idle",
            (true, false) => "in session",
            (false, true) => "owes",
            (false, false) => "in session, owes",
        },
    }
}

/// The name of an enum's variant.
pub fn variant(value: &impl Debug) -> String {
    struct Head(String);
    impl Write for Head {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let end = s.find(|c: char| !c.is_alphanumeric()).unwrap_or(s.len());
            self.0.push_str(&s[..end]);
            // The rest of a large value is not formatted.
            if end < s.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut head = Head(String::new());
    let _ = write!(head, "{value:?}");
    head.0
}

#[cfg(test)]
mod tests {
    use super::variant;

    #[test]
    fn only_the_name() {
        assert_eq!(variant(&Some(1)), "Some");
        assert_eq!(variant(&None::<u8>), "None");
    }
}
