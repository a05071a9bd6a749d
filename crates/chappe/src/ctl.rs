//! The commands that talk to a running server, and `config check`, which does not need one.

use std::io::{IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::path::Path;

use admin::api::{ConfigBody, Users};
use admin::client::{CallError, Client, encode};
use admin::{Code, Listening, Reloaded};
use clap::{Args, Subcommand, ValueEnum};
use config::{Config, Secret};
use serde_json::json;

use crate::reload::Source;
use crate::run::{LISTENING_FILE, TOKEN_FILE};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How the configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfigOutput {
    /// For people.
    Table,
    /// As a file that says the same.
    Toml,
    /// For programs.
    Json,
}

/// `chappe user …`
#[derive(Debug, Subcommand)]
pub enum User {
    /// Make an account; asks for the password unless told otherwise
    Add {
        /// As romeo@example.org
        jid: String,
        #[command(flatten)]
        password: Password,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Change an account's password; open sessions stay
    Passwd {
        /// As romeo@example.org
        jid: String,
        #[command(flatten)]
        password: Password,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// List the accounts of a domain, or of all
    List {
        /// As example.org
        domain: Option<String>,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Remove an account with its roster, archive and all
    Del {
        /// As romeo@example.org
        jid: String,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

/// Where a password comes from. Never from an argument: other users of the machine see those.
#[derive(Debug, Args)]
pub struct Password {
    /// Read it from standard input (a line end behind it does not count)
    #[arg(long, conflicts_with = "generate")]
    password_stdin: bool,
    /// Make a random one and print it
    #[arg(long)]
    generate: bool,
}

/// `chappe config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the configuration of the running server
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        /// Show what the file gives, without asking a server
        #[arg(long)]
        offline: bool,
        /// How to write it
        #[arg(short, long, value_enum, default_value = "table")]
        output: ConfigOutput,
    },
    /// Check a configuration file, without a server
    Check {
        /// The file; otherwise the one that `chappe run` would read
        file: Option<std::path::PathBuf>,
    },
    /// Have the running server read its file and certificates anew
    Reload {
        /// How to write the answer
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

/// Why a command failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// The process's exit status.
    pub status: u8,
    message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Exit statuses; scripts rely on them.
mod status {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_FOUND: u8 = 3;
    pub const DENIED: u8 = 4;
    pub const UNAVAILABLE: u8 = 5;
}

impl Failed {
    fn new(status: u8, message: impl Into<String>, hint: impl Into<String>) -> Failed {
        Failed { status, message: message.into(), hint: Some(hint.into()) }
    }

    fn plain(message: impl Into<String>) -> Failed {
        Failed { status: status::FAILED, message: message.into(), hint: None }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Failed {
        let message = error.to_string();
        let hint = match &error {
            CallError::Unreachable { .. } => "start it with `chappe run`, or name its configuration with --config",
            CallError::Foreign { .. } => "is another program on that port? See `listen.admin`",
            CallError::Refused { code: Code::NotFound, .. } => "`chappe user list` shows the accounts",
            CallError::Refused { code: Code::AlreadyExists, .. } => "`chappe user passwd` changes its password",
            CallError::Refused { code: Code::Unauthenticated, .. } => {
                "the data folder is of another server: name this one's configuration with --config"
            }
            CallError::Refused { .. } => return Failed { status: of(&error), message, hint: None },
        };
        Failed::new(of(&error), message, hint)
    }
}

fn of(error: &CallError) -> u8 {
    match error {
        CallError::Unreachable { .. } | CallError::Refused { code: Code::Unavailable, .. } => status::UNAVAILABLE,
        CallError::Refused { code: Code::NotFound, .. } => status::NOT_FOUND,
        CallError::Refused { code: Code::Denied | Code::Unauthenticated, .. } => status::DENIED,
        CallError::Refused { .. } | CallError::Foreign { .. } => status::FAILED,
    }
}

/// Finds the running server through the configuration that it was started with.
fn connect(source: &Source) -> Result<Client, Failed> {
    // A file that was broken since the server read it must not keep its operator from talking to it.
    let config = source.read_lossy();
    let token = match config.admin.token.fixed() {
        Some(token) => token.clone(),
        None => token_of(config.data_dir())?,
    };
    Ok(Client { address: address_of(&config)?, token })
}

fn token_of(data: &Path) -> Result<Secret, Failed> {
    let path = data.join(TOKEN_FILE);
    let place = path.display();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failed::new(status::DENIED, format!("{place} cannot be read"), "run this as the user that the server runs as"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failed::new(
            status::UNAVAILABLE,
            format!("no server has run with the data folder {}", data.display()),
            "start it with `chappe run`, or name its configuration with --config",
        )),
        Err(e) => Err(Failed::plain(format!("{place}: {e}"))),
    }
}

/// What is bound, as the running server wrote it; else what the configuration says.
fn address_of(config: &Config) -> Result<SocketAddr, Failed> {
    let written = std::fs::read(config.data_dir().join(LISTENING_FILE)).ok();
    let listening = written.and_then(|json| serde_json::from_slice::<Listening>(&json).ok()).unwrap_or_default();
    let mut address = listening
        .admin
        .first()
        .or(config.listen.admin.0.first())
        .copied()
        .ok_or_else(|| Failed::new(status::UNAVAILABLE, "the admin interface is off", "set `listen.admin` and restart the server"))?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(address)
}

/// Runs `chappe user …` and returns what it prints.
///
/// # Errors
/// See [`Failed`].
pub fn user(source: &Source, command: User) -> Result<String, Failed> {
    let server = connect(source)?;
    match command {
        User::Add { jid, password, output } => {
            let (password, made) = password.get(&jid)?;
            server.call("POST", "/api/v1/users", Some(&json!({"jid": jid, "password": password.expose()})))?;
            Ok(told(output, &jid, "added", made.then_some(&password)))
        }
        User::Passwd { jid, password, output } => {
            let (password, made) = password.get(&jid)?;
            let path = format!("/api/v1/users/{}/password", encode(&jid));
            server.call("PUT", &path, Some(&json!({"password": password.expose()})))?;
            Ok(told(output, &jid, "has a new password", made.then_some(&password)))
        }
        User::List { domain, output } => list(&server, domain, output),
        User::Del { jid, output } => {
            server.call("DELETE", &format!("/api/v1/users/{}", encode(&jid)), None)?;
            Ok(told(output, &jid, "removed", None))
        }
    }
}

fn told(output: Output, jid: &str, what: &str, password: Option<&Secret>) -> String {
    match (output, password) {
        (Output::Json, None) => format!("{}\n", json!({"jid": jid})),
        (Output::Json, Some(p)) => format!("{}\n", json!({"jid": jid, "password": p.expose()})),
        (Output::Table, None) => format!("{jid} {what}\n"),
        (Output::Table, Some(p)) => format!("{jid} {what}\npassword: {}\n", p.expose()),
    }
}

fn list(server: &Client, domain: Option<String>, output: Output) -> Result<String, Failed> {
    let domains = match domain {
        Some(domain) => vec![domain],
        None => {
            let config: ConfigBody = answer(&server.call("GET", "/api/v1/config", None)?)?;
            let domains = config.settings.into_iter().find(|s| s.key == "domains").and_then(|s| s.value.try_into().ok());
            domains.ok_or_else(|| Failed::plain("the server does not say which domains it serves"))?
        }
    };
    let mut jids = Vec::new();
    for domain in domains {
        let mut after = String::new();
        loop {
            let path = format!("/api/v1/users?domain={}{after}", encode(&domain));
            let page: Users = answer(&server.call("GET", &path, None)?)?;
            jids.extend(page.users.into_iter().map(|u| u.jid));
            let Some(next) = page.next else { break };
            after = format!("&after={}", encode(&next));
        }
    }
    Ok(match output {
        Output::Json => format!("{}\n", json!({"users": jids.iter().map(|jid| json!({"jid": jid})).collect::<Vec<_>>()})),
        Output::Table if jids.is_empty() => "no users; `chappe user add JID` makes one\n".into(),
        Output::Table => format!("JID\n{}\n", jids.join("\n")),
    })
}

fn answer<T: for<'de> serde::Deserialize<'de>>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body)
        .map_err(|_| Failed::new(status::FAILED, "the server's answer is not understood", "is it of the same version as this command?"))
}

impl Password {
    /// The password, and whether it was made here.
    fn get(&self, jid: &str) -> Result<(Secret, bool), Failed> {
        if self.generate {
            return generated().map(|p| (p, true));
        }
        let text = if self.password_stdin {
            let mut text = String::new();
            std::io::stdin()
                .take(PASSWORD_INPUT_MAX)
                .read_to_string(&mut text)
                .map_err(|e| Failed::plain(format!("standard input: {e}")))?;
            text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned()
        } else if std::io::stdin().is_terminal() {
            let ask = |what: String| rpassword::prompt_password(what).map_err(|e| Failed::plain(format!("terminal: {e}")));
            let first = ask(format!("Password for {jid}: "))?;
            if ask("Once more: ".into())? != first {
                return Err(Failed::new(status::USAGE, "the two passwords differ", "try again"));
            }
            first
        } else {
            return Err(Failed::new(status::USAGE, "no password", "use --password-stdin or --generate, or run this in a terminal"));
        };
        if text.is_empty() { Err(Failed::new(status::USAGE, "the password is empty", "try again")) } else { Ok((Secret::new(text), false)) }
    }
}

/// Bytes of standard input that are read for a password; the server takes 1,024.
const PASSWORD_INPUT_MAX: u64 = 4_096;
/// Random bytes of a made password: 120 bits.
const PASSWORD_BYTES: usize = 15;
/// Letters and digits that are not mistaken for each other; 32 of them, so 5 bits each without bias.
const PASSWORD_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

fn generated() -> Result<Secret, Failed> {
    let mut random = [0; PASSWORD_BYTES * 8 / 5];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Failed::plain("the system gives no random numbers"))?;
    let letter = |b: u8| PASSWORD_ALPHABET.get(usize::from(b % 32)).map_or('x', |c| char::from(*c));
    Ok(Secret::new(random.into_iter().map(letter).collect::<String>()))
}

/// Runs `chappe config …` and returns what it prints.
///
/// # Errors
/// See [`Failed`].
pub fn config(source: &Source, command: ConfigCommand) -> Result<String, Failed> {
    match command {
        ConfigCommand::Check { file } => check(source, file),
        ConfigCommand::Show { origin, offline, output } => {
            let shown = if offline { offline_config(source)? } else { answer(&connect(source)?.call("GET", "/api/v1/config", None)?)? };
            Ok(show(&shown, origin, output))
        }
        ConfigCommand::Reload { output } => {
            let body = connect(source)?.call("POST", "/api/v1/reload", None)?;
            let reloaded: Reloaded = answer(&body)?;
            let list = |keys: &[String]| if keys.is_empty() { "nothing".into() } else { keys.join(", ") };
            Ok(match output {
                Output::Json => format!("{}\n", String::from_utf8_lossy(&body)),
                Output::Table => format!(
                    "changed: {}\nwaits for a restart: {}\ncertificates: {}\n",
                    list(&reloaded.applied),
                    list(&reloaded.restart),
                    reloaded.certificates
                ),
            })
        }
    }
}

fn check(source: &Source, file: Option<std::path::PathBuf>) -> Result<String, Failed> {
    let source = Source { file: file.or_else(|| source.file.clone()), set: source.set.clone() };
    let config = source.read().map_err(|e| Failed::plain(e.to_string()))?;
    let mut out = String::new();
    for warning in config.warnings() {
        out.push_str(&format!("warning: {warning}\n"));
    }
    let what = config.path().map_or_else(|| "no file: the defaults".into(), |p| p.display().to_string());
    out.push_str(&format!("{what}: ok, serves {}\n", config.domains().join(", ")));
    Ok(out)
}

fn offline_config(source: &Source) -> Result<ConfigBody, Failed> {
    let config = source.read().map_err(|e| Failed::plain(e.to_string()))?;
    Ok(ConfigBody::from(&config))
}

fn show(shown: &ConfigBody, origin: bool, output: ConfigOutput) -> String {
    match output {
        ConfigOutput::Toml if origin => shown.toml.clone(),
        // Without origins: the comments go, the rest stays.
        ConfigOutput::Toml => shown.toml.lines().map(|l| format!("{}\n", l.split_once("  # ").map_or(l, |(value, _)| value))).collect(),
        ConfigOutput::Json => {
            let setting = |s: &admin::api::SettingBody| match origin {
                true => (s.key.clone(), json!({"value": s.value, "origin": s.origin, "live": s.live})),
                false => (s.key.clone(), json!(s.value)),
            };
            let all: serde_json::Map<_, _> = shown.settings.iter().map(setting).collect();
            format!("{}\n", serde_json::Value::Object(all))
        }
        ConfigOutput::Table => {
            let mut rows = vec![vec!["SETTING".to_owned(), "VALUE".to_owned()]];
            rows.extend(shown.settings.iter().map(|s| vec![s.key.clone(), s.value.to_string()]));
            if origin {
                let origins = std::iter::once("FROM".to_owned()).chain(shown.settings.iter().map(|s| s.origin.clone()));
                rows.iter_mut().zip(origins).for_each(|(row, origin)| row.push(origin));
            }
            table(&rows)
        }
    }
}

/// Columns under each other.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["A", "LONG"], ["longer", "b"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(table(&rows), "A       LONG\nlonger  b\n");
    }

    #[test]
    fn made_passwords_are_long_and_differ() {
        let (a, b) = (generated().unwrap(), generated().unwrap());
        assert_eq!(a.expose().len(), 24);
        assert_ne!(a, b);
    }

    #[test]
    fn statuses_are_what_scripts_rely_on() {
        let refused = |code| Failed::from(CallError::Refused { code, message: String::new() }).status;
        let codes =
            [Code::Internal, Code::Invalid, Code::AlreadyExists, Code::NotFound, Code::Denied, Code::Unauthenticated, Code::Unavailable];
        assert_eq!(codes.map(refused), [1, 1, 1, 3, 4, 4, 5]);
    }

    #[test]
    fn no_server_is_said_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source {
            file: None,
            set: vec![("data_dir".into(), folder.path().display().to_string()), ("listen.admin".into(), "127.0.0.1:1".into())],
        };
        let list = || user(&source, User::List { domain: None, output: Output::Table });
        assert_eq!(list().unwrap_err().status, 5);
        std::fs::write(folder.path().join(TOKEN_FILE), "x\n").unwrap();
        let failed = list().unwrap_err();
        assert_eq!(failed.status, 5);
        assert!(failed.to_string().contains("127.0.0.1:1") && failed.hint.is_some(), "{failed}");
    }

    #[test]
    fn the_offline_configuration_is_shown_in_three_ways() {
        let source = Source { file: None, set: vec![("limits.roster_items".into(), "7".into())] };
        let get = |origin, output| config(&source, ConfigCommand::Show { origin, offline: true, output }).unwrap();
        assert!(get(false, ConfigOutput::Toml).contains("\nroster_items = 7\n"));
        assert!(get(true, ConfigOutput::Toml).contains("\nroster_items = 7  # --set\n"));
        let json: serde_json::Value = serde_json::from_str(&get(true, ConfigOutput::Json)).unwrap();
        assert_eq!(json["limits.roster_items"], json!({"value": 7, "origin": "--set", "live": true}));
        let table = get(true, ConfigOutput::Table);
        let row = table.lines().find(|l| l.starts_with("limits.roster_items")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["limits.roster_items", "7", "--set"]);
    }
}
