//! XEP-0297: Stanza Forwarding: a whole stanza inside another one.

use bytes::{Bytes, BytesMut};
use stanza::{Child, Stanza};
use types::{Timestamp, ns};
use xml::Writer;

/// `<name xmlns='ns' attrs…><forwarded><delay/><message/></forwarded></name>`; the delay if there is a stamp.
pub(crate) fn wrapped(name: &str, ns: &str, attrs: &[(&str, &str)], stamp: Option<Timestamp>, stanza: &Stanza) -> Child {
    let mut inner = BytesMut::with_capacity(stanza.encoded_len_hint() + 32);
    stanza.write_with_ns(&mut inner);
    let mut out = BytesMut::with_capacity(inner.len() + 256);
    let mut w = Writer::new(&mut out).open(name).attr("xmlns", ns);
    for (name, value) in attrs {
        w = w.attr(name, value);
    }
    w = w.open("forwarded").attr("xmlns", ns::FORWARD);
    if let Some(stamp) = stamp {
        w = w.open("delay").attr("xmlns", ns::DELAY).attr("stamp", &stamp.to_string()).close();
    }
    w.raw(&inner).close().close();
    Child { name: name.into(), ns: ns.into(), bytes: Bytes::from(out) }
}
