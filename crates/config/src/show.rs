//! A configuration as people and programs read it: `config show`, what a reload changes, the reference.

use std::fmt::Write as _;

use toml::Value;

use crate::{Apply, Config, OPTS, Opt, SECTIONS};

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Path in the file.
    pub key: &'static str,
    /// Its value as a file would write it; secrets are hidden.
    pub value: Value,
    /// Where the value comes from.
    pub origin: String,
    /// When a change takes effect.
    pub apply: Apply,
}

/// One setting that differs between two configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Path in the file.
    pub key: &'static str,
    /// The value before; secrets are hidden.
    pub old: Value,
    /// The value after; secrets are hidden.
    pub new: Value,
    /// Whether it takes a restart.
    pub apply: Apply,
}

impl Config {
    /// Every setting, in the order of the reference.
    pub fn shown(&self) -> Vec<Shown> {
        let show = |o: &Opt| Shown { key: o.key, value: (o.get)(self), origin: self.origin(o.key).to_string(), apply: o.apply };
        OPTS.iter().map(show).collect()
    }

    /// What differs in `new`.
    pub fn changes(&self, new: &Config) -> Vec<Change> {
        let differing = OPTS.iter().filter(|o| !o.same(self, new));
        differing.map(|o| Change { key: o.key, old: (o.get)(self), new: (o.get)(new), apply: o.apply }).collect()
    }

    /// The whole configuration as a file that says the same, on request with each value's origin as a comment.
    /// A secret stands there as a comment, never as a value.
    pub fn to_toml(&self, origins: bool) -> String {
        let mut out = String::new();
        for (section, opts) in sections() {
            if !section.is_empty() {
                let _ = writeln!(out, "\n[{section}]");
            }
            for opt in opts {
                let name = opt.key.rsplit('.').next().unwrap_or(opt.key);
                let origin = if origins { format!("  # {}", self.origin(opt.key)) } else { String::new() };
                match (opt.get)(self) {
                    _ if opt.key == "admin.token" => {
                        let state = if self.admin.token.fixed().is_some() { "set, hidden" } else { "made at the first start" };
                        let _ = writeln!(out, "# {name}: {state}{origin}");
                    }
                    value => {
                        let _ = writeln!(out, "{name} = {value}{origin}");
                    }
                }
            }
        }
        out
    }
}

/// The settings by section.
fn sections() -> impl Iterator<Item = (&'static str, Vec<&'static Opt>)> {
    let section = |o: &Opt| o.key.rsplit_once('.').map_or("", |(s, _)| s);
    SECTIONS.iter().map(move |s| (s.name, OPTS.iter().filter(|o| section(o) == s.name).collect()))
}

/// The reference of all settings, in Markdown.
pub fn reference() -> String {
    let default = Config::default();
    let mut out = String::from("# Settings\n");
    for ((name, opts), section) in sections().zip(SECTIONS) {
        let title = if name.is_empty() { "Before every section".to_owned() } else { format!("`[{name}]`") };
        let _ = writeln!(out, "\n## {title}\n\n{}", tidy(section.doc));
        for opt in opts {
            let range = opt.range.map_or_else(String::new, |(a, b)| format!(", from {a} to {b}"));
            let apply = match opt.apply {
                Apply::Live => "takes effect on reload",
                Apply::Restart => "takes effect at the next start",
            };
            let _ = writeln!(out, "\n### `{}`\n\n{}\n", opt.key, tidy(opt.doc));
            let _ = writeln!(out, "- Takes: {}{range}", opt.kind);
            let _ = writeln!(out, "- Default: `{}`\n- Change: {apply}", (opt.get)(&default));
        }
    }
    out
}

/// Lines of a doc comment, without the space that each begins with.
fn tidy(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
