//! IPv6 forwarding.
//!
//! Interface: [`ip6_forward`], [`ip6_pkt_discard`]: the inputs of routes that lead elsewhere or nowhere.
//! Linux counterpart: `ip6_forward` in `net/ipv6/ip6_output.c`, `ip6_pkt_drop` in `route.c`.
//! Locks and context: softirq context; no locks.

use super::addrconf_core::{SCOPE_LINK, ipv6_addr_scope};
use super::icmp::{
    ICMPV6_DEST_UNREACH, ICMPV6_EXC_HOPLIMIT, ICMPV6_NOROUTE, ICMPV6_NOT_NEIGHBOUR, ICMPV6_PKT_TOOBIG,
    ICMPV6_TIME_EXCEED, icmpv6_send,
};
use super::ip6_output::{IP6SKB_FORWARDED, Inet6SkbParm, gso_network_seglen};
use super::route::ip6_redirect;
use crate::core::net_namespace::Net;
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{IpSummed, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::Ipv6Hdr;
use std::sync::Arc;

/// `ip6_forward`: takes a packet for somebody else on (RFC 8200, 3; RFC 4443, 3). `data` is at the IPv6 header.
pub fn ip6_forward(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ip6_forward, skb);
    if !net.sysctl.ipv6_forwarding.on() || skb.pkt_type != PktType::Host || skb.sk.is_some() {
        return net.mib.inc(if net.sysctl.ipv6_forwarding.on() { Mib::Ip6InDiscards } else { Mib::Ip6InAddrErrors });
    }
    let Some(header) = Ipv6Hdr::read(skb.data()).copied() else { return net.mib.inc(Mib::Ip6InHdrErrors) };
    if header.hop_limit <= 1 {
        icmpv6_send(&skb, ICMPV6_TIME_EXCEED, ICMPV6_EXC_HOPLIMIT, 0);
        return net.mib.inc(Mib::Ip6InHdrErrors);
    }
    let Some(dst) = skb.dst.clone() else { return net.mib.inc(Mib::Ip6InNoRoutes) };
    let (saddr, daddr) = (header.src(), header.dst());
    if saddr.is_unspecified() || saddr.is_multicast() || saddr.is_loopback() {
        return net.mib.inc(Mib::Ip6InAddrErrors);
    }
    let another_link = skb.dev.as_ref().is_none_or(|d| d.ifindex != dst.dev.ifindex);
    if another_link && ipv6_addr_scope(&saddr) <= SCOPE_LINK || daddr.is_loopback() {
        icmpv6_send(&skb, ICMPV6_DEST_UNREACH, ICMPV6_NOT_NEIGHBOUR, 0);
        return net.mib.inc(Mib::Ip6InAddrErrors);
    }
    if !another_link && !daddr.is_multicast() {
        ip6_redirect(net, &skb, &dst);
    }
    let mtu = dst.mtu();
    if too_big(&skb, mtu as usize) {
        icmpv6_send(&skb, ICMPV6_PKT_TOOBIG, 0, mtu);
        net.mib.inc(Mib::Ip6InTooBigErrors);
        return net.mib.inc(Mib::Ip6FragFails);
    }
    if let Some(h) = Ipv6Hdr::read_mut(skb.data_mut()) {
        h.hop_limit -= 1;
    }
    skb.cb.get_mut::<Inet6SkbParm>().flags |= IP6SKB_FORWARDED;
    if skb.ip_summed != IpSummed::Partial {
        skb.ip_summed = IpSummed::None;
    }
    net.mib.inc(Mib::Ip6OutForwDatagrams);
    let Some(skb) = net.nf.run(HookPoint::Forward, net, skb) else { return };
    // Errors on the way out were counted where they arose; nobody here can be told.
    let _ = (dst.output)(net, skb);
}

/// `ip6_pkt_too_big`: only the sender may fragment. What was reassembled here was fragmented by its sender already.
fn too_big(skb: &Skb, mtu: usize) -> bool {
    let frag_max = skb.cb.get::<Inet6SkbParm>().frag_max_size as usize;
    if frag_max != 0 {
        return frag_max > mtu;
    }
    let len = if skb.is_gso() { gso_network_seglen(skb) } else { skb.len() };
    len > mtu
}

/// The input of a route that refuses, and of no route (`ip6_pkt_discard`).
pub fn ip6_pkt_discard(net: &Arc<Net>, skb: Box<Skb>) {
    if net.sysctl.ipv6_forwarding.on() {
        net.mib.inc(Mib::Ip6InNoRoutes);
        icmpv6_send(&skb, ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE, 0);
    } else {
        net.mib.inc(Mib::Ip6InAddrErrors);
    }
}
