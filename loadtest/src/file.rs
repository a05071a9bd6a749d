//! Scenarios as files: which one, against what, with which accounts, and how much. A key that is not known is an error.

use crate::client::{Mechanism, Profile, TlsMode};
use crate::scenario::{self, Archive, Chat, Group, Idle, Mixed, Offline, Outcome, Presence, Reconnect, Register, Run, Storm};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Accounts of `register`, unless something else is said.
const ACCOUNTS: usize = 1_000;

/// Where the server is and how clients speak to it. What is not said has a default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Host and port.
    pub address: Option<String>,
    /// The domain of the accounts; the host of the address if none.
    pub domain: Option<String>,
    /// `plain`, `starttls`, `direct`, `ws` or `wss`.
    pub transport: Option<TlsMode>,
    /// The path of WebSockets.
    pub path: Option<String>,
    /// A PEM file of whom to trust; without it, any certificate.
    pub ca: Option<PathBuf>,
    /// The SASL mechanism.
    pub mechanism: Option<Mechanism>,
    /// `sasl`, `sasl2` or `fast`.
    pub login: Option<Profile>,
    /// Source addresses, as `127.0.0.2-9,10.0.0.1`.
    pub bind: Option<String>,
    /// The server's process, if it is on this machine.
    pub pid: Option<u32>,
    /// Where it tells its CPU and memory, if it is not.
    pub metrics: Option<String>,
}

/// The accounts: a name and a number, from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accounts {
    /// Name before the number; `user` if none.
    pub prefix: Option<String>,
    /// Password of each; `secret` if none.
    pub password: Option<String>,
    /// The number of the first; 0 if none.
    pub first: Option<usize>,
    /// How many; what the scenario needs if none.
    pub count: Option<usize>,
}

/// What is done, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Accounts are made.
    Register(Register),
    /// Logins.
    Login(Storm),
    /// Sessions that do nothing.
    Idle(Idle),
    /// One-to-one chat.
    Chat(Chat),
    /// Group chat.
    Group(Group),
    /// Presence to contacts.
    Presence(Presence),
    /// Messages for who is not there.
    Offline(Offline),
    /// Reading archives.
    Archive(Archive),
    /// Cut connections.
    Reconnect(Reconnect),
    /// A bit of everything.
    Mixed(Mixed),
}

/// A scenario as its file says it.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// What is done.
    pub work: Work,
    /// Against what.
    pub server: Server,
    /// By whom.
    pub accounts: Accounts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    scenario: String,
    #[serde(default)]
    server: Server,
    #[serde(default)]
    accounts: Accounts,
    #[serde(default)]
    load: toml::Table,
}

impl File {
    /// Reads a file. `set`: keys of `[load]` with values in place of the file's, as `pairs=3`.
    ///
    /// # Errors
    /// What is no such file, with the key that is at fault.
    pub fn read(path: &Path, set: &[String]) -> Result<File> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        File::parse(&text, set).with_context(|| format!("{}", path.display()))
    }

    /// The same, of a text.
    ///
    /// # Errors
    /// Those of [`File::read`].
    pub fn parse(text: &str, set: &[String]) -> Result<File> {
        let Text { scenario, server, accounts, mut load } = toml::from_str(text)?;
        for pair in set {
            let (key, value) = pair.split_once('=').with_context(|| format!("{pair}: key=value is due"))?;
            replace(&mut load, key.trim(), value.trim())?;
        }
        let work = Work::parse(&scenario, load).with_context(|| format!("[load] of scenario {scenario}"))?;
        Ok(File { work, server, accounts })
    }

    /// A text that says the same.
    ///
    /// # Errors
    /// A number that TOML has no room for.
    pub fn text(&self) -> Result<String> {
        let File { work, server, accounts } = self.clone();
        Ok(toml::to_string(&Text { scenario: work.name().into(), server, accounts, load: work.load()? })?)
    }
}

/// Puts a value at a key, which may lead into tables with dots.
fn replace(load: &mut toml::Table, key: &str, value: &str) -> Result<()> {
    if let Some((table, rest)) = key.split_once('.') {
        let inner = load.entry(table).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        return replace(inner.as_table_mut().with_context(|| format!("{table} is no table"))?, rest, value);
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    load.insert(key.to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
    Ok(())
}

impl Work {
    fn parse(scenario: &str, load: toml::Table) -> Result<Work> {
        Ok(match scenario {
            "register" => Work::Register(load.try_into()?),
            "login" => Work::Login(load.try_into()?),
            "idle" => Work::Idle(load.try_into()?),
            "chat" => Work::Chat(load.try_into()?),
            "group" => Work::Group(load.try_into()?),
            "presence" => Work::Presence(load.try_into()?),
            "offline" => Work::Offline(load.try_into()?),
            "archive" => Work::Archive(load.try_into()?),
            "reconnect" => Work::Reconnect(load.try_into()?),
            "mixed" => Work::Mixed(load.try_into()?),
            _ => bail!(
                "there is no scenario {scenario}, but register, login, idle, chat, group, presence, offline, archive, reconnect, mixed"
            ),
        })
    }

    /// The section `[load]` that says this.
    fn load(&self) -> Result<toml::Table> {
        Ok(match self {
            Work::Register(register) => toml::Table::try_from(register),
            Work::Login(storm) => toml::Table::try_from(storm),
            Work::Idle(idle) => toml::Table::try_from(idle),
            Work::Chat(chat) => toml::Table::try_from(chat),
            Work::Group(group) => toml::Table::try_from(group),
            Work::Presence(presence) => toml::Table::try_from(presence),
            Work::Offline(offline) => toml::Table::try_from(offline),
            Work::Archive(archive) => toml::Table::try_from(archive),
            Work::Reconnect(reconnect) => toml::Table::try_from(reconnect),
            Work::Mixed(mixed) => toml::Table::try_from(mixed),
        }?)
    }

    /// The scenario's name.
    pub fn name(&self) -> &'static str {
        match self {
            Work::Register(_) => "register",
            Work::Login(_) => "login",
            Work::Idle(_) => "idle",
            Work::Chat(_) => "chat",
            Work::Group(_) => "group",
            Work::Presence(_) => "presence",
            Work::Offline(_) => "offline",
            Work::Archive(_) => "archive",
            Work::Reconnect(_) => "reconnect",
            Work::Mixed(_) => "mixed",
        }
    }

    /// How many accounts it needs.
    pub fn accounts(&self) -> usize {
        match self {
            Work::Register(_) => ACCOUNTS,
            Work::Login(storm) => storm.logins,
            Work::Idle(idle) => idle.base + idle.sessions,
            Work::Chat(chat) => chat.pairs * 2,
            Work::Group(group) => group.rooms * group.occupants,
            Work::Presence(presence) => presence.clients,
            Work::Offline(offline) => offline.senders + offline.recipients,
            Work::Archive(archive) => archive.pairs * 2,
            Work::Reconnect(reconnect) => reconnect.pairs * 2,
            Work::Mixed(mixed) => mixed.clients + if mixed.weights.login > 0.0 { mixed.visitors } else { 0 },
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of the scenario.
    pub async fn run(&self, run: &Run) -> Result<Outcome> {
        let (needed, there) = (self.accounts(), run.accounts.len());
        ensure!(there >= needed || matches!(self, Work::Register(_)), "{} needs {needed} accounts, not {there}", self.name());
        match self {
            Work::Register(register) => scenario::accounts(run, *register).await,
            Work::Login(storm) => scenario::storm(run, *storm).await,
            Work::Idle(idle) => scenario::idle(run, *idle).await,
            Work::Chat(chat) => scenario::chat(run, *chat).await,
            Work::Group(group) => scenario::group(run, group.clone()).await,
            Work::Presence(presence) => scenario::presence(run, *presence).await,
            Work::Offline(offline) => scenario::offline(run, *offline).await,
            Work::Archive(archive) => scenario::archive(run, *archive).await,
            Work::Reconnect(reconnect) => scenario::reconnect(run, *reconnect).await,
            Work::Mixed(mixed) => scenario::mixed(run, mixed.clone()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        format!("{:#}", File::parse(text, &[]).unwrap_err())
    }

    #[test]
    fn a_file_says_everything() {
        let text = "scenario = 'chat'\n[server]\naddress = 'a:1'\ntransport = 'wss'\nmechanism = 'SCRAM-SHA-1'\nlogin = 'fast'\n\
                    [accounts]\nprefix = 'x'\n[load]\npairs = 3\nrate = 10";
        let file = File::parse(text, &["pairs=4".into(), "body_bytes = 100".into()]).unwrap();
        assert_eq!(file.work, Work::Chat(Chat { pairs: 4, rate: Some(10.0), body_bytes: 100, ..Chat::default() }));
        assert_eq!((file.server.transport, file.server.login), (Some(TlsMode::Wss), Some(Profile::Fast)));
        assert_eq!((file.work.accounts(), file.accounts.prefix.as_deref()), (8, Some("x")));
        let mixed = File::parse("scenario = 'mixed'", &["weights.group=0".into(), "day=[[0, 5], [2, 1]]".into()]).unwrap();
        let Work::Mixed(mixed) = mixed.work else { panic!("{mixed:?}") };
        assert_eq!((mixed.weights.group, mixed.weights.chat, mixed.day), (0.0, 60.0, vec![(0.0, 5.0), (2.0, 1.0)]));
    }

    #[test]
    fn unknown_keys_are_named() {
        assert!(wrong("scenario = 'chat'\n[load]\npairz = 3").contains("unknown field `pairz`, expected one of `pairs`"));
        assert!(wrong("scenario = 'chat'\n[server]\nadress = 'a:1'").contains("unknown field `adress`, expected one of `address`"));
        assert!(wrong("scenario = 'chat'\nx = 1").contains("unknown field `x`"));
        assert!(wrong("scenario = 'mixed'\n[load.weights]\nchats = 1").contains("unknown field `chats`"));
        assert!(wrong("scenario = 'dance'").contains("there is no scenario dance"));
        assert!(wrong("[load]\npairs = 1").contains("missing field `scenario`"));
    }

    #[test]
    fn the_ready_ones_are_as_they_should_be() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("# "), "{} does not say what it is", path.display());
            let file = File::read(&path, &[]).unwrap();
            assert_eq!(File::parse(&file.text().unwrap(), &[]).unwrap(), file);
            names.push(file.work.name());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["archive", "chat", "group", "idle", "login", "mixed", "offline", "presence", "reconnect", "register"]);
    }
}
