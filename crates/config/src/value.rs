//! The types that a setting can have: how each is read from TOML, how it is written back, what it is called.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;
use zeroize::Zeroize;

/// What a value is read in: the folder that relative paths start from.
pub struct Context<'a> {
    /// Folder of the configuration file, or the working directory.
    pub base: &'a Path,
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// How the reference calls it.
    const TYPE: &'static str;
    /// Reads a value.
    ///
    /// # Errors
    /// Says what was expected, as the end of the sentence "expected …".
    fn read(value: &Value, context: &Context) -> Result<Self, String>;
    /// Writes it as a file would.
    fn show(&self) -> Value;
    /// A number to compare with the bounds of a range; none for types without an order.
    fn magnitude(&self) -> Option<u64> {
        None
    }
}

fn expected<T>(what: &str, got: &Value) -> Result<T, String> {
    Err(format!("{what}, got {got}"))
}

impl Setting for bool {
    const TYPE: &'static str = "true or false";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        value.as_bool().map_or_else(|| expected(Self::TYPE, value), Ok)
    }
    fn show(&self) -> Value {
        Value::Boolean(*self)
    }
}

macro_rules! whole_number {
    ($($t:ty),*) => {$(
        impl Setting for $t {
            const TYPE: &'static str = "whole number";
            fn read(value: &Value, _: &Context) -> Result<Self, String> {
                value.as_integer().and_then(|n| n.try_into().ok()).map_or_else(|| expected(Self::TYPE, value), Ok)
            }
            fn show(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
            fn magnitude(&self) -> Option<u64> {
                Some(u64::from(*self))
            }
        }
    )*};
}
whole_number!(u16, u32, u64);

/// Units of time, longest first, in milliseconds.
const TIME_UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];
/// Units of size, in bytes; the first that divides a size is the one it is written in.
const SIZE_UNITS: &[(&str, u64)] =
    &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

/// Reads `"1h30m"`: digits and a unit, once or more. A number without a unit is refused: 30 of what?
fn units(text: &str, table: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = table.iter().find(|(name, _)| Some(*name) == rest.get(..unit))?.1;
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = rest.get(unit..)?;
    }
    Some(total)
}

fn duration_text(d: &Duration) -> String {
    let ms = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let unit =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)].into_iter().find(|(_, f)| ms > 0 && ms.is_multiple_of(*f));
    match unit {
        Some((name, factor)) => format!("{}{name}", ms / factor),
        None => format!("{ms}ms"),
    }
}

impl Setting for Duration {
    const TYPE: &'static str = "duration such as \"30s\", \"5m\", \"12h\" or \"30d\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let ms = value.as_str().and_then(|t| units(t, TIME_UNITS));
        ms.map_or_else(|| expected(Self::TYPE, value), |ms| Ok(Duration::from_millis(ms)))
    }
    fn show(&self) -> Value {
        Value::String(duration_text(self))
    }
    fn magnitude(&self) -> Option<u64> {
        u64::try_from(self.as_millis()).ok()
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// As an index; a size beyond the address space is the largest one.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => f.write_str("0B"),
        }
    }
}

impl Setting for Bytes {
    const TYPE: &'static str = "size such as \"64KiB\", \"10kB\" or \"1MiB\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let bytes = value.as_str().and_then(|t| units(t, SIZE_UNITS));
        bytes.map_or_else(|| expected(Self::TYPE, value), |b| Ok(Bytes(b)))
    }
    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
    fn magnitude(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// Something that can be switched off by the word `"off"`.
impl<T: Setting> Setting for Option<T> {
    const TYPE: &'static str = T::TYPE;
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        if value.as_str() == Some("off") {
            return Ok(None);
        }
        T::read(value, context).map(Some).map_err(|e| format!("\"off\", or a {e}"))
    }
    fn show(&self) -> Value {
        self.as_ref().map_or_else(|| Value::String("off".into()), T::show)
    }
    fn magnitude(&self) -> Option<u64> {
        self.as_ref().and_then(T::magnitude)
    }
}

/// Something that the server chooses itself if the file says `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// Chosen at start.
    Auto,
    /// As the file says.
    Fixed(T),
}

impl<T> Auto<T> {
    /// What the file says, if it says anything.
    pub fn fixed(&self) -> Option<&T> {
        match self {
            Auto::Auto => None,
            Auto::Fixed(t) => Some(t),
        }
    }
}

impl<T: Setting> Setting for Auto<T> {
    const TYPE: &'static str = T::TYPE;
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        if value.as_str() == Some("auto") {
            return Ok(Auto::Auto);
        }
        T::read(value, context).map(Auto::Fixed).map_err(|e| format!("\"auto\", or a {e}"))
    }
    fn show(&self) -> Value {
        match self {
            Auto::Auto => Value::String("auto".into()),
            Auto::Fixed(t) => t.show(),
        }
    }
    fn magnitude(&self) -> Option<u64> {
        match self {
            Auto::Auto => None,
            Auto::Fixed(t) => t.magnitude(),
        }
    }
}

/// A token bucket: `amount` units flow in every `per`, and at most `burst` are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units (stanzas, failures) that flow in during `per`.
    pub amount: u64,
    /// One second, minute or hour.
    pub per: Duration,
    /// Units that the bucket holds, so the most that pass at once.
    pub burst: u64,
}

/// A [`Rate`] whose unit is the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(pub Rate);

impl Rate {
    /// Units in a second, rounded up, so never 0.
    pub fn per_second(&self) -> u64 {
        self.amount.div_ceil(self.per.as_secs().max(1))
    }

    fn parse(text: &str, number: impl Fn(&str) -> Option<u64>) -> Option<Rate> {
        let (rate, burst) = text.split_once(" burst ")?;
        let (amount, per) = rate.split_once('/')?;
        let per = match per.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return None,
        };
        let rate = Rate { amount: number(amount.trim())?, per, burst: number(burst.trim())? };
        (rate.amount > 0 && rate.burst > 0).then_some(rate)
    }

    fn text(&self, number: impl Fn(u64) -> String) -> String {
        let per = match self.per.as_secs() {
            3_600 => "h",
            60 => "m",
            _ => "s",
        };
        format!("{}/{per} burst {}", number(self.amount), number(self.burst))
    }
}

impl Setting for Rate {
    const TYPE: &'static str = "rate such as \"50/s burst 200\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let rate = value.as_str().and_then(|t| Rate::parse(t, |n| n.parse().ok()));
        rate.map_or_else(|| expected(Self::TYPE, value), Ok)
    }
    fn show(&self) -> Value {
        Value::String(self.text(|n| n.to_string()))
    }
}

impl Setting for ByteRate {
    const TYPE: &'static str = "rate such as \"64KiB/s burst 1MiB\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let rate = value.as_str().and_then(|t| Rate::parse(t, |n| units(n, SIZE_UNITS)));
        rate.map_or_else(|| expected(Self::TYPE, value), |r| Ok(ByteRate(r)))
    }
    fn show(&self) -> Value {
        Value::String(self.0.text(|n| Bytes(n).to_string()))
    }
}

impl Setting for PathBuf {
    const TYPE: &'static str = "path";
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(context.base.join(text)),
            _ => expected(Self::TYPE, value),
        }
    }
    fn show(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

/// One thing or a list of things.
fn one_or_many(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |list| list.iter().collect())
}

/// Where a listener binds. None: the listener is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<SocketAddr>);

impl Addresses {
    /// Every address of the machine, IPv4 and IPv6.
    pub(crate) fn any(port: u16) -> Addresses {
        Addresses(vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()])
    }
}

impl Setting for Addresses {
    const TYPE: &'static str = "address and port such as \"0.0.0.0:5222\", a list of them, or \"off\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        if value.as_str() == Some("off") {
            return Ok(Addresses(Vec::new()));
        }
        let mut all = Vec::new();
        for item in one_or_many(value) {
            match item.as_str().and_then(|t| t.parse().ok()) {
                Some(address) => all.push(address),
                None => return expected(Self::TYPE, value),
            }
        }
        Ok(Addresses(all))
    }
    fn show(&self) -> Value {
        match self.0.as_slice() {
            [] => Value::String("off".into()),
            [one] => Value::String(one.to_string()),
            many => Value::Array(many.iter().map(|a| Value::String(a.to_string())).collect()),
        }
    }
}

/// The domains that the server serves: at least one, each once, as RFC 7622 §3.2 prepares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains(pub Vec<String>);

impl Setting for Domains {
    const TYPE: &'static str = "domain such as \"example.org\", or a list of them";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let mut all: Vec<String> = Vec::new();
        for item in one_or_many(value) {
            let Some(domain) = item.as_str().and_then(domain) else { return expected(Self::TYPE, item) };
            if all.contains(&domain) {
                return Err(format!("each domain once, got \"{domain}\" twice"));
            }
            all.push(domain);
        }
        if all.is_empty() { expected(Self::TYPE, value) } else { Ok(Domains(all)) }
    }
    fn show(&self) -> Value {
        Value::Array(self.0.iter().map(|d| Value::String(d.clone())).collect())
    }
}

/// The prepared form of a domain, or none.
fn domain(text: &str) -> Option<String> {
    types::BareJid::from_domain(text).ok().map(|d| d.as_str().to_owned())
}

/// A certificate chain and its key, as PEM files. Which domains it serves is read from the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The private key; the file must not be readable by everybody.
    pub key: PathBuf,
}

impl Setting for Vec<CertificateFiles> {
    const TYPE: &'static str = "list of { chain = \"file.pem\", key = \"file.pem\" }";
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        let mut all = Vec::new();
        for item in one_or_many(value) {
            let table = item.as_table().filter(|t| t.keys().all(|k| k == "chain" || k == "key"));
            let (Some(chain), Some(key)) = (table.and_then(|t| t.get("chain")), table.and_then(|t| t.get("key"))) else {
                return expected(Self::TYPE, item);
            };
            let files = CertificateFiles { chain: PathBuf::read(chain, context)?, key: PathBuf::read(key, context)? };
            private(&files.key)?;
            all.push(files);
        }
        Ok(all)
    }
    fn show(&self) -> Value {
        let table = |f: &CertificateFiles| [("chain".to_owned(), f.chain.show()), ("key".to_owned(), f.key.show())].into_iter().collect();
        Value::Array(self.iter().map(|f| Value::Table(table(f))).collect())
    }
}

/// A text that is never shown, logged or compared in public. Its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Longest secret file that is read; a longer one is a mistake in the path.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

impl Setting for Secret {
    const TYPE: &'static str = "secret: { file = \"path\" }, { env = \"NAME\" } or { credential = \"name\" }";
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        if let Some(literal) = value.as_str() {
            return Ok(Secret::new(literal));
        }
        let table = value.as_table().filter(|t| t.len() == 1);
        let Some((kind, Some(name))) = table.and_then(|t| t.iter().next()).map(|(k, v)| (k.as_str(), v.as_str())) else {
            return Err(format!("{}, got something else", Self::TYPE));
        };
        let text = match kind {
            "file" => secret_file(&context.base.join(name))?,
            "env" => std::env::var(name).map_err(|_| format!("the environment variable {name} to be set"))?,
            // systemd puts the files of LoadCredential= there, readable by the service alone.
            "credential" => {
                let folder = std::env::var("CREDENTIALS_DIRECTORY");
                secret_file(&Path::new(&folder.map_err(|_| "$CREDENTIALS_DIRECTORY to be set (by systemd)".to_owned())?).join(name))?
            }
            other => return Err(format!("{}, got the kind \"{other}\"", Self::TYPE)),
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() { Err("a secret that is not empty".into()) } else { Ok(Secret::new(text)) }
    }
    fn show(&self) -> Value {
        Value::String("(secret)".into())
    }
}

fn secret_file(path: &Path) -> Result<String, String> {
    private(path)?;
    let problem = |e: std::io::Error| format!("a readable secret file, but {}: {e}", path.display());
    if std::fs::metadata(path).map_err(problem)?.len() > SECRET_BYTES_MAX {
        return Err(format!("a secret file of at most {SECRET_BYTES_MAX} bytes, but {} is larger", path.display()));
    }
    std::fs::read_to_string(path).map_err(problem)
}

/// A file with a secret exists and is closed to other users of the machine.
fn private(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("a file, but {}: {e}", path.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode();
        if mode & 0o007 != 0 {
            let (path, mode) = (path.display(), mode & 0o777);
            return Err(format!("a file that others cannot read, but {path} has mode {mode:04o}: run `chmod o= {path}`"));
        }
    }
    if meta.is_file() { Ok(()) } else { Err(format!("a file, but {} is none", path.display())) }
}

/// Settings that are one word out of a closed set.
macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident, $all:literal { $( #[doc = $vdoc:literal] $variant:ident = $text:literal ),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( #[doc = $vdoc] $variant ),+ }

        impl $name {
            /// The word in the file.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text ),+ }
            }
        }

        impl Setting for $name {
            const TYPE: &'static str = $all;
            fn read(value: &Value, _: &Context) -> Result<Self, String> {
                match value.as_str() { $( Some($text) => Ok($name::$variant), )+ _ => expected(Self::TYPE, value) }
            }
            fn show(&self) -> Value {
                Value::String(self.as_str().into())
            }
        }
    };
}

choice! {
    /// Which sessions a message to a bare JID reaches (RFC 6121 §8.5.2.1.1).
    BareJidRouting, "\"highest\" or \"all\"" {
        /// The session with the highest priority; of equals, the most recently connected.
        Highest = "highest",
        /// Every session whose priority is not negative.
        All = "all",
    }
}
choice! {
    /// What an account's archive keeps until its owner says otherwise (XEP-0313 §6).
    ArchiveDefault, "\"always\", \"roster\" or \"never\"" {
        /// Every message.
        Always = "always",
        /// Messages with contacts.
        Roster = "roster",
        /// Nothing.
        Never = "never",
    }
}
choice! {
    /// What happens when a client asks for a resource that another session has (RFC 6120 §7.7.2.2).
    BindConflict, "\"replace\", \"refuse\" or \"override\"" {
        /// The older session ends with `conflict`.
        Replace = "replace",
        /// The newer one gets a `conflict` error.
        Refuse = "refuse",
        /// The newer one gets a resource of the server's choice.
        Override = "override",
    }
}
choice! {
    /// How log lines look.
    LogFormat, "\"human\" or \"json\"" {
        /// For people at a terminal.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}
choice! {
    /// Lowest version of TLS (RFC 7590 §3.1 asks for 1.2 or later).
    TlsVersion, "\"1.2\" or \"1.3\"" {
        /// TLS 1.2 and 1.3.
        V12 = "1.2",
        /// TLS 1.3 alone.
        V13 = "1.3",
    }
}
choice! {
    /// A SASL mechanism by its registered name.
    Mechanism, "\"SCRAM-SHA-256-PLUS\", \"SCRAM-SHA-256\", \"SCRAM-SHA-1-PLUS\", \"SCRAM-SHA-1\" or \"PLAIN\"" {
        /// RFC 7677 with channel binding.
        ScramSha256Plus = "SCRAM-SHA-256-PLUS",
        /// RFC 7677.
        ScramSha256 = "SCRAM-SHA-256",
        /// RFC 5802 with channel binding.
        ScramSha1Plus = "SCRAM-SHA-1-PLUS",
        /// RFC 5802.
        ScramSha1 = "SCRAM-SHA-1",
        /// RFC 4616; under TLS only, whatever this says.
        Plain = "PLAIN",
    }
}

impl Setting for Vec<Mechanism> {
    const TYPE: &'static str = "list of SASL mechanisms";
    fn read(value: &Value, context: &Context) -> Result<Self, String> {
        let mut all = Vec::new();
        for item in one_or_many(value) {
            let mechanism = Mechanism::read(item, context)?;
            if all.contains(&mechanism) {
                return Err(format!("each mechanism once, got {item} twice"));
            }
            all.push(mechanism);
        }
        if all.is_empty() { expected("at least one mechanism", value) } else { Ok(all) }
    }
    fn show(&self) -> Value {
        Value::Array(self.iter().map(Mechanism::show).collect())
    }
}

/// A filter of log lines: a level, or levels by target (`"info,chappe_edge=debug"`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(pub String);

impl Setting for LogLevel {
    const TYPE: &'static str =
        "level (\"error\", \"warn\", \"info\", \"debug\", \"trace\"), or levels by target as \"info,chappe_edge=debug\"";
    fn read(value: &Value, _: &Context) -> Result<Self, String> {
        let level = |l: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&l);
        let name = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        let part = |p: &str| p.split_once('=').map_or_else(|| level(p), |(target, l)| name(target) && level(l));
        match value.as_str() {
            Some(text) if text.split(',').all(part) => Ok(LogLevel(text.to_owned())),
            _ => expected(Self::TYPE, value),
        }
    }
    fn show(&self) -> Value {
        Value::String(self.0.clone())
    }
}
