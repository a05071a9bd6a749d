//! The compact binary form of what an entity keeps in cells: version byte, varints, length-prefixed strings.
//!
//! Decoding never panics: whatever is cut or odd is [`Corrupt`].

use bytes::{Buf as _, Bytes};
use types::{BareJid, Jid, Origin, SessionId};

/// A cell that does not decode. The entity refuses to load rather than guess (fails closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt cell: {0}")]
pub struct Corrupt(pub &'static str);

/// Bytes of a length that is written before it is known: enough for any stanza, the largest of which is below 2^28 bytes.
pub const LENGTH_BYTES: usize = 4;

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A cell of format `version`.
    pub fn new(version: u8) -> Writer {
        Writer(vec![version])
    }

    /// The same, with room for so many bytes.
    pub fn with_room(version: u8, bytes: usize) -> Writer {
        let mut out = Vec::with_capacity(bytes + 1);
        out.push(version);
        Writer(out)
    }

    /// LEB128.
    pub fn u64(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    /// Length, then bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.u64(v.len() as u64);
        self.0.extend_from_slice(v);
        self
    }

    /// As [`Writer::bytes`], of what `write` appends: its length is known behind it, so it takes [`LENGTH_BYTES`] always.
    pub fn appended(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; LENGTH_BYTES]);
        write(&mut self.0);
        let mut len = self.0.len() - at - LENGTH_BYTES;
        for (i, byte) in self.0[at..at + LENGTH_BYTES].iter_mut().enumerate() {
            *byte = (len & 0x7f) as u8 | if i + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            len >>= 7;
        }
        self
    }

    /// A string as [`Writer::bytes`].
    pub fn str(&mut self, v: &str) -> &mut Self {
        self.bytes(v.as_bytes())
    }

    /// A session's name.
    pub fn session(&mut self, s: SessionId) -> &mut Self {
        self.u64(s.epoch.into()).u64(s.seq.into())
    }

    /// A forward's name.
    pub fn origin(&mut self, o: Origin) -> &mut Self {
        self.session(o.session).u64(o.n).u64(o.k.into())
    }

    /// The finished cell.
    pub fn finish(&mut self) -> Bytes {
        // Exact, so that sharing it takes no further allocation.
        std::mem::take(&mut self.0).into_boxed_slice().into()
    }
}

/// Takes fields from a cell.
pub struct Reader {
    data: Bytes,
}

impl Reader {
    /// Starts behind the version byte, which must be `version`.
    pub fn new(mut data: Bytes, version: u8) -> Result<Reader, Corrupt> {
        if data.first() != Some(&version) {
            return Err(Corrupt("format version"));
        }
        data.advance(1);
        Ok(Reader { data })
    }

    /// LEB128, at most 64 bits.
    pub fn u64(&mut self) -> Result<u64, Corrupt> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Corrupt("varint"))
    }

    /// A varint that must fit 32 bits.
    pub fn u32(&mut self) -> Result<u32, Corrupt> {
        u32::try_from(self.u64()?).map_err(|_| Corrupt("32-bit number"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Corrupt> {
        let first = *self.data.first().ok_or(Corrupt("cut short"))?;
        self.data.advance(1);
        Ok(first)
    }

    /// Length, then bytes; shares the cell's memory.
    pub fn bytes(&mut self) -> Result<Bytes, Corrupt> {
        let len = usize::try_from(self.u64()?).map_err(|_| Corrupt("length"))?;
        if len > self.data.len() {
            return Err(Corrupt("cut short"));
        }
        Ok(self.data.split_to(len))
    }

    /// UTF-8.
    pub fn string(&mut self) -> Result<String, Corrupt> {
        self.bytes().and_then(|bytes| Ok(text(&bytes)?.to_owned()))
    }

    /// An address in canonical form.
    pub fn jid(&mut self) -> Result<Jid, Corrupt> {
        Jid::parse(text(&self.bytes()?)?).map_err(|_| Corrupt("jid"))
    }

    /// A bare address in canonical form.
    pub fn bare_jid(&mut self) -> Result<BareJid, Corrupt> {
        BareJid::parse(text(&self.bytes()?)?).map_err(|_| Corrupt("jid"))
    }

    /// A session's name.
    pub fn session(&mut self) -> Result<SessionId, Corrupt> {
        Ok(SessionId { epoch: self.u32()?, seq: self.u32()? })
    }

    /// A forward's name.
    pub fn origin(&mut self) -> Result<Origin, Corrupt> {
        Ok(Origin { session: self.session()?, n: self.u64()?, k: self.u32()? })
    }

    /// A count of things that take at least one byte each.
    pub fn count(&mut self) -> Result<usize, Corrupt> {
        let n = usize::try_from(self.u64()?).map_err(|_| Corrupt("count"))?;
        if n > self.data.len() { Err(Corrupt("count")) } else { Ok(n) }
    }

    /// Nothing is left.
    pub fn is_done(&self) -> bool {
        self.data.is_empty()
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Corrupt> {
        if self.is_done() { Ok(()) } else { Err(Corrupt("trailing bytes")) }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Corrupt> {
    std::str::from_utf8(bytes).map_err(|_| Corrupt("utf-8"))
}
