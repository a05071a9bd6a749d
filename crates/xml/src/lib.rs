//! Push framer, strict tokenizer, small element tree and writer for XMPP's subset of XML (RFC 6120 §11).
//!
//! Bytes of a stream go into a [`Framer`], which hands out whole frames: the stream header, first-level elements, the end
//! tag. [`Header::parse`] reads the first kind, [`Element::parse`] or [`Tokens`] the second. [`Element::write`] and
//! [`Writer`] make text again, without prefixes for elements (RFC 6120 §8.4, "prefix-free canonicalization").
//!
//! Everything that comes in is checked: UTF-8, characters, names, attributes, namespaces, and the maxima of
//! [`types::limit`]. This crate never does I/O, never resolves an entity other than the five of XML 1.0, never reads a
//! document type, and never keeps more bytes than one frame.
//!
//! Start with [`Framer`], then [`Element`].

pub mod chars;
pub mod element;
mod error;
pub mod framer;
pub mod header;
mod intern;
mod scope;
mod tag;
pub mod token;
pub mod write;

pub use element::{Attr, Element, Node};
pub use error::XmlError;
pub use framer::{Frame, Framer, Limits};
pub use header::Header;
pub use intern::intern;
pub use scope::Scope;
pub use token::{Event, Tokens};
pub use write::{Writer, escape_attr, escape_text, rewrite};
