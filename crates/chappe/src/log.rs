//! Log lines on standard error, for people or for machines, at a level that a reload can change.

use std::io::IsTerminal as _;

use config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

type Set = dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync;

/// The installed subscriber's level.
pub struct Level(Box<Set>);

impl Level {
    /// Takes over the level of `config`, which its parser has checked.
    pub fn set(&self, config: &Config) {
        let set = filter(config).map_err(|e| e.to_string()).and_then(|f| (self.0)(f).map_err(|e| e.to_string()));
        if let Err(error) = set {
            tracing::warn!(error, level = config.log.level.0, "log level not changed");
        }
    }
}

fn filter(config: &Config) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(&config.log.level.0)
}

/// Installs the subscriber.
///
/// # Errors
/// If there is one already.
pub fn install(config: &Config) -> anyhow::Result<Level> {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| anyhow::anyhow!("logging: {e}");
    let set: Box<Set> = match config.log.format {
        LogFormat::Human => {
            let lines = lines
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .with_env_filter(filter(config)?)
                .with_filter_reloading();
            let handle = lines.reload_handle();
            lines.try_init().map_err(failed)?;
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_env_filter(filter(config)?).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.try_init().map_err(failed)?;
            Box::new(move |filter| handle.reload(filter))
        }
    };
    Ok(Level(set))
}
