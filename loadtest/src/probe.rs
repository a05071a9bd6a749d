//! Looks into a running server from outside: `perf` says where its CPU time goes, `strace` which system calls it makes.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Samples a second of CPU time.
const FREQUENCY: &str = "1999";

/// Which tool, and the file that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `perf record`, by the CPU clock.
    Perf(PathBuf),
    /// `strace -c`.
    Strace(PathBuf),
}

/// A tool at work.
pub struct Running(Child);

impl Running {
    /// Until it has written its file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn wait(&mut self) -> Result<()> {
        self.0.wait()?;
        Ok(())
    }
}

impl Probe {
    /// Whether the tool is there.
    pub fn available(&self) -> bool {
        let (program, option) = match self {
            Probe::Perf(_) => ("perf", "--version"),
            Probe::Strace(_) => ("strace", "--version"),
        };
        Command::new(program).arg(option).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    /// Looks at a process for some seconds.
    ///
    /// # Errors
    /// The tool is not there.
    pub fn start(&self, pid: u32, seconds: f64) -> Result<Running> {
        let mut command = Command::new("timeout");
        command.args(["--signal=INT", &format!("{seconds:.1}")]);
        match self {
            Probe::Perf(file) => {
                command.args(["perf", "record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-p", &pid.to_string(), "-o"]).arg(file)
            }
            Probe::Strace(file) => command.args(["strace", "-c", "-f", "-p", &pid.to_string(), "-o"]).arg(file),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(command.spawn().with_context(|| format!("{command:?}"))?))
    }
}

/// One row of a profile: part of all samples, in percent, and what was running.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hot {
    /// Percent of the samples.
    pub percent: f64,
    /// A symbol, crate or library.
    pub what: String,
}

/// Where the samples of a `perf` file fell: each object and symbol, most first.
///
/// # Errors
/// `perf` cannot read it.
pub fn symbols(file: &Path) -> Result<Vec<(f64, String, String)>> {
    let mut command = Command::new("perf");
    command.args(["report", "--stdio", "-q", "--no-children", "--percent-limit", "0", "-F", "overhead,dso,symbol", "-t", "|", "-i"]);
    let output = command.arg(file).stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "perf report: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(symbol).collect())
}

fn symbol(line: &str) -> Option<(f64, String, String)> {
    let mut fields = line.trim().splitn(3, '|');
    let percent = fields.next()?.trim().strip_suffix('%')?.parse().ok()?;
    let object = fields.next()?.trim().to_owned();
    let symbol = fields.next()?.trim();
    let (kind, name) = symbol.split_at_checked(3).map_or(("", symbol), |(k, n)| (k, n.trim()));
    let object = if kind == "[k]" { "kernel".to_owned() } else { object };
    Some((percent, object, demangle(name)))
}

/// Rust's legacy names: `_ZN`, each part with its length, a hash, `E`. Other names stay as they are.
fn demangle(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("_ZN") else { return name.to_owned() };
    let mut parts = Vec::new();
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()).filter(|d| *d > 0) {
        let Some(part) = rest[..digits].parse().ok().and_then(|n: usize| rest.get(digits..digits + n)) else { break };
        parts.push(part);
        rest = &rest[digits + part.len()..];
    }
    if parts.last().is_some_and(|p| p.len() == 17 && p.starts_with('h')) {
        parts.pop();
    }
    let mut text = parts.join("::");
    for (code, sign) in [("$LT$", "<"), ("$GT$", ">"), ("$u20$", " "), ("$RF$", "&"), ("$C$", ","), ("$BP$", "*"), ("..", "::")] {
        text = text.replace(code, sign);
    }
    text.trim_start_matches('_').to_owned()
}

/// The crate of a Rust symbol: the first word that can be one.
fn owner(symbol: &str) -> &str {
    let start = symbol.trim_start_matches(['<', '&', '*', '(', '[']);
    let start = start.strip_prefix("mut ").or_else(|| start.strip_prefix("dyn ")).unwrap_or(start);
    let end = start.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(start.len());
    &start[..end]
}

/// The same by part: the kernel, a library, or a crate of the program itself (`program`: the name of its file).
pub fn parts(symbols: &[(f64, String, String)], program: &str) -> Vec<Hot> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (percent, object, symbol) in symbols {
        let part = match object.as_str() {
            o if o == program && symbol.contains("::") => format!("crate {}", owner(symbol)),
            o => o.to_owned(),
        };
        *sums.entry(part).or_default() += percent;
    }
    let mut all: Vec<_> = sums.into_iter().map(|(what, percent)| Hot { percent, what }).collect();
    all.sort_by(|a, b| b.percent.total_cmp(&a.percent));
    all
}

/// System calls of a `strace -c` file: name and count, most first.
///
/// # Errors
/// The file is not there.
pub fn calls(file: &Path) -> Result<Vec<(String, u64)>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let mut all: Vec<_> = text.lines().filter_map(call).collect();
    all.sort_by_key(|b| std::cmp::Reverse(b.1));
    Ok(all)
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall`
fn call(line: &str) -> Option<(String, u64)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    fields.first()?.parse::<f64>().ok()?;
    let name = fields.last().filter(|n| **n != "total")?;
    Some(((*name).to_owned(), fields.get(3)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_perf() {
        let line = "    12.50%|chappe            |[.] _ZN3xml6framer6Framer4next17h0123456789abcdefE";
        assert_eq!(symbol(line), Some((12.5, "chappe".into(), "xml::framer::Framer::next".into())));
        assert_eq!(symbol("1.00%|[kernel.kallsyms]|[k] tcp_sendmsg"), Some((1.0, "kernel".into(), "tcp_sendmsg".into())));
        assert_eq!(symbol("# Overhead"), None);
    }

    #[test]
    fn names_and_their_crates() {
        let name = "_ZN51_$LT$edge..Actor$u20$as$u20$actix..actor..Actor$GT$7started17h0123456789abcdefE";
        assert_eq!(demangle(name), "<edge::Actor as actix::actor::Actor>::started");
        assert_eq!(owner("<edge::Actor as actix::actor::Actor>::started"), "edge");
        assert_eq!(owner("<&mut tokio::x as y>::z"), "tokio");
        let rows =
            [(5.0, "chappe".into(), "xml::a".into()), (2.0, "chappe".into(), "xml::b".into()), (6.0, "libc.so.6".into(), "memcpy".into())];
        let parts: Vec<_> = parts(&rows, "chappe").into_iter().map(|h| (h.percent, h.what)).collect();
        assert_eq!(parts, [(7.0, "crate xml".to_owned()), (6.0, "libc.so.6".to_owned())]);
    }

    #[test]
    fn a_line_of_strace() {
        assert_eq!(call(" 60.00    0.001200           1      1200        37 recvfrom"), Some(("recvfrom".into(), 1200)));
        assert_eq!(call(" 40.00    0.000800           1       800           writev"), Some(("writev".into(), 800)));
        assert_eq!(call("100.00    0.002000           1      2000        37 total"), None);
        assert_eq!(call("------ ----------- ----------- --------- --------- ----------------"), None);
    }
}
