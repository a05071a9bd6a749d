//! Configuration: any text is taken or refused with a line for each fault, and what was taken is the same when it is written
//! and read again.

use crate::memory::within;
use config::Config;

/// See the module.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A setting can name a file, and nobody wants a fuzzer to read from a terminal or to fill memory from /dev/zero.
    if ["/", "\\", "file"].iter().any(|path| text.contains(path)) {
        return;
    }
    match within((1 << 20) + 256 * text.len(), "configuration", || Config::parse(text)) {
        Ok(config) => {
            let written = config.to_toml(false);
            let again = Config::parse(&written).unwrap_or_else(|e| panic!("{written}\n{e}"));
            assert!(!config.domains().is_empty());
            // A secret is never written.
            if config.admin.token.fixed().is_some() {
                return;
            }
            assert_eq!(again.to_toml(false), written);
            assert!(config.changes(&again).is_empty(), "{written}");
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                let line = problem.to_string();
                let number = line.strip_prefix("chappe.toml:").and_then(|l| l.split(':').next()?.parse::<usize>().ok());
                let lines = 1 + text.matches('\n').count();
                assert!(number.is_some_and(|n| (1..=lines).contains(&n)), "no line of {lines}: {line}");
            }
        }
    }
}
