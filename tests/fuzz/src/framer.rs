//! Framer and parser: any split of a stream gives the same frames and the same error; what is accepted, refused and read
//! is what the second parser says; what is written again is read again as the same, by both.
//!
//! The first byte says how the stream is cut and how long a frame may be, the rest is the stream.

use crate::input::pieces;
use crate::memory::within;
use crate::witness::{self, Document, State, sorted};
use types::ns;
use xml::{Element, Frame, Framer, Header, Limits, Tokens, XmlError};

/// Bytes of memory for each byte of an element: `<a/>` becomes an [`Element`] of some hundred bytes in a vector that
/// doubles while its old half is still there.
const TREE_FACTOR: usize = 96;

/// What a framer makes of a stream.
#[derive(Debug, PartialEq)]
struct Framed {
    frames: Vec<Frame>,
    error: Option<XmlError>,
}

/// See the module.
pub fn framer(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let limits = match seed >> 6 {
        0 => Limits { stanza_bytes_max: 40 + usize::from(seed & 0x3f) },
        1 => Limits::UNAUTHENTICATED,
        _ => Limits::AUTHENTICATED,
    };
    let whole = framed(stream, 0, limits);
    for seed in [1, seed | 2] {
        assert_eq!(framed(stream, seed, limits), whole, "cut by {seed}");
    }
    if stream.len() <= witness::TEXT_BYTES_MAX {
        compare(stream, &whole);
    }
}

/// How many frames a run of white space makes depends on the network: it counts as one.
fn framed(stream: &[u8], seed: u8, limits: Limits) -> Framed {
    let mut framer = Framer::new(limits);
    let mut framed = Framed { frames: Vec::new(), error: None };
    for piece in pieces(stream, seed) {
        framer.feed(piece);
        loop {
            match framer.next() {
                Ok(None) => break,
                Ok(Some(Frame::Whitespace)) if framed.frames.last() == Some(&Frame::Whitespace) => {}
                Ok(Some(frame)) => framed.frames.push(frame),
                Err(error) => {
                    assert_eq!(framer.next(), Err(error), "an error stays");
                    framed.error = Some(error);
                    return framed;
                }
            }
        }
        let due = 2 * (limits.stanza_bytes_max + piece.len());
        assert!(framer.buffer_capacity() <= due, "a buffer of {} bytes, {due} are due", framer.buffer_capacity());
    }
    framed
}

/// Limits of ours, and what only a stream forbids, are no disagreement.
fn is_ours_alone(error: XmlError) -> bool {
    use XmlError as E;
    matches!(error, E::PolicyViolation | E::BadFormat | E::InvalidNamespace | E::BadNamespacePrefix | E::UnsupportedEncoding)
}

fn compare(stream: &[u8], framed: &Framed) {
    if witness::is_blind_to(stream) {
        return;
    }
    let mut error = framed.error;
    let mut frames = framed.frames.iter();
    let mut document = Document::new();
    let Some(header) = frames.find_map(|f| if let Frame::Header(bytes) = f { Some(bytes) } else { None }) else {
        return;
    };
    // The witness gets a declaration of its own: which ones there may be is pinned by tables.
    let start = stream.windows(header.len()).position(|w| w == header).expect("a frame is a part of the stream");
    let bare = match header.strip_prefix(b"<?xml") {
        Some(_) => start + header.windows(2).position(|w| w == b"?>").expect("a header that begins with a declaration") + 2,
        None => start,
    };
    document.feed(b"<?xml version='1.0'?>");
    document.feed(&witness::normalised(&stream[bare..]));
    let header = match Header::parse(header) {
        Ok(header) => header,
        Err(e) => {
            let excused = is_ours_alone(e) || bare != start || witness::declares_twice(stream);
            return assert!(!document.opened || excused, "a header is refused: {e:?}");
        }
    };
    assert!(document.opened, "a header is accepted");
    let mut elements = Vec::new();
    let mut ended = false;
    for frame in frames {
        match frame {
            Frame::Element(bytes) => {
                let budget = 4_096 + TREE_FACTOR * bytes.len();
                match within(budget, "tree", || Element::parse_in(bytes, header.scope())) {
                    Ok(element) => {
                        round(bytes, &element, &header);
                        elements.push(sorted(element));
                    }
                    Err(e) => {
                        error = Some(e);
                        break;
                    }
                }
            }
            Frame::End => ended = true,
            Frame::Header(_) | Frame::Whitespace => {}
        }
    }
    let both = elements.len().min(document.elements.len());
    assert_eq!(elements[..both], document.elements[..both]);
    // Either may notice a fault earlier than the other, but neither reads on where the other has found one.
    if elements.len() > both {
        panic!("accepted, but ill-formed: {:?}", elements[both]);
    }
    let more = document.elements.len() > both || (document.state == State::Ended) != ended;
    let forbidden_text = document.text_behind.is_some_and(|n| n <= both);
    if more && !error.is_some_and(is_ours_alone) && !forbidden_text && !witness::declares_twice(stream) {
        panic!("refused ({error:?}), but well-formed: {:?} {:?}", document.elements.get(both), document.state);
    }
    assert!(!(ended && document.state == State::Failed), "ended, but ill-formed");
}

/// Parse, serialise, parse: the same, for both parsers, in whatever namespace it is put; each element in one of three.
fn round(bytes: &[u8], element: &Element, header: &Header) {
    let wanted = sorted(element.clone());
    let parent = [ns::CLIENT, "urn:other", ""][bytes.len() % 3];
    let written = element.to_bytes(parent);
    assert_eq!(Element::parse(&written, parent).as_ref(), Ok(element), "{written:?}");
    if written.len() <= witness::TEXT_BYTES_MAX && !witness::is_blind_to(&written) {
        assert_eq!(witness::element(&written, parent).as_ref(), Some(&wanted), "{written:?}");
    }
    // The same bytes without a tree between.
    let mut again = Vec::new();
    let tokens = Tokens::new(bytes, header.scope()).expect("was read before");
    xml::rewrite(tokens, parent, &mut again).expect("was read before");
    assert_eq!(again, written);
}
