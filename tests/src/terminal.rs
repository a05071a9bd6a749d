//! Programs for terminals, driven in tmux: keys in, the screen out.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::peer::installed;

/// How long a text may take to appear.
const DEADLINE: Duration = Duration::from_secs(20);

/// How often the screen is looked at: tmux has nothing to wait on.
const LOOK: Duration = Duration::from_millis(50);

/// A program on a screen of its own. The tmux server is its own too, and ends with it.
pub struct Terminal {
    socket: String,
}

fn tmux(socket: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(installed("tmux")?);
    command.args(["-f", "/dev/null", "-L", socket]).args(args).env_remove("TMUX");
    command.output().with_context(|| format!("{command:?}"))
}

impl Terminal {
    /// Runs a program with a folder as its home.
    pub fn start(program: &str, args: &[&str], home: &Path) -> Result<Terminal> {
        let program = installed(program)?;
        let socket = format!("chappe-test-{:x}", crate::random());
        let home = format!("HOME={}", home.display());
        let program = program.to_str().context("a path that is no text")?;
        let mut all = vec!["new-session", "-d", "-x", "160", "-y", "50", "env", &home, "TERM=screen-256color", "LANG=C.UTF-8", program];
        all.extend(args);
        let output = tmux(&socket, &all)?;
        ensure!(output.status.success(), "tmux: {output:?}");
        Ok(Terminal { socket })
    }

    /// Types a line and Enter.
    pub fn enter(&self, line: &str) -> Result<()> {
        for args in [&["send-keys", "-l", line][..], &["send-keys", "Enter"]] {
            let output = tmux(&self.socket, args)?;
            ensure!(output.status.success(), "typing {line:?}: {output:?}");
        }
        Ok(())
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        let output = tmux(&self.socket, &["capture-pane", "-p"])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the screen shows a text.
    pub async fn shows(&self, text: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let screen = self.screen()?;
            if screen.contains(text) {
                return Ok(());
            }
            if start.elapsed() > DEADLINE {
                let lines: Vec<&str> = screen.lines().filter(|l| !l.trim().is_empty()).collect();
                bail!("{text:?} did not appear within {DEADLINE:?}:\n{}", lines.join("\n"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Types a line and waits until the screen shows a text.
    pub async fn ask(&self, line: &str, text: &str) -> Result<()> {
        self.enter(line)?;
        self.shows(text).await
    }

    /// Types a line again and again until the screen shows a text: for what the program learns without showing that it has.
    pub async fn ask_until(&self, line: &str, text: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            self.enter(line)?;
            if tokio::time::timeout(LOOK * 10, self.shows(text)).await.is_ok_and(|shown| shown.is_ok()) {
                return Ok(());
            }
        }
        bail!("{line:?} did not show {text:?} within {DEADLINE:?}:\n{}", self.screen()?)
    }

    /// Types a line that ends the program, and waits until it has.
    pub async fn quit(self, line: &str) -> Result<()> {
        self.enter(line)?;
        let start = Instant::now();
        while tmux(&self.socket, &["has-session"])?.status.success() {
            ensure!(start.elapsed() < DEADLINE, "it has not ended within {DEADLINE:?}:\n{}", self.screen()?);
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tmux(&self.socket, &["kill-server"]);
    }
}
