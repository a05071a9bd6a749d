//! `chappe`: the server, and the commands that talk to a running one.
//!
//! It reads the configuration, holds certificates and signals, and puts the parts together; it handles no stanza.
//! Start with [`run`] for the life of a server, `node` for how edge, shards and store are composed.

mod ctl;
mod features;
mod log;
mod node;
mod reload;
mod run;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::reload::Source;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Debug, Parser)]
#[command(
    name = "chappe",
    version,
    about = "An XMPP server for providers that outgrow one machine",
    after_help = "Exit status: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unavailable."
)]
struct Cli {
    /// Configuration file; otherwise $CHAPPE_CONFIG, chappe.toml, /etc/chappe/chappe.toml, or none
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting on top of the file, as limits.stanza_bytes=20kB; can be given many times
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server (also without a command)
    Run {
        /// Start although the journal is damaged, without what cannot be read: for once, with a copy of the data folder kept
        #[arg(long)]
        accept_loss: bool,
    },
    /// Accounts of the running server
    #[command(subcommand)]
    User(ctl::User),
    /// Settings
    #[command(subcommand)]
    Config(ctl::ConfigCommand),
    /// The reference of all settings, in Markdown
    Reference,
    /// The RFCs and XEPs that it speaks, in Markdown
    Features {
        /// Put the table into the marked section of this file
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    // Before anything touches TLS: with a provider of the process's choice nothing depends on which crates are linked.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    #[cfg(feature = "planted")]
    plant();
    let cli = Cli::parse();
    let source = Source { file: cli.config, set: cli.set };
    let done = match cli.command.unwrap_or(Command::Run { accept_loss: false }) {
        Command::Run { accept_loss } => {
            return match run::run(source, accept_loss) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(1, &format!("{error:#}"), None),
            };
        }
        Command::User(command) => ctl::user(&source, command),
        Command::Config(command) => ctl::config(&source, command),
        Command::Reference => Ok(config::reference()),
        Command::Features { write: None } => Ok(features::table(modules::all())),
        Command::Features { write: Some(file) } => {
            return match features::write(&file, modules::all()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(1, &format!("{error:#}"), None),
            };
        }
    };
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failed) => fail(failed.status, &failed.to_string(), failed.hint.as_deref()),
    }
}

/// Plants the bug that `CHAPPE_PLANT` names. Ordinary builds have no such thing.
#[cfg(feature = "planted")]
fn plant() {
    use types::planted::{Bug, plant};
    let Ok(name) = std::env::var("CHAPPE_PLANT") else { return };
    let bug = Bug::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, bug)| bug);
    assert!(bug.is_some(), "CHAPPE_PLANT={name}: no such bug");
    plant(bug);
}

fn fail(status: u8, message: &str, hint: Option<&str>) -> ExitCode {
    eprintln!("chappe: {message}");
    if let Some(hint) = hint {
        eprintln!("  next: {hint}");
    }
    ExitCode::from(status)
}
