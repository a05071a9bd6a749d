//! A line that says how a run goes, on a terminal only.

use std::io::{IsTerminal as _, Write as _};

/// Tells it on standard error.
pub struct Progress {
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress { terminal: std::io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Says nothing, whatever standard error is.
    pub fn silent() -> Progress {
        Progress { terminal: false }
    }

    /// The line, in place of the one before.
    pub fn show(&self, line: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        }
    }

    /// The scenario is over.
    pub fn end(&self) {
        self.show("");
    }
}
