//! Stream headers and features: what the two sides say before anything else (RFC 6120 §4.3, §4.7).

use crate::{Settings, StreamError};
use bytes::BufMut;
use types::{BareJid, Jid, ns};
use xml::{Header, Writer};

/// How far a stream has come; each step begins with a new header (RFC 6120 §4.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the clear.
    Plain,
    /// Under TLS.
    Secure,
    /// The client has proved who it is.
    Authenticated,
}

/// What is known of a stream when a header comes.
pub(crate) struct Context<'a> {
    pub settings: &'a Settings,
    /// The domain that an earlier header of this connection named.
    pub domain: Option<&'a BareJid>,
    /// Once authenticated.
    pub account: Option<&'a BareJid>,
    /// What the client asked TLS for.
    pub sni: Option<&'a str>,
}

/// The domain that a client's header addresses, as its place among those of the settings.
///
/// # Errors
/// The condition that closes the stream.
pub(crate) fn check(header: &Header, context: &Context<'_>) -> Result<u32, StreamError> {
    header.check(ns::CLIENT)?;
    // §4.9.3.6: no `to`, or a domain that is not served.
    let to = header.to.as_deref().ok_or(StreamError::HostUnknown)?;
    let to = Jid::parse(to).map_err(|_| StreamError::ImproperAddressing)?;
    if to.local().is_some() || to.is_full() {
        return Err(StreamError::ImproperAddressing);
    }
    let at = context.settings.domains.iter().position(|d| *d == to.domain()).ok_or(StreamError::HostUnknown)?;
    let domain = &context.settings.domains[at];
    match (context.account, context.domain) {
        // The identity that was proved is of one domain: another `to` asks for another identity.
        (Some(account), _) if account.domain() != domain.domain() => return Err(StreamError::InvalidFrom),
        (None, Some(before)) if before != domain => return Err(StreamError::HostUnknown),
        _ => {}
    }
    // A certificate for one domain is no promise about another one served here. Other names, such as that of a host
    // behind an SRV record, are the client's own affair.
    if context.sni.is_some_and(|sni| context.settings.domain(sni).is_some_and(|d| d != domain)) {
        return Err(StreamError::HostUnknown);
    }
    if let (Some(account), Some(from)) = (context.account, &header.from) {
        // §4.7.1: once authenticated, `from` is the client's address or absent.
        if Jid::parse(from).map(|from| from.to_bare()).as_ref() != Ok(account) {
            return Err(StreamError::InvalidFrom);
        }
    }
    u32::try_from(at).map_err(|_| StreamError::HostUnknown)
}

/// Writes the response header. `to` is the bare JID of what the client called itself (§4.7.2).
pub(crate) fn write(out: &mut impl BufMut, id: &str, from: &BareJid, received: Option<&Header>) {
    let to = received.and_then(|h| h.from.as_deref()).and_then(|from| Jid::parse(from).ok()).map(|from| from.to_bare());
    // §4.7.5: a client without a version is of 0.9 and gets none; the lower one counts, and ours is 1.0.
    let version = received.is_none_or(|h| h.version.is_some()).then_some("1.0");
    out.put_slice(b"<?xml version='1.0'?>");
    let mut tag = Vec::with_capacity(256);
    Writer::new(&mut tag)
        .open("stream:stream")
        .attr("xmlns", ns::CLIENT)
        .attr("xmlns:stream", ns::STREAM)
        .attr("id", id)
        .attr("from", from.as_str())
        .attr_opt("to", to.as_ref().map(BareJid::as_str))
        .attr_opt("version", version)
        .attr("xml:lang", "en");
    tag.push(b'>');
    out.put_slice(&tag);
}

/// What a stream of a level can be offered.
pub(crate) struct Offered<'a> {
    pub settings: &'a Settings,
    pub level: Level,
    /// Names of mechanisms.
    pub mechanisms: &'a [&'static str],
    /// Types of channel binding (XEP-0440).
    pub channel_bindings: &'a [&'static str],
}

/// Writes `<stream:features/>` (§4.3.2).
pub(crate) fn write_features(out: &mut impl BufMut, offered: &Offered<'_>) {
    let (settings, level) = (offered.settings, offered.level);
    let mut w = Writer::new(out).open("stream:features");
    if level == Level::Plain {
        w = w.open("starttls").attr("xmlns", ns::TLS);
        if settings.tls_required {
            w = w.open("required").close();
        }
        w = w.close();
    }
    if level < Level::Authenticated && !offered.mechanisms.is_empty() {
        if !offered.channel_bindings.is_empty() {
            w = w.open("sasl-channel-binding").attr("xmlns", ns::CHANNEL_BINDING);
            for kind in offered.channel_bindings {
                w = w.open("channel-binding").attr("type", kind).close();
            }
            w = w.close();
        }
        w = w.open("mechanisms").attr("xmlns", ns::SASL);
        for mechanism in offered.mechanisms {
            w = w.open("mechanism").text(mechanism).close();
        }
        w = w.close();
    }
    if may_register(settings, level) {
        w = w.open("register").attr("xmlns", ns::REGISTER_FEATURE).close();
    }
    if level == Level::Authenticated {
        w = w.open("bind").attr("xmlns", ns::BIND).close();
        // Clients of RFC 3921 wait for it; it does nothing.
        w = w.open("session").attr("xmlns", ns::SESSION).open("optional").close().close();
        let features = &settings.features;
        for (on, name, ns) in [
            (features.stream_management, "sm", ns::SM),
            (features.client_state, "csi", ns::CSI),
            (features.roster_versions, "ver", ns::ROSTER_VER),
            (features.pre_approval, "sub", ns::PRE_APPROVAL),
        ] {
            if on {
                w = w.open(name).attr("xmlns", ns).close();
            }
        }
        w = w.raw(features.more.as_bytes());
    }
    if settings.features.limits {
        let bytes = match level {
            Level::Authenticated => settings.stanza_bytes_max,
            _ => settings.stanza_bytes_unauthenticated_max,
        };
        w = w.open("limits").attr("xmlns", ns::LIMITS);
        w = w.open("max-bytes").text(&bytes.to_string()).close();
        if level == Level::Authenticated {
            w = w.open("idle-seconds").text(&settings.idle_timeout.as_secs().to_string()).close();
        }
        w = w.close();
    }
    w.close();
}

/// Whether a stream of this level can create an account (XEP-0077).
pub(crate) fn may_register(settings: &Settings, level: Level) -> bool {
    settings.registration && (level == Level::Secure || (level == Level::Plain && !settings.tls_required))
}
