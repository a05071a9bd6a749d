//! Servers as child processes: Chappe, or Prosody from Debian as the reference, each in a temporary folder on ports of its own.

mod chappe;
mod prosody;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use faults::{Layer, Word};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::{Client, Connector, register};
use crate::tls::{Certificates, trusting};

/// How long a server may take to start or to end, and a client to see what it waits for.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a state outside this process is looked at, where nothing can be awaited.
const LOOK: Duration = Duration::from_millis(10);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one under test.
    Chappe,
    /// The reference.
    Prosody,
}

impl Kind {
    /// From `CHAPPE_TEST_SERVER`; Chappe without it.
    pub fn from_env() -> Result<Kind> {
        match std::env::var("CHAPPE_TEST_SERVER").as_deref() {
            Ok("chappe") | Err(_) => Ok(Kind::Chappe),
            Ok("prosody") => Ok(Kind::Prosody),
            Ok(other) => bail!("CHAPPE_TEST_SERVER={other}: chappe or prosody"),
        }
    }
}

/// What a test asks of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The domain served.
    pub domain: String,
    /// Whether clients may make accounts.
    pub in_band_registration: bool,
    /// Whether it gets a certificate of the run's authority; otherwise it makes its own.
    pub certificate: bool,
    /// How long a session can be resumed, in seconds.
    pub resume_timeout: u32,
    /// More configuration, in the server's own language: top-level TOML tables or Lua.
    pub extra: String,
    /// Whether it runs on the layer of `chappe-faults`, and how.
    pub layer: Option<LayerUse>,
}

/// How a server runs on the layer of `chappe-faults`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerUse {
    /// What it changes in its data folder is recorded, so that the power can be cut.
    pub record: bool,
    /// Its reads are watched, so that they can fail.
    pub reads: bool,
}

impl Default for Config {
    fn default() -> Self {
        let extra = String::new();
        Config { domain: "localhost".into(), in_band_registration: true, certificate: true, resume_timeout: 600, extra, layer: None }
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// STARTTLS.
    pub c2s: SocketAddr,
    /// Direct TLS.
    pub c2s_tls: SocketAddr,
    /// Chappe's admin interface.
    pub admin: SocketAddr,
}

/// A server that runs, or ran.
pub struct Server {
    kind: Kind,
    config: Config,
    child: Option<Child>,
    folder: Option<TempDir>,
    ports: Ports,
    certificates: Certificates,
    layer: Option<Layer>,
    /// More arguments of the next start.
    arguments: Vec<&'static str>,
    /// How long a client made by [`Server::connector`] waits.
    pub deadline: Duration,
}

impl Server {
    /// Starts the server that `CHAPPE_TEST_SERVER` names.
    pub async fn start(config: Config) -> Result<Server> {
        Server::start_kind(Kind::from_env()?, config).await
    }

    /// Starts Chappe.
    pub async fn chappe(config: Config) -> Result<Server> {
        Server::start_kind(Kind::Chappe, config).await
    }

    /// Starts Prosody.
    pub async fn prosody(config: Config) -> Result<Server> {
        Server::start_kind(Kind::Prosody, config).await
    }

    /// Starts a server and waits until it takes clients.
    pub async fn start_kind(kind: Kind, config: Config) -> Result<Server> {
        let folder = tempfile::Builder::new().prefix("chappe-test-").tempdir()?;
        let certificates = Certificates::make(folder.path(), &config.domain)?;
        let ports = Ports { c2s: free_port()?, c2s_tls: free_port()?, admin: free_port()? };
        let mut server = Server {
            kind,
            config,
            child: None,
            folder: Some(folder),
            ports,
            certificates,
            layer: None,
            arguments: Vec::new(),
            deadline: DEADLINE,
        };
        std::fs::create_dir(server.data())?;
        if let Some(how) = server.config.layer {
            let layer = Layer::new(&server.data(), &server.folder().join("faults"))?;
            layer.set(Word::Record, how.record.into())?;
            server.layer = Some(layer);
        }
        match kind {
            Kind::Chappe => chappe::configure(&server)?,
            Kind::Prosody => prosody::configure(&server)?,
        }
        server.spawn()?;
        server.wait_ready().await?;
        Ok(server)
    }

    /// Which server it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The domain served.
    pub fn domain(&self) -> &str {
        &self.config.domain
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// What clients trust.
    pub fn ca(&self) -> &Path {
        &self.certificates.ca
    }

    /// The folder of everything: configuration, data, log.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new("."), |f| f.path())
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join(match self.kind {
            Kind::Chappe => "chappe.toml",
            Kind::Prosody => "prosody.cfg.lua",
        })
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("server.log")).unwrap_or_default()
    }

    /// The folder stays when the server is dropped. Gives its path.
    pub fn keep(&mut self) -> PathBuf {
        let path = self.folder().to_owned();
        if let Some(folder) = self.folder.as_mut() {
            folder.disable_cleanup(true);
        }
        path
    }

    /// Starts the process, without waiting until it is ready.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.folder().join("server.log"))?;
        let mut command = match self.kind {
            Kind::Chappe => chappe::command(self)?,
            Kind::Prosody => prosody::command(self),
        };
        if let (Some(layer), Some(how)) = (&self.layer, self.config.layer) {
            command.envs(layer.environment(&faults::library()?, how.reads));
        }
        command.args(std::mem::take(&mut self.arguments));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(self.folder());
        self.child = Some(command.spawn().with_context(|| format!("{command:?}"))?);
        Ok(())
    }

    /// Waits until it takes clients.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.try_wait()? {
                bail!("the server ended ({status}):\n{}", self.log());
            }
            ensure!(start.elapsed() < DEADLINE, "not ready within {DEADLINE:?}:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let (address, request, expected) = match self.kind {
            Kind::Chappe => {
                (self.ports.admin, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "HTTP/1.1 200")
            }
            Kind::Prosody => (
                self.ports.c2s,
                format!(
                    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{}' version='1.0'>",
                    self.config.domain
                ),
                "<?xml",
            ),
        };
        let ask = || -> std::io::Result<bool> {
            let mut tcp = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            tcp.set_read_timeout(Some(Duration::from_secs(1)))?;
            tcp.write_all(request.as_bytes())?;
            let mut answer = vec![0; expected.len()];
            tcp.read_exact(&mut answer)?;
            Ok(answer == expected.as_bytes())
        };
        ask().unwrap_or(false)
    }

    /// The next start is told to go on without what is lost.
    pub fn accept_loss(&mut self) {
        self.arguments.push("--accept-loss");
    }

    /// The layer that it runs on.
    pub fn layer(&self) -> Result<&Layer> {
        self.layer.as_ref().context("it runs on no layer")
    }

    /// The process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// Fails with the end of its log if the process has ended by itself.
    pub fn pid_alive(&mut self) -> Result<u32> {
        if let Some(status) = self.try_wait()? {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            bail!("the server has ended: {status}; its log, last line first:\n{}", tail.join("\n"));
        }
        self.pid()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("pid 0")?;
        Ok(kill_process(pid, signal)?)
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { bail!("it does not run") };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Waits until it has ended by itself or takes clients. None: it takes clients.
    pub async fn ended_or_ready(&mut self) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            ensure!(start.elapsed() < DEADLINE, "it neither ends nor is ready within {DEADLINE:?}:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < DEADLINE, "it has not ended within {DEADLINE:?}:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it without a word.
    pub async fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit().await.map(|_| ())
    }

    /// Asks it to end and waits until it has; gives how it ended.
    pub async fn sigterm(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit().await
    }

    /// Stops it in its tracks.
    pub fn sigstop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn sigcont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to read its configuration again.
    pub fn sighup(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Starts it again on the same data, after it ended.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// CPU time of the whole process so far, in user and kernel mode.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The name, in parentheses, may hold spaces; behind it utime and stime are the fields 12 and 13.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
        // USER_HZ is 100 on every Linux that runs this (proc(5)).
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }

    /// Runs a `chappe` command against it, as an administrator would; gives its output.
    pub fn run_command(&self, args: &[&str], stdin: &str) -> Result<std::process::Output> {
        ensure!(self.kind == Kind::Chappe, "a command of Chappe");
        let mut command = Command::new(chappe::binary()?);
        command.arg("--config").arg(self.config_file()).args(args).current_dir(self.folder());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // A command that reads no input may have ended already.
        let _ = child.stdin.take().context("stdin")?.write_all(stdin.as_bytes());
        Ok(child.wait_with_output()?)
    }

    /// Makes an account: on Chappe by the command, on Prosody in-band.
    pub async fn add_user(&self, user: &str, password: &str) -> Result<()> {
        match self.kind {
            Kind::Chappe => {
                let jid = format!("{user}@{}", self.config.domain);
                let output = self.run_command(&["user", "add", &jid, "--password-stdin"], &format!("{password}\n"))?;
                ensure!(output.status.success(), "user add: {output:?}");
            }
            Kind::Prosody => {
                let refused = register(&self.connector()?, user, password).await?;
                ensure!(refused.is_none(), "register {user}: {refused:?}");
            }
        }
        Ok(())
    }

    /// How to connect to it, by STARTTLS.
    pub fn connector(&self) -> Result<Connector> {
        Ok(Connector {
            address: self.ports.c2s,
            domain: self.config.domain.clone(),
            direct_tls: false,
            tls: trusting(self.ca())?,
            mechanism: None,
            deadline: self.deadline,
            reset: false,
        })
    }

    /// How to connect to it, by direct TLS.
    pub fn direct_connector(&self) -> Result<Connector> {
        Ok(Connector { address: self.ports.c2s_tls, direct_tls: true, ..self.connector()? })
    }

    /// Makes an account and a session of it.
    pub async fn new_client(&self, user: &str, resource: &str) -> Result<Client> {
        self.add_user(user, PASSWORD).await?;
        self.client(user, resource).await
    }

    /// Another session of an account that [`Server::new_client`] made.
    pub async fn client(&self, user: &str, resource: &str) -> Result<Client> {
        Client::connect(&self.connector()?, user, PASSWORD, resource).await
    }
}

/// The password of every test account.
pub const PASSWORD: &str = "r0m30myr0m30";

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() || std::env::var_os("CHAPPE_TEST_KEEP").is_some() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the server's folder is kept: {}; the end of its log:", self.keep().display());
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Ports that this process has given away.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on the loopback that nobody has. Below the ephemeral range (32768 and up on Linux): there, a client that knocks at a
/// server that is down can be given the very port as its own, and so connect to itself.
fn free_port() -> Result<SocketAddr> {
    for _ in 0..1000 {
        let port = 10_240 + (crate::random() % 21_760) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Tests run side by side, and a server that starts, or starts again, does not have its port for a moment.
        let is_new = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if is_new && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}
