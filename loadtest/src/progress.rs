//! A line that says how a run goes, on a terminal only.

use crate::clock;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

/// Seconds between two lines.
const EVERY: f64 = 0.5;

#[derive(Default)]
struct State {
    scenario: &'static str,
    unit: &'static str,
    count: u64,
    start: f64,
    /// When the last line was written, and the count then.
    told: (f64, u64),
    note: String,
}

/// Tells it on standard error.
pub struct Progress {
    terminal: bool,
    state: Mutex<State>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress { terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }
}

impl Progress {
    /// A scenario begins.
    pub fn begin(&self, scenario: &'static str, unit: &'static str) {
        let now = clock::seconds();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { scenario, unit, start: now, told: (now, 0), ..State::default() };
    }

    /// So many more are done.
    pub fn add(&self, count: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += count;
        let now = clock::seconds();
        if self.terminal && now - state.told.0 >= EVERY && !state.scenario.is_empty() {
            let rate = (state.count - state.told.1) as f64 / (now - state.told.0);
            let State { scenario, unit, count, start, note, .. } = &*state;
            eprint!("\r\x1b[K{scenario}: {:.0} s, {count} {unit}, {rate:.0} a second {note}", now - start);
            let _ = std::io::stderr().flush();
            state.told = (now, state.count);
        }
    }

    /// What stands at the end of the line.
    pub fn note(&self, note: &str) {
        note.clone_into(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).note);
    }

    /// The scenario is over.
    pub fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
