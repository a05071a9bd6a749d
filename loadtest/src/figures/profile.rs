//! Where the time goes: CPU samples and system calls of each server while it relays chat at a fixed rate.

use super::{Bench, Plan, Prepared};
use crate::client::TlsMode;
use crate::probe::{self, Hot, Probe};
use crate::scenario;
use crate::server::{Program, Setup};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Rows of a profile that are kept.
const PARTS_MAX: usize = 16;
const SYMBOLS_MAX: usize = 24;
const CALLS_MAX: usize = 12;

/// Where one server's time went in one scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// The server.
    pub server: String,
    /// What was done.
    pub scenario: String,
    /// CPU samples by part: kernel, libraries, crates.
    pub parts: Vec<Hot>,
    /// CPU samples by symbol.
    pub symbols: Vec<Hot>,
    /// System calls for one delivered message.
    pub calls: Vec<(String, f64)>,
    /// What could not be looked at, and why.
    pub missing: Vec<String>,
}

pub(super) async fn all(bench: &Bench, prepared: &[Prepared], plan: &Plan) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for (archive, management) in [(false, false), (false, true), (true, false)] {
        let relays = !archive && !management;
        for server in prepared.iter().filter(|p| relays || p.program.has_accounts()) {
            eprintln!("profile: {}, archive {archive}, XEP-0198 {management}", server.program.name());
            profiles.push(one(bench, server, plan, archive, management).await?);
        }
    }
    Ok(profiles)
}

async fn one(bench: &Bench, prepared: &Prepared, plan: &Plan, archive: bool, management: bool) -> Result<Profile> {
    let name = prepared.program.name();
    let mut profile = Profile {
        server: name.to_owned(),
        scenario: match (archive, management) {
            (false, false) => "chat, no archive",
            (false, true) => "chat, no archive, XEP-0198",
            (true, _) => "chat, archives",
        }
        .into(),
        parts: Vec::new(),
        symbols: Vec::new(),
        calls: Vec::new(),
        missing: Vec::new(),
    };
    let files = tempfile::tempdir_in(bench.scratch.path())?;
    let (perf, strace) = (files.path().join("perf.data"), files.path().join("strace"));
    for probe in [Probe::Perf(perf.clone()), Probe::Strace(strace.clone())] {
        if !probe.available() {
            profile.missing.push(format!("{probe:?} is not installed"));
            continue;
        }
        let setup = Setup { archive, ..Setup::default() };
        let (_folder, server) = bench.start(prepared, setup)?;
        let mut run = bench.reach(&server, &prepared.accounts, TlsMode::Plain);
        run.probe = Some(probe.clone());
        let outcome = scenario::chat(&run, plan.chat(management, None)).await?;
        server.stop()?;
        if let Err(error) = read(&probe, &prepared.program, outcome.count, &mut profile) {
            profile.missing.push(format!("{error:#}"));
        }
    }
    Ok(profile)
}

fn read(probe: &Probe, program: &Program, delivered: u64, profile: &mut Profile) -> Result<()> {
    match probe {
        Probe::Perf(file) => {
            let symbols = probe::symbols(file)?;
            let binary = match program {
                Program::Chappe(path) => path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                Program::Prosody | Program::Ejabberd | Program::Relay => String::new(),
            };
            profile.parts = probe::parts(&symbols, &binary);
            profile.parts.truncate(PARTS_MAX);
            let named = |(percent, object, symbol): (f64, String, String)| Hot { percent, what: format!("{object}: {symbol}") };
            profile.symbols = symbols.into_iter().take(SYMBOLS_MAX).map(named).collect();
        }
        Probe::Strace(file) => {
            let each = |(name, count): (String, u64)| (name, count as f64 / delivered.max(1) as f64);
            profile.calls = probe::calls(file)?.into_iter().take(CALLS_MAX).map(each).collect();
        }
    }
    Ok(())
}
