//! The stanza itself: its head, builders, writing.

use crate::{Child, IqType, Kind, MessageType, PresenceType, Type};
use bytes::{BufMut, Bytes, BytesMut};
use compact_str::CompactString;
use types::{Jid, ns};
use xml::write::Prefixes;
use xml::{Attr, Element, escape_attr};

/// A message, presence or IQ: values of the head, bytes of the children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Which of the three.
    pub kind: Kind,
    /// `type` as written.
    pub type_: Type,
    /// Addressee.
    pub to: Option<Jid>,
    /// Sender.
    pub from: Option<Jid>,
    /// `id`, of at most [`types::limit::STANZA_ID_BYTES_MAX`] bytes if it was received.
    pub id: Option<CompactString>,
    /// `xml:lang`.
    pub lang: Option<CompactString>,
    /// Extension attributes (RFC 6120 §8.4); hardly ever any.
    pub other_attrs: Vec<Attr>,
    /// Children in the order written. Text beside them is no part of a stanza.
    pub children: Vec<Child>,
}

impl Stanza {
    /// An empty stanza.
    pub fn new(kind: Kind, type_: impl Into<Type>) -> Stanza {
        Stanza { kind, type_: type_.into(), to: None, from: None, id: None, lang: None, other_attrs: Vec::new(), children: Vec::new() }
    }

    /// A message without content.
    pub fn message(to: impl Into<Jid>, type_: MessageType) -> Stanza {
        Stanza::new(Kind::Message, type_).with_to(to)
    }

    /// A presence without content; `None` means available.
    pub fn presence(type_: Option<PresenceType>) -> Stanza {
        Stanza::new(Kind::Presence, type_.map_or(Type::Absent, Type::from))
    }

    /// An IQ without payload.
    pub fn iq(type_: IqType, id: &str) -> Stanza {
        Stanza::new(Kind::Iq, type_).with_id(id)
    }

    /// The answer to an IQ get or set: addresses swapped, same id (RFC 6120 §8.2.3).
    pub fn result(&self, payload: Option<Element>) -> Stanza {
        let mut result = Stanza::new(Kind::Iq, Type::Result);
        result.to = self.from.clone();
        result.from = self.to.clone();
        result.id = self.id.clone();
        result.children.extend(payload.map(Child::from));
        result
    }

    /// With this sender.
    pub fn with_from(mut self, from: impl Into<Jid>) -> Stanza {
        self.from = Some(from.into());
        self
    }

    /// With this addressee.
    pub fn with_to(mut self, to: impl Into<Jid>) -> Stanza {
        self.to = Some(to.into());
        self
    }

    /// With this id.
    pub fn with_id(mut self, id: &str) -> Stanza {
        self.id = Some(CompactString::new(id));
        self
    }

    /// With this language.
    pub fn with_lang(mut self, lang: &str) -> Stanza {
        self.lang = Some(CompactString::new(lang));
        self
    }

    /// With a child added.
    pub fn with_child(mut self, child: impl Into<Child>) -> Stanza {
        self.children.push(child.into());
        self
    }

    /// With a child added.
    pub fn with_child_element(self, child: &Element) -> Stanza {
        self.with_child(child)
    }

    /// With a `<body/>` added.
    pub fn with_body(self, text: &str) -> Stanza {
        self.with_child(Element::new("body", ns::CLIENT).with_text(text))
    }

    /// The first child of this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Child> {
        self.children.iter().find(|c| c.is(name, ns))
    }

    /// The first child, which is the payload of an IQ get, set or result.
    pub fn payload(&self) -> Option<&Child> {
        self.children.first()
    }

    /// Drops the children for which `keep` is false.
    pub fn retain_children(&mut self, keep: impl FnMut(&Child) -> bool) {
        self.children.retain(keep);
    }

    /// Whether there is a `<body/>`.
    pub fn has_body(&self) -> bool {
        self.child("body", ns::CLIENT).is_some()
    }

    /// Whether it is an error stanza.
    pub fn is_error(&self) -> bool {
        self.type_ == Type::Error
    }

    /// What `type` means on a message: no value and an unknown one are normal (RFC 6121 §5.2.2).
    pub fn message_type(&self) -> MessageType {
        match self.type_ {
            Type::Chat => MessageType::Chat,
            Type::Groupchat => MessageType::Groupchat,
            Type::Headline => MessageType::Headline,
            Type::Error => MessageType::Error,
            _ => MessageType::Normal,
        }
    }

    /// What `type` means on a presence; `None` is available (RFC 6121 §4.7.1).
    pub fn presence_type(&self) -> Option<PresenceType> {
        Some(match self.type_ {
            Type::Absent => return None,
            Type::Unavailable => PresenceType::Unavailable,
            Type::Subscribe => PresenceType::Subscribe,
            Type::Subscribed => PresenceType::Subscribed,
            Type::Unsubscribe => PresenceType::Unsubscribe,
            Type::Unsubscribed => PresenceType::Unsubscribed,
            Type::Probe => PresenceType::Probe,
            Type::Error => PresenceType::Error,
            _ => PresenceType::Unknown,
        })
    }

    /// What `type` means on an IQ; `None` if it is missing or unknown, which is a `bad-request` (RFC 6120 §8.2.3).
    pub fn iq_type(&self) -> Option<IqType> {
        match self.type_ {
            Type::Get => Some(IqType::Get),
            Type::Set => Some(IqType::Set),
            Type::Result => Some(IqType::Result),
            Type::Error => Some(IqType::Error),
            _ => None,
        }
    }

    /// Whether it is an IQ of type get or set, which must be answered.
    pub fn is_request(&self) -> bool {
        self.kind == Kind::Iq && matches!(self.type_, Type::Get | Type::Set)
    }

    /// Writes the stanza. The namespace is the stream's default one, `jabber:client` or `jabber:server`.
    pub fn write(&self, out: &mut impl BufMut) {
        self.write_head(out, None, None);
    }

    /// As [`Stanza::write`]; without `to` it is addressed to `own`.
    pub fn write_to(&self, own: &str, out: &mut impl BufMut) {
        self.write_head(out, None, Some(own));
    }

    /// Writes the stanza with its own `xmlns='jabber:client'`, as it stands in `<forwarded/>` or in a WebSocket frame.
    pub fn write_with_ns(&self, out: &mut impl BufMut) {
        self.write_head(out, Some(ns::CLIENT), None);
    }

    fn write_head(&self, out: &mut impl BufMut, own_ns: Option<&str>, own: Option<&str>) {
        out.put_slice(b"<");
        out.put_slice(self.kind.name().as_bytes());
        let attrs = [
            (" xmlns='", own_ns),
            (" to='", self.to.as_ref().map(Jid::as_str).or(own)),
            (" from='", self.from.as_ref().map(Jid::as_str)),
            (" id='", self.id.as_deref()),
            (" type='", self.type_.as_str()),
            (" xml:lang='", self.lang.as_deref()),
        ];
        for (name, value) in attrs {
            let Some(value) = value else { continue };
            out.put_slice(name.as_bytes());
            escape_attr(value, out);
            out.put_slice(b"'");
        }
        let mut prefixes = Prefixes::default();
        for attr in &self.other_attrs {
            prefixes.write_attr(out, attr.borrow());
        }
        if self.children.is_empty() {
            return out.put_slice(b"/>");
        }
        out.put_slice(b">");
        for child in &self.children {
            out.put_slice(&child.bytes);
        }
        out.put_slice(b"</");
        out.put_slice(self.kind.name().as_bytes());
        out.put_slice(b">");
    }

    /// The stanza as [`Stanza::write`] writes it.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len_hint());
        self.write(&mut out);
        out.freeze()
    }

    /// The stanza as an element in `jabber:client`, as it stands in `<forwarded/>`.
    ///
    /// # Errors
    /// As [`Child::element`].
    pub fn to_element(&self) -> Result<Element, xml::XmlError> {
        let tokens = xml::Tokens::with;
        let bytes = self.to_bytes();
        Element::read(tokens(&bytes, [("", ns::CLIENT)])?.with_depth_max(crate::child::WRAPPED_DEPTH_MAX))
    }

    /// About how many bytes [`Stanza::write`] writes: exact but for what is escaped and for extension attributes.
    pub fn encoded_len_hint(&self) -> usize {
        let value = |v: Option<&str>, around: usize| v.map_or(0, |v| v.len() + around);
        let children: usize = self.children.iter().map(|c| c.bytes.len()).sum();
        2 * self.kind.name().len()
            + "<></>".len()
            + value(self.to.as_ref().map(Jid::as_str), " to=''".len())
            + value(self.from.as_ref().map(Jid::as_str), " from=''".len())
            + value(self.id.as_deref(), " id=''".len())
            + value(self.type_.as_str(), " type=''".len())
            + value(self.lang.as_deref(), " xml:lang=''".len())
            + children
    }
}
