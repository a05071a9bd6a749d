//! A server as the kernel sees it: CPU, memory, what it asked for. A server is a process with all that descend from it; what
//! has left the family, as Erlang's `epmd` does, is not counted.

use crate::clock;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs;

/// Ticks of `/proc/PID/stat` in one second: Linux tells user space 100 on every architecture of today.
const TICKS_PER_SECOND: u64 = 100;

/// Both counts of CPU time, taken apart, can differ by this much: two ticks at each end.
const TICKS_SLACK_US: u64 = 40_000;

/// One look at a server: all threads of its process and of the processes under it, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When, in seconds of this program's clock.
    pub at: f64,
    /// CPU in user mode, microseconds, in steps of 10,000.
    pub user_us: u64,
    /// CPU in the kernel, microseconds, in steps of 10,000.
    pub system_us: u64,
    /// CPU of the threads that are there, microseconds, exact.
    pub run_us: u64,
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Of it, what is not file pages, KiB.
    pub anonymous_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Times that a thread gave up the CPU because it had to wait.
    pub waits: u64,
    /// Read system calls, sockets not counted.
    pub reads: u64,
    /// Write system calls, sockets not counted.
    pub writes: u64,
    /// Bytes sent to storage.
    pub written_bytes: u64,
}

impl Sample {
    /// Looks at a process and all under it. What its rights do not show stays 0.
    ///
    /// # Errors
    /// There is no such process.
    pub fn take(pid: u32) -> Result<Sample> {
        let mut sum = Sample { at: clock::seconds(), ..Sample::default() };
        let mut waiting = one(pid, &mut sum)?;
        // A child may be gone by the time it is looked at; each process has one parent, so this ends.
        while let Some(child) = waiting.pop() {
            waiting.extend(one(child, &mut sum).unwrap_or_default());
        }
        sum.run_us /= 1_000;
        Ok(sum)
    }
}

/// Adds one process, with `run_us` in nanoseconds, and tells its children.
fn one(pid: u32, sum: &mut Sample) -> Result<Vec<u32>> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (user_us, system_us) = cpu(&read("stat").with_context(|| format!("process {pid}"))?).context("/proc/PID/stat")?;
    let status = read("status")?;
    let io = read("io").unwrap_or_default();
    let mut children = Vec::new();
    sum.user_us += user_us;
    sum.system_us += system_us;
    sum.rss_kib += number(&status, "VmRSS:");
    sum.anonymous_kib += number(&status, "RssAnon:");
    sum.threads += number(&status, "Threads:");
    sum.reads += number(&io, "syscr:");
    sum.writes += number(&io, "syscw:");
    sum.written_bytes += number(&io, "write_bytes:");
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(|t| Some(t.ok()?.path())) {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        sum.run_us += read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        sum.waits += number(&read("status"), "voluntary_ctxt_switches:");
        children.extend(read("children").split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok()));
    }
    Ok(children)
}

/// User and system time. The command, second field, may hold spaces and parentheses.
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut micros = || Some(fields.next()?.parse::<u64>().ok()? * (1_000_000 / TICKS_PER_SECOND));
    Some((micros()?, micros()?))
}

fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What a process used between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Length, seconds.
    pub seconds: f64,
    /// CPU, user and system, microseconds.
    pub cpu_us: u64,
    /// Of it in the kernel.
    pub system_us: u64,
    /// Growth of resident memory, KiB.
    pub rss_kib: i64,
    /// Times that a thread waited.
    pub waits: u64,
    /// Bytes sent to storage.
    pub written_bytes: u64,
}

impl Used {
    /// From the first to the second.
    pub fn between(from: &Sample, to: &Sample) -> Used {
        let system_us = to.system_us.saturating_sub(from.system_us);
        let (ticks, run) = (to.user_us.saturating_sub(from.user_us) + system_us, to.run_us.saturating_sub(from.run_us));
        Used {
            seconds: to.at - from.at,
            // The exact count misses threads that have ended; then the coarse one tells.
            cpu_us: if ticks.abs_diff(run) <= TICKS_SLACK_US { run } else { ticks },
            system_us,
            rss_kib: i64::try_from(to.rss_kib).unwrap_or(i64::MAX).saturating_sub_unsigned(from.rss_kib),
            waits: to.waits.saturating_sub(from.waits),
            written_bytes: to.written_bytes.saturating_sub(from.written_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_be_anything() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194304 5 0 0 0 7 3 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu(stat), Some((70_000, 30_000)));
        assert_eq!(cpu("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let first = Sample::take(std::process::id()).unwrap();
        assert!(first.rss_kib > 0 && first.threads > 0, "{first:?}");
        // Far more than other tests free meanwhile.
        let held = std::hint::black_box(vec![1_u8; 256 << 20]);
        let mut second = Sample::take(std::process::id()).unwrap();
        while Used::between(&first, &second).cpu_us < 30_000 {
            second = Sample::take(std::process::id()).unwrap();
        }
        assert!(Used::between(&first, &second).rss_kib > 150_000, "{first:?} {second:?}");
        assert_eq!(held.len(), 256 << 20);
        assert!(Sample::take(u32::MAX).is_err());
    }

    #[test]
    fn processes_under_it_count() {
        let mut child = std::process::Command::new("sh").args(["-c", "cat; :"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (mut sum, mut alone) = (Sample::default(), Sample::default());
        // Until the shell has a child of its own, which has come to memory of its own.
        while sum.threads < 2 || sum.rss_kib <= alone.rss_kib {
            alone = Sample::default();
            one(child.id(), &mut alone).unwrap();
            sum = Sample::take(child.id()).unwrap();
        }
        assert_eq!((alone.threads, sum.threads), (1, 2), "{alone:?} {sum:?}");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
