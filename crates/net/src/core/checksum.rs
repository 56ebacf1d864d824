//! The Internet checksum (RFC 1071).
//!
//! Interface: [`csum_partial`], [`csum_fold`], [`csum_tcpudp_magic`], [`ip_fast_csum`], [`skb_checksum`], [`csum_replace2`],
//! [`skb_checksum_help`].
//! Linux counterpart: `lib/checksum.c`, `include/net/checksum.h`, `skb_checksum`.
//! Locks and context: pure functions.
//!
//! Sums are kept in the byte order of memory: a 16-bit field is summed and stored as the two bytes it is (`[u8; 2]`).

use crate::core::skbuff::{IpSummed, Skb};
use std::net::IpAddr;

/// Where UDP has its checksum; no other transport has it there.
const UDP_CHECK: u16 = 6;

/// Adds `b` to the running sum, as if it began at an even offset.
#[inline]
pub fn csum_partial(b: &[u8], sum: u32) -> u32 {
    let mut acc = sum as u64;
    let mut chunks = b.chunks_exact(32);
    for c in &mut chunks {
        // Four independent 64-bit words: no carry chain between them.
        let mut wide = 0u128;
        for w in c.chunks_exact(8) {
            wide += u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]) as u128;
        }
        let folded = (wide as u64) as u128 + (wide >> 64);
        acc = add64(acc, fold128(folded));
    }
    let mut words = chunks.remainder().chunks_exact(2);
    for w in &mut words {
        acc = add64(acc, u16::from_ne_bytes([w[0], w[1]]) as u64);
    }
    if let [last] = words.remainder() {
        acc = add64(acc, u16::from_ne_bytes([*last, 0]) as u64);
    }
    fold64(acc)
}

#[inline]
fn add64(a: u64, b: u64) -> u64 {
    let (s, carry) = a.overflowing_add(b);
    s + carry as u64
}

#[inline]
fn fold128(v: u128) -> u64 {
    add64(v as u64, (v >> 64) as u64)
}

#[inline]
fn fold64(v: u64) -> u32 {
    let s = (v & 0xffff_ffff) + (v >> 32);
    ((s & 0xffff_ffff) + (s >> 32)) as u32
}

/// Adds two sums; `odd` when the second one's bytes begin at an odd offset of the whole (`csum_block_add`).
#[inline]
pub fn csum_block_add(a: u32, b: u32, odd: bool) -> u32 {
    let b = if odd { b.rotate_left(8) } else { b };
    fold64(a as u64 + b as u64)
}

/// Folds to 16 bits and complements: the bytes to store. 0 means the sum was right.
#[inline]
pub fn csum_fold(sum: u32) -> [u8; 2] {
    let s = (sum & 0xffff) + (sum >> 16);
    let s = (s & 0xffff) + (s >> 16);
    (!(s as u16)).to_ne_bytes()
}

/// The IPv4 header checksum over `header`: to be stored if its field is zero, `[0, 0]` if it is right.
#[inline]
pub fn ip_fast_csum(header: &[u8]) -> [u8; 2] {
    match header {
        // Without options, as almost always: five words.
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, e0, e1, e2, e3] => {
            let word = |w: [&u8; 4]| u32::from_ne_bytes(w.map(|b| *b)) as u64;
            let sum = word([a0, a1, a2, a3])
                + word([b0, b1, b2, b3])
                + word([c0, c1, c2, c3])
                + word([d0, d1, d2, d3])
                + word([e0, e1, e2, e3]);
            csum_fold(fold64(sum))
        }
        _ => csum_fold(csum_partial(header, 0)),
    }
}

/// The running sum of the pseudo-header of either version (RFC 9293, 3.1; RFC 8200, 8.1).
#[inline]
pub fn csum_pseudo(saddr: IpAddr, daddr: IpAddr, len: usize, proto: u8, sum: u32) -> u32 {
    let word = |b: [u8; 4]| u32::from_ne_bytes(b) as u64;
    let wide = |b: [u8; 16]| fold128(u128::from_ne_bytes(b));
    let addrs = match (saddr, daddr) {
        (IpAddr::V4(s), IpAddr::V4(d)) => word(s.octets()) + word(d.octets()),
        (IpAddr::V6(s), IpAddr::V6(d)) => add64(wide(s.octets()), wide(d.octets())),
        _ => 0,
    };
    let rest = word((len as u32).to_be_bytes()) + word([0, 0, 0, proto]) + sum as u64;
    fold64(add64(addrs, rest))
}

/// Pseudo-header and `sum`, folded (`csum_tcpudp_magic`, `csum_ipv6_magic`).
#[inline]
pub fn csum_tcpudp_magic(saddr: IpAddr, daddr: IpAddr, len: usize, proto: u8, sum: u32) -> [u8; 2] {
    csum_fold(csum_pseudo(saddr, daddr, len, proto, sum))
}

/// What a device is given to complete: the pseudo-header's sum, folded but not complemented (`~csum_tcpudp_magic`).
#[inline]
pub fn csum_partial_seed(saddr: IpAddr, daddr: IpAddr, len: usize, proto: u8) -> [u8; 2] {
    let [a, b] = csum_tcpudp_magic(saddr, daddr, len, proto, 0);
    [!a, !b]
}

/// The sum over `[offset, offset + len)` of a packet.
pub fn skb_checksum(skb: &Skb, offset: usize, len: usize, sum: u32) -> u32 {
    let (mut skip, mut left, mut done, mut sum) = (offset, len, 0usize, sum);
    for c in skb.chunks() {
        if left == 0 {
            break;
        }
        if skip >= c.len() {
            skip -= c.len();
            continue;
        }
        let part = &c[skip..c.len().min(skip + left)];
        skip = 0;
        sum = csum_block_add(sum, csum_partial(part, 0), done & 1 == 1);
        done += part.len();
        left -= part.len();
    }
    sum
}

/// Adjusts a stored checksum for a 16-bit field that changed from `old` to `new` (RFC 1624, eqn. 3).
pub fn csum_replace2(check: &mut [u8; 2], old: [u8; 2], new: [u8; 2]) {
    let n = |b: [u8; 2]| u16::from_ne_bytes(b) as u32;
    *check = csum_fold(n([!check[0], !check[1]]) + n([!old[0], !old[1]]) + n(new));
}

/// `skb_checksum_help`: stores the transport checksum that was left to the device, for whoever cannot leave it there.
/// `false` if the packet does not hold the field.
pub fn skb_checksum_help(skb: &mut Skb) -> bool {
    if skb.ip_summed != IpSummed::Partial {
        return true;
    }
    let start = skb.checksum_start_offset();
    let field = start + skb.csum_offset as usize;
    if start > skb.len() || !skb.may_pull(field + 2) {
        return false;
    }
    let mut check = csum_fold(skb_checksum(skb, start, skb.len() - start, 0));
    if check == [0, 0] && skb.csum_offset == UDP_CHECK {
        // `CSUM_MANGLED_0`: in UDP, 0 would say that there is none. Elsewhere all ones is no checksum that anybody sends.
        check = [0xff, 0xff];
    }
    if let Some(to) = skb.data_mut().get_mut(field..field + 2) {
        to.copy_from_slice(&check);
    }
    skb.ip_summed = IpSummed::None;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::Frag;
    use proptest::prelude::*;

    /// RFC 1071, section 1, word for word.
    fn naive(b: &[u8]) -> [u8; 2] {
        let mut sum = 0u64;
        for w in b.chunks(2) {
            sum += u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]) as u64;
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let b = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(csum_fold(csum_partial(&b, 0)), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(b in prop::collection::vec(any::<u8>(), 0..300), ones in any::<bool>()) {
            let b = if ones { vec![0xff; b.len()] } else { b };
            prop_assert_eq!(csum_fold(csum_partial(&b, 0)), naive(&b));
        }

        #[test]
        fn a_packet_in_pieces_is_the_same_packet(
            b in prop::collection::vec(any::<u8>(), 1..2000), cuts in prop::collection::vec(1usize..200, 1..20),
            from in 0usize..500, len in 0usize..2000,
        ) {
            let mut skb = Skb::from_bytes(0, &b[..cuts[0].min(b.len())]);
            let mut at = cuts[0].min(b.len());
            for c in cuts[1..].iter().cycle().take(40) {
                let to = (at + c).min(b.len());
                prop_assert!(skb.add_frag(Frag::copy_of(&b[at..to])));
                at = to;
            }
            let from = from.min(at);
            let to = (from + len).min(at);
            prop_assert_eq!(csum_fold(skb_checksum(&skb, from, to - from, 0)), naive(&b[from..to]));
        }

        #[test]
        fn a_replaced_field_is_as_good_as_summed_anew(b in prop::collection::vec(any::<u8>(), 20..21), new in any::<[u8; 2]>()) {
            let mut b = b;
            let mut check = naive(&b);
            csum_replace2(&mut check, [b[8], b[9]], new);
            b[8..10].copy_from_slice(&new);
            let fresh = naive(&b);
            // 0 and -0 are the same number in ones' complement.
            let same = check == fresh || (check == [0; 2] && fresh == [0xff; 2]) || (check == [0xff; 2] && fresh == [0; 2]);
            prop_assert!(same, "{check:?} {fresh:?}");
        }

        #[test]
        fn a_sum_completes_what_a_seed_began(b in prop::collection::vec(any::<u8>(), 8..400), v6 in any::<bool>(), x in any::<u128>()) {
            let (s, d): (IpAddr, IpAddr) = match v6 {
                true => (std::net::Ipv6Addr::from(x).into(), std::net::Ipv6Addr::from(!x).into()),
                false => (std::net::Ipv4Addr::from(x as u32).into(), std::net::Ipv4Addr::from(!x as u32).into()),
            };
            let mut skb = Skb::from_bytes(16, &b);
            skb.reset_transport_header();
            skb.data_mut()[6..8].copy_from_slice(&csum_partial_seed(s, d, b.len(), 17));
            skb.set_csum_partial(6);
            prop_assert!(skb_checksum_help(&mut skb));
            let sum = csum_tcpudp_magic(s, d, b.len(), 17, skb_checksum(&skb, 0, b.len(), 0));
            prop_assert_eq!(sum, [0, 0]);
            prop_assert_ne!(&skb.data()[6..8], &[0, 0]);
        }
    }
}
