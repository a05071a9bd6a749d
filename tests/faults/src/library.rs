//! Where the layer's library is.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The library, built by cargo beside the running test, in its profile.
///
/// # Errors
/// It cannot be built, or this is not run from a target folder.
pub fn library() -> io::Result<PathBuf> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| build().map_err(|e| e.to_string())).clone().map_err(io::Error::other)
}

fn build() -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let missing = || io::Error::other("not run from a target folder");
    let profile = exe.ancestors().find(|p| p.ends_with("debug") || p.ends_with("release")).ok_or_else(missing)?;
    let target = profile.parent().ok_or_else(missing)?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "chappe-faults-preload"]).current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{build:?}: {status}")));
    }
    Ok(profile.join("libchappe_faults_preload.so"))
}
