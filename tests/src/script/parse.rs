//! From text to steps.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::pattern;
use crate::xml::Element;

/// A script.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Its file's name.
    pub name: String,
    /// The first line: what it shows, and the clause.
    pub title: String,
    /// Settings of the server, other than its defaults.
    pub settings: Vec<(String, String)>,
    /// Who takes part.
    pub people: Vec<Person>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Somebody with one client.
#[derive(Clone, Debug)]
pub struct Person {
    /// As the script calls them.
    pub name: String,
    /// Local part of the account.
    pub user: String,
    /// The resource to bind; empty lets the server choose.
    pub resource: String,
    /// Of the account.
    pub password: String,
    /// Whether there is no account when the script begins.
    pub unregistered: bool,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it stands.
    pub place: String,
    /// The line.
    pub text: String,
    /// Who does it, as an index of [`Script::people`]; 0 if nobody does.
    pub who: usize,
    /// What it is.
    pub action: Action,
}

/// See [`Step`].
#[derive(Clone, Debug)]
pub enum Action {
    /// TLS, and no login.
    Open,
    /// Up to the features after login.
    LogIn,
    /// Up to a bound resource.
    Connect,
    /// A new stream after `<success/>`.
    RestartStream,
    /// Text to send.
    Send(String),
    /// What must come next; the flag: in this order.
    Receive(Vec<Element>, bool),
    /// Nothing may come.
    ReceiveNothing,
    /// The client ends its stream.
    Disconnect,
    /// The connection breaks.
    Cut,
    /// A new stream up to `<resume/>`.
    Resume,
    /// The server ends the stream, with this condition.
    Disconnected(Option<String>),
    /// Time goes by.
    Pass(Duration),
    /// The server dies (`true`) or is stopped, and starts again.
    Restart(bool),
}

/// The password of whoever names none.
const PASSWORD: &str = "r0m30myr0m30";

impl Script {
    /// Reads a file; `Include x` in it stands for the steps of `parts/x.scs` beside it.
    pub fn read(path: &Path) -> Result<Script> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut script = Script { name: path.file_stem().unwrap_or_default().to_string_lossy().into(), ..Script::default() };
        script.title = text.lines().next().unwrap_or_default().trim_start_matches('#').trim().to_owned();
        ensure!(!script.title.is_empty(), "{}: the first line must be a title: # RFC 6121 §2: ...", path.display());
        script.take(&text, path)?;
        ensure!(!script.steps.is_empty(), "{}: nothing happens", path.display());
        Ok(script)
    }

    fn take(&mut self, text: &str, path: &Path) -> Result<()> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at].trim_end();
            let first = at;
            at += 1;
            if line.is_empty() || line.starts_with('#') || line.chars().all(|c| c == '-') {
                continue;
            }
            let place = format!("{file}:{}", first + 1);
            ensure!(!line.starts_with([' ', '\t']), "{place}: nobody sends or receives this: {line}");
            let mut block = Vec::new();
            while at < lines.len()
                && (lines[at].starts_with([' ', '\t'])
                    || (lines[at].is_empty() && lines[at..].iter().find(|l| !l.is_empty()).is_some_and(|l| l.starts_with([' ', '\t']))))
            {
                block.push(lines[at].trim());
                at += 1;
            }
            self.line(line, &block, &place, path).with_context(|| format!("{place}: {line}"))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, block: &[&str], place: &str, path: &Path) -> Result<()> {
        if let Some(name) = line.strip_prefix("[Client] ") {
            self.people.push(person(name, block)?);
        } else if line == "[Server]" {
            self.settings = fields(block)?;
        } else if let Some(part) = line.strip_prefix("Include ") {
            let file = path.with_file_name("parts").join(format!("{part}.scs"));
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            self.take(&text, &file)?;
        } else {
            let (who, action) = self.action(line, block)?;
            let takes = matches!(action, Action::Send(_) | Action::Receive(..));
            ensure!(takes != block.is_empty(), "only what is sent or received has lines of XML under it, and it needs them");
            self.steps.push(Step { place: place.into(), text: line.into(), who, action });
        }
        Ok(())
    }

    fn action(&self, line: &str, block: &[&str]) -> Result<(usize, Action)> {
        match line {
            "the server is killed" => return Ok((0, Action::Restart(true))),
            "the server is restarted" => return Ok((0, Action::Restart(false))),
            _ => {}
        }
        if let Some(time) = line.strip_suffix(" pass").or_else(|| line.strip_suffix(" passes")) {
            return Ok((0, Action::Pass(duration(time)?)));
        }
        // The longest name that fits: "Romeo's phone" is not "Romeo".
        let named = |(_, p): &(usize, &Person)| line.strip_prefix(&p.name).is_some_and(|rest| rest.starts_with([' ', '\'', '’']));
        let found = self.people.iter().enumerate().filter(named).max_by_key(|(_, p)| p.name.len());
        let (who, person) = found.context("nobody of that name is in the script's head")?;
        let verb = line[person.name.len()..].trim_start_matches(['\'', '’']).trim();
        let action = match verb.strip_prefix("s ").unwrap_or(verb) {
            "opens a stream" => Action::Open,
            "logs in" => Action::LogIn,
            "connects" => Action::Connect,
            "restarts the stream" => Action::RestartStream,
            "sends:" => Action::Send(joined(block)),
            "receives:" => Action::Receive(pattern::parse(&joined(block))?, true),
            "receives in any order:" => Action::Receive(pattern::parse(&joined(block))?, false),
            "receives nothing" => Action::ReceiveNothing,
            "disconnects" => Action::Disconnect,
            "connection is cut" => Action::Cut,
            "resumes" => Action::Resume,
            "is disconnected" => Action::Disconnected(None),
            other => match other.strip_prefix("is disconnected with ") {
                Some(condition) => Action::Disconnected(Some(condition.to_owned())),
                None => bail!("no such thing to do: {other}"),
            },
        };
        Ok((who, action))
    }
}

/// Lines of XML as one text. Indentation between tags is the reader's; a line broken within a tag or a text keeps a space.
fn joined(block: &[&str]) -> String {
    let mut out = String::new();
    for line in block.iter().filter(|line| !line.is_empty()) {
        if !(out.is_empty() || out.ends_with('>') && line.starts_with('<')) {
            out.push(' ');
        }
        out.push_str(line);
    }
    out.trim_end().to_owned()
}

fn fields(block: &[&str]) -> Result<Vec<(String, String)>> {
    let split = |line: &&str| {
        let (key, value) = line.split_once(':').with_context(|| format!("not `key: value`: {line}"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    block.iter().filter(|l| !l.is_empty()).map(split).collect()
}

fn person(name: &str, block: &[&str]) -> Result<Person> {
    let (user, password) = (String::new(), PASSWORD.to_owned());
    let mut person = Person { name: name.trim().to_owned(), user, resource: String::new(), password, unregistered: false };
    for (key, value) in fields(block)? {
        match key.as_str() {
            "jid" => {
                let (bare, resource) = value.split_once('/').unwrap_or((&value, ""));
                let (user, domain) = bare.split_once('@').context("a JID of localhost is needed")?;
                ensure!(domain == "localhost", "scripts live on localhost");
                (person.user, person.resource) = (user.to_owned(), resource.to_owned());
            }
            "password" => person.password = value,
            "account" if value == "none" => person.unregistered = true,
            _ => bail!("no such field of a client: {key}: {value}"),
        }
    }
    ensure!(!person.user.is_empty(), "a client needs a jid");
    Ok(person)
}

fn duration(text: &str) -> Result<Duration> {
    let (n, unit) = text.split_once(' ').context("how long?")?;
    let n: u64 = n.parse()?;
    match unit.trim_end_matches('s') {
        "second" => Ok(Duration::from_secs(n)),
        "millisecond" => Ok(Duration::from_millis(n)),
        _ => bail!("seconds or milliseconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Result<Script> {
        let mut script = Script::default();
        script.take(text, Path::new("x.scs"))?;
        Ok(script)
    }

    const HEAD: &str = "[Client] Romeo\n\tjid: romeo@localhost/orchard\n[Client] Romeo's phone\n\tjid: romeo@localhost\n---\n";

    #[test]
    fn steps_are_read() {
        let s = script(&format!(
            "{HEAD}# why\nRomeo's phone connects\nRomeo's connection is cut\nRomeo sends:\n\t<a\n\t\tb='c'>\n\t\t<d/>\n\n\t</a>\n2 seconds pass\n"
        ))
        .unwrap();
        assert_eq!(s.steps.iter().map(|s| s.who).collect::<Vec<_>>(), [1, 0, 0, 0]);
        assert!(matches!(s.steps[1].action, Action::Cut));
        assert!(matches!(&s.steps[2].action, Action::Send(xml) if xml == "<a b='c'><d/></a>" || xml == "<a b='c'><d/> </a>"));
        assert_eq!(s.steps[3].place, "x.scs:15");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "Romeo dances",
            "Tybalt connects",
            "Romeo sends:",
            "Romeo connects\n\t<a/>",
            "\t<a/>",
            "Romeo receives:\n\t<a>",
            "5 moons pass",
        ] {
            assert!(script(&format!("{HEAD}{text}\n")).is_err(), "{text}");
        }
    }
}
