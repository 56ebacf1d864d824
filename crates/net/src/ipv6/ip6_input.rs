//! IPv6 input: checks, the hooks, the walk over extension headers, delivery.
//!
//! Interface: [`ipv6_rcv`] (the packet type's handler), [`ip6_input`] and [`ip6_mc_input`] (inputs of routes),
//! [`ip6_input_finish`] (behind the last hook, for packets that a hook kept).
//! Linux counterpart: `net/ipv6/ip6_input.c`.
//! Locks and context: softirq context; no locks.
//!
//! ```text
//! ipv6_rcv ─ [PRE_ROUTING] ─ ip6_rcv_finish ─ dst.input ─┬─ ip6_input ─ [LOCAL_IN] ─ ip6_input_finish ─ inet6_protos[…]
//!                                                        ├─ ip6_mc_input ─┘
//!                                                        └─ ip6_forward, ip6_pkt_discard
//! ```

use super::addrconf_core::ipv6_chk_mcast_addr;
use super::exthdrs::{icmpv6_param_prob, ipv6_destopt_rcv, ipv6_parse_hopopts, ipv6_rthdr_rcv};
use super::exthdrs_core::{
    IP6_MAX_EXT_HDRS_CNT, NEXTHDR_DEST, NEXTHDR_FRAGMENT, NEXTHDR_HOP, NEXTHDR_NONE, NEXTHDR_ROUTING,
};
use super::icmp::ICMPV6_UNK_NEXTHDR;
use super::ip6_output::Inet6SkbParm;
use super::reassembly::ipv6_frag_rcv;
use super::route::ip6_route_input;
use crate::core::net_namespace::Net;
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{IpSummed, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::Ipv6Hdr;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Where [`Ipv6Hdr::nexthdr`] is in the header.
const NEXTHDR_OFFSET: u16 = 6;

/// `ipv6_rcv`: takes a packet from the device layer; `data` is at the IPv6 header. Softirq context.
pub fn ipv6_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ipv6_rcv, skb);
    if skb.pkt_type == PktType::OtherHost {
        return;
    }
    net.mib.inc(Mib::Ip6InReceives);
    if let Err(why) = ip6_rcv_core(net, &mut skb) {
        return net.mib.inc(why);
    }
    if !hop_by_hop(net, &mut skb) {
        return;
    }
    if let Some(skb) = net.nf.run(HookPoint::PreRouting, net, skb) {
        ip6_rcv_finish(net, skb);
    }
}

/// The checks of RFC 8200, 3 and RFC 4291; on failure, the counter of the reason.
fn ip6_rcv_core(net: &Net, skb: &mut Skb) -> Result<(), Mib> {
    if net.sysctl.ipv6_disable.on() {
        return Err(Mib::Ip6InDiscards);
    }
    skb.cb.clear();
    skb.reset_network_header();
    if !skb.may_pull(Ipv6Hdr::LEN) {
        return Err(Mib::Ip6InHdrErrors);
    }
    let header = *Ipv6Hdr::read(skb.data()).ok_or(Mib::Ip6InHdrErrors)?;
    if header.version() != 6 {
        return Err(Mib::Ip6InHdrErrors);
    }
    net.mib.ecn(header.traffic_class(), skb.gso_segs, [Mib::Ip6InECT1Pkts, Mib::Ip6InECT0Pkts, Mib::Ip6InCEPkts]);
    let loopback = skb.dev.as_ref().is_none_or(|d| d.is_loopback());
    check_addresses(&header.src(), &header.dst(), skb.pkt_type, loopback)?;
    let len = header.payload_len.get() as usize + Ipv6Hdr::LEN;
    if len > skb.len() {
        return Err(Mib::Ip6InTruncatedPkts);
    }
    if len < skb.len() {
        // The link's padding, which a sum over the packet may include.
        skb.trim(len);
        if skb.ip_summed == IpSummed::Complete {
            skb.ip_summed = IpSummed::None;
        }
    }
    skb.set_transport_header(Ipv6Hdr::LEN);
    if !loopback {
        skb.dst = None;
    }
    *skb.cb.get_mut::<Inet6SkbParm>() = Inet6SkbParm { nhoff: NEXTHDR_OFFSET, ..Default::default() };
    Ok(())
}

/// Addresses that no packet on a link can have.
fn check_addresses(saddr: &Ipv6Addr, daddr: &Ipv6Addr, kind: PktType, loopback: bool) -> Result<(), Mib> {
    let own = saddr.is_loopback() || daddr.is_loopback();
    // RFC 4291, 2.5.3; the same of the interface's scope (2.7), except for what we loop back ourselves.
    let stays = daddr.is_multicast() && daddr.octets()[1] & 15 == 1 && kind != PktType::Loopback;
    if !loopback && (own || stays) {
        return Err(Mib::Ip6InHdrErrors);
    }
    // RFC 4291, 2.7: scope 0 is reserved; a group is no source.
    if (daddr.is_multicast() && daddr.octets()[1] & 15 == 0) || saddr.is_multicast() {
        return Err(Mib::Ip6InHdrErrors);
    }
    // An IPv4-mapped source would pass for an IPv4 peer at a socket (RFC 6890, table 20).
    if saddr.to_ipv4_mapped().is_some() {
        return Err(Mib::Ip6InHdrErrors);
    }
    // A frame to many that holds a packet to one is an attempt to get past filters (RFC 1122, 3.3.6 in spirit).
    let to_many = matches!(kind, PktType::Broadcast | PktType::Multicast);
    if (to_many && !daddr.is_multicast()) || daddr.is_unspecified() {
        return Err(Mib::Ip6InHdrErrors);
    }
    Ok(())
}

/// Hop-by-hop options are for every node, so they come before routing. `data` ends where it was, at the IPv6 header. `false`:
/// the packet is to be dropped; the reason has been counted.
fn hop_by_hop(net: &Net, skb: &mut Skb) -> bool {
    if Ipv6Hdr::read(skb.data()).is_none_or(|h| h.nexthdr != NEXTHDR_HOP) {
        return true;
    }
    let ok = skb.pull(Ipv6Hdr::LEN) && ipv6_parse_hopopts(net, skb).is_some();
    skb.rewind_to_network();
    ok
}

/// `ip6_rcv_finish`: routes the packet, unless it comes from ourselves with its route, and hands it on.
pub fn ip6_rcv_finish(net: &Arc<Net>, mut skb: Box<Skb>) {
    let Some(daddr) = Ipv6Hdr::read(skb.data()).map(|h| h.dst()) else { return };
    let has_route = skb.dst.as_ref().is_some_and(|d| d.is_local() && d.is_current(net));
    if !has_route && !ip6_route_input(net, &mut skb, daddr) {
        return net.mib.inc(Mib::Ip6InNoRoutes);
    }
    if let Some(input) = skb.dst.as_ref().map(|d| d.input) {
        input(net, skb);
    }
}

/// `ip6_input`: the input of a local route.
pub fn ip6_input(net: &Arc<Net>, skb: Box<Skb>) {
    kernel::tp!(ip6_input, skb);
    if let Some(skb) = net.nf.run(HookPoint::LocalIn, net, skb) {
        ip6_input_finish(net, skb);
    }
}

/// `ip6_mc_input`: the input of groups: delivered if the device is in the group.
pub fn ip6_mc_input(net: &Arc<Net>, skb: Box<Skb>) {
    net.mib.inc(Mib::Ip6InMcastPkts);
    let Some(daddr) = Ipv6Hdr::read(skb.data()).map(|h| h.dst()) else { return };
    if skb.dev.as_ref().is_some_and(|d| d.is_loopback() || ipv6_chk_mcast_addr(d, &daddr)) {
        ip6_input(net, skb);
    } else {
        net.mib.inc(Mib::Ip6InDiscards);
    }
}

/// `ip6_input_finish`: walks the extension headers and gives the packet to its transport. `data` is at the IPv6 header; also
/// for a packet that a hook kept and now gives back. Softirq context.
pub fn ip6_input_finish(net: &Arc<Net>, mut skb: Box<Skb>) {
    let nhoff = skb.cb.get::<Inet6SkbParm>().nhoff as usize;
    // Where the walk begins: behind the header that holds the number, which is the IPv6 or the hop-by-hop header.
    let Some(&nexthdr) = skb.data().get(nhoff) else { return net.mib.inc(Mib::Ip6InHdrErrors) };
    let start = skb.network_header_len();
    if !skb.pull(start) {
        return net.mib.inc(Mib::Ip6InHdrErrors);
    }
    ip6_protocol_deliver(net, skb, nexthdr);
}

/// `ip6_protocol_deliver_rcu`: obeys header after header until a transport takes the packet.
fn ip6_protocol_deliver(net: &Arc<Net>, mut skb: Box<Skb>, mut nexthdr: u8) {
    for _ in 0..IP6_MAX_EXT_HDRS_CNT {
        let next = match nexthdr {
            NEXTHDR_DEST => ipv6_destopt_rcv(net, &mut skb),
            NEXTHDR_ROUTING => ipv6_rthdr_rcv(net, &mut skb),
            NEXTHDR_FRAGMENT => {
                let Some((whole, next)) = ipv6_frag_rcv(net, skb) else { return };
                skb = whole;
                Some(next)
            }
            // Nothing follows; whatever does is ignored (RFC 8200, 4.7).
            NEXTHDR_NONE => return net.mib.inc(Mib::Ip6InDelivers),
            _ => return deliver(net, skb, nexthdr),
        };
        match next {
            Some(n) => nexthdr = n,
            None => return,
        }
    }
    net.mib.inc(Mib::Ip6InHdrErrors);
}

fn deliver(net: &Arc<Net>, skb: Box<Skb>, nexthdr: u8) {
    let section = kernel::rcu_read_lock();
    // Hop-by-hop options anywhere but first are an unknown header too (RFC 8200, 4.1).
    let proto = net.reg.inet6_protos[nexthdr as usize].dereference(&section).filter(|_| nexthdr != NEXTHDR_HOP);
    match proto {
        Some(p) => {
            net.mib.inc(Mib::Ip6InDelivers);
            (p.handler)(net, skb);
        }
        None => {
            net.mib.inc(Mib::Ip6InUnknownProtos);
            let pos = skb.cb.get::<Inet6SkbParm>().nhoff as usize;
            icmpv6_param_prob(&skb, ICMPV6_UNK_NEXTHDR, pos);
        }
    }
}
