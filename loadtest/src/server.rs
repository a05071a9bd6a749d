//! Servers that are started here, each with a configuration of its own in a folder of its own.

mod ejabberd;

use crate::client::{Options, Target, TlsMode};
use crate::process::{Sample, Used};
use crate::tls::Certificate;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The domain of every server started here.
pub const DOMAIN: &str = "localhost";
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
/// A server that uses no more than this part of a CPU for so long has started.
const IDLE: f64 = 0.02;
const SETTLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// A server program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Chappe, with the path of its binary.
    Chappe(PathBuf),
    /// Prosody, as the system has it installed.
    Prosody,
    /// ejabberd, as the system has it installed.
    Ejabberd,
    /// This program's own relay: no server, but the least that any server can spend.
    Relay,
}

/// How a server is set up. What a server does not know, it takes as `Usual`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tuning {
    /// Its best for the least CPU: of Prosody, Lua's generational collector; of ejabberd, one scheduler.
    #[default]
    Usual,
    /// Of Prosody, what it does if no collector is configured: more CPU, less memory.
    DefaultCollector,
    /// The archive is on the disk before the message goes on: of Prosody, SQLite.
    SyncedArchive,
    /// Of ejabberd, a scheduler for each CPU, as it is installed: more CPU for a message, more messages a second.
    AllCpus,
    /// Of Chappe, one thread for connections and shards where it has one for each CPU by default: fewer wakes, and no more
    /// than one CPU's work.
    OnePlane,
}

/// What differs between runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Every account archives all of its messages (XEP-0313).
    pub archive: bool,
    /// Which variant of the server.
    pub tuning: Tuning,
}

/// Clients, clients with direct TLS, and whatever else the server wants to listen for.
type Ports = [SocketAddr; 3];

/// A server that runs. It ends when dropped.
pub struct Server {
    child: Child,
    c2s: SocketAddr,
    log: PathBuf,
}

impl Program {
    /// For tables.
    pub fn name(&self) -> &'static str {
        match self {
            Program::Chappe(_) => "Chappe",
            Program::Prosody => "Prosody",
            Program::Ejabberd => "ejabberd",
            Program::Relay => "bare relay",
        }
    }

    /// Whether accounts must be made before anybody can log in.
    pub fn has_accounts(&self) -> bool {
        *self != Program::Relay
    }

    /// Whether this variant of it is another one than the usual.
    pub fn has(&self, tuning: Tuning) -> bool {
        match tuning {
            Tuning::Usual => true,
            Tuning::DefaultCollector | Tuning::SyncedArchive => *self == Program::Prosody,
            Tuning::AllCpus => *self == Program::Ejabberd,
            Tuning::OnePlane => matches!(self, Program::Chappe(_)),
        }
    }

    /// Name and version, as the program tells it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn version(&self) -> Result<String> {
        let mut command = match self {
            Program::Ejabberd => return ejabberd::version(),
            Program::Relay => return Ok(format!("bare relay {}", env!("CARGO_PKG_VERSION"))),
            Program::Chappe(binary) => Command::new(binary),
            Program::Prosody => Command::new("prosodyctl"),
        };
        command.arg(if matches!(self, Program::Prosody) { "about" } else { "--version" });
        let output = command.output().with_context(|| format!("{command:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = |l: &&str| matches!(self, Program::Chappe(_)) || l.starts_with("Prosody ") || l.starts_with("Lua version");
        let lines: Vec<_> = text.lines().filter(wanted).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        ensure!(!lines.is_empty(), "{command:?} tells no version");
        Ok(lines.join(", "))
    }

    /// Starts it on free ports of the loopback, with its data in `folder`, and waits until it takes connections.
    ///
    /// # Errors
    /// It does not start; its log says why.
    pub fn start(&self, folder: &Path, certificate: &Certificate, setup: Setup) -> Result<Server> {
        let ports = free_ports()?;
        let (config, mut command) = match self {
            Program::Chappe(binary) => {
                let file = folder.join("chappe.toml");
                let mut command = Command::new(binary);
                command.arg("--config").arg(&file).arg("run");
                (Some((file, chappe(folder, certificate, setup, &ports))), command)
            }
            Program::Prosody => {
                let file = folder.join("prosody.cfg.lua");
                let mut command = Command::new("prosody");
                command.arg("-F").arg("--config").arg(&file);
                (Some((file, prosody(folder, certificate, setup, &ports))), command)
            }
            Program::Ejabberd => {
                let file = folder.join("ejabberd.yml");
                let command = ejabberd::command(folder, &file, setup, &ports)?;
                (Some((file, ejabberd::config(certificate, setup, &ports))), command)
            }
            Program::Relay => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["relay", "--listen", &ports[0].to_string(), "--domain", DOMAIN]);
                command.arg("--chain").arg(&certificate.chain).arg("--key").arg(&certificate.key);
                (None, command)
            }
        };
        if let Some((file, text)) = config {
            std::fs::write(file, text)?;
        }
        let log = folder.join("log");
        let output = File::create(&log)?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut server = Server { child, c2s: ports[0], log };
        let start = crate::clock::seconds();
        while TcpStream::connect(server.c2s).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || crate::clock::seconds() - start > START_MAX.as_secs_f64() {
                bail!("{} does not start:\n{}", self.name(), server.last_words());
            }
            std::thread::sleep(POLL);
        }
        server.settle()?;
        Ok(server)
    }
}

fn free_ports() -> Result<Ports> {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?;
    }
    Ok(ports)
}

fn chappe(folder: &Path, certificate: &Certificate, setup: Setup, ports: &Ports) -> String {
    format!(
        "domains = [{DOMAIN:?}]\ndata_dir = {data:?}\n\
         [listen]\nc2s = \"{c2s}\"\nc2s_tls = \"{tls}\"\nadmin = \"{admin}\"\n\
         [tls]\nrequired = false\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]\n\
         [registration]\nin_band = true\n[archive]\ndefault = \"{archive}\"\n[log]\nlevel = \"warn\"\n\
         [limits]\nbytes_per_connection = \"off\"\nstanzas_per_connection = \"off\"\nbytes_per_address = \"off\"\n\
         stanzas_per_address = \"off\"\nconnections_per_address = \"off\"\nlogin_failures_per_address = \"off\"\n{cluster}",
        cluster = if setup.tuning == Tuning::OnePlane { "[cluster]\nplanes = 1\n" } else { "" },
        data = folder.join("data"),
        c2s = ports[0],
        tls = ports[1],
        admin = ports[2],
        chain = certificate.chain,
        key = certificate.key,
        archive = if setup.archive { "always" } else { "never" },
    )
}

fn prosody(folder: &Path, certificate: &Certificate, setup: Setup, ports: &Ports) -> String {
    let collector = match setup.tuning {
        Tuning::DefaultCollector => "",
        Tuning::Usual | Tuning::SyncedArchive | Tuning::AllCpus | Tuning::OnePlane => "gc = { mode = \"generational\" }\n",
    };
    // SQLite as Prosody opens it, with a rollback journal and `synchronous = FULL`: two syncs for each message archived.
    let storage = match setup.tuning {
        Tuning::SyncedArchive => format!(
            "default_storage = \"internal\"\nstorage = {{ archive = \"sql\" }}\n\
             sql = {{ driver = \"SQLite3\", database = \"{}\" }}\n",
            folder.join("archive.sqlite").display()
        ),
        Tuning::Usual | Tuning::DefaultCollector | Tuning::AllCpus | Tuning::OnePlane => "storage = \"internal\"\n".to_owned(),
    };
    format!(
        r#"run_as_root = true
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
certificates = "{folder}"
log = {{ {{ levels = {{ min = "warn" }}, to = "console" }} }}
network_backend = "epoll"
{collector}interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
c2s_direct_tls_ports = {{ {tls} }}
modules_disabled = {{ "s2s" }}
modules_enabled = {{
  "roster", "saslauth", "tls", "disco", "ping", "time", "version", "register_ibr", "smacks", "carbons", "blocklist", "csi_simple"{mam}
}}
c2s_require_encryption = false
authentication = "internal_hashed"
password_hash = "SHA-256"
{storage}allow_registration = true
default_archive_policy = true
archive_expires_after = "never"
ssl = {{ certificate = "{chain}"; key = "{key}" }}
c2s_direct_tls_ssl = {{ certificate = "{chain}"; key = "{key}" }}
VirtualHost "{DOMAIN}"
"#,
        folder = folder.display(),
        c2s = ports[0].port(),
        tls = ports[1].port(),
        mam = if setup.archive { ", \"mam\"" } else { "" },
        chain = certificate.chain.display(),
        key = certificate.key.display(),
    )
}

impl Server {
    /// Waits until it is done with starting: what a server still loads once it takes connections is not work for a client.
    fn settle(&self) -> Result<()> {
        let start = crate::clock::seconds();
        let mut before = Sample::take(self.pid())?;
        loop {
            std::thread::sleep(SETTLE);
            let now = Sample::take(self.pid())?;
            let used = Used::between(&before, &now);
            if used.cpu_us as f64 <= IDLE * used.seconds * 1e6 || crate::clock::seconds() - start > START_MAX.as_secs_f64() {
                return Ok(());
            }
            before = now;
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it takes clients.
    pub fn address(&self) -> SocketAddr {
        self.c2s
    }

    /// How clients reach it.
    pub fn target(&self, tls: TlsMode, config: &Arc<rustls::ClientConfig>) -> Target {
        Target { address: self.c2s, domain: DOMAIN.into(), tls, config: config.clone(), options: Options::default() }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Asks it to end and waits until it has; one that does not is killed.
    ///
    /// # Errors
    /// Those of the system.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        kill_process(pid, Signal::TERM)?;
        let start = crate::clock::seconds();
        while self.child.try_wait()?.is_none() && crate::clock::seconds() - start < STOP_MAX.as_secs_f64() {
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
