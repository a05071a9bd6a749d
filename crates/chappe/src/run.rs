//! `chappe run`: from a configuration to a serving node, and one way down: drain, then end.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admin::{Admin, Control, Listening, Metrics};
use anyhow::Context as _;
use config::{Config, LogFormat, Secret};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::reload::{Reloader, Source};
use crate::tls::{self, TlsStore};
use crate::{log, node};

/// Name of the file in the data folder that holds the admin token.
pub const TOKEN_FILE: &str = "admin.token";
/// Name of the file in the data folder that says which addresses are bound.
pub const LISTENING_FILE: &str = "listening.json";
/// Random bytes of a token that the server makes.
const TOKEN_BYTES: usize = 32;
/// What still runs after the drain is given so long, then the process ends: it has nothing left to say.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Runs the server until a signal ends it. `accept_loss`: also on a store of which durable data is missing.
///
/// # Errors
/// What keeps it from starting, in words.
pub fn run(source: Source, accept_loss: bool) -> anyhow::Result<()> {
    let config = source.read()?;
    let level = log::install(&config)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    private_folder(config.data_dir())?;
    let metrics = Metrics::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(source, config, level, metrics, accept_loss));
    runtime.shutdown_timeout(LAST_WORDS_MAX);
    done
}

async fn serve(source: Source, config: Config, level: log::Level, metrics: Metrics, accept_loss: bool) -> anyhow::Result<()> {
    // Before anything else: a signal while starting is kept, not lost.
    let mut signals = Signals::new()?;
    let token = token(&config)?;
    let tls = TlsStore::open(&config)?;
    let admin_listeners = bind(&config.listen.admin.0).await?;
    let node = node::start(config.clone(), tls.clone(), accept_loss).await?;
    let control: Arc<dyn Control> = node.clone();

    let mut listening = control.listening();
    listening.admin = admin_listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let json = serde_json::to_vec_pretty(&listening)?;
    tls::write_private(&config.data_dir().join(LISTENING_FILE), &json)?;

    let options = source.options();
    let reloader = Arc::new(Reloader::new(source, config.clone(), tls.clone(), Some(level), control.clone()));
    let api = Admin::new(control, reloader.clone(), metrics.clone(), token);
    let (stop, stopping) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for listener in admin_listeners {
        let mut stopping = stopping.clone();
        let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
        tasks.spawn(admin::serve(listener, api.clone(), stopped));
    }
    let background = [tokio::spawn(metrics.upkeep()), tokio::spawn(reloader.clone().watch())];

    announce(&config, &listening, &tls, &format!("{}{options}", command()));
    signals.wait(&reloader).await;
    tracing::info!("draining: no new streams, sessions are written down");
    tokio::select! {
        drained = node.drain() => drained?,
        // The operator is in a hurry. Nothing that was accepted is lost by this: it is what a crash would do.
        () = signals.again() => tracing::warn!("second signal, ending at once"),
    }
    stop.send_replace(true);
    background.iter().for_each(tokio::task::JoinHandle::abort);
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS_MAX, all).await;
    let _ = std::fs::remove_file(config.data_dir().join(LISTENING_FILE));
    tracing::info!("ended");
    Ok(())
}

/// The signals that a server hears.
struct Signals {
    term: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until the end is asked for; meanwhile SIGHUP reloads.
    async fn wait(&mut self, reloader: &Reloader) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reloader.run_logged("SIGHUP").await,
            }
        }
    }

    async fn again(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("listen.admin = \"{address}\" cannot be bound: is a server running already?"))?);
    }
    Ok(listeners)
}

/// Makes a folder that only its owner can enter; one that is there stays as it is.
///
/// # Errors
/// Those of the file system.
pub fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("the folder {} cannot be made", path.display()))
}

/// The token of the configuration, or the one in the data folder, made at the first start.
fn token(config: &Config) -> anyhow::Result<Secret> {
    if let Some(token) = config.admin.token.fixed() {
        return Ok(token.clone());
    }
    let path = config.data_dir().join(TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
    let mut random = [0; TOKEN_BYTES];
    aws_lc_rs::rand::fill(&mut random)?;
    let text: String = random.iter().map(|b| format!("{b:02x}")).collect();
    tls::write_private(&path, format!("{text}\n").as_bytes())?;
    Ok(Secret::new(text))
}

/// Says what is there and what to do next: to people in words, to machines in one line.
fn announce(config: &Config, listening: &Listening, tls: &TlsStore, command: &str) {
    let domains = config.domains().join(", ");
    if config.log.format == LogFormat::Json {
        tracing::info!(domains, c2s = ?listening.c2s, c2s_tls = ?listening.c2s_tls, admin = ?listening.admin, "serving");
        return;
    }
    print!("{}", banner(config, listening, tls, command));
}

/// How this program was called, so that the next call can be copied.
fn command() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "chappe".into());
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| Path::new(&called).strip_prefix(here).ok().map(PathBuf::from));
    short.map_or(called, |p| p.display().to_string())
}

fn banner(config: &Config, listening: &Listening, tls: &TlsStore, command: &str) -> String {
    let list = |addresses: &[SocketAddr]| match addresses {
        [] => "off".to_owned(),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let data = std::fs::canonicalize(config.data_dir()).unwrap_or_else(|_| config.data_dir().to_owned());
    let domain = config.domains().first().map_or("localhost", String::as_str);
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        let _ = writeln!(out, "  {name:<13}{text}");
    };
    row("clients", &format!("{} (STARTTLS)", list(&listening.c2s)));
    row("", &format!("{} (direct TLS)", list(&listening.c2s_tls)));
    row("admin", &list(&listening.admin));
    row("settings", &config.path().map_or_else(|| "defaults (chappe.toml is looked for here)".into(), |p| p.display().to_string()));
    row("data", &data.display().to_string());
    for fact in tls.facts() {
        let made = if fact.self_made { "self-made: clients must be told to trust it" } else { "configured" };
        row("certificate", &format!("{} ({made})", fact.domain));
        row("", &format!("SHA-256 {}", fact.fingerprint));
    }
    format!(
        "Chappe {} serves {}\n\n{out}\nNext, in another terminal:\n  add a user   {command} user add romeo@{domain}\n  \
         then log in  with any XMPP client, as romeo@{domain}\n  all settings {command} config show --origin\n\n\
         Ctrl-C stops the server; sessions can be resumed after the next start.\n",
        env!("CARGO_PKG_VERSION"),
        config.domains().join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_closed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(&format!("data_dir = '{}'", folder.path().display())).unwrap();
        let made = token(&config).unwrap();
        assert_eq!(made.expose().len(), 2 * TOKEN_BYTES);
        assert_eq!(token(&config).unwrap(), made);
        let mode = std::fs::metadata(folder.path().join(TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_banner_says_what_to_do_next() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(&format!("data_dir = '{}'", folder.path().display())).unwrap();
        let tls = TlsStore::open(&config).unwrap();
        let listening = Listening { c2s: vec!["[::]:5222".parse().unwrap()], ..Listening::default() };
        let source = Source { file: Some("my chappe.toml".into()), set: vec![("log.level".into(), "debug".into())] };
        let text = banner(&config, &listening, &tls, &format!("target/release/chappe{}", source.options()));
        assert!(
            text.contains("target/release/chappe --config 'my chappe.toml' --set log.level=debug user add romeo@localhost\n"),
            "{text}"
        );
        assert!(text.contains("[::]:5222 (STARTTLS)\n"), "{text}");
        assert!(text.contains(&tls.facts()[0].fingerprint), "{text}");
    }
}
