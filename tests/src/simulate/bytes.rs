//! The bytes that a conversation sends: known on both ends, different at every place.
//!
//! Interface: [`Bytes`]: `fill` what is sent next, `check` what was received.
//! Linux counterpart: none.
//! Locks and context: none.

/// One direction of one conversation, from its beginning.
pub struct Bytes {
    key: u64,
    at: u64,
}

impl Bytes {
    pub fn new(seed: u64, talk: u32, from_client: bool) -> Bytes {
        Bytes {
            key: mix(seed ^ (u64::from(talk) << 1 | u64::from(from_client)).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            at: 0,
        }
    }

    /// How many have been sent or found right.
    pub fn count(&self) -> u64 {
        self.at
    }

    /// The next bytes, without going on: as many of them as were accepted are passed to [`advance`](Self::advance).
    pub fn fill(&self, buf: &mut [u8]) {
        let mut at = self.at;
        let mut rest = buf;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let from = (at % 8) as usize;
            let n = rest.len().min(8 - from);
            rest[..n].copy_from_slice(&word[from..from + n]);
            rest = &mut rest[n..];
            at += n as u64;
        }
    }

    pub fn advance(&mut self, n: usize) {
        self.at += n as u64;
    }

    /// Whether these are the next bytes; where not, the place of the first that is wrong.
    pub fn check(&mut self, got: &[u8]) -> Result<(), u64> {
        for b in got {
            if self.word(self.at / 8)[(self.at % 8) as usize] != *b {
                return Err(self.at);
            }
            self.at += 1;
        }
        Ok(())
    }

    fn word(&self, n: u64) -> [u8; 8] {
        mix(self.key.wrapping_add(n)).to_le_bytes()
    }
}

fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let mut whole = vec![0; 1000];
        Bytes::new(1, 2, true).fill(&mut whole);
        let (mut b, mut at) = (Bytes::new(1, 2, true), 0);
        for n in [1, 7, 8, 9, 100, 875] {
            let mut part = vec![0; n];
            b.fill(&mut part);
            b.advance(n);
            assert_eq!(part, whole[at..at + n]);
            at += n;
        }
        let mut c = Bytes::new(1, 2, true);
        assert_eq!(c.check(&whole[..500]), Ok(()));
        whole[700] ^= 1;
        assert_eq!((c.check(&whole[500..]), c.count()), (Err(700), 700));
        assert!(Bytes::new(1, 2, false).check(&whole[..8]).is_err());
    }
}
