//! TCP MD5 signatures: keys and the digest (RFC 2385).
//!
//! Interface: [`Md5Key`], [`Md5Keys`], [`tcp_md5_hash`], [`SegmentView`].
//! Linux counterpart: `tcp_md5_do_add` and its like in `net/ipv4/tcp_ipv4.c`.
//! Locks and context: plain data.

use crate::core::skbuff::Skb;
use crate::hdr::{IPPROTO_TCP, TcpHdr};
use md5::{Digest, Md5};
use std::net::IpAddr;

pub const TCPOPT_MD5SIG: u8 = 19;
pub const TCPOLEN_MD5SIG: usize = 18;
pub const TCPOLEN_MD5SIG_ALIGNED: usize = 20;
/// The longest key, bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const TCP_MD5SIG_MAXKEYLEN: usize = 80;
/// Keys of one socket; Linux bounds them by the socket's option memory.
const MAX_KEYS: usize = 1024;

/// Which peers a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyScope {
    pub addr: IpAddr,
    pub prefixlen: u8,
    /// The device of an L3 domain; `None`: any.
    pub l3index: Option<u32>,
}

impl KeyScope {
    /// Whether the peer at `addr`, seen on `l3index` (0: no domain), is one of them.
    pub fn matches(&self, addr: IpAddr, l3index: u32) -> bool {
        let bits = |a: IpAddr| match a {
            IpAddr::V4(a) => (u32::from(a) as u128) << 96,
            IpAddr::V6(a) => u128::from(a),
        };
        let mask = u128::MAX.checked_shl(128 - self.prefixlen as u32).unwrap_or(0);
        self.addr.is_ipv4() == addr.is_ipv4()
            && (bits(self.addr) ^ bits(addr)) & mask == 0
            && self.l3index.is_none_or(|i| i == l3index)
    }
}

/// A shared secret (`struct tcp_md5sig_key`).
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Key {
    pub scope: KeyScope,
    pub key: Box<[u8]>,
}

/// A socket's keys (`struct tcp_md5sig_info`).
#[derive(Clone, Default)]
pub struct Md5Keys(Vec<Md5Key>);

impl Md5Keys {
    /// The best key for a peer: one of its domain before one of any, then the longest prefix (`tcp_md5_do_lookup`).
    pub fn lookup(&self, addr: IpAddr, l3index: u32) -> Option<&Md5Key> {
        let best = |k: &&Md5Key| (k.scope.l3index.is_some(), k.scope.prefixlen);
        self.0.iter().filter(|k| k.scope.matches(addr, l3index)).max_by_key(best)
    }

    /// Adds a key, or changes that of the same scope (`tcp_md5_do_add`); `false`: too many.
    pub fn add(&mut self, key: Md5Key) -> bool {
        let n = self.0.len();
        match self.0.iter_mut().find(|k| k.scope == key.scope) {
            Some(k) => *k = key,
            None if n < MAX_KEYS => self.0.push(key),
            None => return false,
        }
        true
    }

    /// `tcp_md5_do_del`; `false`: there was none.
    pub fn remove(&mut self, scope: &KeyScope) -> bool {
        let n = self.0.len();
        self.0.retain(|k| k.scope != *scope);
        self.0.len() != n
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A segment to be authenticated: `skb.data` at the TCP header.
#[derive(Clone, Copy)]
pub struct SegmentView<'a> {
    pub skb: &'a Skb,
    pub saddr: IpAddr,
    pub daddr: IpAddr,
}

impl SegmentView<'_> {
    /// The pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
    pub fn pseudo_header(&self, mut feed: impl FnMut(&[u8])) {
        let len = self.skb.len() as u32;
        match (self.saddr, self.daddr) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                feed(&s.octets());
                feed(&d.octets());
                feed(&[0, IPPROTO_TCP]);
                feed(&(len as u16).to_be_bytes());
            }
            (s, d) => {
                for a in [s, d] {
                    match a {
                        IpAddr::V6(a) => feed(&a.octets()),
                        IpAddr::V4(a) => feed(&a.to_ipv6_mapped().octets()),
                    }
                }
                feed(&len.to_be_bytes());
                feed(&[0, 0, 0, IPPROTO_TCP]);
            }
        }
    }

    /// The header without options, its checksum zero, and its length with options.
    pub fn bare_header(&self) -> Option<([u8; TcpHdr::LEN], usize)> {
        let mut h = *self.skb.data().first_chunk::<{ TcpHdr::LEN }>()?;
        h[16..18].fill(0);
        Some((h, (h[12] >> 4) as usize * 4))
    }

    /// The payload behind a header of `header` bytes, piece by piece.
    pub fn payload(&self, header: usize, mut feed: impl FnMut(&[u8])) {
        let mut at = header;
        let mut chunk = [0; 1024];
        while at < self.skb.len() {
            let n = (self.skb.len() - at).min(chunk.len());
            if self.skb.copy_bits(at, &mut chunk[..n]) == 0 {
                return;
            }
            feed(&chunk[..n]);
            at += n;
        }
    }
}

/// The signature (RFC 2385, 2.0): pseudo-header, header without options, payload, key. `None` for what is no segment.
pub fn tcp_md5_hash(key: &[u8], seg: &SegmentView<'_>) -> Option<[u8; 16]> {
    let mut h = Md5::new();
    seg.pseudo_header(|b| h.update(b));
    let (header, len) = seg.bare_header()?;
    h.update(header);
    seg.payload(len, |b| h.update(b));
    h.update(key);
    Some(h.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(addr: &str, prefixlen: u8, l3index: Option<u32>, k: u8) -> Md5Key {
        Md5Key { scope: KeyScope { addr: addr.parse().unwrap(), prefixlen, l3index }, key: [k].into() }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut keys = Md5Keys::default();
        assert!(keys.add(key("10.0.0.0", 8, None, 1)) && keys.add(key("10.1.0.0", 16, None, 2)));
        assert!(keys.add(key("0.0.0.0", 0, None, 3)) && keys.add(key("2001:db8::", 32, None, 4)));
        let find = |keys: &Md5Keys, a: &str, l3| keys.lookup(a.parse().unwrap(), l3).map(|k| k.key[0]);
        assert_eq!(find(&keys, "10.1.2.3", 0), Some(2));
        assert_eq!(find(&keys, "10.2.2.3", 0), Some(1));
        assert_eq!(find(&keys, "11.2.2.3", 0), Some(3));
        assert_eq!(find(&keys, "2001:db8::1", 0), Some(4));
        assert_eq!(find(&keys, "2001:db9::1", 0), None);
        assert!(keys.add(key("0.0.0.0", 0, Some(7), 5)));
        assert_eq!((find(&keys, "10.1.2.3", 7), find(&keys, "10.1.2.3", 8)), (Some(5), Some(2)));
        assert!(keys.remove(&key("10.1.0.0", 16, None, 0).scope) && !keys.remove(&key("10.1.0.0", 16, None, 0).scope));
        assert_eq!(find(&keys, "10.1.2.3", 0), Some(1));
    }

    /// By hand from RFC 2385's text: with Python's hashlib over the same bytes.
    #[test]
    fn the_digest_covers_header_payload_and_key() {
        let mut b = vec![0; 40];
        b[..4].copy_from_slice(&[0x04, 0xd2, 0, 80]);
        b[4..8].copy_from_slice(&7u32.to_be_bytes());
        b[12] = 10 << 4;
        b[13] = 2;
        b[16..18].copy_from_slice(&[0xab, 0xcd]);
        b.extend_from_slice(b"data");
        let skb = Skb::from_bytes(64, &b);
        let hash = |skb: &Skb| {
            let (saddr, daddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            tcp_md5_hash(b"secret", &SegmentView { skb, saddr, daddr })
        };
        let want = hash(&skb).unwrap();
        let hex: String = want.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "7c94dfe6cf3da49c5f0d6a7b8d9d8fca");
        // Options and checksum do not matter, all else does.
        for (at, same) in [(16, true), (25, true), (5, false), (41, false)] {
            let mut b = b.clone();
            b[at] ^= 1;
            let skb = Skb::from_bytes(64, &b);
            assert_eq!(hash(&skb) == Some(want), same, "byte {at}");
        }
    }
}
