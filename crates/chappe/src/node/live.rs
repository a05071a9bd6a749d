//! From the configuration to the settings of the parts.

use config::{ArchiveDefault, BareJidRouting, BindConflict, ByteRate, Config};
use edge::{FailureRate, Limits, Live, Rate};
use entity::module::{self, ConflictPolicy};
use std::sync::Arc;
use std::time::Duration;
use stream::Settings;
use types::BareJid;

/// For the edge.
pub fn edge(config: &Config, decoy_secret: [u8; 32]) -> Live {
    Live { settings: Arc::new(streams(config, decoy_secret)), limits: limits(config) }
}

fn streams(config: &Config, decoy_secret: [u8; 32]) -> Settings {
    let (limits, auth) = (&config.limits, &config.auth);
    let domains: Vec<BareJid> = config.domains().iter().filter_map(|d| BareJid::from_domain(d).ok()).collect();
    let named = |m: &config::Mechanism| sasl::Mechanism::from_name(m.as_str());
    let mut settings = Settings::new(domains);
    settings.mechanisms = auth.mechanisms.iter().filter_map(named).collect();
    settings.tls_required = config.tls.required;
    settings.registration = config.registration.in_band;
    settings.iterations = auth.scram_iterations;
    settings.decoy_secret = decoy_secret;
    settings.stanza_bytes_max = limits.stanza_bytes.as_usize();
    settings.stanza_bytes_unauthenticated_max = limits.stanza_bytes_unauthenticated.as_usize();
    settings.unauthenticated_timeout = limits.unauthenticated_timeout;
    settings.login_tries_max = u8::try_from(limits.login_failures_per_connection).unwrap_or(u8::MAX);
    settings.idle_timeout = limits.idle_ping.unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
    settings.idle_answer_timeout = limits.idle_timeout;
    settings.resume_timeout = limits.resume_timeout;
    settings.resume_timeout_max = limits.resume_timeout_max;
    // XEP-0115 §6.3: a client that knows this server's capabilities need not ask for them.
    settings.features.more = modules::disco::server_caps(&modules::pipeline()).to_string();
    settings
}

fn rate(rate: Option<config::Rate>) -> Option<Rate> {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    rate.map(|r| Rate { per_second: narrow(r.per_second()), burst: narrow(r.burst) })
}

fn bytes(r: Option<ByteRate>) -> Option<Rate> {
    rate(r.map(|ByteRate(r)| r))
}

/// `amount` in `per` is one in each of so many milliseconds.
fn failures(r: config::Rate) -> FailureRate {
    let amount = u32::try_from(r.amount).unwrap_or(u32::MAX).max(1);
    FailureRate { every: r.per / amount, burst: u32::try_from(r.burst).unwrap_or(u32::MAX) }
}

fn limits(config: &Config) -> Limits {
    let l = &config.limits;
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Limits {
        connections_max: l.connections.map(count),
        connections_per_address_max: l.connections_per_address.map(count),
        bytes_per_connection: bytes(l.bytes_per_connection),
        bytes_per_address: bytes(l.bytes_per_address),
        stanzas_per_connection: rate(l.stanzas_per_connection),
        stanzas_per_address: rate(l.stanzas_per_address),
        login_failures_per_address: l.login_failures_per_address.map(failures),
        write_backlog_bytes_max: l.write_backlog.as_usize(),
        write_stall_max: l.write_timeout,
        tls_handshake_max: l.tls_handshake_timeout,
    }
}

/// For entities.
pub fn entities(config: &Config) -> module::Settings {
    let l = &config.limits;
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    module::Settings {
        domains: config.domains().iter().filter_map(|d| Some(BareJid::from_domain(d).ok()?.domain().to_owned())).collect(),
        bare_to_all: config.routing.bare_jid == BareJidRouting::All,
        archive_default: match config.archive.default {
            ArchiveDefault::Always => module::ArchiveDefault::Always,
            ArchiveDefault::Roster => module::ArchiveDefault::Roster,
            ArchiveDefault::Never => module::ArchiveDefault::Never,
        },
        conflict: match config.bind.conflict {
            BindConflict::Replace => ConflictPolicy::TerminateOld,
            BindConflict::Refuse => ConflictPolicy::DisallowNew,
            BindConflict::Override => ConflictPolicy::Override,
        },
        // Edges and shards live and die together here.
        attaching: Duration::ZERO,
        resume_secs_max: u32::try_from(l.resume_timeout_max.as_secs()).unwrap_or(u32::MAX),
        sessions_max: count(l.sessions_per_account),
        offline_rows_max: count(l.offline_rows),
        roster: entity::roster::Limits { items_max: count(l.roster_items), ..entity::roster::Limits::default() },
        login_failures_max: l.login_failures_per_account.unwrap_or(0),
        ..module::Settings::default()
    }
}
