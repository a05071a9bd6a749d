//! From a file's text to settings: every key is looked up in the table, every fault is kept with its line.

use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue, Error as TomlError};

use crate::error::nearest;
use crate::settings::{OPTS, SECTIONS};
use crate::value::Context;
use crate::{ConfigError, Inner, Origin, Problem};

/// Names the data folder when no file does.
const DATA_ENV: &str = "CHAPPE_DATA";
/// Names the configuration file when no option does.
const CONFIG_ENV: &str = "CHAPPE_CONFIG";
/// Linux has this file if it has IPv6. Without IPv6 the defaults are the addresses that can be bound.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Looked for, in this order, when nothing names a file.
const USUAL_FILES: &[&str] = &["chappe.toml", "/etc/chappe/chappe.toml"];

pub(crate) fn load(path: Option<&Path>, overrides: &[(String, String)]) -> Result<Inner, ConfigError> {
    read(path, overrides).finish()
}

pub(crate) fn load_lossy(path: Option<&Path>, overrides: &[(String, String)]) -> Inner {
    read(path, overrides).inner
}

fn read(path: Option<&Path>, overrides: &[(String, String)]) -> Loading {
    let named = path.map(Path::to_owned).or_else(|| std::env::var_os(CONFIG_ENV).map(PathBuf::from));
    let path = named.or_else(|| USUAL_FILES.iter().map(PathBuf::from).find(|p| p.exists()));
    let mut loading = Loading::default();
    if let Some(folder) = std::env::var_os(DATA_ENV).filter(|f| !f.is_empty()) {
        loading.inner.settings.node.data_dir = PathBuf::from(folder);
        loading.inner.origins.insert("data_dir", Origin::Env(DATA_ENV));
    }
    if !Path::new(IPV6_ADDRESSES).exists() {
        let listen = &mut loading.inner.settings.listen;
        [&mut listen.c2s, &mut listen.c2s_tls].into_iter().for_each(|a| a.0.retain(|a| a.is_ipv4()));
    }
    if let Some(path) = path {
        match std::fs::read_to_string(&path) {
            Ok(text) => loading.file(&text, &path),
            Err(source) => loading.problems.push(Problem::Read { path: path.clone(), source }),
        }
        loading.inner.path = Some(path);
    }
    for (key, value) in overrides {
        loading.override_key(key, value);
    }
    loading
}

pub(crate) fn parse(text: &str, path: &Path) -> Result<Inner, ConfigError> {
    let mut loading = Loading::default();
    loading.file(text, path);
    loading.finish()
}

#[derive(Default)]
struct Loading {
    inner: Inner,
    problems: Vec<Problem>,
}

/// A file that is being read.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
    context: Context<'a>,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count()
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: self.line(offset) }
    }
}

/// The parser does not say where nesting gets too deep: the beginning of the line with which it does.
fn place_of(fault: &TomlError, text: &str) -> usize {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).chain([text.len()]).collect();
    let there =
        |end: usize| DeTable::parse_recoverable(&text[..end]).1.iter().any(|f| f.span().is_none() && f.message() == fault.message());
    let line = ends.partition_point(|end| !there(*end));
    line.checked_sub(1).map_or(0, |before| ends[before])
}

impl Loading {
    fn file(&mut self, text: &str, path: &Path) {
        let base = path.parent().unwrap_or(Path::new(""));
        let source = Source { text, path, context: Context { base } };
        // The parser goes on after a fault, so that all of them can be told at once.
        let (table, faults) = DeTable::parse_recoverable(text);
        for fault in &faults {
            let place = source.origin(fault.span().map_or_else(|| place_of(fault, text), |s| s.start)).to_string();
            self.problems.push(Problem::Syntax { place, message: fault.message().to_owned() });
        }
        self.table(table.get_ref(), "", &source);
    }

    fn table(&mut self, table: &DeTable<'_>, prefix: &str, source: &Source) {
        // In the order of the text: the table sorts by name.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = source.origin(name.span().start);
            let section = SECTIONS.iter().any(|s| !s.name.is_empty() && s.name == key);
            match value.get_ref() {
                DeValue::Table(inner) if section => self.table(inner, &format!("{key}."), source),
                _ if section => {
                    let expected = format!("a section: write [{key}] above its keys");
                    self.problems.push(Problem::BadValue { place: origin.to_string(), key, expected });
                }
                value => match plain(value) {
                    Some(value) => self.set(&key, &value, origin, &source.context),
                    None => {
                        let expected = "a value that TOML can hold".to_owned();
                        self.problems.push(Problem::BadValue { place: origin.to_string(), key, expected });
                    }
                },
            }
        }
    }

    fn override_key(&mut self, key: &str, text: &str) {
        let parsed = DeValue::parse(text).ok().and_then(|v| plain(v.get_ref()));
        let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
        self.set(key, &value, Origin::CommandLine, &Context { base: Path::new("") });
    }

    fn set(&mut self, key: &str, value: &Value, origin: Origin, context: &Context) {
        let place = origin.to_string();
        let Some(opt) = OPTS.iter().find(|o| o.key == key) else {
            let nearest = nearest(key, OPTS.iter().map(|o| o.key).chain(SECTIONS.iter().map(|s| s.name)));
            return self.problems.push(Problem::UnknownKey { place, key: key.to_owned(), nearest });
        };
        if let Err(expected) = (opt.set)(&mut self.inner.settings, value, context) {
            return self.problems.push(Problem::BadValue { place, key: key.to_owned(), expected });
        }
        if key == "admin.token" && value.as_str().is_some_and(|t| t != "auto") {
            self.inner
                .warnings
                .push(format!("{place}: `{key}` is written out: anybody who can read the file has it; use {{ file = \"…\" }}"));
        }
        self.inner.origins.insert(opt.key, origin);
    }

    fn finish(mut self) -> Result<Inner, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems });
        }
        let limits = &self.inner.settings.limits;
        if limits.resume_timeout > limits.resume_timeout_max {
            self.inner.warnings.push("limits.resume_timeout is longer than limits.resume_timeout_max, which holds".into());
        }
        if !self.inner.settings.tls.required {
            self.inner
                .warnings
                .push("tls.required = false: clients may log in and talk without TLS; everybody on the way can read it".into());
        }
        let exposed = self.inner.settings.listen.admin.0.iter().filter(|a| !a.ip().to_canonical().is_loopback());
        let warnings: Vec<_> = exposed
            .map(|a| format!("listen.admin = \"{a}\" is open to other machines and speaks plain HTTP: put a TLS proxy in front of it"))
            .collect();
        self.inner.warnings.extend(warnings);
        Ok(self.inner)
    }
}

/// The value without its places in the text; none if a number does not fit, or a time is none.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).ok()?),
        DeValue::Float(f) => Value::Float(f.as_str().parse().ok()?),
        DeValue::Boolean(b) => Value::Boolean(*b),
        // The parser makes one of neither behind a fault, and none can be shown.
        DeValue::Datetime(d) if d.date.is_none() && d.time.is_none() => return None,
        DeValue::Datetime(d) => Value::Datetime(*d),
        DeValue::Array(list) => Value::Array(list.iter().map(|v| plain(v.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(k, v)| Some((k.get_ref().to_string(), plain(v.get_ref())?)));
            Value::Table(pairs.collect::<Option<_>>()?)
        }
    })
}
