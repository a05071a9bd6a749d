//! The run that compares servers: each scenario on each of them in turn, several rounds, then medians, ratios and spread.

mod page;
mod profile;
mod rows;
mod sync;
mod targets;

pub use page::{median, one};
pub use profile::Profile;

use crate::client::{Account, TlsMode};
use crate::file::Work;
use crate::progress::Progress;
use crate::report;
use crate::scenario::{self, Archive, Chat, Latency, Outcome, Presence, Run};
use crate::server::{DOMAIN, Program, Server, Setup, Tuning};
use crate::tls::{self, Certificate, Trust};
use anyhow::{Context as _, Result, ensure};
use rows::{Cell, cells};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Rounds; figures are medians of them.
    pub rounds: usize,
    /// Logins of one run.
    pub logins: usize,
    /// Sessions of one run of `idle`.
    pub idle: usize,
    /// Sessions that are there before them.
    pub idle_base: usize,
    /// Seconds of quiet before memory is read.
    pub settle: u64,
    /// Pairs that chat.
    pub pairs: usize,
    /// Messages of one sender on their way.
    pub window: u64,
    /// Messages a second of all together, in profiles at a fixed rate.
    pub rate: f64,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// With XEP-0198, an `<r/>` after so many messages.
    pub ack_every: u64,
    /// Seconds of chat before the measured time.
    pub warm_up: f64,
    /// Seconds of chat measured.
    pub measure: f64,
    /// Clients that have contacts, and how many contacts each has.
    pub contacts: [usize; 2],
    /// Pairs that fill their archives, and how much each of a pair sends.
    pub archives: [usize; 2],
    /// Whether to look where the time goes.
    pub profile: bool,
}

impl Plan {
    /// For figures to keep.
    pub fn full() -> Plan {
        Plan {
            rounds: 5,
            logins: 1_000,
            idle: 1_000,
            idle_base: 200,
            settle: 3,
            pairs: 25,
            window: 4,
            rate: 400.0,
            body_bytes: 200,
            ack_every: 5,
            warm_up: 1.0,
            measure: 3.0,
            contacts: [60, 50],
            archives: [10, 100],
            profile: true,
        }
    }

    /// To see that everything works.
    pub fn quick() -> Plan {
        Plan {
            rounds: 1,
            logins: 60,
            idle: 100,
            idle_base: 20,
            settle: 2,
            warm_up: 0.5,
            measure: 2.0,
            contacts: [12, 4],
            archives: [2, 60],
            ..Plan::full()
        }
    }

    pub(super) fn accounts(&self) -> usize {
        (self.idle + self.idle_base).max(self.logins).max(2 * self.pairs).max(self.contacts[0]).max(2 * self.archives[0])
    }

    fn presence(&self) -> Presence {
        let [clients, contacts] = self.contacts;
        Presence { clients, contacts, window: 1, rate: None, warm_up: self.warm_up, seconds: self.measure }
    }

    fn archive(&self) -> Archive {
        let [pairs, messages] = self.archives;
        let (body_bytes, warm_up, seconds) = (self.body_bytes, self.warm_up, self.measure);
        Archive { pairs, messages: messages as u64, body_bytes, page: 50, rate: None, warm_up, seconds }
    }

    fn chat(&self, management: bool, rate: Option<f64>) -> Chat {
        Chat {
            pairs: self.pairs,
            window: self.window,
            rate,
            management,
            ack_every: self.ack_every,
            body_bytes: self.body_bytes,
            warm_up: self.warm_up,
            measure: self.measure,
        }
    }
}

/// Everything that a run has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// The day.
    pub date: String,
    /// The machine.
    pub machine: BTreeMap<String, String>,
    /// The programs.
    pub versions: Vec<String>,
    /// How much of everything.
    pub plan: Plan,
    /// Load average at the start and the end: more than the number of CPUs says that the machine had other work.
    pub load: [String; 2],
    /// What the disk takes to make a write durable, in each round.
    #[serde(default)]
    pub syncs: Vec<Latency>,
    /// By row, then by server, a run for each round.
    pub rows: Vec<Row>,
    /// Where the time goes.
    pub profiles: Vec<Profile>,
}

/// One row: the runs of each server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub key: String,
    /// By server, in the order of the rounds.
    pub runs: BTreeMap<String, Vec<Outcome>>,
}

/// Accounts of one server, made once; each run starts on a copy.
struct Prepared {
    program: Program,
    folder: PathBuf,
    /// Each server has salts of its own, so the keys that clients keep are its own too.
    accounts: Arc<[Account]>,
}

struct Bench {
    scratch: tempfile::TempDir,
    certificate: Certificate,
    config: Arc<rustls::ClientConfig>,
    progress: Arc<Progress>,
}

/// Runs the plan on Chappe, its peers and the bare relay, and writes the page and the JSON into `out`.
///
/// # Errors
/// A server that does not start, a scenario that fails.
pub async fn run(plan: Plan, chappe: Option<PathBuf>, out: &Path) -> Result<()> {
    let chappe = chappe.map_or_else(build, |path| Ok(std::path::absolute(path)?))?;
    let (mut programs, mut versions) = (Vec::new(), Vec::new());
    for program in [Program::Chappe(chappe), Program::Prosody, Program::Ejabberd, Program::Relay] {
        match program.version() {
            Ok(version) => versions.push(version),
            // A peer that is not installed has no column; the page lists who took part.
            Err(error) if matches!(program, Program::Prosody | Program::Ejabberd) => {
                eprintln!("without {}: {error:#}", program.name());
                continue;
            }
            Err(error) => return Err(error),
        }
        programs.push(program);
    }
    let scratch = tempfile::tempdir()?;
    let certificate = tls::certificate(scratch.path(), DOMAIN)?;
    let config = tls::client(&Trust::Authorities(certificate.authority.clone()))?;
    let bench = Bench { scratch, certificate, config, progress: Arc::new(Progress::default()) };
    let mut prepared = Vec::new();
    for program in programs {
        prepared.push(bench.prepare(program, plan.accounts()).await?);
    }
    let rows = cells(&plan).iter().map(|c| Row { key: c.key.into(), runs: BTreeMap::new() }).collect();
    let (date, load_now) = (crate::clock::today(), load());
    let load = [load_now.clone(), load_now];
    let mut figures = Figures { date, machine: machine(), versions, plan, load, syncs: Vec::new(), rows, profiles: Vec::new() };
    std::fs::create_dir_all(out)?;
    for round in 1..=plan.rounds {
        figures.syncs.push(sync::raw(bench.scratch.path())?);
        for (n, cell) in cells(&plan).iter().enumerate() {
            // Who begins changes from round to round.
            let mut order: Vec<_> = prepared.iter().collect();
            order.rotate_left(round % prepared.len());
            let work = cell.work(&figures.rows);
            for server in order {
                bench.cell(cell, &work, server, &mut figures.rows[n].runs, round).await?;
            }
        }
        // Hours of work: what is known so far is kept.
        figures.write(out)?;
    }
    if figures.plan.profile {
        figures.profiles = profile::all(&bench, &prepared, &figures.plan).await?;
        figures.write(out)?;
    }
    eprintln!("written: {0}/figures.md, {0}/figures.html, {0}/figures.json", out.display());
    Ok(())
}

/// Writes the page again out of the JSON of an earlier run.
///
/// # Errors
/// There is none, or it is of another version.
pub fn again(out: &Path) -> Result<()> {
    let file = out.join("figures.json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    serde_json::from_str::<Figures>(&text)?.write_page(out)
}

impl Figures {
    fn write(&mut self, out: &Path) -> Result<()> {
        self.load[1] = load();
        let json = out.join("figures.json");
        std::fs::write(&json, serde_json::to_string(self)? + "\n")?;
        report::write(&[json], "Chappe and its peers", &out.join("figures.html"))?;
        self.write_page(out)
    }

    /// What somebody wrote under the figures stays.
    fn write_page(&self, out: &Path) -> Result<()> {
        let file = out.join("figures.md");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        Ok(std::fs::write(&file, page::page(self) + page::by_hand(&before))?)
    }
}

/// The release binary, brought up to date by cargo.
fn build() -> Result<PathBuf> {
    eprintln!("building Chappe (--release)");
    let mut command = Command::new("cargo");
    let status = command.args(["build", "--release", "-p", "chappe"]).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::path::absolute(target.join("release").join("chappe")).context("target folder")
}

impl Bench {
    async fn prepare(&self, program: Program, accounts: usize) -> Result<Prepared> {
        let accounts: Arc<[_]> = (0..accounts).map(|i| Account::new(format!("user{i}"), "secret")).collect();
        let folder = self.scratch.path().join(program.name());
        std::fs::create_dir(&folder)?;
        if !program.has_accounts() {
            return Ok(Prepared { program, folder, accounts });
        }
        let server = program.start(&folder, &self.certificate, Setup::default())?;
        eprintln!("{}: making {} accounts", program.name(), accounts.len());
        scenario::register(&self.reach(&server, &accounts, TlsMode::Plain)).await.with_context(|| server.last_words())?;
        server.stop()?;
        Ok(Prepared { program, folder, accounts })
    }

    fn reach(&self, server: &Server, accounts: &Arc<[Account]>, tls: TlsMode) -> Run {
        Run {
            target: server.target(tls, &self.config),
            accounts: accounts.clone(),
            pid: Some(server.pid()),
            metrics: None,
            progress: self.progress.clone(),
            probe: None,
            part: None,
        }
    }

    /// A fresh process on a fresh copy of the accounts.
    fn start(&self, prepared: &Prepared, setup: Setup) -> Result<(tempfile::TempDir, Server)> {
        let folder = tempfile::tempdir_in(self.scratch.path())?;
        if prepared.program.has_accounts() {
            let status = Command::new("cp").arg("-a").arg(prepared.folder.join("data")).arg(folder.path()).status()?;
            ensure!(status.success(), "cp: {status}");
        }
        let server = prepared.program.start(folder.path(), &self.certificate, setup)?;
        Ok((folder, server))
    }

    async fn cell(
        &self,
        cell: &Cell,
        work: &Work,
        prepared: &Prepared,
        runs: &mut BTreeMap<String, Vec<Outcome>>,
        round: usize,
    ) -> Result<()> {
        for tuning in cell.servers.variants(&prepared.program) {
            let name = match tuning {
                Tuning::Usual => prepared.program.name().to_owned(),
                Tuning::DefaultCollector => format!("{}, default collector", prepared.program.name()),
                Tuning::AllCpus => format!("{}, all CPUs", prepared.program.name()),
                Tuning::SyncedArchive => format!("{}, archive synced", prepared.program.name()),
                Tuning::OnePlane => format!("{}, one plane", prepared.program.name()),
            };
            let setup = Setup { archive: cell.archive, tuning };
            let (_folder, server) = self.start(prepared, setup)?;
            let run = self.reach(&server, &prepared.accounts, cell.tls);
            let outcome = work.run(&run).await.with_context(|| format!("{}, {name}: {}", cell.key, server.last_words()))?;
            eprintln!("round {round}, {}, {name}: {}", cell.key, page::line(&outcome));
            runs.entry(name).or_default().push(outcome);
            server.stop()?;
        }
        Ok(())
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    [
        ("CPU", format!("{} × {}", cpus, field(&read("/proc/cpuinfo"), "model name"))),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}
