//! Client programs of others, driven by lines of JSON on their standard input and output.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long a program may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// A program that runs; killed when dropped.
pub struct Peer {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// The folder of this package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that must be installed, or a message that says how.
pub fn installed(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|p| p.join(program)).find(|p| p.is_file());
    found.with_context(|| format!("{program} is not installed: run tests/setup.sh"))
}

impl Peer {
    /// A script of `tests/clients`, with its arguments as JSON.
    pub fn python(script: &str, args: &Value) -> Result<Peer> {
        let python = package().join(".venv/bin/python");
        ensure!(python.is_file(), "{} is missing: run tests/setup.sh", python.display());
        let mut command = Command::new(python);
        command.arg(package().join("clients").join(script)).arg(args.to_string());
        Peer::start(script, command)
    }

    /// Any program.
    pub fn start(name: &str, mut command: Command) -> Result<Peer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let stdin = child.stdin.take().context("stdin")?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Peer { name: name.into(), child, stdin, lines })
    }

    /// The next line; none when the program has closed its output.
    pub async fn line(&mut self) -> Result<Option<Value>> {
        let Ok(line) = tokio::time::timeout(SILENCE, self.lines.next_line()).await else {
            bail!("{} was silent for {SILENCE:?}", self.name);
        };
        let Some(line) = line? else { return Ok(None) };
        serde_json::from_str(&line).with_context(|| format!("{}: {line:?}", self.name)).map(Some)
    }

    /// Waits for a line that is wanted; others are errors.
    pub async fn expect(&mut self, wanted: &Value) -> Result<()> {
        let line = self.line().await?;
        ensure!(line.as_ref() == Some(wanted), "{}: expected {wanted}, got {line:?}", self.name);
        Ok(())
    }

    /// Gives the program a line.
    pub async fn say(&mut self, line: &Value) -> Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    /// Waits until the program has ended well.
    pub async fn ended(&mut self) -> Result<()> {
        let Ok(status) = tokio::time::timeout(SILENCE, self.child.wait()).await else {
            bail!("{} has not ended within {SILENCE:?}", self.name);
        };
        let status = status?;
        ensure!(status.success(), "{}: {status}; what it said is above", self.name);
        Ok(())
    }
}
