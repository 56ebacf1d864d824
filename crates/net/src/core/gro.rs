//! Generic receive offload: packets of one flow become one.
//!
//! Interface: [`GroList`], [`dev_gro_receive`] for `core::dev`.
//! Linux counterpart: `net/core/gro.c`, `net/ipv4/tcp_offload.c`.
//! Locks and context: softirq context, one NAPI instance at a time.
//!
//! Only segments that could have been cut from one larger packet are merged, so cutting the result again gives the same
//! packets: same addresses, ports, options and flags, consecutive bytes, and one segment size, of which only the last may
//! fall short. Whatever else of a flow comes sends the merged packet up first, so that nothing is reordered.

use crate::core::checksum::{csum_fold, csum_partial_seed, csum_pseudo, ip_fast_csum, skb_checksum};
use crate::core::dev::{ETH_P_IP, ETH_P_IPV6};
use crate::core::skbuff::{GSO_MAX_SIZE, GsoType, IpSummed, MAX_SKB_FRAGS, Skb};
use crate::hdr::{IP_DF, IPPROTO_TCP, IpHdr, Ipv6Hdr, TcpHdr, tcp_flag};
use smallvec::SmallVec;
use std::net::IpAddr;

/// `MAX_GRO_SKBS`: flows held at a time.
const MAX_GRO_SKBS: usize = 8;
/// Offset of the TCP checksum field.
const TCP_CHECK: usize = 16;
/// Flags that end a merge (RFC 9293, 3.1).
const FLUSH_FLAGS: u8 = tcp_flag::URG | tcp_flag::PSH | tcp_flag::RST | tcp_flag::SYN | tcp_flag::FIN;

/// Packets to be passed up, in order.
pub type Ready = SmallVec<[Box<Skb>; 2]>;

/// The flows being merged (`napi->gro_hash`), oldest first.
#[derive(Default)]
pub struct GroList {
    held: Vec<Held>,
}

/// A packet that waits for more of its flow (`NAPI_GRO_CB`).
struct Held {
    skb: Box<Skb>,
    flow: Flow,
    seg: Segment,
    /// Payload bytes of each segment.
    mss: usize,
    /// Payload bytes so far, and segments.
    len: usize,
    count: u16,
    /// IPv4: the identification grows by one (`Some(true)`), is fixed (`Some(false)`), or is not known yet.
    id_grows: Option<bool>,
}

/// What tells flows apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flow {
    saddr: IpAddr,
    daddr: IpAddr,
    ports: [u8; 4],
    mac: [u8; 14],
    /// IPv6: version and flow label.
    label: u32,
}

/// What is asked of a segment beside its flow.
#[derive(Clone, Copy)]
struct Segment {
    /// Bytes from the network header to the TCP header, and of that.
    iphlen: usize,
    thlen: usize,
    payload: usize,
    seq: u32,
    ack_seq: u32,
    flags: u8,
    /// AE and the reserved bits before it.
    reserved: u8,
    id: u16,
    df: bool,
    /// TTL and TOS, or hop limit and traffic class.
    hops_and_class: [u8; 2],
}

/// `dev_gro_receive`: merges a packet (`data` at the network header) or holds it to be merged; answers what is to go up now.
pub fn dev_gro_receive(list: &mut GroList, mut skb: Box<Skb>) -> Ready {
    let Some((flow, seg)) = parse(&mut skb) else { return Ready::from_iter([skb]) };
    let at = list.held.iter().position(|h| h.flow == flow);
    // What already is large is not made larger, but keeps its place in the flow.
    let single = !skb.is_gso() && skb.ip_summed != IpSummed::Complete && verify_checksum(&mut skb, &flow, &seg);
    if let Some(at) = at {
        let held = &mut list.held[at];
        if single && held.accepts(&seg, &skb) {
            held.merge(&seg, skb);
            let done = seg.payload < held.mss || seg.flags & FLUSH_FLAGS != 0;
            return if done { Ready::from_iter([list.held.remove(at).complete()]) } else { Ready::new() };
        }
    }
    let mut ready = Ready::new();
    if let Some(at) = at {
        ready.push(list.held.remove(at).complete());
    }
    if !single || seg.payload == 0 || seg.flags & FLUSH_FLAGS != 0 {
        ready.push(skb);
        return ready;
    }
    if list.held.len() >= MAX_GRO_SKBS {
        ready.push(list.held.remove(0).complete());
    }
    list.held.push(Held { mss: seg.payload, len: seg.payload, count: 1, id_grows: None, skb, flow, seg });
    ready
}

impl GroList {
    /// Everything held, oldest first (`napi_gro_flush`).
    pub fn flush(&mut self) -> Ready {
        self.held.drain(..).map(Held::complete).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The flow and segment of a packet that may be merged: whole, unfragmented TCP without IP options. Trims link padding.
fn parse(skb: &mut Skb) -> Option<(Flow, Segment)> {
    skb.reset_network_header();
    let (saddr, daddr, label, seg) = match skb.protocol {
        ETH_P_IP => parse_ipv4(skb)?,
        ETH_P_IPV6 => parse_ipv6(skb)?,
        _ => return None,
    };
    let (iphlen, mut seg) = (seg.iphlen, seg);
    skb.set_transport_header(iphlen);
    if !skb.may_pull(iphlen + TcpHdr::LEN) {
        return None;
    }
    let th = *TcpHdr::read(skb.data().get(iphlen..)?)?;
    seg.thlen = th.header_len();
    if seg.thlen < TcpHdr::LEN || !skb.may_pull(iphlen + seg.thlen) {
        return None;
    }
    seg.payload = skb.len() - iphlen - seg.thlen;
    (seg.seq, seg.ack_seq) = (th.seq.get(), th.ack_seq.get());
    (seg.flags, seg.reserved) = (th.flags, th.doff & 15);
    let mut ports = [0; 4];
    ports.copy_from_slice(skb.data().get(iphlen..iphlen + 4)?);
    let mut mac = [0; 14];
    if skb.mac_len as usize == mac.len() {
        mac.copy_from_slice(skb.mac_header().get(..14)?);
    }
    Some((Flow { saddr, daddr, ports, mac, label }, seg))
}

/// A segment of which only the network layer is known.
fn segment_of(iphlen: usize) -> Segment {
    Segment {
        iphlen,
        thlen: 0,
        payload: 0,
        seq: 0,
        ack_seq: 0,
        flags: 0,
        reserved: 0,
        id: 0,
        df: false,
        hops_and_class: [0; 2],
    }
}

fn parse_ipv4(skb: &mut Skb) -> Option<(IpAddr, IpAddr, u32, Segment)> {
    if !skb.may_pull(IpHdr::LEN) {
        return None;
    }
    let h = *IpHdr::read(skb.data())?;
    let len = h.tot_len.get() as usize;
    let plain = h.version_ihl == 0x45 && h.protocol == IPPROTO_TCP && !h.is_fragment();
    if !plain || len > skb.len() || ip_fast_csum(skb.data().get(..IpHdr::LEN)?) != [0, 0] {
        return None;
    }
    skb.trim(len);
    let mut seg = segment_of(IpHdr::LEN);
    seg.id = h.id.get();
    seg.df = h.frag_off.get() & IP_DF != 0;
    seg.hops_and_class = [h.ttl, h.tos];
    Some((h.src().into(), h.dst().into(), 0, seg))
}

fn parse_ipv6(skb: &mut Skb) -> Option<(IpAddr, IpAddr, u32, Segment)> {
    if !skb.may_pull(Ipv6Hdr::LEN) {
        return None;
    }
    let h = *Ipv6Hdr::read(skb.data())?;
    let len = Ipv6Hdr::LEN + h.payload_len.get() as usize;
    if h.version() != 6 || h.nexthdr != IPPROTO_TCP || len > skb.len() {
        return None;
    }
    skb.trim(len);
    let mut seg = segment_of(Ipv6Hdr::LEN);
    seg.df = true;
    seg.hops_and_class = [h.hop_limit, h.traffic_class()];
    Some((h.src().into(), h.dst().into(), h.flow.get() & 0xf00f_ffff, seg))
}

/// `skb_gro_checksum_validate`: what nobody has verified yet is summed here; `false` if it is wrong.
fn verify_checksum(skb: &mut Skb, flow: &Flow, seg: &Segment) -> bool {
    if skb.ip_summed != IpSummed::None {
        return true;
    }
    let len = skb.len() - seg.iphlen;
    let sum = csum_pseudo(flow.saddr, flow.daddr, len, IPPROTO_TCP, skb_checksum(skb, seg.iphlen, len, 0));
    let good = csum_fold(sum) == [0, 0];
    if good {
        skb.ip_summed = IpSummed::Unnecessary;
    }
    good
}

impl Held {
    /// Whether the segment goes right behind what is held (`tcp_gro_receive`).
    fn accepts(&self, s: &Segment, skb: &Skb) -> bool {
        let p = &self.seg;
        // CWR in both is Accurate ECN's: a counter, not an event (RFC 9768, 3.2.2).
        let flags = (s.flags ^ p.flags) & !(tcp_flag::FIN | tcp_flag::PSH) == 0 && s.reserved == p.reserved;
        let next = s.seq == p.seq.wrapping_add(self.len as u32) && s.ack_seq == p.ack_seq;
        let size = s.payload > 0
            && s.payload <= self.mss
            && self.skb.len() + s.payload < GSO_MAX_SIZE
            && self.skb.frags().len() + skb.frags().len() < MAX_SKB_FRAGS;
        let ip = s.hops_and_class == p.hops_and_class && s.df == p.df && self.id_follows(s).is_some();
        flags && next && size && ip && s.thlen == p.thlen && options(&self.skb, p) == options(skb, s)
    }

    /// How the identification goes on, or `None` if it does not. A fixed one only means something with DF (RFC 6864, 4.1).
    fn id_follows(&self, s: &Segment) -> Option<bool> {
        let grown = s.id == self.seg.id.wrapping_add(self.count);
        let fixed = s.df && s.id == self.seg.id;
        match self.id_grows {
            Some(true) => grown.then_some(true),
            Some(false) => fixed.then_some(false),
            None if grown => Some(true),
            None => fixed.then_some(false),
        }
    }

    fn merge(&mut self, s: &Segment, skb: Box<Skb>) {
        self.id_grows = self.id_follows(s);
        // There was room for every fragment, and one for what is linear.
        let whole = skb.share_range(s.iphlen + s.thlen, s.payload, &mut self.skb);
        debug_assert!(whole, "GRO merged part of a packet");
        self.len += s.payload;
        self.count += 1;
        self.seg.flags |= s.flags & (tcp_flag::FIN | tcp_flag::PSH);
        self.skb.traced |= skb.traced;
    }

    /// `napi_gro_complete`: the headers of the merged packet say what it has become.
    fn complete(mut self) -> Box<Skb> {
        if self.count > 1 {
            self.finish();
        }
        self.skb
    }

    fn finish(&mut self) {
        let (v6, len, s) = (self.flow.saddr.is_ipv6(), self.skb.len(), self.seg);
        let b = self.skb.data_mut();
        if v6 {
            if let Some(h) = Ipv6Hdr::read_mut(b) {
                h.payload_len = ((len - Ipv6Hdr::LEN) as u16).into();
            }
        } else if let Some(h) = IpHdr::read_mut(b) {
            h.tot_len = (len as u16).into();
            h.check = [0, 0];
            h.check = ip_fast_csum(zerocopy::IntoBytes::as_bytes(h));
        }
        let tcp_len = len - s.iphlen;
        if let Some(th) = b.get_mut(s.iphlen..).and_then(TcpHdr::read_mut) {
            th.flags = s.flags;
            th.check = csum_partial_seed(self.flow.saddr, self.flow.daddr, tcp_len, IPPROTO_TCP);
        }
        self.skb.set_transport_header(s.iphlen);
        // Good, and to be completed again if it is forwarded.
        self.skb.set_csum_partial(TCP_CHECK);
        self.skb.gso_size = self.mss as u16;
        self.skb.gso_segs = self.count;
        self.skb.gso_type = if v6 { GsoType::TCPV6 } else { GsoType::TCPV4 };
        if s.flags & tcp_flag::CWR != 0 {
            self.skb.gso_type |= GsoType::TCP_ACCECN;
        }
    }
}

/// TCP option bytes, to be the same in all.
fn options<'a>(skb: &'a Skb, s: &Segment) -> &'a [u8] {
    skb.data().get(s.iphlen + TcpHdr::LEN..s.iphlen + s.thlen).unwrap_or_default()
}

#[cfg(test)]
mod tests;
