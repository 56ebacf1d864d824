//! Packets on their way to another host.
//!
//! Interface: [`ip_forward`].
//! Linux counterpart: `net/ipv4/ip_forward.c`.
//! Locks and context: softirq context; no locks.

use crate::core::checksum::csum_replace2;
use crate::core::dst::Dst;
use crate::core::net_namespace::Net;
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{IpSummed, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::icmp::{ICMP_DEST_UNREACH, ICMP_EXC_TTL, ICMP_FRAG_NEEDED, ICMP_TIME_EXCEEDED};
use crate::hdr::{IP_DF, IpHdr};
use crate::ipv4::icmp::{icmp_send, ms_since_midnight};
use crate::ipv4::ip_options::{ip_options_compile, ip_options_forward};
use crate::ipv4::ip_output::{dst_output, gso_network_seglen, ip_send_check};
use std::net::IpAddr;
use std::sync::Arc;

/// `ip_forward`: the `dst.input` of packets that a route leads out again (RFC 1812, 5.2.1.2).
pub fn ip_forward(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ip_forward, skb);
    // Sent to everybody's link-layer address, but not to everybody: not ours to spread (RFC 1812, 5.3.4).
    if skb.pkt_type != PktType::Host {
        return net.mib.inc(Mib::IpInDiscards);
    }
    let (Some(dst), Some(iph)) = (skb.dst.clone(), IpHdr::read(skb.data()).copied()) else { return };
    if iph.ttl <= 1 {
        net.mib.inc(Mib::IpInHdrErrors);
        return icmp_send(&skb, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0);
    }
    if exceeds_mtu(&skb, &dst, &iph) {
        net.mib.inc(Mib::IpFragFails);
        return icmp_send(&skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, dst.mtu());
    }
    ip_decrease_ttl(&mut skb);
    skb.priority = (iph.tos as u32 & 0x1e) >> 1;
    // Sums that cover the link's idea of the packet do not survive a changed header.
    if skb.ip_summed == IpSummed::Complete {
        skb.ip_summed = IpSummed::None;
    }
    if let Some(skb) = net.nf.run(HookPoint::Forward, net, skb) {
        ip_forward_finish(net, &dst, skb);
    }
}

/// `ip_exceeds_mtu`: larger than the next link takes, and not to be cut.
fn exceeds_mtu(skb: &Skb, dst: &Dst, iph: &IpHdr) -> bool {
    let mtu = dst.mtu() as usize;
    let len = if skb.is_gso() { gso_network_seglen(skb) } else { skb.len() };
    len > mtu && iph.frag_off.get() & IP_DF != 0
}

/// `ip_decrease_ttl` (RFC 1624).
fn ip_decrease_ttl(skb: &mut Skb) {
    if let Some(iph) = IpHdr::read_mut(skb.data_mut()) {
        let old = [iph.ttl, iph.protocol];
        iph.ttl = iph.ttl.saturating_sub(1);
        csum_replace2(&mut iph.check, old, [iph.ttl, iph.protocol]);
    }
}

fn ip_forward_finish(net: &Arc<Net>, dst: &Dst, mut skb: Box<Skb>) {
    net.mib.inc(Mib::IpForwDatagrams);
    let ihl = skb.network_header_len();
    if ihl > IpHdr::LEN
        && let Some(header) = skb.data_mut().get_mut(..ihl)
        && let Ok(opt) = ip_options_compile(header)
        && let IpAddr::V4(from) = dst.prefsrc
    {
        ip_options_forward(header, &opt, from.octets(), ms_since_midnight(net));
        ip_send_check(header);
    }
    // An error on the way out is counted where it happens; there is nobody here to tell.
    let _ = dst_output(net, skb);
}
