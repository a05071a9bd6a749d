//! XEP-0198: its elements, and its counters.
//!
//! The elements are no stanzas and are not counted. Who holds what is [`crate`]'s user's; here is only what they say.

use crate::StreamError;
use bytes::BufMut;
use types::ns;
use xml::{Element, Writer};

/// XEP-0198 §3: an id should not be longer.
pub const PREVID_BYTES_MAX: usize = 4_000;

/// What a client can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonza {
    /// Stanzas are counted from here on.
    Enable {
        /// The client wants to resume.
        resume: bool,
        /// Seconds for which, if it names them.
        max: Option<u32>,
    },
    /// Go on with an earlier session.
    Resume {
        /// The id that `<enabled/>` gave.
        previd: String,
        /// Stanzas that the client has handled.
        h: u32,
    },
    /// How many stanzas have been handled?
    Request,
    /// So many stanzas have been handled.
    Ack {
        /// Wraps at 2^32.
        h: u32,
    },
}

impl Nonza {
    /// Reads an element of `urn:xmpp:sm:3`.
    ///
    /// # Errors
    /// `unsupported-stanza-type` if it is none that a client may send, `bad-format` if its `h` or `previd` is not what it must be.
    pub fn parse(element: &Element) -> Result<Nonza, StreamError> {
        if element.ns != ns::SM {
            return Err(StreamError::UnsupportedStanzaType);
        }
        match element.name.as_str() {
            "enable" => Ok(Nonza::Enable {
                // Canonical lexical forms of xs:boolean (XEP-0198 §3).
                resume: matches!(element.attr("resume"), Some("true" | "1")),
                max: element.attr("max").and_then(unsigned_int),
            }),
            "resume" => Ok(Nonza::Resume { previd: element.attr("previd").ok_or(StreamError::BadFormat)?.to_owned(), h: h_of(element)? }),
            "r" => Ok(Nonza::Request),
            "a" => Ok(Nonza::Ack { h: h_of(element)? }),
            _ => Err(StreamError::UnsupportedStanzaType),
        }
    }
}

fn h_of(element: &Element) -> Result<u32, StreamError> {
    element.attr("h").and_then(unsigned_int).ok_or(StreamError::BadFormat)
}

/// `xs:unsignedInt`: digits only, below 2^32.
fn unsigned_int(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The count that crosses the wire for stanza `number` of a session whose counting began behind stanza `base`.
pub fn count(number: u64, base: u64) -> u32 {
    // XEP-0198 §4: from 2^32 - 1 back to zero.
    number.saturating_sub(base) as u32
}

/// The number of the last stanza that `h` acknowledges, given the last one acknowledged and the last one sent.
///
/// # Errors
/// [`StreamError::HandledCountTooHigh`] if more is acknowledged than was sent, `undefined-condition` if less than before.
pub fn acknowledged(h: u32, base: u64, acked: u64, sent: u64) -> Result<u64, StreamError> {
    let before = count(acked, base);
    // `h` wraps, so compare distances, never values.
    let distance = u64::from(h.wrapping_sub(before));
    if distance <= sent.saturating_sub(acked) {
        Ok(acked + distance)
    } else if distance < 1 << 31 {
        Err(StreamError::HandledCountTooHigh { h, send_count: count(sent, base) })
    } else {
        Err(StreamError::UndefinedCondition)
    }
}

/// `<enabled/>`. With `previd`, the session can be resumed for `max` seconds.
pub fn write_enabled(out: &mut impl BufMut, resume: Option<(&str, u32)>) {
    let enabled = Writer::new(out).open("enabled").attr("xmlns", ns::SM);
    match resume {
        Some((previd, max)) => enabled.attr("id", previd).attr("resume", "true").attr("max", &max.to_string()).close(),
        None => enabled.close(),
    };
}

/// `<resumed/>`.
pub fn write_resumed(out: &mut impl BufMut, previd: &str, h: u32) {
    Writer::new(out).open("resumed").attr("xmlns", ns::SM).attr("h", &h.to_string()).attr("previd", previd).close();
}

/// `<failed/>` with a condition of RFC 6120 §8.3.3, and `h` if it is known.
pub fn write_failed(out: &mut impl BufMut, condition: &str, h: Option<u32>) {
    let h = h.map(|h| h.to_string());
    let failed = Writer::new(out).open("failed").attr("xmlns", ns::SM).attr_opt("h", h.as_deref());
    failed.open(condition).attr("xmlns", ns::STANZAS).close().close();
}

/// `<a/>`.
pub fn write_ack(out: &mut impl BufMut, h: u32) {
    Writer::new(out).open("a").attr("xmlns", ns::SM).attr("h", &h.to_string()).close();
}

/// `<r/>`.
pub fn write_request(out: &mut impl BufMut) {
    Writer::new(out).open("r").attr("xmlns", ns::SM).close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read() {
        let check = |text: &str, wanted: Result<Nonza, StreamError>| {
            let element = Element::parse(text.as_bytes(), ns::CLIENT).unwrap();
            assert_eq!(Nonza::parse(&element), wanted, "{text}");
        };
        check("<enable xmlns='urn:xmpp:sm:3'/>", Ok(Nonza::Enable { resume: false, max: None }));
        check("<enable xmlns='urn:xmpp:sm:3' resume='1' max='60'/>", Ok(Nonza::Enable { resume: true, max: Some(60) }));
        check("<enable xmlns='urn:xmpp:sm:3' resume='true' max='-1'/>", Ok(Nonza::Enable { resume: true, max: None }));
        check("<r xmlns='urn:xmpp:sm:3'/>", Ok(Nonza::Request));
        check("<a xmlns='urn:xmpp:sm:3' h='4294967295'/>", Ok(Nonza::Ack { h: u32::MAX }));
        check("<resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>", Ok(Nonza::Resume { previd: "x".into(), h: 0 }));
        // G10, and what is missing.
        for h in ["h='-1'", "h='4294967296'", "h='abc'", "h=''", "h='+1'", ""] {
            check(&format!("<a xmlns='urn:xmpp:sm:3' {h}/>"), Err(StreamError::BadFormat));
            check(&format!("<resume xmlns='urn:xmpp:sm:3' previd='x' {h}/>"), Err(StreamError::BadFormat));
        }
        check("<resume xmlns='urn:xmpp:sm:3' h='0'/>", Err(StreamError::BadFormat));
        // G21, and what only a server says.
        check("<r xmlns='urn:xmpp:sm:2'/>", Err(StreamError::UnsupportedStanzaType));
        check("<enabled xmlns='urn:xmpp:sm:3'/>", Err(StreamError::UnsupportedStanzaType));
    }

    #[test]
    fn acknowledgements_wrap() {
        let wrap = 1 << 32;
        let too_high = |h, send_count| Err(StreamError::HandledCountTooHigh { h, send_count });
        // (h, base, acked, sent)
        for ((h, base, acked, sent), wanted) in [
            ((0, 0, 0, 0), Ok(0)),
            ((3, 0, 1, 5), Ok(3)),
            ((3, 7, 7, 12), Ok(10)),
            ((10, 0, 0, 8), too_high(10, 8)),
            ((1, 5, 5, 5), too_high(1, 0)),
            ((2, 0, 3, 5), Err(StreamError::UndefinedCondition)),
            // G11: the counter wraps between what was acknowledged and what was sent.
            ((u32::MAX, 0, wrap - 2, wrap + 2), Ok(wrap - 1)),
            ((0, 0, wrap - 2, wrap + 2), Ok(wrap)),
            ((2, 0, wrap - 2, wrap + 2), Ok(wrap + 2)),
            ((3, 0, wrap - 2, wrap + 2), too_high(3, 2)),
            ((u32::MAX, 0, wrap, wrap + 2), Err(StreamError::UndefinedCondition)),
        ] {
            assert_eq!(acknowledged(h, base, acked, sent), wanted, "h {h} base {base} acked {acked} sent {sent}");
        }
        assert_eq!(count(wrap + 5, 3), 2);
    }
}
