//! Everything random in a simulation, from one seed.
//!
//! Interface: [`Rng`]: `stream` (a generator for each consumer, by label), `next_u64`, `below`, `chance`, `fill`, `shuffle`.
//! Linux counterpart: `lib/random32.c`, in purpose.
//! Locks and context: none; integers only, so every machine draws the same.
//!
//! Each consumer has a stream of its own, made of the seed and the consumer's label: a new consumer, or one that draws more
//! than it did, shifts nobody else's numbers. The generator is xoshiro256**, seeded by SplitMix64 (Blackman and Vigna).

/// A stream of random numbers. Not for keys.
#[derive(Clone, Debug)]
pub struct Rng {
    s: [u64; 4],
}

/// One step of SplitMix64: also a good mixer of a single word.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut state = seed;
        Rng { s: std::array::from_fn(|_| splitmix(&mut state)) }
    }

    /// The stream that belongs to `label`: for the same seed and label always the same.
    pub fn stream(seed: u64, label: &str) -> Rng {
        let mut h = 0xCBF2_9CE4_8422_2325u64;
        for b in label.bytes() {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        let mut state = seed;
        Rng::new(splitmix(&mut state) ^ h.rotate_left(32).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.s;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Evenly out of `0..n`, to within 2^-64 of `n`; 0 for an empty range.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Evenly out of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low);
        if span == u64::MAX { self.next_u64() } else { low + self.below(span + 1) }
    }

    /// True `numerator` times out of `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// One of the elements; `None` of an empty slice.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }

    pub fn shuffle<T>(&mut self, of: &mut [T]) {
        for i in (1..of.len()).rev() {
            of.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_these_numbers_on_every_machine() {
        let mut r = Rng::new(1);
        assert_eq!([r.next_u64(), r.next_u64()], [0xB3F2_AF6D_0FC7_10C5, 0x853B_5596_4736_4CEA]);
    }

    #[test]
    fn streams_differ_by_label_and_by_seed() {
        let first = |seed, label| Rng::stream(seed, label).next_u64();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
    }

    #[test]
    fn below_reaches_everything_and_no_more() {
        let mut r = Rng::new(7);
        let mut seen = [0u32; 6];
        for _ in 0..6000 {
            seen[r.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(r.below(0), 0);
        assert!((0..1000).all(|_| (3..=5).contains(&r.between(3, 5))));
    }
}
