//! `loadtest`: one scenario against a running server, or the figures of several servers side by side.

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use loadtest::client::{Account, Options, Target, TlsMode};
use loadtest::compare::{self, Limits};
use loadtest::figures::{self, Plan};
use loadtest::progress::Progress;
use loadtest::relay::{self, Relay};
use loadtest::report;
use loadtest::run;
use loadtest::scenario::{self, Chat, Idle, Outcome, Run, Storm};
use loadtest::server::{self, Program, Setup, Tuning};
use loadtest::tls::{self, Trust};
use loadtest::workers::worker;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "loadtest", version, about = "A load generator for XMPP servers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Scenarios out of files, one after the other
    Run(run::Args),
    /// Make a part of a load for `loadtest run --workers`, over and over
    Worker(worker::Args),
    /// Make accounts user0, user1, … by in-band registration
    Register(Server),
    /// Fresh logins
    Login {
        #[command(flatten)]
        server: Server,
        /// Logins that are measured
        #[arg(short, long, default_value_t = 200)]
        n: usize,
        /// Clients that log in at the same time
        #[arg(long, default_value_t = scenario::CONCURRENCY)]
        concurrency: usize,
        /// Resume TLS sessions
        #[arg(long)]
        resume: bool,
    },
    /// Sessions with presence and an empty roster
    Idle {
        #[command(flatten)]
        server: Server,
        /// Sessions that are measured
        #[arg(short, long, default_value_t = 500)]
        n: usize,
        /// Sessions before
        #[arg(long, default_value_t = 50)]
        base: usize,
        /// Seconds of quiet before memory is read
        #[arg(long, default_value_t = 5)]
        settle: u64,
    },
    /// Pairs of clients that chat
    Chat {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        chat: ChatArgs,
    },
    /// Start a server as `figures` does, and say where it listens; it runs until this process is interrupted
    Start(StartArgs),
    /// Serve just enough of XMPP to relay chat: the floor that servers are compared with
    Relay {
        /// Address and port
        #[arg(long, default_value = "127.0.0.1:5222")]
        listen: SocketAddr,
        /// Domain of the accounts
        #[arg(long, default_value = "localhost")]
        domain: String,
        /// Password of every account
        #[arg(long, default_value = "secret")]
        password: String,
        /// Threads that serve; one is cheapest for a message
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// With it and a key, STARTTLS for logins: PEM
        #[arg(long, requires = "key")]
        chain: Option<PathBuf>,
        /// The certificate's key
        #[arg(long, requires = "chain")]
        key: Option<PathBuf>,
    },
    /// Draw outcomes as one HTML page
    Report {
        /// Outcomes that `--json` has printed, each file named like its server, or a figures.json
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The page
        #[arg(short, long, default_value = "report.html")]
        out: PathBuf,
        /// What stands above it
        #[arg(long, default_value = "Load test")]
        title: String,
    },
    /// Hold outcomes against earlier ones; exit code 1 if something has become worse by more than the threshold
    Compare {
        /// Outcomes that `--json` has printed, one for each round, or a figures.json
        before: PathBuf,
        /// The same of what is new
        after: PathBuf,
        /// Percent by which a median may become worse
        #[arg(long, default_value_t = 10.0)]
        threshold: f64,
        /// Percent of difference that say nothing; with several rounds, overlapping spreads say nothing either
        #[arg(long, default_value_t = 5.0)]
        noise: f64,
    },
    /// Start Chappe, its peers and the relay in turn, run everything on each, write docs/figures.md, .html (plots) and .json
    Figures(FiguresArgs),
}

#[derive(Args)]
struct Server {
    /// Address and port
    #[arg(long, default_value = "localhost:5222")]
    server: String,
    /// Domain of the accounts
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// plain, starttls, direct, ws or wss
    #[arg(long, default_value = "starttls", value_parser = TlsMode::named)]
    tls: TlsMode,
    /// Trust the certificates that one of this PEM file has signed; without it, any certificate
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Name of the accounts, before their number
    #[arg(long, default_value = "user")]
    prefix: String,
    /// Password of every account
    #[arg(long, default_value = "secret")]
    password: String,
    /// How many accounts there are
    #[arg(long, default_value_t = 1_000)]
    accounts: usize,
    /// The server's process, if it is on this machine
    #[arg(long)]
    pid: Option<u32>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ChatArgs {
    /// Pairs of clients; both of a pair send
    #[arg(long, default_value_t = 25)]
    pairs: usize,
    /// Messages of one sender on their way
    #[arg(long, default_value_t = 4)]
    window: u64,
    /// Messages a second of all senders together, whatever the server does; instead of a window
    #[arg(long)]
    rate: Option<f64>,
    /// Stream management (XEP-0198) on both sides
    #[arg(long)]
    management: bool,
    /// With it, ask for an acknowledgement after so many messages
    #[arg(long, default_value_t = 5)]
    ack_every: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 200)]
    body: usize,
    /// Seconds before the measured time
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Args)]
struct StartArgs {
    /// prosody, ejabberd, relay, or the path of Chappe's binary
    #[arg(value_parser = program)]
    program: Program,
    /// Folder for its configuration, data and logs, made if it is not there; what is in it is used again
    #[arg(long)]
    folder: PathBuf,
    /// Every account archives all of its messages
    #[arg(long)]
    archive: bool,
    /// The archive is on the disk before the message goes on; Prosody only
    #[arg(long, requires = "archive")]
    synced: bool,
}

#[derive(Args)]
struct FiguresArgs {
    /// Chappe's release binary; without it, it is built first
    #[arg(long)]
    chappe: Option<PathBuf>,
    /// Few and short runs, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds; the figures are medians of them
    #[arg(long)]
    rounds: Option<usize>,
    /// Messages a second of the runs at a fixed rate
    #[arg(long)]
    rate: Option<f64>,
    /// Do not look where the time goes
    #[arg(long)]
    no_profile: bool,
    /// Run nothing: write figures.md again out of figures.json
    #[arg(long)]
    again: bool,
    /// Folder for figures.md and figures.json
    #[arg(long, default_value = "docs")]
    out: PathBuf,
}

fn program(text: &str) -> Result<Program, String> {
    Ok(match text {
        "prosody" => Program::Prosody,
        "ejabberd" => Program::Ejabberd,
        "relay" => Program::Relay,
        path if path.contains('/') => Program::Chappe(path.into()),
        _ => return Err("prosody, ejabberd, relay, or a path".into()),
    })
}

impl StartArgs {
    async fn start(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let folder = std::path::absolute(&self.folder)?;
        let certificate = tls::certificate(&folder, server::DOMAIN)?;
        let setup = Setup { archive: self.archive, tuning: if self.synced { Tuning::SyncedArchive } else { Tuning::Usual } };
        ensure!(self.program.has(setup.tuning), "{} has no such variant", self.program.name());
        // Before the server is there, so that it never outlives this process.
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let server = self.program.start(&folder, &certificate, setup)?;
        println!("{} --server {} --pid {} --ca {}", self.program.name(), server.address(), server.pid(), certificate.authority.display());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        server.stop()
    }
}

impl Server {
    fn run(&self) -> Result<Run> {
        let address: Option<SocketAddr> = self.server.to_socket_addrs()?.next();
        let Some(address) = address else { anyhow::bail!("{} has no address", self.server) };
        let trust = self.ca.clone().map_or(Trust::Anybody, Trust::Authorities);
        let target =
            Target { address, domain: self.domain.clone(), tls: self.tls, config: tls::client(&trust)?, options: Options::default() };
        let accounts = (0..self.accounts).map(|i| Account::new(format!("{}{i}", self.prefix), &self.password)).collect();
        Ok(Run { target, accounts, pid: self.pid, metrics: None, progress: Arc::new(Progress::default()), probe: None, part: None })
    }

    fn tell(&self, outcome: &Outcome) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(outcome)?);
        } else {
            print!("{}", figures::one(outcome));
        }
        let faults = outcome.faults;
        ensure!(
            faults.is_clean(),
            "lost {}, duplicated {}, reordered {}, errors {}",
            faults.lost,
            faults.duplicated,
            faults.reordered,
            faults.errors
        );
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Run(args) => run::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Register(server) => server.tell(&scenario::register(&server.run()?).await?),
        Command::Login { server, n, concurrency, resume } => {
            server.tell(&scenario::storm(&server.run()?, Storm { logins: n, concurrency, rate: None, resume }).await?)
        }
        Command::Idle { server, n, base, settle } => {
            server.tell(&scenario::idle(&server.run()?, Idle { base, sessions: n, settle }).await?)
        }
        Command::Chat { server, chat } => server.tell(&scenario::chat(&server.run()?, chat.scenario()).await?),
        Command::Relay { listen, domain, password, threads, chain, key } => {
            let relay = Relay { listen, domain, password, threads, certificate: chain.zip(key) };
            let told = |address| eprintln!("--server {address} --pid {}", std::process::id());
            tokio::task::spawn_blocking(move || relay::serve(&relay, told)).await?
        }
        Command::Report { files, out, title } => report::write(&files, &title, &out),
        Command::Compare { before, after, threshold, noise } => {
            let (text, regressions) = compare::files(&before, &after, Limits { noise, threshold })?;
            print!("{text}");
            ensure!(regressions.is_empty(), "worse by more than {threshold} %:\n{}", regressions.join("\n"));
            Ok(())
        }
        Command::Start(args) => args.start().await,
        Command::Figures(args) if args.again => figures::again(&args.out),
        Command::Figures(args) => {
            let mut plan = if args.quick { Plan::quick() } else { Plan::full() };
            plan.rounds = args.rounds.unwrap_or(plan.rounds);
            plan.rate = args.rate.unwrap_or(plan.rate);
            plan.profile &= !args.no_profile;
            figures::run(plan, args.chappe, &args.out).await
        }
    }
}

impl ChatArgs {
    fn scenario(&self) -> Chat {
        Chat {
            pairs: self.pairs,
            window: self.window,
            rate: self.rate,
            management: self.management,
            ack_every: self.ack_every,
            body_bytes: self.body,
            warm_up: self.warm_up,
            measure: self.seconds,
        }
    }
}
