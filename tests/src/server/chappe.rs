//! How Chappe is found, configured and started.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::Server;

/// Rates are off: a test that means to reach one sets it.
const RATES: [&str; 6] = [
    "bytes_per_connection",
    "stanzas_per_connection",
    "bytes_per_address",
    "stanzas_per_address",
    "connections_per_address",
    "login_failures_per_address",
];

pub(super) fn configure(server: &Server) -> Result<()> {
    let config = &server.config;
    let mut text = format!("domains = [{:?}]\ndata_dir = {:?}\n", config.domain, server.data());
    text +=
        &format!("[listen]\nc2s = \"{}\"\nc2s_tls = \"{}\"\nadmin = \"{}\"\n", server.ports.c2s, server.ports.c2s_tls, server.ports.admin);
    text += &format!("[registration]\nin_band = {}\n", config.in_band_registration);
    if config.certificate {
        let files = &server.certificates;
        text += &format!("[tls]\ncertificates = [{{ chain = {:?}, key = {:?} }}]\n", files.chain, files.key);
    }
    text += "[log]\nlevel = \"debug\"\n[limits]\n";
    text += &format!("resume_timeout = \"{}s\"\n", config.resume_timeout);
    for rate in RATES.iter().filter(|r| !config.extra.contains(**r)) {
        text += &format!("{rate} = \"off\"\n");
    }
    text += &config.extra;
    std::fs::write(server.config_file(), text)?;
    Ok(())
}

pub(super) fn command(server: &Server) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg("--config").arg(server.config_file()).arg("run");
    Ok(command)
}

/// The binary: `CHAPPE_BIN`, or the one that cargo builds beside this test, which is brought up to date first.
pub(super) fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHAPPE_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "CHAPPE_BIN={}: no such file", path.display());
        return Ok(path);
    }
    let exe = std::env::current_exe()?;
    let profile = exe.ancestors().find(|p| p.ends_with("debug") || p.ends_with("release")).context("not run from a target folder")?;
    let target = profile.parent().context("no target folder")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "chappe"]).current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().with_context(|| format!("{build:?}"))?;
    ensure!(status.success(), "{build:?}: {status}");
    Ok(profile.join("chappe"))
}
