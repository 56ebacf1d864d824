//! IPv6 reassembly.
//!
//! Interface: [`ipv6_frag_rcv`], the handler of the fragment header.
//! Linux counterpart: `net/ipv6/reassembly.c`.
//! Locks and context: softirq context; see [`inet_fragment`](crate::core::inet_fragment).

use super::exthdrs::icmpv6_param_prob;
use super::exthdrs_core::{IP6_MF, IP6_OFFSET};
use super::icmp::{ICMPV6_EXC_FRAGTIME, ICMPV6_HDR_FIELD, ICMPV6_TIME_EXCEED, icmpv6_send};
use super::ip6_output::Inet6SkbParm;
use crate::core::inet_fragment::{FragTable, Piece, Verdict, Whole, frag_reasm};
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::hdr::{FragHdr, Ipv6Hdr};
use kernel::{HZ, Timer};
use std::net::Ipv6Addr;
use std::sync::Arc;

/// What fragments of one packet have in common (RFC 8200, 4.5), and the link of link-local addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    saddr: Ipv6Addr,
    daddr: Ipv6Addr,
    id: u32,
    iif: u32,
}

/// The namespace's fragments.
pub struct Ip6Frag(FragTable<Key>);

impl Ip6Frag {
    pub fn new(net: &Net) -> Ip6Frag {
        Ip6Frag(FragTable::new([net.kernel().random(), net.kernel().random()]))
    }

    /// Bytes of memory that fragments take.
    pub fn mem(&self) -> usize {
        self.0.mem()
    }
}

fn frags(net: &Net) -> &Ip6Frag {
    net.generic(NetId::Ipv6Frag)
}

/// `ipv6_frag_rcv`: takes a fragment, `data` at its fragment header. When the packet is whole: the packet without that header,
/// `data` at the next one, and that one's number. Softirq context.
pub fn ipv6_frag_rcv(net: &Arc<Net>, mut skb: Box<Skb>) -> Option<(Box<Skb>, u8)> {
    net.mib.inc(Mib::Ip6ReasmReqds);
    if !skb.may_pull(FragHdr::LEN) {
        return fail(net, Mib::Ip6InHdrErrors);
    }
    let header = *FragHdr::read(skb.data())?;
    let ip = *Ipv6Hdr::read(skb.network_header())?;
    let (offset, more) = ((header.frag_off.get() & IP6_OFFSET) as usize, header.frag_off.get() & IP6_MF != 0);
    let here = (-skb.network_offset()).max(0) as usize;
    let wire_len = here + skb.len();
    let len = skb.len() - FragHdr::LEN;
    // RFC 8200, 4.5: the errors that a single fragment shows.
    if more && !len.is_multiple_of(8) {
        icmpv6_param_prob(&skb, ICMPV6_HDR_FIELD, 4);
        return fail(net, Mib::Ip6InHdrErrors);
    }
    if offset + len + here - Ipv6Hdr::LEN > u16::MAX as usize {
        icmpv6_param_prob(&skb, ICMPV6_HDR_FIELD, here + 2);
        return fail(net, Mib::Ip6InHdrErrors);
    }
    if offset == 0 && !more {
        // An atomic fragment is whole by itself, whatever else has its number (RFC 6946).
        net.mib.inc(Mib::Ip6ReasmOKs);
        return finish(skb, len);
    }
    let iif = skb.dev.as_ref().map_or(0, |d| d.ifindex);
    let scoped = super::addrconf_core::is_link_local(&ip.dst()) || ip.dst().is_multicast();
    let key =
        Key { saddr: ip.src(), daddr: ip.dst(), id: header.identification.get(), iif: if scoped { iif } else { 0 } };
    skb.pull(FragHdr::LEN);
    let whole = queue(net, key, Piece { skb, offset, more, wire_len, ecn: ip.traffic_class() & 3 })?;
    reasm(net, whole)
}

fn fail<T>(net: &Net, why: Mib) -> Option<T> {
    net.mib.inc(why);
    net.mib.inc(Mib::Ip6ReasmFails);
    None
}

fn queue(net: &Arc<Net>, key: Key, piece: Piece) -> Option<Whole> {
    let hash = net.hash(&key);
    let thresh = net.sysctl.ip6frag_high_thresh.get() as usize;
    match frags(net).0.insert(hash, key, piece, thresh, |id| frag_timer(net, hash, key, id)) {
        Verdict::Complete(whole) => Some(whole),
        Verdict::Queued | Verdict::Duplicate => None,
        Verdict::Overlap => fail(net, Mib::Ip6ReasmOverlaps),
        Verdict::Dead | Verdict::NoMem => {
            net.mib.inc(Mib::Ip6ReasmFails);
            None
        }
    }
}

fn frag_timer(net: &Arc<Net>, hash: u32, key: Key, id: u64) -> Timer {
    let weak = net.weak();
    let timer = net.kernel().timer(move || {
        if let Some(net) = weak.upgrade() {
            ip6_frag_expire(&net, hash, &key, id);
        }
    });
    timer.mod_timer_in(net.sysctl.ip6frag_time.get() as u64 * HZ);
    timer
}

/// `ip6_frag_expire`: gives up; the sender is told if the first fragment came (RFC 8200, 4.5).
fn ip6_frag_expire(net: &Arc<Net>, hash: u32, key: &Key, id: u64) {
    let Some(mut q) = frags(net).0.expire(hash, key, id) else { return };
    if q.is_dead() {
        return;
    }
    net.mib.inc(Mib::Ip6ReasmTimeout);
    net.mib.inc(Mib::Ip6ReasmFails);
    if let Some(first) = q.first() {
        icmpv6_send(&first, ICMPV6_TIME_EXCEED, ICMPV6_EXC_FRAGTIME, 0);
    }
}

/// `ip6_frag_reasm`.
fn reasm(net: &Arc<Net>, whole: Whole) -> Option<(Box<Skb>, u8)> {
    let max_size = whole.max_size;
    let Some(congested) = whole.congestion() else { return fail(net, Mib::Ip6InHdrErrors) };
    let Some(mut skb) = frag_reasm(whole.pieces) else { return fail(net, Mib::Ip6InHdrErrors) };
    let len = skb.len();
    // Back to the first fragment's header, which is still there before the payload.
    skb.push(FragHdr::LEN);
    skb.cb.get_mut::<Inet6SkbParm>().frag_max_size = max_size.min(u16::MAX as usize) as u16;
    if congested && let Some(h) = Ipv6Hdr::read_mut(skb.network_header_mut()) {
        h.flow = (h.flow.get() | 3 << 20).into();
    }
    match finish(skb, len) {
        Some(done) => {
            net.mib.inc(Mib::Ip6ReasmOKs);
            Some(done)
        }
        None => fail(net, Mib::Ip6InHdrErrors),
    }
}

/// Takes the fragment header at `data` out: what is before it moves up, the number of the next header takes its place.
fn finish(mut skb: Box<Skb>, len: usize) -> Option<(Box<Skb>, u8)> {
    let nhoff = skb.cb.get::<Inet6SkbParm>().nhoff as usize;
    let unfrag = (-skb.network_offset()).max(0) as usize;
    let nexthdr = FragHdr::read(skb.data())?.nexthdr;
    let mut headers: smallvec::SmallVec<[u8; 128]> =
        smallvec::SmallVec::from_slice(skb.network_header().get(..unfrag)?);
    *headers.get_mut(nhoff)? = nexthdr;
    let payload = u16::try_from(unfrag - Ipv6Hdr::LEN + len).ok()?;
    Ipv6Hdr::read_mut(&mut headers)?.payload_len = payload.into();
    if !skb.pull(FragHdr::LEN) {
        return None;
    }
    skb.push(unfrag).copy_from_slice(&headers);
    skb.reset_network_header();
    skb.pull(unfrag);
    skb.reset_transport_header();
    Some((skb, nexthdr))
}
