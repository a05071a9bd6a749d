//! An input taken apart: numbers and pieces of it, zeros when it is used up.

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; 0 behind the end.
    pub fn u8(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece behind its length, which is one byte.
    pub fn piece(&mut self) -> &'a [u8] {
        let n = self.u8();
        self.take(n.into())
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts `bytes` into pieces as the network might: of one byte, of a few, of many, as `seed` says.
pub fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(seed) | 0x100;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let n = match seed % 4 {
            0 => rest.len(),
            1 => 1,
            _ => {
                // xorshift: the pieces of one seed are always the same.
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                1 + (state as usize) % if seed % 4 == 2 { 7 } else { 97 }
            }
        };
        let (piece, left) = rest.split_at(n.min(rest.len()));
        rest = left;
        Some(piece)
    })
}
