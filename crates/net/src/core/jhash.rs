//! Bob Jenkins' hash of a few words (lookup3), keyed: for tables that are looked into for each packet.
//!
//! Interface: [`jhash_3words`], [`jhash2`], [`jhash_ip`].
//! Linux counterpart: `include/linux/jhash.h`.
//! Locks and context: pure functions.
//!
//! Whoever does not know `initval` cannot choose what collides, as long as he does not see hashes; where others see them,
//! [`Net::hash`](crate::core::net_namespace::Net::hash) is the function to take.

use std::net::IpAddr;

const JHASH_INITVAL: u32 = 0xdead_beef;

#[inline(always)]
fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    [a, b, c]
}

#[inline(always)]
fn last([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// Three words.
#[inline]
pub fn jhash_3words(a: u32, b: u32, c: u32, initval: u32) -> u32 {
    let start = JHASH_INITVAL.wrapping_add(3 << 2).wrapping_add(initval);
    last([start.wrapping_add(a), start.wrapping_add(b), start.wrapping_add(c)])
}

/// Any number of words.
pub fn jhash2(words: &[u32], initval: u32) -> u32 {
    let start = JHASH_INITVAL.wrapping_add((words.len() as u32) << 2).wrapping_add(initval);
    let mut state = [start; 3];
    let mut rest = words;
    while rest.len() > 3 {
        let (now, later) = rest.split_at(3);
        state.iter_mut().zip(now).for_each(|(s, w)| *s = s.wrapping_add(*w));
        state = mix(state);
        rest = later;
    }
    state.iter_mut().zip(rest).for_each(|(s, w)| *s = s.wrapping_add(*w));
    if rest.is_empty() { state[2] } else { last(state) }
}

/// An address as one word: of IPv4 itself, of IPv6 a hash (`__ipv6_addr_jhash`).
#[inline]
pub fn jhash_ip(ip: IpAddr, initval: u32) -> u32 {
    match ip {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let b = a.to_bits();
            jhash2(&[b as u32, (b >> 32) as u32, (b >> 64) as u32, (b >> 96) as u32], initval)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup3_has_its_published_values() {
        // Of the self-test in its author's file: no words, with two starting values.
        assert_eq!(jhash2(&[], 0), 0xdead_beef);
        assert_eq!(jhash2(&[], 0xdead_beef), 0xbd5b_7dde);
        // The text has 30 bytes, which goes into the starting value; the words have 32.
        let text = b"Four score and seven years ago\0\0";
        let words: Vec<u32> = text.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        assert_eq!(jhash2(&words, 0u32.wrapping_sub(2)), 0x1777_0551);
        assert_eq!(jhash2(&words, 1u32.wrapping_sub(2)), 0xcd62_8161);
        let words = [0x72756f46, 0x6f637320, 0x61206572];
        assert_eq!(jhash2(&words, 7), jhash_3words(words[0], words[1], words[2], 7));
    }

    #[test]
    fn all_of_an_address_counts() {
        let v6 = |bits: u128, key| jhash_ip(std::net::Ipv6Addr::from_bits(bits).into(), key);
        let all: std::collections::HashSet<u32> =
            (0..128).map(|bit| v6(1 << bit, 7)).chain([v6(0, 7), v6(0, 8)]).collect();
        assert_eq!(all.len(), 130);
        assert_eq!(jhash_ip([192, 0, 2, 1].into(), 7), 0xc000_0201);
    }

    #[test]
    fn each_bit_of_a_key_moves_half_of_the_hash() {
        let mut moved = 0;
        for word in 0..3 {
            for bit in 0..32 {
                let mut k = [1u32, 2, 3];
                let before = jhash_3words(k[0], k[1], k[2], 99);
                k[word] ^= 1 << bit;
                moved += (before ^ jhash_3words(k[0], k[1], k[2], 99)).count_ones();
            }
        }
        let each = moved as f64 / 96.0;
        assert!((14.0..18.0).contains(&each), "{each} of 32 bits");
    }
}
