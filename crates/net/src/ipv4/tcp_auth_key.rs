//! A key of TCP-MD5 or TCP-AO with what it takes to sign segments that no socket sends.
//!
//! Interface: [`AuthKey`], [`AoConn`], [`context`], [`context_in`].
//! Linux counterpart: `struct tcp_key`, the keys in `struct tcp_timewait_sock` and `struct tcp_request_sock`.
//! Locks and context: plain data.

use super::inet_sock::InetTuple;
use super::tcp_ao::{AoKey, AuthOut, Tag, TrafficContext, tcp_ao_compute_sne};
use super::tcp_md5::{SegmentView, tcp_md5_hash};
use crate::core::skbuff::Skb;
use crate::hdr::TcpHdr;

/// Where the signature stands in what we send, from the start of the header: the option is the first, MD5's padded in front.
pub const HOLE: usize = TcpHdr::LEN + 4;

/// What signs a segment that no socket sends: of a request, of a time-wait entry, a RST.
#[derive(Clone)]
pub enum AuthKey {
    Md5(Box<[u8]>),
    Ao(Box<AoConn>),
}

/// A connection's TCP-AO, as far as it takes to sign.
#[derive(Clone)]
pub struct AoConn {
    pub key: AoKey,
    /// RNextKeyID to be sent.
    pub rnext: u8,
    pub lisn: u32,
    pub risn: u32,
    /// A sequence number of ours and its extension.
    pub snd: (u32, u32),
}

impl AuthKey {
    pub fn option(&self) -> AuthOut {
        match self {
            AuthKey::Md5(_) => AuthOut::Md5,
            AuthKey::Ao(c) => c.key.out(c.rnext),
        }
    }

    /// Signs a segment whose header is complete but for the checksum; `data` at it.
    pub fn sign(&self, skb: &mut Skb, t: &InetTuple, seq: u32, syn: bool) {
        let seg = SegmentView { skb, saddr: t.laddr, daddr: t.faddr };
        let tag = match self {
            AuthKey::Md5(key) => tcp_md5_hash(key, &seg).map(|h| Tag::from_slice(&h)),
            AuthKey::Ao(c) => {
                let sne = if syn { 0 } else { tcp_ao_compute_sne(c.snd.0, c.snd.1, seq) };
                c.key.sign(&context(t, c.lisn, c.risn), &seg, sne, HOLE)
            }
        };
        put_tag(skb, tag);
    }
}

/// The context of segments from here.
pub fn context(t: &InetTuple, lisn: u32, risn: u32) -> TrafficContext {
    TrafficContext { saddr: t.laddr, daddr: t.faddr, sport: t.lport, dport: t.fport, sisn: lisn, disn: risn }
}

/// The context of segments to here.
pub fn context_in(t: &InetTuple, risn: u32, lisn: u32) -> TrafficContext {
    TrafficContext { saddr: t.faddr, daddr: t.laddr, sport: t.fport, dport: t.lport, sisn: risn, disn: lisn }
}

/// Fills the place that was left for it.
pub fn put_tag(skb: &mut Skb, tag: Option<Tag>) {
    if let Some(tag) = tag
        && let Some(to) = skb.data_mut().get_mut(HOLE..HOLE + tag.len())
    {
        to.copy_from_slice(&tag);
    }
}
