//! XEP-0297: Stanza Forwarding: a whole stanza inside another one.

use bytes::{Bytes, BytesMut};
use stanza::Child;
use types::{Timestamp, ns};
use xml::Writer;

/// `<name xmlns='ns' attrs…><forwarded><delay/><message/></forwarded></name>`; the delay if there is a stamp. `stanza` is what
/// [`Stanza::write`](stanza::Stanza::write) wrote, for a stream in `jabber:client`: in here it must say so.
pub(crate) fn wrapped(name: &str, ns: &str, attrs: &[(&str, &str)], stamp: Option<Timestamp>, stanza: &[u8]) -> Child {
    let mut out = BytesMut::with_capacity(stanza.len() + 256);
    let mut w = Writer::new(&mut out).open(name).attr("xmlns", ns);
    for (name, value) in attrs {
        w = w.attr(name, value);
    }
    w = w.open("forwarded").attr("xmlns", ns::FORWARD);
    if let Some(stamp) = stamp {
        w = w.open("delay").attr("xmlns", ns::DELAY).attr("stamp", &stamp.to_string()).close();
    }
    let name_end = stanza.iter().position(|b| matches!(b, b' ' | b'/' | b'>')).unwrap_or(stanza.len());
    let (tag, rest) = stanza.split_at(name_end);
    w.raw(tag).raw(b" xmlns='jabber:client'").raw(rest).close().close();
    Child { name: name.into(), ns: ns.into(), bytes: Bytes::from(out) }
}
