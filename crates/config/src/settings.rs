//! Every setting, once: from this table come the structs, the parser, `config show` and the reference.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use types::limit;

use crate::value::*;

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// At the next reload; what is already open may keep the old value until it ends.
    Live,
    /// At the next start.
    Restart,
}

/// One setting's facts.
pub struct Opt {
    /// Path in the file, as `limits.stanza_bytes`.
    pub key: &'static str,
    /// What it takes.
    pub kind: &'static str,
    /// Least and greatest value, in the words of a file.
    pub range: Option<(&'static str, &'static str)>,
    /// When a change takes effect.
    pub apply: Apply,
    /// What it does.
    pub doc: &'static str,
    pub(crate) set: fn(&mut Settings, &Value, &Context) -> Result<(), String>,
    pub(crate) get: fn(&Settings) -> Value,
    copy: fn(&Settings, &mut Settings),
    same: fn(&Settings, &Settings) -> bool,
}

impl Opt {
    /// Copies the setting's value.
    pub(crate) fn copy(&self, from: &Settings, to: &mut Settings) {
        (self.copy)(from, to);
    }

    /// Whether both have the same value, secrets included.
    pub(crate) fn same(&self, a: &Settings, b: &Settings) -> bool {
        (self.same)(a, b)
    }
}

impl std::fmt::Debug for Opt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

/// One section's facts.
#[derive(Debug)]
pub struct Section {
    /// Name in the file; empty for the keys that stand before every section.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
}

fn bound(text: &str) -> Value {
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
}

/// Reads a value and holds it against its range.
fn read_within<T: Setting>(value: &Value, range: Option<(&str, &str)>, context: &Context) -> Result<T, String> {
    let read = T::read(value, context)?;
    if let (Some((least, greatest)), Some(size)) = (range, read.magnitude()) {
        let limit = |text: &str| T::read(&bound(text), context).ok().and_then(|t| t.magnitude());
        if limit(least).is_some_and(|l| size < l) || limit(greatest).is_some_and(|g| size > g) {
            return Err(format!("{} from {least} to {greatest}, got {value}", T::TYPE));
        }
    }
    Ok(read)
}

macro_rules! range {
    () => {
        None
    };
    ($least:literal $greatest:literal) => {
        Some(($least, $greatest))
    };
}

macro_rules! settings {
    ($(
        $(#[doc = $sdoc:literal])+
        $section:ident $name:literal $prefix:literal $Struct:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $t:ty = $default:expr, $apply:ident $(, $least:literal to $greatest:literal)?; )+
        }
    )+) => {
        $(
            $(#[doc = $sdoc])+
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $Struct { $( $(#[doc = $doc])+ pub $field: $t, )+ }

            impl Default for $Struct {
                fn default() -> Self {
                    $Struct { $( $field: $default, )+ }
                }
            }
        )+

        /// Every setting's value.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Settings { $( $(#[doc = $sdoc])+ pub $section: $Struct, )+ }

        /// Every setting, in the order of the reference.
        pub static OPTS: &[Opt] = &[$($(
            Opt {
                key: concat!($prefix, stringify!($field)),
                kind: <$t as Setting>::TYPE,
                range: range!($($least $greatest)?),
                apply: Apply::$apply,
                doc: concat!($($doc, "\n"),+),
                set: |settings, value, context| {
                    settings.$section.$field = read_within(value, range!($($least $greatest)?), context)?;
                    Ok(())
                },
                get: |settings| settings.$section.$field.show(),
                copy: |from, to| to.$section.$field = from.$section.$field.clone(),
                same: |a, b| a.$section.$field == b.$section.$field,
            },
        )+)+];

        /// Every section, in the order of the reference.
        pub static SECTIONS: &[Section] = &[$( Section { name: $name, doc: concat!($($sdoc, "\n"),+) }, )+];
    };
}

fn rate(amount: u64, seconds: u64, burst: u64) -> Rate {
    Rate { amount, per: Duration::from_secs(seconds), burst }
}

fn bytes(n: usize) -> Bytes {
    Bytes(u64::try_from(n).unwrap_or(u64::MAX))
}

/// Counts in `types::limit` are small constants of the source.
const fn count(n: usize) -> u32 {
    assert!(n <= u32::MAX as usize);
    n as u32
}

settings! {
    /// The node itself.
    node "" "" Node {
        /// The domains served. The first is the default one of commands.
        domains: Domains = Domains(vec!["localhost".into()]), Restart;
        /// Folder of everything that must survive: messages, accounts, the self-made certificate, the admin token.
        /// Without this key: `$CHAPPE_DATA`, or else `data` in the working directory.
        data_dir: PathBuf = PathBuf::from("data"), Restart;
    }

    /// Where the server listens: an address and port, a list of them, or "off". `[::]` is IPv6 alone, `0.0.0.0` IPv4 alone.
    listen "listen" "listen." Listen {
        /// Clients, with STARTTLS (RFC 6120 §5).
        c2s: Addresses = Addresses::any(5222), Restart;
        /// Clients, TLS from the first byte (XEP-0368).
        c2s_tls: Addresses = Addresses::any(5223), Restart;
        /// Health, metrics and the admin interface. Keep it on the loopback: it speaks plain HTTP.
        admin: Addresses = Addresses(vec![(Ipv4Addr::LOCALHOST, 5280).into()]), Restart;
    }

    /// Certificates and versions of TLS.
    tls "tls" "tls." Tls {
        /// Certificates with their keys; each serves the domains it names.
        /// A domain that none of them names gets a self-made certificate, kept in the data folder.
        certificates: Vec<CertificateFiles> = Vec::new(), Live;
        /// Lowest version of TLS that clients may use.
        min_version: TlsVersion = TlsVersion::V12, Restart;
        /// Whether a client must start TLS before it logs in (RFC 7590 §3.1). Switch it off only where nobody can listen:
        /// what clients say is then readable on the way, and SCRAM alone protects the password.
        required: bool = true, Restart;
    }

    /// Login (RFC 6120 §6).
    auth "auth" "auth." Auth {
        /// SASL mechanisms that are offered, best first. PLAIN is offered under TLS only.
        mechanisms: Vec<Mechanism> = vec![
            Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::ScramSha1Plus, Mechanism::ScramSha1, Mechanism::Plain,
        ], Live;
        /// Rounds of PBKDF2 in keys made from now on (RFC 7677 §4 asks for 4096 or more).
        scram_iterations: u32 = 10_000, Live, "4096" to "1000000";
    }

    /// Accounts made by clients (XEP-0077).
    registration "registration" "registration." Registration {
        /// Lets anybody who can connect make an account.
        in_band: bool = false, Live;
    }

    /// Log lines. They never hold message bodies or credentials.
    log "log" "log." Log {
        /// How lines look.
        format: LogFormat = LogFormat::Human, Restart;
        /// What is logged.
        level: LogLevel = LogLevel("info".into()), Live;
    }

    /// What one client, one address or one account may use. A rate that is exceeded slows reading; nothing is dropped.
    limits "limits" "limits." Limits {
        /// Bytes read from one connection.
        bytes_per_connection: Option<ByteRate> = Some(ByteRate(rate(256 << 10, 1, 1 << 20))), Live;
        /// Stanzas read from one connection.
        stanzas_per_connection: Option<Rate> = Some(rate(100, 1, 1_000)), Live;
        /// Bytes read from all connections of one address (IPv6: one /64).
        bytes_per_address: Option<ByteRate> = Some(ByteRate(rate(4 << 20, 1, 16 << 20))), Live;
        /// Stanzas read from all connections of one address (IPv6: one /64).
        stanzas_per_address: Option<Rate> = Some(rate(1_000, 1, 10_000)), Live;
        /// Connections in all; one more is closed at once.
        connections: Option<u32> = Some(100_000), Live, "1" to "10000000";
        /// Connections of one address (IPv6: one /64); one more is closed at once.
        connections_per_address: Option<u32> = Some(100), Live, "1" to "1000000";
        /// Failed logins of one address (IPv6: one /64); beyond that every login waits or fails.
        login_failures_per_address: Option<Rate> = Some(rate(20, 60, 40)), Live;
        /// Failed logins of one account within a minute; further ones are put off.
        login_failures_per_account: Option<u32> = Some(60), Live, "1" to "1000000";
        /// Failed logins on one connection before it is closed (RFC 6120 §6.4.5: from 2 to 5).
        login_failures_per_connection: u16 = 5, Live, "1" to "100";
        /// A larger stanza closes the stream with `policy-violation` (RFC 6120 §13.12: not below 10,000 bytes).
        stanza_bytes: Bytes = bytes(limit::STANZA_BYTES_MAX), Live, "10kB" to "16MiB";
        /// The same before login.
        stanza_bytes_unauthenticated: Bytes = bytes(limit::STANZA_BYTES_UNAUTHENTICATED_MAX), Live, "10kB" to "1MiB";
        /// A TLS handshake that takes longer ends its connection.
        tls_handshake_timeout: Duration = Duration::from_secs(15), Live, "1s" to "5m";
        /// A connection that has no session by then is closed with `connection-timeout`.
        unauthenticated_timeout: Duration = Duration::from_secs(30), Live, "1s" to "10m";
        /// A client that sent nothing for so long is asked whether it is there (RFC 6120 §4.6.4).
        idle_ping: Option<Duration> = Some(Duration::from_secs(300)), Live, "1s" to "1d";
        /// How long it may take to answer before its connection is taken for dead.
        idle_timeout: Duration = Duration::from_secs(60), Live, "1s" to "1h";
        /// Bytes that wait for one client to read them; one more ends its connection. Its session can be resumed.
        write_backlog: Bytes = Bytes(1 << 20), Live, "64KiB" to "64MiB";
        /// A client that takes none of the bytes that wait for it is taken for dead after so long.
        write_timeout: Duration = Duration::from_secs(60), Live, "1s" to "1h";
        /// How long a session outlives its connection (XEP-0198), if the client names no time.
        resume_timeout: Duration = limit::RESUME_TIMEOUT, Live, "1s" to "1d";
        /// The longest that a client can ask for.
        resume_timeout_max: Duration = limit::RESUME_TIMEOUT_MAX, Live, "1s" to "1d";
        /// Sessions of one account; one more is refused with `resource-constraint`.
        sessions_per_account: u32 = count(limit::SESSIONS_MAX), Live, "1" to "1000";
        /// Items of one roster.
        roster_items: u32 = count(limit::ROSTER_ITEMS_MAX), Live, "1" to "100000";
        /// Messages that wait for an account without a session (XEP-0160); then senders get `service-unavailable`.
        offline_rows: u32 = count(limit::OFFLINE_ROWS_MAX), Live, "0" to "1000000";
    }

    /// Which sessions get a message.
    routing "routing" "routing." Routing {
        /// A message to a bare JID goes to the session with the highest priority (of equals, the most recently
        /// connected), or to all whose priority is not negative.
        bare_jid: BareJidRouting = BareJidRouting::Highest, Live;
    }

    /// The message archive (XEP-0313).
    archive "archive" "archive." Archive {
        /// What is kept for an account that has set no preference.
        default: ArchiveDefault = ArchiveDefault::Always, Live;
    }

    /// Resource binding (RFC 6120 §7).
    bind "bind" "bind." Bind {
        /// When a resource is taken: end the older session, refuse the newer one, or give it another resource.
        conflict: BindConflict = BindConflict::Replace, Live;
    }

    /// The embedded store.
    store "store" "store." Store {
        /// How long the first write of a group waits for others to share its flush; while many write, 2 ms at least.
        group_wait: Duration = Duration::ZERO, Restart, "0ms" to "1s";
        /// Below so much free disk space, messages are refused with `resource-constraint`.
        low_space: Option<Bytes> = Some(Bytes(1 << 30)), Restart, "1MiB" to "1024GiB";
        /// Threads that read.
        readers: u16 = 2, Restart, "1" to "256";
        /// Memory for blocks of the data files.
        cache: Bytes = Bytes(64 << 20), Restart, "1MiB" to "1024GiB";
        /// Journal that is kept before memory is written to data files.
        journal: Bytes = Bytes(512 << 20), Restart, "64MiB" to "64GiB";
    }

    /// How the node is cut for many cores and, later, many machines.
    cluster "cluster" "cluster." Cluster {
        /// Slices of the JID space. Fixed when the data folder is made.
        shards: u16 = 1_024, Restart, "1" to "65535";
        /// Threads that hold connections and shards; "auto" is one for each CPU.
        planes: Auto<u16> = Auto::Auto, Restart, "1" to "1024";
    }

    /// The admin interface.
    admin "admin" "admin." Admin {
        /// The bearer token that the interface asks for. Without this key one is made at the first start
        /// and kept in `admin.token` in the data folder, where the commands find it.
        token: Auto<Secret> = Auto::Auto, Restart;
    }
}
