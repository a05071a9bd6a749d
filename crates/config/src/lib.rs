//! Configuration: one typed definition from which the parser, `config show`, the reference and reloads come.
//!
//! It reads files and the environment when asked to, and nothing else: it opens no socket, starts no task, logs nothing.
//! Start with [`settings`] for what can be set, then [`Config::load`]. The format is TOML; a file that is missing, or
//! empty, is a working one.

mod error;
mod load;
pub mod settings;
mod show;
pub mod value;

pub use error::{ConfigError, Problem};
pub use settings::{Apply, OPTS, Opt, SECTIONS, Settings};
pub use show::{Change, Shown, reference};
pub use value::{
    Addresses, ArchiveDefault, Auto, BareJidRouting, BindConflict, ByteRate, Bytes, CertificateFiles, Domains, LogFormat, LogLevel,
    Mechanism, Rate, Secret, TlsVersion,
};

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
    },
    /// An environment variable.
    Env(&'static str),
    /// `--set` on the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "${name}"),
            Origin::CommandLine => f.write_str("--set"),
        }
    }
}

/// A checked configuration. A clone is a pointer.
#[derive(Clone, Debug)]
pub struct Config(Arc<Inner>);

#[derive(Clone, Debug, Default)]
struct Inner {
    settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
    path: Option<PathBuf>,
    warnings: Vec<String>,
}

impl Config {
    /// Reads `path`; without one, the first that exists of `$CHAPPE_CONFIG`, `chappe.toml` and
    /// `/etc/chappe/chappe.toml`; without any, the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, with file and line.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        Config::load_with(path, &[])
    }

    /// The same, then `key=value` pairs on top; a value is TOML, or a text without its quotes.
    ///
    /// # Errors
    /// Everything that is wrong, with file and line.
    pub fn load_with(path: Option<&Path>, overrides: &[(String, String)]) -> Result<Config, ConfigError> {
        load::load(path, overrides).map(|inner| Config(Arc::new(inner)))
    }

    /// The same, but what is wrong keeps its default: for finding a running server whose file was broken since.
    pub fn load_lossy(path: Option<&Path>, overrides: &[(String, String)]) -> Config {
        Config(Arc::new(load::load_lossy(path, overrides)))
    }

    /// A configuration out of a text, for tests; relative paths start from the working directory.
    ///
    /// # Errors
    /// Everything that is wrong, with line.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        load::parse(text, Path::new("chappe.toml")).map(|inner| Config(Arc::new(inner)))
    }

    /// The file that was read.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Where a setting's value comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.0.origins.get(key).cloned().unwrap_or_default()
    }

    /// What is allowed and unwise, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// The domains served; never empty.
    pub fn domains(&self) -> &[String] {
        &self.0.settings.node.domains.0
    }

    /// Folder of everything that must survive.
    pub fn data_dir(&self) -> &Path {
        &self.0.settings.node.data_dir
    }

    /// This configuration with what `new` changes and can change without a restart. The other changes wait for it.
    #[must_use]
    pub fn with_live_of(&self, new: &Config) -> Config {
        let mut inner = (*new.0).clone();
        for opt in OPTS.iter().filter(|o| o.apply == Apply::Restart) {
            opt.copy(&self.0.settings, &mut inner.settings);
            inner.origins.remove(opt.key);
            inner.origins.extend(self.0.origins.get(opt.key).map(|origin| (opt.key, origin.clone())));
        }
        Config(Arc::new(inner))
    }
}

impl Default for Config {
    /// Every setting at its default, whatever files and the environment say.
    fn default() -> Self {
        Config(Arc::new(Inner::default()))
    }
}

impl Deref for Config {
    type Target = Settings;
    fn deref(&self) -> &Settings {
        &self.0.settings
    }
}

#[cfg(test)]
mod tests;
