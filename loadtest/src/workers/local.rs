//! Workers that a controller starts itself, on its own host.

use super::split::Share;
use super::token::{self, Token};
use crate::client::sources;
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process of a worker. It ends when this is dropped, or when this process ends: then its standard input does.
pub(super) struct Process {
    child: Child,
    /// Where it listens.
    pub(super) address: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Starts so many.
///
/// # Errors
/// One that does not start.
pub(super) fn start(program: &Path, workers: usize, token: &Token) -> Result<Vec<Process>> {
    let mut all = Vec::with_capacity(workers);
    for _ in 0..workers {
        let mut command = Command::new(program);
        command.args(["worker", "--leashed", "--listen", "127.0.0.1:0"]).env(token::VARIABLE, token.reveal());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        all.push(Process { child: child.with_context(|| format!("{}", program.display()))?, address: String::new() });
    }
    for process in &mut all {
        let (mut line, stdout) = (String::new(), process.child.stdout.take().context("no standard output")?);
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            bail!("a worker that was to start here has not ({})", process.child.wait()?);
        };
        address.clone_into(&mut process.address);
    }
    Ok(all)
}

/// Gives each its own of the source addresses that all have together; if there are fewer addresses than workers, some
/// share one, and its ports.
///
/// # Errors
/// What is no address.
pub(super) fn share_sources(shares: &mut [Share]) -> Result<()> {
    let number = shares.len();
    for (i, share) in shares.iter_mut().enumerate() {
        let Some(bind) = &mut share.file.server.bind else { continue };
        *bind = of_worker(&sources(bind)?, i, number);
    }
    Ok(())
}

fn of_worker(all: &[IpAddr], i: usize, workers: usize) -> String {
    let turn = workers.min(all.len()).max(1);
    let own = all.iter().enumerate().filter(|(a, _)| a % turn == i % turn);
    own.map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shared_out() {
        let check = |bind: &str, workers: usize, wanted: &[&str]| {
            let all = sources(bind).unwrap();
            assert_eq!((0..workers).map(|i| of_worker(&all, i, workers)).collect::<Vec<_>>(), wanted, "{bind}");
        };
        check("127.0.0.2-6", 2, &["127.0.0.2,127.0.0.4,127.0.0.6", "127.0.0.3,127.0.0.5"]);
        check("127.0.0.2-3", 3, &["127.0.0.2", "127.0.0.3", "127.0.0.2"]);
        check("", 2, &["", ""]);
    }

    #[test]
    fn a_program_that_is_no_worker_is_told() {
        let token = Token::random().unwrap();
        let why = |program: &str| format!("{:#}", start(Path::new(program), 2, &token).err().unwrap());
        assert!(why("/bin/true").contains("a worker that was to start here has not (exit status: 0)"));
        assert!(why("/nowhere").starts_with("/nowhere: "));
    }
}
