//! What happened, in order: a hash of everything, and the last lines in words if somebody wants to read them.

use std::collections::VecDeque;

/// Lines kept unless all are wanted.
const LINES_KEPT: usize = 400;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    wordy: bool,
    all: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// `wordy`: keep the last lines; `all`: print every line at once.
    pub fn new(wordy: bool, all: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, wordy: wordy || all, all, lines: VecDeque::new() }
    }

    /// Add a number to the hash.
    pub fn note(&mut self, value: u64) {
        for byte in value.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Add bytes to the hash.
    pub fn note_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// A line, if lines are kept.
    pub fn line(&mut self, now: u64, text: impl FnOnce() -> String) {
        if !self.wordy {
            return;
        }
        let line = format!("{now:>7} {}", text());
        if self.all {
            println!("{line}");
        }
        if self.lines.len() >= LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
