//! Figures as people read them.

use super::targets::{self, OURS, RELAY};
use super::{Figures, Profile, Row};
use crate::order::Faults;
use crate::scenario::Outcome;
use std::fmt::Write as _;

/// From this line on the page is written by hand.
const BY_HAND: &str = "<!-- by hand: from here on the command keeps what is written -->";

/// The part of an earlier page that was written by hand; just the line that begins it if there is none.
pub fn by_hand(before: &str) -> &str {
    before.find(BY_HAND).map_or(BY_HAND, |at| &before[at..])
}

/// One outcome, a line for each figure.
pub fn one(outcome: &Outcome) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<22}{text}");
    };
    row("count", outcome.count.to_string());
    row("seconds", format!("{:.2}", outcome.seconds));
    row("a second", format!("{:.1}", outcome.rate));
    if let Some(cpu) = outcome.cpu_us_each {
        row("CPU each", format!("{cpu:.1} µs"));
    }
    if let Some(kib) = outcome.kib_each {
        row("memory each", format!("{kib:.1} KiB"));
    }
    if let Some(used) = outcome.server {
        row("server's CPU", format!("{:.2} s, {:.0} % in the kernel", used.cpu_us as f64 / 1e6, share(used.system_us, used.cpu_us)));
        row("server's waits", format!("{:.2} each", used.waits as f64 / outcome.count.max(1) as f64));
    }
    if let Some(latency) = outcome.latency {
        row(
            "latency",
            format!("p50 {:.2}, p90 {:.2}, p99 {:.2}, largest {:.2} ms", latency.p50, latency.p90, latency.p99, latency.largest),
        );
    }
    let Faults { lost, duplicated, reordered, errors } = outcome.faults;
    row("faults", format!("lost {lost}, duplicated {duplicated}, reordered {reordered}, errors {errors}"));
    out
}

/// One outcome in a line.
pub fn line(outcome: &Outcome) -> String {
    let mut out = format!("{:.0} a second", outcome.rate);
    if let Some(cpu) = outcome.cpu_us_each {
        let _ = write!(out, ", {cpu:.1} µs CPU each");
    }
    if let Some(kib) = outcome.kib_each {
        let _ = write!(out, ", {kib:.1} KiB each");
    }
    if let Some(latency) = outcome.latency {
        let _ = write!(out, ", p50 {:.2} ms, p99 {:.2} ms", latency.p50, latency.p99);
    }
    if !outcome.faults.is_clean() {
        let _ = write!(out, ", {:?}", outcome.faults);
    }
    out
}

fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Median, least and greatest.
pub fn median(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (least, greatest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some((median, least, greatest))
}

pub(super) fn of(runs: &[Outcome], figure: impl Fn(&Outcome) -> Option<f64>) -> Option<(f64, f64, f64)> {
    median(runs.iter().filter_map(figure).collect())
}

fn digits(value: f64) -> usize {
    usize::from(value.abs() < 100.0)
}

fn spread(found: Option<(f64, f64, f64)>) -> String {
    found.map_or("–".into(), |(m, l, g)| format!("{m:.0$} ({l:.0$}–{g:.0$})", digits(m)))
}

fn middle(found: Option<(f64, f64, f64)>, digits: usize) -> String {
    found.map_or("–".into(), |(m, _, _)| format!("{m:.digits$}"))
}

/// The page, in Markdown.
pub fn page(figures: &Figures) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "# Figures\n\nWritten by `loadtest figures` on {}; edit only the part below the figures. Plots are in [figures.html](figures.html), the raw runs in [figures.json](figures.json).\n",
        figures.date
    );
    conditions(&mut out, figures);
    main_table(&mut out, figures);
    targets::table(&mut out, figures);
    loop_table(&mut out, figures);
    faults(&mut out, figures);
    if !figures.profiles.is_empty() {
        out += "\n## Where the time goes\n\n`perf record -e cpu-clock` on the server's process while it relays chat without TLS and without XEP-0198, in runs of \
                their own that are in no table above; system calls by `strace -c -f` in further runs. The tracer slows a server, so it batches more: read the calls for one \
                message as a shape, not as a cost (a fixed rate is halved for it).\n";
        figures.profiles.iter().for_each(|p| profile(&mut out, p));
    }
    out.push('\n');
    out
}

fn conditions(out: &mut String, figures: &Figures) {
    let plan = &figures.plan;
    for (name, value) in &figures.machine {
        let _ = writeln!(out, "- {name}: {value}");
    }
    let _ = writeln!(out, "- servers: {}", figures.versions.join("; "));
    let _ = writeln!(
        out,
        "- load average at the start {}, at the end {}: generator, server and whatever else ran shared the CPUs",
        figures.load[0], figures.load[1]
    );
    let _ = writeln!(
        out,
        "- {} rounds, each server in turn in each; figures are medians, with the least and the greatest. Each run has a fresh process on a fresh copy of the same {} accounts.",
        plan.rounds,
        plan.accounts(),
    );
    let _ = writeln!(
        out,
        "- chat: {} pairs, both send, bodies of {} bytes, full JIDs; closed loop: {} messages of each sender on their way; {} s measured after {} s. With XEP-0198 \
         both sides have it on and ask for an ack after every {} messages.",
        plan.pairs, plan.body_bytes, plan.window, plan.measure, plan.warm_up, plan.ack_every,
    );
    let _ = writeln!(
        out,
        "- login: {} fresh logins, 16 at a time: TCP, (STARTTLS, TLS 1.3 with a whole handshake, ECDSA P-256,) SCRAM-SHA-256, resource. The logout is not in it.",
        plan.logins,
    );
    let _ = writeln!(
        out,
        "- resumed: the client has a ticket of an earlier session (RFC 8446 §2.2), as clients have that come again; how many servers took is in the raw runs.\n\
         - presence: {} clients with {} contacts each; each changes its presence when all have seen its last one. Archive: pages of 50 out of archives of {} messages, one after the other, {} readers.",
        plan.contacts[0],
        plan.contacts[1],
        2 * plan.archives[1],
        2 * plan.archives[0],
    );
    let _ = writeln!(
        out,
        "- idle session: one for each account, empty roster, initial presence sent and seen, then {} s of quiet; growth of the process's resident memory (VmRSS) from {} to {} \
         sessions. What the kernel keeps for a socket is in none of them.",
        plan.settle,
        plan.idle_base,
        plan.idle_base + plan.idle,
    );
    out.push_str(
        "- CPU is that of all threads of the server's process and of those under it, user and kernel (`/proc/PID/task/*/schedstat`, held against utime + stime), warm-up excluded.\n\
         - Chappe: release build, its defaults but for rates (off), `tls.required` (off, for the plain runs) and `archive.default`. Its log is fsynced before a message is delivered.\n\
         - Prosody: Debian's package on epoll, generational collector where not said otherwise, `internal_hashed` accounts with SHA-256, `internal` storage (files, never synced; SQLite, synced, where said), \
         roster, disco, ping, smacks, carbons, blocklist, csi_simple, with archives mam; no limits.\n\
         - ejabberd: Debian's package, Mnesia for everything (never synced), SCRAM-SHA-256 accounts, the same modules, no shapers; Erlang with one scheduler where not said otherwise, and schedulers that sleep rather than spin (`+S 1:1 +sbwt none`).\n\
         - bare relay: no server; the same bytes over the same connections, one read and one `writev` for a batch, one thread: the least that any server can spend. For logins: SCRAM and rustls with the same \
         certificate and as many flights, and nothing behind them.\n\
         - \"one plane\": Chappe with `cluster.planes = 1`, which leaves it one CPU for connections and accounts as the peers have; otherwise it has a plane for each of the CPUs, as it is installed.\n\
         - Why each setting: [loadtest/PEERS.md](../loadtest/PEERS.md).\n\
         - \"archives\": sender and recipient both archive every message.\n",
    );
}

fn main_table(out: &mut String, figures: &Figures) {
    let columns: Vec<_> =
        ["Prosody", "ejabberd", RELAY].into_iter().filter(|c| figures.rows.iter().any(|r| r.runs.contains_key(*c))).collect();
    let _ = writeln!(
        out,
        "\n## CPU and memory of the server\n\nIn brackets after a server's figure, least and greatest; the last columns are how many times {OURS}'s figure each is.\n\n\
         | | {OURS} |{0}{1}\n|---|---|{2}",
        columns.iter().map(|c| format!(" {c} |")).collect::<String>(),
        columns.iter().map(|c| format!(" {c} / {OURS} |")).collect::<String>(),
        "---|".repeat(2 * columns.len()),
    );
    for row in &figures.rows {
        // A variant of a server has a line of its own, with the figure of ours again.
        let mut variants: Vec<_> = row.runs.keys().map(|name| name.split_once(", ").map_or("", |(_, variant)| variant)).collect();
        variants.sort_unstable();
        variants.dedup();
        variants.into_iter().for_each(|variant| main_line(out, row, variant, &columns));
    }
}

fn main_line(out: &mut String, row: &Row, variant: &str, columns: &[&str]) {
    let memory = row.runs.values().flatten().any(|o| o.kib_each.is_some());
    let figure = |o: &Outcome| if memory { o.kib_each } else { o.cpu_us_each };
    let unit = if memory { "KiB" } else { "µs CPU" };
    let with = |name: &str| if variant.is_empty() { name.to_owned() } else { format!("{name}, {variant}") };
    // A variant of ours stands beside the others as they usually are.
    let own = row.runs.get(&with(OURS));
    let Some(ours) = own.or(row.runs.get(OURS)).map(|runs| of(runs, figure)) else { return };
    let of = |column: &&str| {
        let name = if own.is_some() { (*column).to_owned() } else { with(column) };
        of(row.runs.get(&name)?, figure)
    };
    let figures: String = columns.iter().map(|c| format!(" {} |", spread(of(c)))).collect();
    let ratio = |c: &&str| ours.zip(of(c)).map_or("–".into(), |(o, t)| format!("{:.2}", t.0 / o.0));
    let ratios: String = columns.iter().map(|c| format!(" {} |", ratio(c))).collect();
    let comma = if variant.is_empty() { "" } else { ", " };
    let _ = writeln!(out, "| {}{comma}{variant}, {unit} | {} |{figures}{ratios}", row.key, spread(ours));
}

fn loop_table(out: &mut String, figures: &Figures) {
    out.push_str(
        "\n## Rates and latencies of the same runs\n\nMedians. Kernel: part of the CPU spent there. Waits: times that a thread gave up the CPU, for one. Written: bytes to \
         storage, for one.\n\n| | server | a second | p50 ms | p99 ms | kernel % | waits | written |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in figures.rows.iter().filter(|r| r.runs.values().flatten().any(|o| o.kib_each.is_none())) {
        for (name, runs) in &row.runs {
            let each = |part: fn(&crate::process::Used) -> u64| of(runs, |o| Some(part(&o.server?) as f64 / o.count.max(1) as f64));
            let _ = writeln!(
                out,
                "| {} | {name} | {} | {} | {} | {} | {} | {} |",
                row.key,
                middle(of(runs, |o| Some(o.rate)), 0),
                middle(of(runs, |o| Some(o.latency?.p50)), 2),
                middle(of(runs, |o| Some(o.latency?.p99)), 2),
                middle(of(runs, |o| o.server.map(|u| share(u.system_us, u.cpu_us))), 0),
                middle(each(|u| u.waits), 2),
                middle(each(|u| u.written_bytes), 0),
            );
        }
    }
}

fn faults(out: &mut String, figures: &Figures) {
    let faulty = |row: &Row| {
        let mut all = Vec::new();
        for (name, runs) in &row.runs {
            let mut sum = Faults::default();
            runs.iter().for_each(|o| sum.add(o.faults));
            if !sum.is_clean() {
                let Faults { lost, duplicated, reordered, errors } = sum;
                all.push(format!("- {}, {name}: lost {lost}, duplicated {duplicated}, reordered {reordered}, errors {errors}", row.key));
            }
        }
        all
    };
    let all: Vec<_> = figures.rows.iter().flat_map(faulty).collect();
    out.push_str("\n## Checks\n\n");
    if all.is_empty() {
        out.push_str("Every message of every run, warm-up included, arrived once and in order; none was refused.\n");
    } else {
        let _ = writeln!(out, "{}", all.join("\n"));
    }
}

fn profile(out: &mut String, profile: &Profile) {
    let _ = writeln!(out, "\n### {}: {}\n", profile.server, profile.scenario);
    let parts: Vec<_> = profile.parts.iter().filter(|h| h.percent >= 0.5).map(|h| format!("{} {:.1} %", h.what, h.percent)).collect();
    if !parts.is_empty() {
        let _ = writeln!(out, "By part: {}.\n", parts.join(", "));
    }
    let calls: Vec<_> = profile.calls.iter().filter(|c| c.1 >= 0.01).map(|(name, n)| format!("{name} {n:.2}")).collect();
    if !calls.is_empty() {
        let _ = writeln!(out, "System calls for one message: {}.\n", calls.join(", "));
    }
    if !profile.symbols.is_empty() {
        out.push_str("| % | symbol |\n|---|---|\n");
        profile.symbols.iter().for_each(|h| {
            let _ = writeln!(out, "| {:.1} | `{}` |", h.percent, h.what.replace('|', "\\|"));
        });
    }
    profile.missing.iter().for_each(|m| {
        let _ = writeln!(out, "\nNot looked at: {m}.");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        assert_eq!(by_hand("# Figures\n"), BY_HAND);
        let page = format!("# Figures\n{BY_HAND}\n\n## Read\n\nA word.\n");
        assert_eq!(format!("new\n{}", by_hand(&page)), page.replace("# Figures", "new"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(median(vec![4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(Some((123.4, 99.6, 200.0))), "123 (100–200)");
        assert_eq!(spread(Some((2.34, 1.0, 4.0))), "2.3 (1.0–4.0)");
    }
}
