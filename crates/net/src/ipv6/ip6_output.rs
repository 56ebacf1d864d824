//! IPv6 output: the header, the hooks, fragmentation, the way to the neighbour.
//!
//! Interface: [`ip6_xmit`] (transports), [`ip6_local_out`] (whoever has built a header), [`ip6_output`] (a route's output).
//! Linux counterpart: `net/ipv6/ip6_output.c`, `output_core.c`. Forwarding is in `ip6_forward`.
//! Locks and context: process or softirq context; no locks.
//!
//! ```text
//! ip6_xmit ─ ip6_local_out ─ [LOCAL_OUT] ─ dst.output = ip6_output ─ [POST_ROUTING] ─ ip6_finish_output ─┬─ ip6_fragment
//!                                                                      ip6_finish_output2 ─ neigh_output ─┘
//! ```

use super::addrconf_core::{SCOPE_INTERFACE, in6_dev_get, ipv6_addr_scope, ipv6_chk_mcast_addr};
use super::exthdrs_core::{IP6_MF, NEXTHDR_FRAGMENT, ip6_find_1stfragopt};
use super::route::ip6_route_output;
use crate::core::checksum::skb_checksum_help;
use crate::core::dev::{ETH_P_IPV6, netif_rx};
use crate::core::dst::Dst;
use crate::core::dst_metrics::Rtax;
use crate::core::flow::Flow;
use crate::core::gso::skb_gso_segment;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::neighbour::neigh_output;
use crate::core::net_namespace::Net;
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{GsoType, MAX_HEADER, PktType, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{FragHdr, IPPROTO_UDP, Ipv6Hdr, TcpHdr, UdpHdr};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv6's use of the control block (`struct inet6_skb_parm`).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Inet6SkbParm {
    /// Where the number of the header at `data` stands, from the network header on.
    pub nhoff: u16,
    /// [`IP6SKB_FORWARDED`] and its like.
    pub flags: u16,
    /// The size of the largest fragment it came in; 0: it came whole.
    pub frag_max_size: u16,
    pub pad: u16,
}

pub const IP6SKB_FORWARDED: u16 = 2;
/// Not to be looped back to this host's members of the group.
pub const IP6SKB_NO_MC_LOOP: u16 = 0x100;

/// Bytes of a flow label in [`Ipv6Hdr::flow`].
const FLOWLABEL_MASK: u32 = 0x000f_ffff;

/// `ip6_flow_hdr`: version, traffic class, flow label.
pub fn ip6_flow(tclass: u8, label: u32) -> u32 {
    6 << 28 | (tclass as u32) << 20 | label & FLOWLABEL_MASK
}

/// The hop limit for packets that name none.
pub fn ip6_dst_hoplimit(net: &Net, dst: &Dst) -> u8 {
    if dst.metric(Rtax::Hoplimit) != 0 {
        return dst.metric(Rtax::Hoplimit) as u8;
    }
    match in6_dev_get(&dst.dev).hop_limit.load(Relaxed) {
        0 => net.sysctl.ipv6_hop_limit.get() as u8,
        n => n as u8,
    }
}

/// `ip6_make_flowlabel`: one for each flow, so that routers can spread flows without looking for ports (RFC 6437).
fn make_flowlabel(net: &Net, skb: &Skb, flow: &Flow) -> u32 {
    if !net.sysctl.ipv6_auto_flowlabels.on() {
        return 0;
    }
    match skb.hash {
        0 => net.hash(&(flow.saddr, flow.daddr, flow.sport, flow.dport, flow.proto)),
        h => h.rotate_left(16),
    }
}

/// `ip6_xmit`: prepends the IPv6 header and sends; see [`L3Ops::queue_xmit`](crate::core::l3::L3Ops::queue_xmit).
/// `EMSGSIZE` over the path MTU where fragments are not wanted, and over 65535 bytes of payload.
pub fn ip6_xmit(net: &Arc<Net>, _sk: Option<&Sock>, mut skb: Box<Skb>, flow: &Flow, p: &XmitParams) -> Result<()> {
    kernel::tp!(ip6_xmit, skb);
    let (IpAddr::V6(saddr), IpAddr::V6(daddr)) = (flow.saddr, flow.daddr) else { return Err(Errno::EINVAL) };
    if skb.dst.is_none() {
        skb.dst = Some(ip6_route_output(net, &mut flow.clone()).inspect_err(|_| net.mib.inc(Mib::Ip6OutNoRoutes))?);
    }
    let Some(dst) = &skb.dst else { return no_route(net) };
    let payload = u16::try_from(skb.len()).map_err(|_| Errno::EMSGSIZE)?;
    // A connection's segment that was cut for a larger path is better fragmented than lost (`skb->ignore_df`).
    let whole = p.dont_fragment != DontFragment::Never && flow.proto == IPPROTO_UDP && !skb.is_gso();
    if whole && skb.len() + Ipv6Hdr::LEN > dst.mtu_of(p.ignore_pmtu) as usize {
        net.mib.inc(Mib::Ip6FragFails);
        return Err(Errno::EMSGSIZE);
    }
    let hop_limit = if p.ttl != 0 { p.ttl } else { ip6_dst_hoplimit(net, dst) };
    let label = if p.flowlabel != 0 { p.flowlabel } else { make_flowlabel(net, &skb, flow) };
    let header = Ipv6Hdr {
        flow: ip6_flow(p.tos, label).into(),
        payload_len: payload.into(),
        nexthdr: flow.proto,
        hop_limit,
        saddr: saddr.octets(),
        daddr: daddr.octets(),
    };
    skb.reset_transport_header();
    skb.push(Ipv6Hdr::LEN).copy_from_slice(header.as_bytes());
    skb.reset_network_header();
    skb.priority = p.priority;
    skb.mark = p.mark;
    skb.ignore_pmtu = p.ignore_pmtu;
    skb.cb.clear();
    net.mib.inc(Mib::Ip6OutRequests);
    ip6_local_out(net, skb)
}

fn no_route(net: &Net) -> Result<()> {
    net.mib.inc(Mib::Ip6OutNoRoutes);
    Err(Errno::ENETUNREACH)
}

/// `ip6_local_out`: a packet of ours with its header in place at `data` and its route set.
pub fn ip6_local_out(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip6_local_out, skb);
    skb.protocol = ETH_P_IPV6;
    let Some(skb) = net.nf.run(HookPoint::LocalOut, net, skb) else { return Ok(()) };
    match skb.dst.as_ref().map(|d| d.output) {
        Some(output) => output(net, skb),
        None => no_route(net),
    }
}

/// `ip6_output`: a route's output.
pub fn ip6_output(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip6_output, skb);
    let Some(dst) = &skb.dst else { return no_route(net) };
    if net.sysctl.ipv6_disable.on() {
        net.mib.inc(Mib::Ip6OutDiscards);
        return Ok(());
    }
    skb.dev = Some(dst.dev.clone());
    skb.protocol = ETH_P_IPV6;
    match net.nf.run(HookPoint::PostRouting, net, skb) {
        Some(skb) => ip6_finish_output(net, skb),
        None => Ok(()),
    }
}

/// The output of a route that refuses (`ip6_pkt_discard_out`).
pub fn ip6_pkt_discard_out(net: &Arc<Net>, _skb: Box<Skb>) -> Result<()> {
    net.mib.inc(Mib::Ip6OutNoRoutes);
    Err(Errno::EHOSTUNREACH)
}

fn ip6_finish_output(net: &Arc<Net>, skb: Box<Skb>) -> Result<()> {
    let Some(dst) = &skb.dst else { return no_route(net) };
    let mtu = dst.mtu_of(skb.ignore_pmtu) as usize;
    // A reassembled packet goes on in fragments no larger than those it came in (RFC 8200, 4.5, for what we forward).
    let frag_max = match skb.cb.get::<Inet6SkbParm>().frag_max_size as usize {
        0 => mtu,
        n => n.min(mtu),
    };
    if skb.is_gso() {
        return ip6_finish_output_gso(net, skb, mtu);
    }
    if skb.len() > frag_max {
        return ip6_fragment(net, skb, frag_max);
    }
    ip6_finish_output2(net, skb)
}

/// Bytes of IP packet that the segments of a GSO packet will have (`skb_gso_network_seglen`).
pub fn gso_network_seglen(skb: &Skb) -> usize {
    skb.network_header_len() + transport_len(skb) + skb.gso_size as usize
}

/// `ip6_finish_output_gso_slowpath_drop` and its like: segments fit the path as a rule; where it has shrunk since, each is
/// fragmented.
fn ip6_finish_output_gso(net: &Arc<Net>, skb: Box<Skb>, mtu: usize) -> Result<()> {
    if gso_network_seglen(&skb) <= mtu {
        return ip6_finish_output2(net, skb);
    }
    let segments = skb_gso_segment(skb, false).inspect_err(|_| net.mib.inc(Mib::Ip6OutDiscards))?;
    segments.into_iter().try_for_each(|s| ip6_fragment(net, s, mtu))
}

/// Bytes of the transport header of a GSO packet.
fn transport_len(skb: &Skb) -> usize {
    match skb.gso_type.contains(GsoType::TCPV6) {
        true => TcpHdr::read(skb.transport_header()).map_or(TcpHdr::LEN, TcpHdr::header_len),
        false => UdpHdr::LEN,
    }
}

/// `ip6_finish_output2`: to the neighbour; of a packet to a group that this host is in, a copy to itself.
fn ip6_finish_output2(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    let Some(daddr) = Ipv6Hdr::read(skb.data()).map(|h| h.dst()) else { return Err(Errno::EINVAL) };
    let Some(dst) = skb.dst.take() else { return no_route(net) };
    if daddr.is_multicast() && !multicast_out(net, &skb, &dst, &daddr) {
        return Ok(());
    }
    net.mib.inc(Mib::Ip6OutTransmits);
    let hop = dst.next_hop(IpAddr::V6(daddr));
    if dst.dev.is_loopback() {
        // It comes right back: input need not look for the route again.
        skb.dst = Some(dst.clone());
    }
    neigh_output(net, &dst.dev, hop, skb)
}

/// Whether the packet goes to the wire too.
fn multicast_out(net: &Arc<Net>, skb: &Skb, dst: &Dst, daddr: &Ipv6Addr) -> bool {
    net.mib.inc(Mib::Ip6OutMcastPkts);
    if dst.dev.is_loopback() {
        return true;
    }
    let flags = skb.cb.get::<Inet6SkbParm>().flags;
    if flags & (IP6SKB_NO_MC_LOOP | IP6SKB_FORWARDED) == 0 && ipv6_chk_mcast_addr(&dst.dev, daddr) {
        let mut copy = skb.clone_skb();
        copy.cb.clear();
        copy.pkt_type = PktType::Loopback;
        copy.reset_mac_header();
        // Bounded by the input queue, which counts what it drops.
        let _ = netif_rx(copy);
    }
    // A hop limit of 0 and the scope of the interface keep it here (RFC 4291, 2.7).
    Ipv6Hdr::read(skb.data()).is_some_and(|h| h.hop_limit != 0) && ipv6_addr_scope(daddr) > SCOPE_INTERFACE
}

/// An identification for fragments that nobody outside can guess: a keyed hash of a counter (RFC 7739, 5.3).
fn ipv6_select_ident(net: &Net, header: &Ipv6Hdr) -> u32 {
    net.hash(&(net.next_ident(), header.saddr, header.daddr))
}

/// `ip6_fragment`: cuts a packet of ours into fragments of at most `mtu` bytes (RFC 8200, 4.5). Payload is shared.
pub fn ip6_fragment(net: &Arc<Net>, mut skb: Box<Skb>, mtu: usize) -> Result<()> {
    let fail = |e| {
        net.mib.inc(Mib::Ip6FragFails);
        Err(e)
    };
    if !skb_checksum_help(&mut skb) {
        return fail(Errno::EINVAL);
    }
    let Some((unfrag, field)) = ip6_find_1stfragopt(skb.data()) else { return fail(Errno::EINVAL) };
    let room = mtu.saturating_sub(unfrag + FragHdr::LEN) & !7;
    if room == 0 {
        return fail(Errno::EMSGSIZE);
    }
    let Some(cut) = Cut::new(net, &skb, unfrag, field) else { return fail(Errno::EINVAL) };
    let total = skb.len() - unfrag;
    let mut at = 0;
    while at < total {
        let len = room.min(total - at);
        let Some(frag) = cut.fragment(&skb, at, len, at + len < total) else { return fail(Errno::ENOBUFS) };
        net.mib.inc(Mib::Ip6FragCreates);
        if let Err(e) = ip6_finish_output2(net, frag) {
            return fail(e);
        }
        at += len;
    }
    net.mib.inc(Mib::Ip6FragOKs);
    Ok(())
}

/// What all fragments of a packet have in common.
struct Cut {
    /// The headers that each repeats.
    head: smallvec::SmallVec<[u8; 64]>,
    proto: u8,
    ident: u32,
}

impl Cut {
    fn new(net: &Net, skb: &Skb, unfrag: usize, field: usize) -> Option<Cut> {
        let mut head = smallvec::SmallVec::from_slice(skb.data().get(..unfrag)?);
        let proto = std::mem::replace(head.get_mut(field)?, NEXTHDR_FRAGMENT);
        Some(Cut { proto, ident: ipv6_select_ident(net, Ipv6Hdr::read(&head)?), head })
    }

    /// The fragment with `[at, at + len)` of the fragmentable part; `None` if it takes too many pieces.
    fn fragment(&self, skb: &Skb, at: usize, len: usize, more: bool) -> Option<Box<Skb>> {
        let unfrag = self.head.len();
        let mut frag = Skb::alloc(MAX_HEADER + unfrag + FragHdr::LEN);
        frag.reserve(MAX_HEADER + unfrag + FragHdr::LEN);
        if !skb.share_range(unfrag + at, len, &mut frag) {
            return None;
        }
        let header = FragHdr {
            nexthdr: self.proto,
            reserved: 0,
            frag_off: (at as u16 | if more { IP6_MF } else { 0 }).into(),
            identification: self.ident.into(),
        };
        frag.push(FragHdr::LEN).copy_from_slice(header.as_bytes());
        frag.reset_transport_header();
        frag.push(unfrag).copy_from_slice(&self.head);
        frag.reset_network_header();
        let total = frag.len() - Ipv6Hdr::LEN;
        Ipv6Hdr::read_mut(frag.data_mut())?.payload_len = (total as u16).into();
        frag.copy_metadata(skb);
        if let Some(sk) = skb.sk.as_ref().filter(|_| skb.destructor.is_some()) {
            sk.skb_set_owner_w(&mut frag);
        }
        Some(frag)
    }
}
