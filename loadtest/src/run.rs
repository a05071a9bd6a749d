//! `loadtest run`: scenarios out of files against a server.

use crate::client::{Account, Mechanism, Options, Profile, Target, TlsMode, sources};
use crate::figures;
use crate::file::{Accounts, File, Server, Work};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::scenario::{Outcome, Run};
use crate::tls::{self, Trust};
use crate::workers::controller::Controller;
use crate::workers::token::Token;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt::Write as _;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the command line says; each of it in place of what a file says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Files of scenarios
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Host and port
    #[arg(long)]
    pub server: Option<String>,
    /// Domain of the accounts
    #[arg(long)]
    pub domain: Option<String>,
    /// plain, starttls, direct, ws or wss
    #[arg(long, alias = "tls", value_parser = TlsMode::named)]
    pub transport: Option<TlsMode>,
    /// Path of WebSockets
    #[arg(long)]
    pub path: Option<String>,
    /// Trust the certificates that one of this PEM file has signed; without it, any certificate
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// SCRAM-SHA-256, SCRAM-SHA-1 or PLAIN; without it, the best that is offered
    #[arg(long, value_parser = Mechanism::named)]
    pub mechanism: Option<Mechanism>,
    /// sasl, sasl2 (XEP-0388 with Bind 2) or fast (with tokens of XEP-0484 from the second login on)
    #[arg(long, value_parser = Profile::named)]
    pub login: Option<Profile>,
    /// Source addresses, as 127.0.0.2-9,10.0.0.1: one has some 28,000 ports
    #[arg(long)]
    pub bind: Option<String>,
    /// The server's process, if it is on this machine
    #[arg(long)]
    pub pid: Option<u32>,
    /// A Prometheus page where the server tells its CPU and memory, as http://host:port/metrics
    #[arg(long)]
    pub metrics: Option<String>,
    /// Name of the accounts, before their number
    #[arg(long)]
    pub prefix: Option<String>,
    /// Password of every account
    #[arg(long)]
    pub password: Option<String>,
    /// Number of the first account, so that several generators share one set of accounts
    #[arg(long)]
    pub first: Option<usize>,
    /// How many accounts there are
    #[arg(long)]
    pub accounts: Option<usize>,
    /// A key of [load] and its value, as pairs=3; may come several times
    #[arg(long)]
    pub set: Vec<String>,
    /// Print outcomes as JSON
    #[arg(long)]
    pub json: bool,
    /// Processes of `loadtest worker` that make the load together, as a:7070,b:7070
    #[arg(long, value_delimiter = ',', conflicts_with = "spawn")]
    pub workers: Vec<String>,
    /// Start so many processes here that make the load together
    #[arg(long)]
    pub spawn: Option<usize>,
    /// File of the workers' token; without it, the variable `LOADTEST_TOKEN`
    #[arg(long, requires = "workers")]
    pub token: Option<PathBuf>,
}

impl Args {
    /// A file, with what the command line says in place of what it says.
    ///
    /// # Errors
    /// What is no such file.
    pub fn file(&self, path: &Path) -> Result<File> {
        let mut file = File::read(path, &self.set)?;
        let Server { address, domain, transport, path, ca, mechanism, login, bind, pid, metrics } = &mut file.server;
        let own = self.clone();
        *address = own.server.or(address.take());
        *domain = own.domain.or(domain.take());
        *transport = own.transport.or(*transport);
        *path = own.path.or(path.take());
        *ca = own.ca.or(ca.take());
        *mechanism = own.mechanism.or(*mechanism);
        *login = own.login.or(*login);
        *bind = own.bind.or(bind.take());
        *pid = own.pid.or(*pid);
        *metrics = own.metrics.or(metrics.take());
        let Accounts { prefix, password, first, count } = &mut file.accounts;
        *first = own.first.or(*first);
        *prefix = own.prefix.or(prefix.take());
        *password = own.password.or(password.take());
        *count = own.accounts.or(*count);
        Ok(file)
    }

    /// The workers, if this process is not to make the load itself.
    async fn controller(&self) -> Result<Option<Controller>> {
        Ok(match self.spawn {
            Some(number) => Some(Controller::spawn(&std::env::current_exe()?, number).await?),
            None if self.workers.is_empty() => None,
            None => Some(Controller::connect(&self.workers, Token::read(self.token.as_deref())?).await?),
        })
    }
}

/// Runs the files one after the other.
///
/// # Errors
/// A scenario that cannot run, or one that found faults.
pub async fn run(args: Args) -> Result<()> {
    raise_open_files();
    // All are read before the first one runs.
    let files: Vec<_> = args.files.iter().map(|path| args.file(path)).collect::<Result<_>>()?;
    let controller = args.controller().await?;
    let mut faulty = Vec::new();
    for file in &files {
        let name = file.work.name();
        let outcome = match &controller {
            Some(controller) => controller.run(file).await,
            None => file.work.run(&prepare(file)?).await,
        };
        let outcome = outcome.with_context(|| name.to_owned())?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            print!("{name}\n{}{}\n", figures::one(&outcome), also(&outcome));
        }
        // A run in which nothing came about is clean, and yet nobody should take it for a good one.
        if outcome.count == 0 && !matches!(file.work, Work::Register(_)) {
            faulty.push(format!("{name}: nothing was counted"));
        }
        if !outcome.faults.is_clean() {
            let crate::order::Faults { lost, duplicated, reordered, errors } = outcome.faults;
            faulty.push(format!("{name}: lost {lost}, duplicated {duplicated}, reordered {reordered}, errors {errors}"));
        }
    }
    ensure!(faulty.is_empty(), "{}", faulty.join("; "));
    Ok(())
}

/// What a file says, as a scenario needs it.
///
/// # Errors
/// An address that is none, a certificate that cannot be read.
pub fn prepare(file: &File) -> Result<Run> {
    let trust = file.server.ca.clone().map_or(Trust::Anybody, Trust::Authorities);
    prepare_with(file, &trust)
}

/// The same, whatever the file says about whom to trust.
pub(crate) fn prepare_with(file: &File, trust: &Trust) -> Result<Run> {
    let Server { address, domain, transport, path, ca: _, mechanism, login, bind, pid, metrics } = file.server.clone();
    let address = address.unwrap_or_else(|| "localhost:5222".into());
    let host = address.rsplit_once(':').with_context(|| format!("{address}: host:port is due"))?.0.to_owned();
    let found = address.to_socket_addrs().with_context(|| address.clone())?;
    let sources = sources(bind.as_deref().unwrap_or_default())?;
    // A source address decides the family.
    let found = found.into_iter().find(|a| sources.first().is_none_or(|s| s.is_ipv4() == a.is_ipv4()));
    let config = tls::client(trust)?;
    let options = Options { path, mechanism, profile: login.unwrap_or_default(), sources };
    let target = Target {
        address: found.with_context(|| format!("{address} has no address"))?,
        domain: domain.unwrap_or(host),
        tls: transport.unwrap_or(TlsMode::StartTls),
        config,
        options,
    };
    let Accounts { prefix, password, first, count } = file.accounts.clone();
    let (prefix, password) = (prefix.unwrap_or_else(|| "user".into()), password.unwrap_or_else(|| "secret".into()));
    let first = first.unwrap_or(0);
    let numbers = first..first + count.unwrap_or_else(|| file.work.accounts());
    let accounts = numbers.map(|i| Account::new(format!("{prefix}{i}"), &password)).collect();
    let metrics = metrics.map(|url| Metrics::at(&url)).transpose()?;
    Ok(Run { target, accounts, pid, metrics, progress: Arc::new(Progress::default()), probe: None, part: None })
}

/// What [`figures::one`] does not say.
fn also(outcome: &Outcome) -> String {
    let mut out = String::new();
    for (name, value) in &outcome.parts {
        let _ = writeln!(out, "{name:<22}{value:.1}");
    }
    for problem in &outcome.problems {
        let _ = writeln!(out, "{:<22}{problem}", "problem");
    }
    out
}

/// Each client is an open file; what the system lets this process have is taken.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
