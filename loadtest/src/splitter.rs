//! Cuts a stream's bytes, however they arrive, into its header, its first-level elements and its end.

use memchr::{memchr, memchr3, memmem};
use std::ops::Range;

/// A server that sends a larger element is not tested but broken.
pub const ELEMENT_BYTES_MAX: usize = 16 << 20;
const CDATA: &[u8] = b"<![CDATA[";

/// A first-level part of a stream (RFC 6120 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The start tag of the stream, without an XML declaration before it.
    Header(&'a [u8]),
    /// A whole first-level element.
    Element(&'a [u8]),
    /// The end tag of the stream.
    End,
}

/// What cannot be the stream of an XMPP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// More than [`ELEMENT_BYTES_MAX`] without an end.
    TooLong,
    /// An end tag without a start, a comment, a doctype, or text before the stream.
    NotXmpp,
}

impl std::error::Error for SplitError {}

impl std::fmt::Display for SplitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SplitError::TooLong => "an element without an end",
            SplitError::NotXmpp => "not an XMPP stream",
        })
    }
}

enum Part {
    Header,
    Element,
    End,
}

/// Where the scan stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Between tags.
    Text,
    /// In a tag that starts there; in a quoted value if there is a quote.
    Tag { start: usize, quote: Option<u8> },
    /// In a CDATA section.
    Cdata,
}

/// Splits one stream. Every byte is looked at once, whatever the chunks.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Before it everything was returned.
    taken: usize,
    /// Before it everything was looked at.
    scanned: usize,
    depth: usize,
    /// Start of the first-level element.
    element: usize,
    state: State,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter { buffer: Vec::new(), taken: 0, scanned: 0, depth: 0, element: 0, state: State::Text }
    }
}

impl Splitter {
    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.scanned -= self.taken;
            self.element = self.element.saturating_sub(self.taken);
            if let State::Tag { start, .. } = &mut self.state {
                *start -= self.taken;
            }
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// A new stream begins on the same connection (RFC 6120 §4.3.3). What was fed and not taken belongs to it.
    pub fn restart(&mut self) {
        self.depth = 0;
        self.scanned = self.taken;
        self.state = State::Text;
    }

    /// Whether bytes were fed that no frame has taken.
    pub fn has_rest(&self) -> bool {
        self.buffer.len() > self.taken
    }

    /// The next part that is there whole.
    ///
    /// # Errors
    /// What no XMPP server sends.
    #[allow(clippy::should_implement_trait, reason = "it lends its buffer and can fail")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, SplitError> {
        while let Some(tag) = self.tag()? {
            if let Some((part, range)) = self.part(tag)? {
                self.taken = range.end;
                let bytes = &self.buffer[range];
                return Ok(Some(match part {
                    Part::Header => Frame::Header(bytes),
                    Part::Element => Frame::Element(bytes),
                    Part::End => Frame::End,
                }));
            }
        }
        if self.depth <= 1 && matches!(self.state, State::Text) {
            // White space between stanzas is a keepalive and nobody's.
            self.taken = self.scanned;
        }
        if self.buffer.len() - self.taken > ELEMENT_BYTES_MAX { Err(SplitError::TooLong) } else { Ok(None) }
    }

    /// The next whole tag.
    fn tag(&mut self) -> Result<Option<Range<usize>>, SplitError> {
        loop {
            let rest = &self.buffer[self.scanned..];
            match self.state {
                State::Text => {
                    let Some(at) = memchr(b'<', rest) else {
                        self.scanned = self.buffer.len();
                        return Ok(None);
                    };
                    let start = self.scanned + at;
                    let opening = &self.buffer[start..];
                    self.scanned = start;
                    if opening.starts_with(CDATA) {
                        self.scanned += CDATA.len();
                        self.state = State::Cdata;
                    } else if CDATA.starts_with(opening) {
                        // Not enough to know whether it is one.
                        return Ok(None);
                    } else if opening.starts_with(b"<!") {
                        return Err(SplitError::NotXmpp);
                    } else {
                        self.state = State::Tag { start, quote: None };
                    }
                }
                State::Cdata => {
                    let Some(at) = memmem::find(rest, b"]]>") else {
                        // The end may be cut in two.
                        self.scanned = self.scanned.max(self.buffer.len().saturating_sub(2));
                        return Ok(None);
                    };
                    self.scanned += at + 3;
                    self.state = State::Text;
                }
                State::Tag { start, quote } => {
                    let found = match quote {
                        Some(quote) => memchr(quote, rest),
                        None => memchr3(b'>', b'\'', b'"', rest),
                    };
                    let Some(at) = found else {
                        self.scanned = self.buffer.len();
                        return Ok(None);
                    };
                    let byte = rest[at];
                    self.scanned += at + 1;
                    self.state = match (quote, byte) {
                        (None, b'>') => State::Text,
                        (None, quote) => State::Tag { start, quote: Some(quote) },
                        (Some(_), _) => State::Tag { start, quote: None },
                    };
                    if matches!(self.state, State::Text) {
                        return Ok(Some(start..self.scanned));
                    }
                }
            }
        }
    }

    /// The first-level part that ends with this tag.
    fn part(&mut self, tag: Range<usize>) -> Result<Option<(Part, Range<usize>)>, SplitError> {
        let bytes = &self.buffer[tag.clone()];
        if bytes.starts_with(b"<?") {
            return if self.depth == 0 { Ok(None) } else { Err(SplitError::NotXmpp) };
        }
        if bytes.starts_with(b"</") {
            self.depth = self.depth.checked_sub(1).ok_or(SplitError::NotXmpp)?;
            return Ok(match self.depth {
                0 => Some((Part::End, tag)),
                1 => Some((Part::Element, self.element..tag.end)),
                _ => None,
            });
        }
        let empty = bytes.ends_with(b"/>");
        match (self.depth, empty) {
            (0, true) => return Err(SplitError::NotXmpp),
            (0, false) => {
                self.depth = 1;
                return Ok(Some((Part::Header, tag)));
            }
            (1, true) => return Ok(Some((Part::Element, tag))),
            (1, false) => self.element = tag.start,
            _ => {}
        }
        self.depth += usize::from(!empty);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='a>b' version='1.0'>\
        <stream:features><bind xmlns='b'/><sm xmlns=\"it's\"/></stream:features> \n\
        <r/><message to='a@b' id='1'><body>x &lt; y > z</body><a><a/></a></message>\
        <message><body><![CDATA[</message><x>]] ]]]></body></message><a/></stream:stream>";

    fn split(chunks: &[&[u8]]) -> Result<Vec<String>, SplitError> {
        let (mut splitter, mut seen) = (Splitter::default(), Vec::new());
        for chunk in chunks {
            splitter.feed(chunk);
            while let Some(frame) = splitter.next()? {
                seen.push(match frame {
                    Frame::Header(h) => format!("H{}", String::from_utf8_lossy(h)),
                    Frame::Element(e) => format!("E{}", String::from_utf8_lossy(e)),
                    Frame::End => "end".to_owned(),
                });
            }
        }
        Ok(seen)
    }

    #[test]
    fn a_stream_in_one_piece() {
        let seen = split(&[STREAM.as_bytes()]).unwrap();
        assert_eq!(seen.len(), 7, "{seen:#?}");
        assert_eq!(seen[0], "H<stream:stream xmlns='jabber:client' id='a>b' version='1.0'>");
        assert_eq!(seen[2], "E<r/>");
        assert_eq!(seen[4], "E<message><body><![CDATA[</message><x>]] ]]]></body></message>");
        assert_eq!(seen[6], "end");
    }

    #[test]
    fn every_chunk_size_gives_the_same() {
        let whole = split(&[STREAM.as_bytes()]).unwrap();
        for size in 1..STREAM.len() {
            let chunks: Vec<_> = STREAM.as_bytes().chunks(size).collect();
            assert_eq!(split(&chunks).unwrap(), whole, "chunks of {size}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(mut cuts in proptest::collection::vec(0..STREAM.len(), 0..12)) {
            cuts.sort_unstable();
            let (mut chunks, mut from) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                chunks.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(split(&chunks).unwrap(), split(&[STREAM.as_bytes()]).unwrap());
        }
    }

    #[test]
    fn a_restart_begins_anew() {
        let mut splitter = Splitter::default();
        splitter.feed(b"<stream:stream><success/><stream:stream a='2'>");
        assert!(matches!(splitter.next(), Ok(Some(Frame::Header(_)))));
        assert_eq!(splitter.next(), Ok(Some(Frame::Element(b"<success/>"))));
        splitter.restart();
        assert_eq!(splitter.next(), Ok(Some(Frame::Header(b"<stream:stream a='2'>"))));
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        assert_eq!(split(&[b"</a>"]), Err(SplitError::NotXmpp));
        assert_eq!(split(&[b"<a><!-- x -->"]), Err(SplitError::NotXmpp));
        assert_eq!(split(&[b"<a><b><?x?>"]), Err(SplitError::NotXmpp));
        assert_eq!(split(&[b"<html/>"]), Err(SplitError::NotXmpp));
        let long = vec![b'x'; ELEMENT_BYTES_MAX + 1];
        assert_eq!(split(&[b"<a><b>", &long]), Err(SplitError::TooLong));
    }
}
