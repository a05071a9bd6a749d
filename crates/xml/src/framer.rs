//! Cuts the bytes of a stream into frames, wherever the network cut them.

use crate::XmlError;
use crate::chars::{is_space, validate};
use crate::header::check_declaration;
use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;
use types::limit::{STANZA_BYTES_MAX, STANZA_BYTES_UNAUTHENTICATED_MAX, XML_DEPTH_MAX, XML_NAME_BYTES_MAX};

/// What a [`Framer`] lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame: a header or a first-level element.
    pub stanza_bytes_max: usize,
}

impl Limits {
    /// Limits of a stream that is authenticated.
    pub const AUTHENTICATED: Limits = Limits { stanza_bytes_max: STANZA_BYTES_MAX };
    /// Limits of a stream before it is authenticated.
    pub const UNAUTHENTICATED: Limits = Limits { stanza_bytes_max: STANZA_BYTES_UNAUTHENTICATED_MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::AUTHENTICATED
    }
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The stream header: an XML declaration or none, and the root's start tag. For [`crate::Header::parse`].
    Header(Bytes),
    /// A whole first-level element, from `<` to `>`. Its tags match, it is valid UTF-8 of XML's characters, no deeper than
    /// [`XML_DEPTH_MAX`]; names, attributes and namespaces are not yet checked.
    Element(Bytes),
    /// White space between first-level elements. How many frames a run of it makes depends on the network.
    Whitespace,
    /// The root's end tag. Whatever follows is dropped.
    End,
}

/// Push framer for one stream. It takes time linear in the bytes fed, and holds a buffer only while a frame is incomplete or
/// frames wait to be taken: at most `stanza_bytes_max` and what was fed since [`Framer::next`] last returned `None`.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buf: Vec<u8>,
    /// Where the current frame begins in `buf`.
    pos: usize,
    /// How far the current frame is scanned, counted from `pos`. So are all positions below.
    scan: usize,
    state: State,
    phase: Phase,
    /// Names of the open elements of the current frame.
    open: SmallVec<[Name; 4]>,
    root: CompactString,
    failed: Option<XmlError>,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    start: u32,
    len: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the end of the header.
    Prolog,
    Open,
    /// The root was an empty element: its end is still to be told.
    Ending,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between frames, nothing of the next one seen.
    Between,
    /// Behind the XML declaration.
    BehindDeclaration,
    /// In character data of an element.
    Text,
    /// Behind `<`.
    Less,
    /// In a start tag's name, which begins here.
    StartName(u32),
    /// In a start tag, behind its name, outside of quotes.
    Tag,
    /// Behind a `/` in a start tag.
    Slash,
    /// In an attribute's value that ends with this quote.
    Quoted(u8),
    /// In an end tag, whose name begins here.
    EndName(u32),
    /// Behind `<!`, that many bytes of `[CDATA[` seen.
    Bang(u8),
    /// In a CDATA section whose content begins here.
    Cdata(u32),
    /// Behind `<?`, that many bytes of the target seen.
    Question(u8),
    /// In the XML declaration.
    Declaration,
}

enum Found {
    Header,
    Element,
    Whitespace,
    End,
}

impl Framer {
    /// A framer at the start of a stream.
    pub fn new(limits: Limits) -> Framer {
        Framer {
            limits,
            buf: Vec::new(),
            pos: 0,
            scan: 0,
            state: State::Between,
            phase: Phase::Prolog,
            open: SmallVec::new(),
            root: CompactString::default(),
            failed: None,
        }
    }

    /// Changes the limits, also for a frame that is incomplete.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Forgets the stream: what comes next is a header again (RFC 6120 §4.3.3). Bytes that were fed and not yet taken are
    /// kept as the beginning of the new stream; see [`Framer::has_buffered`].
    pub fn restart(&mut self) {
        self.phase = Phase::Prolog;
        self.root = CompactString::default();
        self.rewind();
    }

    /// Bytes fed that are not part of a frame already taken.
    pub fn remaining(&self) -> usize {
        self.buf.len() - self.pos
    }

    /// Whether bytes were fed behind the last frame taken. Behind `<starttls/>` that is an attempt to inject plain text into
    /// the secured stream.
    pub fn has_buffered(&self) -> bool {
        self.remaining() > 0
    }

    /// Whether the framer holds no memory for the stream: nothing is incomplete or waits.
    pub fn is_idle(&self) -> bool {
        self.buf.capacity() == 0
    }

    /// Bytes of memory held for what is incomplete or waits.
    pub fn buffer_capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Adds received bytes. Call [`Framer::next`] until it returns `None` before feeding more.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_some() || self.phase == Phase::Ended {
            return;
        }
        // Moved at most once per as many bytes as are moved.
        if self.pos > self.buf.len() / 2 {
            self.buf.drain(..self.pos);
            self.pos = 0;
        }
        let needed = self.buf.len() + bytes.len();
        if needed > self.buf.capacity() {
            // Doubles, so that appending is linear, but not beyond what one frame can need.
            let doubled = (2 * self.buf.capacity()).min(self.limits.stanza_bytes_max + bytes.len());
            self.buf.reserve_exact(needed.max(doubled) - self.buf.len());
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next frame, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// What is wrong with the stream; the same again from then on.
    #[allow(clippy::should_implement_trait, reason = "an iterator could not say what ended it once and for all")]
    pub fn next(&mut self) -> Result<Option<Frame>, XmlError> {
        match self.try_next() {
            Err(error) => {
                self.failed = Some(error);
                self.buf = Vec::new();
                self.pos = 0;
                self.rewind();
                Err(error)
            }
            frame => frame,
        }
    }

    fn try_next(&mut self) -> Result<Option<Frame>, XmlError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.phase {
            Phase::Ending => {
                self.phase = Phase::Ended;
                self.consume(self.remaining());
                return Ok(Some(Frame::End));
            }
            Phase::Ended => {
                self.consume(self.remaining());
                return Ok(None);
            }
            Phase::Prolog | Phase::Open => {}
        }
        let max = self.limits.stanza_bytes_max;
        // Nothing beyond the maximum is looked at, so that the outcome does not depend on where the network cut.
        let window = &self.buf[self.pos..self.buf.len().min(self.pos.saturating_add(max))];
        let mut scanner =
            Scanner { window, i: self.scan, state: self.state, phase: self.phase, open: &mut self.open, root: &mut self.root };
        let found = scanner.run()?;
        let (i, state, phase) = (scanner.i, scanner.state, scanner.phase);
        (self.scan, self.state, self.phase) = (i, state, phase);
        let Some(found) = found else {
            if self.remaining() > max {
                return Err(XmlError::PolicyViolation);
            }
            if self.remaining() == 0 {
                self.consume(0);
            }
            return Ok(None);
        };
        Ok(Some(match found {
            Found::Whitespace => {
                self.consume(i);
                Frame::Whitespace
            }
            Found::End => {
                validate(&self.buf[self.pos..self.pos + i])?;
                self.consume(self.remaining());
                Frame::End
            }
            Found::Header => Frame::Header(self.take(i)?),
            Found::Element => Frame::Element(self.take(i)?),
        }))
    }

    /// Takes the first `n` bytes of the current frame out.
    fn take(&mut self, n: usize) -> Result<Bytes, XmlError> {
        let range = self.pos..self.pos + n;
        validate(&self.buf[range.clone()])?;
        // A frame that is alone in the buffer needs no copy, unless it would keep much more memory than its own.
        if self.pos == 0 && n == self.buf.len() && self.buf.capacity() <= n + n / 4 {
            let frame = Bytes::from(std::mem::take(&mut self.buf));
            self.rewind();
            return Ok(frame);
        }
        let frame = Bytes::copy_from_slice(&self.buf[range]);
        self.consume(n);
        Ok(frame)
    }

    /// Drops `n` bytes, and the buffer if it is empty then.
    fn consume(&mut self, n: usize) {
        self.pos += n;
        if self.pos == self.buf.len() {
            self.buf = Vec::new();
            self.pos = 0;
        }
        self.rewind();
    }

    fn rewind(&mut self) {
        self.scan = 0;
        self.state = State::Between;
        if self.open.spilled() {
            self.open = SmallVec::new();
        }
        self.open.clear();
    }
}

/// One look at what is there of a frame.
struct Scanner<'f> {
    window: &'f [u8],
    i: usize,
    state: State,
    phase: Phase,
    open: &'f mut SmallVec<[Name; 4]>,
    root: &'f mut CompactString,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<Option<Found>, XmlError> {
        while self.i < self.window.len() {
            let found = match self.state {
                State::Between => self.between()?,
                State::BehindDeclaration => self.behind_declaration()?,
                State::Text => self.text(),
                State::Less => self.less()?,
                State::StartName(start) => self.start_name(start)?,
                State::Tag => self.tag()?,
                State::Slash => self.slash()?,
                State::Quoted(quote) => self.quoted(quote)?,
                State::EndName(start) => self.end_name(start)?,
                State::Bang(n) => self.bang(n)?,
                State::Cdata(start) => self.cdata(start),
                State::Question(n) => self.question(n)?,
                State::Declaration => self.declaration()?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn rest(&self) -> &[u8] {
        &self.window[self.i..]
    }

    /// Goes on to `state` with the byte after the current one.
    fn step(&mut self, state: State) {
        self.state = state;
        self.i += 1;
    }

    fn between(&mut self) -> Result<Option<Found>, XmlError> {
        let spaces = self.window.iter().position(|&b| !is_space(b)).unwrap_or(self.window.len());
        if spaces > 0 {
            self.i = spaces;
            return Ok(Some(Found::Whitespace));
        }
        match (self.window[0], self.phase) {
            (b'<', _) => self.step(State::Less),
            // The first byte of UTF-16 with a byte order mark, and none of UTF-8.
            (0xFE | 0xFF, Phase::Prolog) => return Err(XmlError::UnsupportedEncoding),
            (0..0x20, _) | (_, Phase::Prolog) => return Err(XmlError::NotWellFormed),
            _ => return Err(XmlError::BadFormat),
        }
        Ok(None)
    }

    fn behind_declaration(&mut self) -> Result<Option<Found>, XmlError> {
        match self.window[self.i] {
            b'<' => self.step(State::Less),
            b if is_space(b) => self.i += 1,
            _ => return Err(XmlError::NotWellFormed),
        }
        Ok(None)
    }

    fn text(&mut self) -> Option<Found> {
        match memchr::memchr(b'<', self.rest()) {
            Some(n) => {
                self.i += n;
                self.step(State::Less);
            }
            None => self.i = self.window.len(),
        }
        None
    }

    fn less(&mut self) -> Result<Option<Found>, XmlError> {
        let start = self.i as u32;
        match self.window[self.i] {
            b'/' if self.phase == Phase::Prolog => return Err(XmlError::NotWellFormed),
            b'/' => self.step(State::EndName(start + 1)),
            b'!' => self.step(State::Bang(0)),
            b'?' => self.step(State::Question(0)),
            _ => self.state = State::StartName(start),
        }
        Ok(None)
    }

    fn start_name(&mut self, start: u32) -> Result<Option<Found>, XmlError> {
        let ends = |&b: &u8| matches!(b, b'>' | b'/' | b'<' | b'"' | b'\'' | b'=') || is_space(b);
        let end = self.rest().iter().position(ends);
        let len = end.map_or(self.window.len(), |n| self.i + n) - start as usize;
        if len > XML_NAME_BYTES_MAX {
            return Err(XmlError::PolicyViolation);
        }
        let Some(n) = end else {
            self.i = self.window.len();
            return Ok(None);
        };
        self.i += n;
        if len == 0 || matches!(self.window[self.i], b'<' | b'"' | b'\'' | b'=') {
            return Err(XmlError::NotWellFormed);
        }
        if self.open.len() == XML_DEPTH_MAX {
            return Err(XmlError::PolicyViolation);
        }
        self.open.push(Name { start, len: len as u16 });
        self.state = State::Tag;
        Ok(None)
    }

    fn tag(&mut self) -> Result<Option<Found>, XmlError> {
        let special = |&b: &u8| matches!(b, b'>' | b'/' | b'"' | b'\'' | b'<');
        let Some(n) = self.rest().iter().position(special) else {
            self.i = self.window.len();
            return Ok(None);
        };
        self.i += n;
        match self.window[self.i] {
            b'>' => {
                self.step(State::Text);
                return Ok((self.phase == Phase::Prolog).then(|| self.header(Phase::Open)));
            }
            b'/' => self.step(State::Slash),
            b'<' => return Err(XmlError::NotWellFormed),
            quote => self.step(State::Quoted(quote)),
        }
        Ok(None)
    }

    fn header(&mut self, next: Phase) -> Found {
        if let Some(name) = self.open.pop() {
            *self.root = CompactString::from_utf8_lossy(self.name(name));
        }
        self.phase = next;
        Found::Header
    }

    fn slash(&mut self) -> Result<Option<Found>, XmlError> {
        if self.window[self.i] != b'>' {
            return Err(XmlError::NotWellFormed);
        }
        self.step(State::Text);
        if self.phase == Phase::Prolog {
            return Ok(Some(self.header(Phase::Ending)));
        }
        self.open.pop();
        Ok(self.open.is_empty().then_some(Found::Element))
    }

    fn quoted(&mut self, quote: u8) -> Result<Option<Found>, XmlError> {
        match memchr::memchr2(quote, b'<', self.rest()) {
            Some(n) => {
                self.i += n;
                if self.window[self.i] == b'<' {
                    return Err(XmlError::NotWellFormed);
                }
                self.step(State::Tag);
            }
            None => self.i = self.window.len(),
        }
        Ok(None)
    }

    fn end_name(&mut self, start: u32) -> Result<Option<Found>, XmlError> {
        let Some(n) = memchr::memchr2(b'>', b'<', self.rest()) else {
            self.i = self.window.len();
            return Ok(None);
        };
        self.i += n;
        let name = &self.window[start as usize..self.i];
        let trimmed = name.iter().rposition(|&b| !is_space(b)).map_or(0, |last| last + 1);
        let found = match self.open.last() {
            Some(&open) if self.name(open) == &name[..trimmed] => (self.open.len() == 1).then_some(Found::Element),
            None if self.root.as_bytes() == &name[..trimmed] => {
                self.phase = Phase::Ended;
                Some(Found::End)
            }
            _ => return Err(XmlError::NotWellFormed),
        };
        if self.window[self.i] == b'<' {
            return Err(XmlError::NotWellFormed);
        }
        self.open.pop();
        self.step(State::Text);
        Ok(found)
    }

    /// Behind `<!` only a CDATA section may come (RFC 6120 §11.1), and that only in an element.
    fn bang(&mut self, n: u8) -> Result<Option<Found>, XmlError> {
        const CDATA: &[u8] = b"[CDATA[";
        if self.window[self.i] != CDATA[n as usize] {
            return Err(XmlError::RestrictedXml);
        }
        let whole = n as usize + 1 == CDATA.len();
        self.step(State::Bang(n + 1));
        if whole {
            self.state = State::Cdata(self.i as u32);
            match (self.phase, self.open.is_empty()) {
                (Phase::Prolog, _) => return Err(XmlError::NotWellFormed),
                (_, true) => return Err(XmlError::BadFormat),
                _ => {}
            }
        }
        Ok(None)
    }

    fn cdata(&mut self, start: u32) -> Option<Found> {
        match memchr::memchr(b'>', self.rest()) {
            Some(n) => {
                self.i += n;
                let ends = self.window[start as usize..self.i].ends_with(b"]]");
                self.step(if ends { State::Text } else { State::Cdata(start) });
            }
            None => self.i = self.window.len(),
        }
        None
    }

    /// Behind `<?`: an XML declaration if it is the first thing in the stream, else refused (RFC 6120 §11.1, §11.5).
    fn question(&mut self, n: u8) -> Result<Option<Found>, XmlError> {
        let b = self.window[self.i];
        match b"xml".get(n as usize) {
            Some(&want) if want == b => self.step(State::Question(n + 1)),
            None if is_space(b) && self.phase == Phase::Prolog && self.i == 5 => self.step(State::Declaration),
            None if is_space(b) || b == b'?' => return Err(XmlError::NotWellFormed),
            _ => return Err(XmlError::RestrictedXml),
        }
        Ok(None)
    }

    fn declaration(&mut self) -> Result<Option<Found>, XmlError> {
        match memchr::memchr2(b'>', b'<', self.rest()) {
            Some(n) => {
                self.i += n;
                if self.window[self.i] == b'<' || self.window[self.i - 1] != b'?' {
                    return Err(XmlError::NotWellFormed);
                }
                check_declaration(&self.window[..=self.i])?;
                self.step(State::BehindDeclaration);
            }
            None => self.i = self.window.len(),
        }
        Ok(None)
    }

    fn name(&self, name: Name) -> &[u8] {
        let start = name.start as usize;
        &self.window[start..start + name.len as usize]
    }
}
