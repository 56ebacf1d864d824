//! TCP-AO: algorithms, master keys, traffic keys, message authentication codes (RFC 5925, RFC 5926).
//!
//! Interface: [`TcpAuth`], [`AuthOut`], [`AoAlg`], [`AoKey`], [`AoInfo`], [`TrafficContext`], [`tcp_ao_hash`],
//! [`tcp_ao_compute_sne`].
//! Linux counterpart: `net/ipv4/tcp_ao.c`, `include/net/tcp_ao.h`.
//! Locks and context: plain data; counters are atomic.

use crate::hdr::TcpHdr;
use crate::ipv4::tcp_md5::{KeyScope, Md5Keys, SegmentView, TCPOLEN_MD5SIG_ALIGNED};
use aes::Aes128;
use cmac::Cmac;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub const TCPOPT_AO: u8 = 29;
/// Kind, length, KeyID, RNextKeyID.
pub const TCPOLEN_AO: usize = 4;
pub const TCP_AO_MAXKEYLEN: usize = 80;
/// Bytes of a MAC unless said otherwise (RFC 5926, 3.2), and at most.
pub const TCP_AO_DEFAULT_MACLEN: u8 = 12;
pub const TCP_AO_MAX_MACLEN: usize = 32;
/// The MAC does not cover other options (RFC 5925, 3.1).
pub const TCP_AO_KEYF_IFINDEX: u8 = 1;
pub const TCP_AO_KEYF_EXCLUDE_OPT: u8 = 2;
/// Keys of one socket.
pub const TCP_AO_MAX_KEYS: usize = 1024;

/// A hash or MAC of up to 32 bytes.
pub type Tag = SmallVec<[u8; TCP_AO_MAX_MACLEN]>;

/// A MAC algorithm with its key derivation function (RFC 5926, 3.1 and 3.2; SHA-256 as Linux allows it by name).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AoAlg {
    HmacSha1,
    Aes128Cmac,
    HmacSha256,
}

impl AoAlg {
    /// By the kernel's name of it (`"cmac(aes128)"` is what RFC 5926 names for compatibility).
    pub fn by_name(name: &str) -> Option<AoAlg> {
        match name {
            "hmac(sha1)" => Some(AoAlg::HmacSha1),
            "cmac(aes128)" | "cmac(aes)" => Some(AoAlg::Aes128Cmac),
            "hmac(sha256)" => Some(AoAlg::HmacSha256),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            AoAlg::HmacSha1 => "hmac(sha1)",
            AoAlg::Aes128Cmac => "cmac(aes128)",
            AoAlg::HmacSha256 => "hmac(sha256)",
        }
    }

    /// Bytes of its output.
    pub fn digest_size(self) -> usize {
        match self {
            AoAlg::HmacSha1 => 20,
            AoAlg::Aes128Cmac => 16,
            AoAlg::HmacSha256 => 32,
        }
    }

    /// The MAC under `key` of what `feed` feeds.
    fn mac(self, key: &[u8], feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Tag {
        fn run<M: Mac>(mac: Option<M>, feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Tag {
            let Some(mut m) = mac else { return Tag::new() };
            feed(&mut |b| m.update(b));
            Tag::from_slice(&m.finalize().into_bytes())
        }
        match self {
            AoAlg::HmacSha1 => run(Hmac::<Sha1>::new_from_slice(key).ok(), feed),
            AoAlg::HmacSha256 => run(Hmac::<Sha256>::new_from_slice(key).ok(), feed),
            // RFC 5926, 3.1.1.2: a key of another length is made to fit, with a key of zeros.
            AoAlg::Aes128Cmac if key.len() != 16 => {
                let fitting = run(Cmac::<Aes128>::new_from_slice(&[0; 16]).ok(), |f| f(key));
                run(Cmac::<Aes128>::new_from_slice(&fitting).ok(), feed)
            }
            AoAlg::Aes128Cmac => run(Cmac::<Aes128>::new_from_slice(key).ok(), feed),
        }
    }

    /// The key derivation function (RFC 5926, 3.1.1): one round, as no output is longer than the algorithm's.
    pub fn kdf(self, master: &[u8], ctx: &TrafficContext) -> Tag {
        let bits = (self.digest_size() * 8) as u16;
        self.mac(master, |feed| {
            feed(&[1]);
            feed(b"TCP-AO");
            ctx.feed(feed);
            feed(&bits.to_be_bytes());
        })
    }
}

/// What tells connections and directions apart (RFC 5925, 5.2), the sender of the segment first. Ports in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrafficContext {
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub sport: u16,
    pub dport: u16,
    /// Initial sequence numbers of the segment's sender and receiver; the latter is 0 in a SYN.
    pub sisn: u32,
    pub disn: u32,
}

impl TrafficContext {
    fn feed(&self, feed: &mut dyn FnMut(&[u8])) {
        for a in [self.saddr, self.daddr] {
            match a {
                IpAddr::V4(a) => feed(&a.octets()),
                IpAddr::V6(a) => feed(&a.octets()),
            }
        }
        feed(&self.sport.to_be_bytes());
        feed(&self.dport.to_be_bytes());
        feed(&self.sisn.to_be_bytes());
        feed(&self.disn.to_be_bytes());
    }
}

/// Verified and refused segments of one key, shared by a listener's key and its children's copies as little as in Linux.
#[derive(Default)]
pub struct AoKeyCounters {
    pub good: AtomicU64,
    pub bad: AtomicU64,
}

/// A master key tuple (RFC 5925, 3.1; `struct tcp_ao_key`).
#[derive(Clone)]
pub struct AoKey {
    pub scope: KeyScope,
    pub alg: AoAlg,
    /// KeyIDs in what is sent, and in what comes.
    pub sndid: u8,
    pub rcvid: u8,
    pub maclen: u8,
    pub keyflags: u8,
    pub key: Box<[u8]>,
    pub counters: Arc<AoKeyCounters>,
}

impl AoKey {
    /// The option of a segment that this key signs.
    pub fn out(&self, rnext: u8) -> AuthOut {
        AuthOut::Ao { keyid: self.sndid, rnext, maclen: self.maclen }
    }

    /// Bytes of the option, padding included (`tcp_ao_len_aligned`).
    pub fn option_len_aligned(&self) -> usize {
        (TCPOLEN_AO + self.maclen as usize).next_multiple_of(4)
    }

    /// The MAC of a segment whose option's MAC field is `hole`: its place behind the start of the header.
    pub fn sign(&self, ctx: &TrafficContext, seg: &SegmentView<'_>, sne: u32, hole: usize) -> Option<Tag> {
        let traffic = self.alg.kdf(&self.key, ctx);
        let exclude = self.keyflags & TCP_AO_KEYF_EXCLUDE_OPT != 0;
        tcp_ao_hash(self.alg, &traffic, seg, sne, hole, self.maclen, exclude)
    }
}

/// The MAC (RFC 5925, 5.1): sequence number extension, pseudo-header, header with options or only AO's, payload; checksum and
/// MAC field zero. `hole` is where the MAC stands, from the start of the header.
pub fn tcp_ao_hash(
    alg: AoAlg,
    traffic: &[u8],
    seg: &SegmentView<'_>,
    sne: u32,
    hole: usize,
    maclen: u8,
    exclude_options: bool,
) -> Option<Tag> {
    let (header, len) = seg.bare_header()?;
    let options = seg.skb.data().get(TcpHdr::LEN..len)?;
    let at = hole.checked_sub(TcpHdr::LEN)?;
    let end = at + maclen as usize;
    let (before, after) = (options.get(..at)?, options.get(end..)?);
    let mut tag = alg.mac(traffic, |feed| {
        feed(&sne.to_be_bytes());
        seg.pseudo_header(&mut *feed);
        feed(&header);
        if exclude_options {
            feed(before.get(at - TCPOLEN_AO..).unwrap_or(&[]));
        } else {
            feed(before);
        }
        feed(&[0; TCP_AO_MAX_MACLEN][..maclen as usize]);
        if !exclude_options {
            feed(after);
        }
        seg.payload(len, &mut *feed);
    });
    tag.truncate(maclen as usize);
    (tag.len() == maclen as usize).then_some(tag)
}

/// The extension of `seq`, near a number `next` whose extension is `next_sne` (RFC 5925, 6.2).
pub fn tcp_ao_compute_sne(next_sne: u32, next: u32, seq: u32) -> u32 {
    let behind = (seq.wrapping_sub(next) as i32) < 0;
    match behind {
        true if seq > next => next_sne.wrapping_sub(1),
        false if seq < next => next_sne.wrapping_add(1),
        _ => next_sne,
    }
}

/// A socket's keys and what it does with them (`struct tcp_ao_info`). On a listener only keys and flags matter.
#[derive(Clone, Default)]
pub struct AoInfo {
    pub keys: Vec<AoKey>,
    /// Indices of the key that signs, and of the one the peer is asked to sign with.
    pub current: Option<usize>,
    pub rnext: Option<usize>,
    pub ao_required: bool,
    pub accept_icmps: bool,
    pub lisn: u32,
    pub risn: u32,
    /// Extensions of the numbers beside them (RFC 5925, 6.2).
    pub snd: (u32, u32),
    pub rcv: (u32, u32),
    pub counters: Arc<AoCounters>,
}

/// `struct tcp_ao_counters`.
#[derive(Default)]
pub struct AoCounters {
    pub good: AtomicU64,
    pub bad: AtomicU64,
    pub key_not_found: AtomicU64,
    pub ao_required: AtomicU64,
    pub dropped_icmp: AtomicU64,
}

impl AoCounters {
    pub fn all(&self) -> [u64; 5] {
        [&self.good, &self.bad, &self.key_not_found, &self.ao_required, &self.dropped_icmp].map(|c| c.load(Relaxed))
    }

    pub fn set(&self, v: [u64; 5]) {
        for (c, v) in
            [&self.good, &self.bad, &self.key_not_found, &self.ao_required, &self.dropped_icmp].into_iter().zip(v)
        {
            c.store(v, Relaxed);
        }
    }
}

impl AoInfo {
    pub fn current_key(&self) -> Option<&AoKey> {
        self.keys.get(self.current?)
    }

    pub fn rnext_key(&self) -> Option<&AoKey> {
        self.keys.get(self.rnext?)
    }

    /// The key of a peer with these ids; `None`: any (`tcp_ao_do_lookup`). The longest prefix is the best.
    pub fn lookup(&self, addr: IpAddr, l3index: u32, sndid: Option<u8>, rcvid: Option<u8>) -> Option<usize> {
        let fits = |k: &AoKey| {
            k.scope.matches(addr, l3index)
                && sndid.is_none_or(|id| id == k.sndid)
                && rcvid.is_none_or(|id| id == k.rcvid)
        };
        let all = self.keys.iter().enumerate().filter(|(_, k)| fits(k));
        all.max_by_key(|(i, k)| (k.scope.prefixlen, std::cmp::Reverse(*i))).map(|(i, _)| i)
    }

    /// The keys for one peer, as a child takes them over (`tcp_ao_copy_all_matching`).
    pub fn matching(&self, addr: IpAddr, l3index: u32) -> AoInfo {
        let keys = self.keys.iter().filter(|k| k.scope.matches(addr, l3index));
        let keys = keys.map(|k| AoKey { counters: Arc::default(), ..k.clone() }).collect();
        AoInfo { keys, ao_required: self.ao_required, accept_icmps: self.accept_icmps, ..AoInfo::default() }
    }

    /// Takes a key out; the indices of the others move. `current` and `rnext` must be others.
    pub fn remove(&mut self, at: usize) {
        self.keys.remove(at);
        for i in [&mut self.current, &mut self.rnext].into_iter().flatten() {
            if *i > at {
                *i -= 1;
            }
        }
    }

    /// Follows the connection's numbers: `snd` and `rcv` grow by less than half their range between two calls.
    pub fn advance(&mut self, snd: u32, rcv: u32) {
        for (at, now) in [(&mut self.snd, snd), (&mut self.rcv, rcv)] {
            *at = (tcp_ao_compute_sne(at.0, at.1, now), now);
        }
    }

    pub fn snd_sne(&self, seq: u32) -> u32 {
        tcp_ao_compute_sne(self.snd.0, self.snd.1, seq)
    }

    pub fn rcv_sne(&self, seq: u32) -> u32 {
        tcp_ao_compute_sne(self.rcv.0, self.rcv.1, seq)
    }
}

/// A socket's keys.
#[derive(Clone, Default)]
pub struct TcpAuth {
    pub md5: Md5Keys,
    pub ao: Option<Box<AoInfo>>,
}

/// The authentication option of a segment to be sent, its signature left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthOut {
    Md5,
    Ao { keyid: u8, rnext: u8, maclen: u8 },
}

impl AuthOut {
    /// Bytes of the option area that it takes.
    pub fn len_aligned(self) -> usize {
        match self {
            AuthOut::Md5 => TCPOLEN_MD5SIG_ALIGNED,
            AuthOut::Ao { maclen, .. } => (TCPOLEN_AO + maclen as usize).next_multiple_of(4),
        }
    }
}

#[cfg(test)]
mod vectors;
