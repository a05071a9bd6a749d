//! Random values out of one seed: a stream draws several, and the shell gives it randomness once.

use aws_lc_rs::hmac;

/// HMAC-SHA-256 of a counter under the seed: each value is as hard to guess as the seed, from all the others too.
pub struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    /// Values that follow from `seed`, which must come from a secure source and serve one connection only.
    pub fn new(seed: [u8; 32]) -> Random {
        Random { seed, drawn: 0 }
    }

    /// The next value.
    pub fn draw<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32) };
        self.drawn += 1;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.seed), &self.drawn.to_be_bytes());
        let mut out = [0; N];
        out.copy_from_slice(&tag.as_ref()[..N]);
        out
    }

    /// The next value as 32 characters that can stand in an attribute.
    pub fn draw_name(&mut self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.draw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_follow_from_the_seed() {
        let (mut a, mut b, mut c) = (Random::new([1; 32]), Random::new([1; 32]), Random::new([2; 32]));
        let first: [u8; 32] = a.draw();
        assert_eq!(first, b.draw::<32>());
        assert_ne!(first, a.draw::<32>());
        assert_ne!(first, c.draw::<32>());
        assert_eq!(a.draw_name().len(), 32);
    }
}
