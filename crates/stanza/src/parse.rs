//! Reading stanzas.

use crate::child::WRAPPED_DEPTH_MAX;
use crate::{Child, Condition, Kind, Stanza, StanzaError, Type};
use bytes::Bytes;
use compact_str::CompactString;
use types::limit::{STANZA_CHILDREN_MAX, STANZA_ID_BYTES_MAX};
use types::{Jid, ns};
use xml::{Attr, Element, Event, Scope, Tokens, XmlError, intern};

/// A first-level element of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A message, presence or IQ.
    Stanza(Stanza),
    /// Something else: negotiation, XEP-0198, stream errors. What the stream does not expect is to be refused with
    /// `unsupported-stanza-type` (RFC 6120 §4.8.4).
    Other(Element),
    /// A stanza with an address that is none.
    Malformed(Malformed),
}

/// A stanza whose `to` or `from` is no JID. In `stanza` that address is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What else the stanza says.
    pub stanza: Stanza,
    /// `to` as written, if it is no JID.
    pub to: Option<CompactString>,
    /// `from` as written, if it is no JID: on a client's stream an `invalid-from` stream error (RFC 6120 §8.1.2.1), between
    /// servers an `improper-addressing` one (§8.1.2.2).
    pub from: Option<CompactString>,
}

impl Malformed {
    /// The `jid-malformed` error that answers it (RFC 6120 §8.3.3.8), without a `from`: that would be malformed too (§8.3.1
    /// rule 2). `None` if it must not be answered.
    pub fn reply(&self) -> Option<Stanza> {
        StanzaError::new(Condition::JidMalformed).reply_to(&self.stanza)
    }
}

impl Stanza {
    /// Reads a first-level element of a stream whose default namespace is `stream_ns`, which declares the prefix `stream` and
    /// no other.
    ///
    /// # Errors
    /// What is wrong with it, as a stream error; `UnsupportedStanzaType` for a stanza in the other content namespace.
    pub fn parse(frame: Bytes, stream_ns: &str) -> Result<Parsed, XmlError> {
        let mut tokens = Tokens::with(&frame, [("", stream_ns), ("stream", ns::STREAM)])?;
        match Reading::new(&frame, stream_ns).read(&mut tokens)? {
            Some(parsed) => Ok(parsed),
            None => Ok(Parsed::Other(Element::parse_in(&frame, &Scope::of_stream(stream_ns))?)),
        }
    }

    /// As [`Stanza::parse`], for a stream whose header declares the namespaces of `scope`, and whose stanzas are in
    /// `content_ns`.
    ///
    /// # Errors
    /// As [`Stanza::parse`].
    pub fn parse_in(frame: Bytes, scope: &Scope, content_ns: &str) -> Result<Parsed, XmlError> {
        match Reading::new(&frame, content_ns).read(&mut Tokens::new(&frame, scope)?)? {
            Some(parsed) => Ok(parsed),
            None => Ok(Parsed::Other(Element::parse_in(&frame, scope)?)),
        }
    }

    /// Reads what [`Stanza::write`] wrote.
    ///
    /// # Errors
    /// What is wrong with it; `InvalidXml` if it is no stanza.
    pub fn decode(bytes: Bytes) -> Result<Stanza, XmlError> {
        let mut tokens = Tokens::with(&bytes, [("", ns::CLIENT)])?.with_depth_max(WRAPPED_DEPTH_MAX);
        let reading = Reading { children_max: usize::MAX, ..Reading::new(&bytes, ns::CLIENT) };
        match reading.read(&mut tokens)? {
            Some(Parsed::Stanza(stanza)) => Ok(stanza),
            _ => Err(XmlError::InvalidXml),
        }
    }
}

struct Reading<'f> {
    frame: &'f Bytes,
    content_ns: &'f str,
    children_max: usize,
}

/// A head, and the addresses in it that are none.
struct Head {
    stanza: Stanza,
    bad_to: Option<CompactString>,
    bad_from: Option<CompactString>,
}

impl<'f> Reading<'f> {
    fn new(frame: &'f Bytes, content_ns: &'f str) -> Reading<'f> {
        Reading { frame, content_ns, children_max: STANZA_CHILDREN_MAX }
    }

    /// `None` if the element is no stanza.
    fn read(&self, tokens: &mut Tokens<'f>) -> Result<Option<Parsed>, XmlError> {
        tokens.next()?;
        let Some(kind) = Kind::of_name(tokens.name()) else {
            return Ok(None);
        };
        if tokens.ns() != self.content_ns {
            return match tokens.ns() {
                ns::CLIENT | ns::SERVER => Err(XmlError::UnsupportedStanzaType),
                _ => Ok(None),
            };
        }
        let Head { mut stanza, bad_to, bad_from } = read_head(kind, tokens)?;
        self.read_children(tokens, &mut stanza.children)?;
        if bad_to.is_none() && bad_from.is_none() {
            return Ok(Some(Parsed::Stanza(stanza)));
        }
        Ok(Some(Parsed::Malformed(Malformed { stanza, to: bad_to, from: bad_from })))
    }

    /// Reads up to the end of the frame.
    fn read_children(&self, tokens: &mut Tokens<'f>, children: &mut Vec<Child>) -> Result<(), XmlError> {
        loop {
            tokens.watch(self.content_ns);
            match tokens.next()? {
                Event::Start if children.len() == self.children_max => return Err(XmlError::PolicyViolation),
                Event::Start => {
                    if children.is_empty() {
                        children.reserve(4);
                    }
                    children.push(self.read_child(tokens)?);
                }
                Event::Text(_) | Event::End => {}
                Event::Eof => return Ok(()),
            }
        }
    }

    /// Reads a child whose start tag is the current token.
    fn read_child(&self, tokens: &mut Tokens<'f>) -> Result<Child, XmlError> {
        let from = tokens.start_position();
        let name = CompactString::new(tokens.name());
        let ns = if tokens.ns() == self.content_ns { intern(ns::CLIENT) } else { intern(tokens.ns()) };
        let depth = tokens.depth();
        while tokens.next()? != Event::End || tokens.depth() != depth {}
        let range = from..tokens.position();
        let bytes = if tokens.alike() {
            self.frame.slice(range)
        } else {
            let mut out = Vec::with_capacity(range.len() + range.len() / 4);
            let scope = tokens.scope_outside();
            let again = Tokens::new(&self.frame[range], &scope)?.with_depth_max(WRAPPED_DEPTH_MAX);
            xml::rewrite(again, self.content_ns, &mut out)?;
            Bytes::from(out)
        };
        Ok(Child { name, ns, bytes })
    }
}

fn read_head(kind: Kind, tokens: &Tokens<'_>) -> Result<Head, XmlError> {
    let mut head = Head { stanza: Stanza::new(kind, Type::Absent), bad_to: None, bad_from: None };
    let stanza = &mut head.stanza;
    for attr in tokens.attrs() {
        match (attr.ns, attr.name) {
            ("", "to") => match Jid::parse(attr.value) {
                Ok(to) => stanza.to = Some(to),
                Err(_) => head.bad_to = Some(attr.value.into()),
            },
            ("", "from") => match Jid::parse(attr.value) {
                Ok(from) => stanza.from = Some(from),
                Err(_) => head.bad_from = Some(attr.value.into()),
            },
            ("", "id") if attr.value.len() > STANZA_ID_BYTES_MAX => return Err(XmlError::PolicyViolation),
            ("", "id") => stanza.id = Some(attr.value.into()),
            ("", "type") => stanza.type_ = Type::from(attr.value),
            (ns::XML, "lang") => stanza.lang = Some(attr.value.into()),
            (ns, name) => stanza.other_attrs.push(Attr { ns: intern(ns), name: name.into(), value: attr.value.into() }),
        }
    }
    Ok(head)
}
