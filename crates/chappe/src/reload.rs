//! Configuration and certificates anew, by signal, changed file or admin call: all of it or nothing of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use admin::{BoxFuture, Control, ControlError, Reloaded};
use arc_swap::ArcSwap;
use config::{Apply, Config};
use tokio::sync::Mutex;

use crate::log::Level;
use crate::tls::{self, TlsStore};

/// How often files are looked at. Certificates are renewed days before they end; a person who edits waits this long.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Where the configuration was read from, so that it can be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--set`, by key.
    pub set: Vec<(String, String)>,
}

impl Source {
    /// Reads it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read(&self) -> Result<Config, config::ConfigError> {
        Config::load_with(self.file.as_deref(), &self.set)
    }

    /// Reads what can be read, for finding the server that runs with it.
    pub fn read_lossy(&self) -> Config {
        Config::load_lossy(self.file.as_deref(), &self.set)
    }

    /// The options that lead another command to the same configuration, as a shell takes them, with a space before.
    pub fn options(&self) -> String {
        let file = self.file.iter().flat_map(|f| ["--config".to_owned(), f.display().to_string()]);
        let set = self.set.iter().flat_map(|(k, v)| ["--set".to_owned(), format!("{k}={v}")]);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
        let quoted = |word: String| if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) };
        file.chain(set).map(|word| format!(" {}", quoted(word))).collect()
    }
}

/// Holds what is in force and replaces it.
pub struct Reloader {
    source: Source,
    current: ArcSwap<Config>,
    tls: TlsStore,
    level: Option<Level>,
    control: Arc<dyn Control>,
    /// One reload at a time.
    turn: Mutex<()>,
}

impl Reloader {
    /// `config` is in force already.
    pub fn new(source: Source, config: Config, tls: TlsStore, level: Option<Level>, control: Arc<dyn Control>) -> Reloader {
        Reloader { source, current: ArcSwap::from_pointee(config), tls, level, control, turn: Mutex::new(()) }
    }

    async fn run(&self) -> Result<Reloaded, ControlError> {
        let _turn = self.turn.lock().await;
        let old = Config::clone(&self.current.load());
        let new = self.source.read().map_err(|e| ControlError::Invalid(e.to_string()))?;
        let changes = old.changes(&new);
        let both = old.with_live_of(&new);
        // The certificates are read before anything is changed: a bad file never replaces a good one.
        let loaded = tls::load(&both).map_err(|e| ControlError::Invalid(format!("{e:#}")))?;
        self.control.apply(both.clone()).await?;
        self.tls.swap(loaded);
        if let Some(level) = &self.level {
            level.set(&both);
        }
        self.current.store(Arc::new(both));
        let keys = |apply| changes.iter().filter(|c| c.apply == apply).map(|c| c.key.to_owned()).collect();
        let reloaded = Reloaded { applied: keys(Apply::Live), restart: keys(Apply::Restart), certificates: self.tls.facts().len() };
        tracing::info!(applied = ?reloaded.applied, restart = ?reloaded.restart, certificates = reloaded.certificates, "reloaded");
        Ok(reloaded)
    }

    /// Reloads for a signal or a changed file, where nobody waits for the answer.
    pub async fn run_logged(&self, why: &str) {
        if let Err(error) = self.run().await {
            tracing::error!(why, %error, "not reloaded, everything stays as it was");
        }
    }

    /// The files that a reload would read, as they are now.
    fn look(&self) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
        let config = self.current.load();
        let certificates = config.tls.certificates.iter().flat_map(|f| [f.chain.clone(), f.key.clone()]);
        let files = config.path().map(PathBuf::from).into_iter().chain(certificates);
        let seen = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        files.map(|path| (path.clone(), seen(&path))).collect()
    }

    /// Looks at the files for ever and reloads when one has changed.
    pub async fn watch(self: Arc<Self>) {
        let mut known = self.look();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = self.look();
            if seen != known {
                self.run_logged("a file changed").await;
                // A reload may have added files to look at.
                known = self.look();
            }
        }
    }
}

impl admin::Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ControlError>> {
        Box::pin(self.run())
    }

    fn config(&self) -> Config {
        Config::clone(&self.current.load())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Lock;

    use admin::{Listening, Readiness, Reload};
    use config::{BareJidRouting, Secret};
    use types::BareJid;

    use super::*;

    /// A node that remembers what it was told to apply.
    #[derive(Default)]
    struct Node(Lock<Vec<Config>>);

    type Done<'a, T> = BoxFuture<'a, Result<T, ControlError>>;

    fn no<T: Send + 'static>() -> Done<'static, T> {
        Box::pin(async { Err(ControlError::Unavailable("not in this test".into())) })
    }

    impl Control for Node {
        fn create_user(&self, _: BareJid, _: Secret) -> Done<'_, ()> {
            no()
        }
        fn set_password(&self, _: BareJid, _: Secret) -> Done<'_, ()> {
            no()
        }
        fn delete_user(&self, _: BareJid) -> Done<'_, ()> {
            no()
        }
        fn list_users(&self, _: BareJid, _: Option<BareJid>, _: usize) -> Done<'_, Vec<BareJid>> {
            no()
        }
        fn apply(&self, config: Config) -> Done<'_, ()> {
            self.0.lock().unwrap().push(config);
            Box::pin(async { Ok(()) })
        }
        fn readiness(&self) -> Readiness {
            Readiness::default()
        }
        fn listening(&self) -> Listening {
            Listening::default()
        }
    }

    #[tokio::test]
    async fn a_good_file_replaces_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chappe.toml");
        let base = format!("data_dir = '{}'\n", folder.path().display());
        let write = |text: &str| std::fs::write(&file, format!("{base}{text}")).unwrap();
        write("");
        let source = Source { file: Some(file.clone()), set: Vec::new() };
        let config = source.read().unwrap();
        let node = Arc::new(Node::default());
        let tls = TlsStore::open(&config).unwrap();
        let reloader = Reloader::new(source, config, tls.clone(), None, node.clone());
        let before = reloader.look();

        write("domains = 'other.example'\n[routing]\nbare_jid = 'all'\n");
        assert_ne!(reloader.look(), before);
        let reloaded = reloader.reload().await.unwrap();
        assert_eq!(reloaded, Reloaded { applied: vec!["routing.bare_jid".into()], restart: vec!["domains".into()], certificates: 1 });
        assert_eq!(node.0.lock().unwrap().len(), 1);
        assert_eq!(reloader.config().routing.bare_jid, BareJidRouting::All);
        assert_eq!(reloader.config().domains(), ["localhost"]);

        for bad in ["[routing]\nbare_jid = 'none'", "[tls]\ncertificates = [{ chain = 'chappe.toml', key = 'tls/localhost.key' }]", "]"] {
            write(bad);
            assert!(matches!(reloader.reload().await, Err(ControlError::Invalid(_))), "{bad}");
            assert_eq!(reloader.config().routing.bare_jid, BareJidRouting::All, "{bad}");
        }
        assert_eq!(node.0.lock().unwrap().len(), 1);
        assert_eq!(tls.facts()[0].domain, "localhost");
    }
}
