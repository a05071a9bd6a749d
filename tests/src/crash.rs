//! The crash harness: pairs of clients chat and reconnect for ever, the server is killed under them, and afterwards the
//! [`checker`](crate::checker) judges what they saw.

mod disk;
mod talker;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};

use crate::checker::{Verdict, check};
use crate::history::{Event, History};
use crate::server::{Config, LayerUse, PASSWORD, Server};
use disk::Acts;
use talker::Talker;

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// `kill -9`, and started again on the same data.
    Kill,
    /// SIGTERM, and started again when it has ended.
    Term,
    /// SIGSTOP and, some time later, SIGCONT.
    Stop,
    /// One of the three by chance.
    Mix,
    /// The power is cut: what was not synced is kept, dropped or torn by chance. Started again on what is left.
    Power,
    /// The disk is full: by surprise, or seen early.
    Full,
    /// Each sync takes 1 to 5 s, for a while.
    Slow,
    /// Reads fail with EIO while it starts.
    ReadError,
    /// A write or a sync fails with EIO, and what was written before it is lost.
    SyncError,
    /// CLOCK_REALTIME jumps by up to an hour.
    Clock,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Term => "term",
            Fault::Stop => "stop",
            Fault::Mix => "mix",
            Fault::Power => "power",
            Fault::Full => "full",
            Fault::Slow => "slow",
            Fault::ReadError => "read-error",
            Fault::SyncError => "sync-error",
            Fault::Clock => "clock",
        }
    }

    /// The server that it needs.
    pub fn config(self) -> Config {
        let layer = match self {
            Fault::Kill | Fault::Term | Fault::Stop | Fault::Mix => None,
            _ => Some(LayerUse { record: matches!(self, Fault::Power | Fault::SyncError), reads: self == Fault::ReadError }),
        };
        Config { layer, ..Config::default() }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pairs that chat.
    pub pairs: usize,
    /// Faults made.
    pub faults: u32,
    /// Which.
    pub fault: Fault,
    /// From it come the moments, the texts and the pauses. The processes' own timing is not replayed.
    pub seed: u64,
    /// Longest time from one fault to the next; the shortest is next to nothing.
    pub up_max: Duration,
    /// Mean pause between the messages of one client.
    pub pace: Duration,
    /// One message in so many is followed by the client's own cutting of its connection.
    pub cut_one_in: u32,
    /// How long everything may take to settle after the last fault.
    pub settle: Duration,
    /// Whether to say on standard error how it goes.
    pub progress: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            pairs: 4,
            faults: 200,
            fault: Fault::Kill,
            seed: 1,
            up_max: Duration::from_millis(1500),
            pace: Duration::from_millis(30),
            cut_one_in: 200,
            settle: Duration::from_secs(60),
            progress: false,
        }
    }
}

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Talk.
    Chat,
    /// Say nothing new; get everything acknowledged.
    Drain,
    /// Read the archive and go.
    Finish,
}

/// What a client reports to the run.
pub(crate) enum Report {
    /// Everything it sent is acknowledged, in the phase of draining.
    Settled(String),
    /// It has read its archive, or could not.
    Finished(Result<()>),
}

/// Who sent and received what, for the progress and for knowing when all has come.
#[derive(Default)]
pub(crate) struct Board {
    /// Recipient → ids sent to it.
    pub(crate) sent: BTreeMap<String, HashSet<String>>,
    /// Recipient → ids it got.
    pub(crate) received: BTreeMap<String, HashSet<String>>,
    /// Who has a session on a stream.
    pub(crate) live: HashSet<String>,
    pub(crate) acked: usize,
    pub(crate) resumed: usize,
    pub(crate) refused: usize,
}

impl Board {
    fn missing(&self) -> usize {
        self.sent.iter().map(|(to, ids)| self.received.get(to).map_or(ids.len(), |got| ids.difference(got).count())).sum()
    }
}

/// What every client of a run shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) history: History,
    pub(crate) board: Arc<Mutex<Board>>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) plan: Arc<Plan>,
}

impl Shared {
    pub(crate) fn board<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        change(&mut self.board.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// Runs a plan on a server and judges it.
pub async fn run(server: &mut Server, plan: &Plan, history: &History) -> Result<Verdict> {
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let (phase, watched) = watch::channel(Phase::Chat);
    let clients = plan.pairs * 2;
    let (reports, mut inbox) = mpsc::channel(clients * 4);
    let shared = Shared { history: history.clone(), board: Arc::default(), phase: watched, reports, plan: Arc::new(plan.clone()) };
    for n in 0..clients {
        server.add_user(&user(n), PASSWORD).await?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..clients {
        // 0 talks with 1, 2 with 3, and so on.
        let talker = Talker::start(server, &user(n), &user(n ^ 1), rng.random(), shared.clone()).await?;
        tasks.spawn(talker.run());
    }
    let mut faults = Faults { server, plan, rng, shared: &shared, n: 0, acts: Acts::default(), start: Instant::now() };
    let made = tokio::select! {
        made = faults.make() => made,
        // A task that ends now has panicked: its clients would be missing from the evidence.
        ended = tasks.join_next() => bail!("a client ended: {ended:?}"),
    };
    made?;
    faults.tell_acts()?;
    phase.send_replace(Phase::Drain);
    history.add(Event::Drain {});
    let settled = settle(&shared, &mut inbox, clients, plan).await;
    phase.send_replace(Phase::Finish);
    let finished = tokio::time::timeout(plan.settle, finish(&mut inbox, clients)).await;
    tasks.shutdown().await;
    if let Err(e) = finished.context("the archives were not read in time").and_then(|r| r) {
        eprintln!("{e:#}");
    }
    if let Err(e) = settled {
        eprintln!("not settled: {e:#}");
    }
    Ok(check(&history.events()))
}

fn user(n: usize) -> String {
    format!("user{n}")
}

/// Until everything sent is acknowledged and has come.
async fn settle(shared: &Shared, inbox: &mut mpsc::Receiver<Report>, clients: usize, plan: &Plan) -> Result<()> {
    let all = async {
        let mut settled = HashSet::new();
        while settled.len() < clients {
            match inbox.recv().await.context("no clients")? {
                Report::Settled(name) => settled.insert(name),
                Report::Finished(_) => bail!("finished too early"),
            };
        }
        while shared.board(|b| b.missing()) > 0 {
            // The board is written by tasks that know nothing of this one; a look now and then is enough.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    match tokio::time::timeout(plan.settle, all).await {
        Ok(result) => result,
        Err(_) => bail!("{} messages have not come within {:?}", shared.board(|b| b.missing()), plan.settle),
    }
}

async fn finish(inbox: &mut mpsc::Receiver<Report>, clients: usize) -> Result<()> {
    let mut finished = 0;
    while finished < clients {
        if let Report::Finished(result) = inbox.recv().await.context("no clients")? {
            result?;
            finished += 1;
        }
    }
    Ok(())
}

struct Faults<'a> {
    server: &'a mut Server,
    plan: &'a Plan,
    rng: SmallRng,
    shared: &'a Shared,
    n: u32,
    acts: Acts,
    start: Instant,
}

impl Faults<'_> {
    async fn make(&mut self) -> Result<()> {
        self.prepare().await?;
        while self.n < self.plan.faults {
            // Three in four strike a chat in full swing, the others whatever the clients are at: connecting, resuming, binding.
            if self.rng.random_ratio(3, 4) {
                self.all_live().await;
            }
            self.pause(Duration::ZERO, self.plan.up_max).await;
            self.n += 1;
            let fault = match self.plan.fault {
                Fault::Mix => [Fault::Kill, Fault::Term, Fault::Stop][self.rng.random_range(0..3)],
                fault => fault,
            };
            self.one(fault).await.with_context(|| format!("fault {} ({})", self.n, fault.name()))?;
            if self.plan.progress {
                self.tell();
            }
        }
        // Chat on for a while, so that the last fault has its aftermath.
        self.pause(self.plan.up_max, self.plan.up_max * 2).await;
        Ok(())
    }

    /// Until every client has its session, if that comes to pass soon.
    async fn all_live(&self) {
        let start = Instant::now();
        while self.shared.board(|b| b.live.len()) < self.plan.pairs * 2 && start.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pause(&mut self, least: Duration, most: Duration) {
        let pause = self.rng.random_range(least.as_micros() as u64..=most.as_micros() as u64);
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }

    async fn one(&mut self, fault: Fault) -> Result<()> {
        let (n, kind) = (self.n, fault.name().to_owned());
        self.shared.history.add(Event::Fault { n, kind });
        match fault {
            Fault::Kill | Fault::Mix => {
                self.server.kill9().await?;
                // One in eight dies again while it starts: recovery must bear a crash too.
                while self.rng.random_ratio(1, 8) {
                    self.server.spawn()?;
                    self.pause(Duration::ZERO, Duration::from_millis(150)).await;
                    self.server.kill9().await?;
                }
                self.server.restart().await?;
            }
            Fault::Term => {
                let status = self.server.sigterm().await?;
                ensure!(status.success(), "it ended with {status}:\n{}", self.server.log());
                self.server.restart().await?;
            }
            Fault::Stop => {
                self.server.sigstop()?;
                self.pause(Duration::from_millis(50), Duration::from_secs(3)).await;
                self.server.sigcont()?;
                self.server.wait_ready().await?;
            }
            fault => self.disk_fault(fault).await?,
        }
        self.shared.history.add(Event::Up { n });
        Ok(())
    }

    fn tell(&self) {
        let (sent, acked, resumed, refused) =
            self.shared.board(|b| (b.sent.values().map(HashSet::len).sum::<usize>(), b.acked, b.resumed, b.refused));
        eprintln!(
            "{:>4} of {} {}s, {:>4} s: {sent:>6} sent, {acked:>6} acknowledged, {resumed:>5} resumed, {refused:>5} refused",
            self.n,
            self.plan.faults,
            self.plan.fault.name(),
            self.start.elapsed().as_secs(),
        );
    }
}
