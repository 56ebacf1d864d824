//! IPv4 receive.
//!
//! Interface: [`ip_rcv`], [`ip_local_deliver`], [`ip_local_deliver_finish`].
//! Linux counterpart: `net/ipv4/ip_input.c`.
//! Locks and context: softirq context; no locks of its own.
//!
//! ```text
//! ip_rcv -> [PreRouting] -> ip_rcv_finish -> dst.input = ip_local_deliver -> (ip_defrag) -> [LocalIn]
//!   -> ip_local_deliver_finish -> inet_protos[protocol].handler
//!                                           = ip_forward
//! ```

use crate::core::checksum::ip_fast_csum;
use crate::core::dst::RtnType;
use crate::core::net_namespace::Net;
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{IpSummed, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::IpHdr;
use crate::hdr::icmp::*;
use crate::ipv4::icmp::icmp_send;
use crate::ipv4::ip_fragment::ip_defrag;
use crate::ipv4::ip_options::ip_options_compile;
use crate::ipv4::protocol::inet_protocol;
use crate::ipv4::route::ip_route_input;
use kernel::rcu_read_lock;
use std::sync::Arc;
use uapi::Errno;

/// `ip_rcv`: a packet from a device, `data` at the IP header.
pub fn ip_rcv(net: &Arc<Net>, skb: Box<Skb>) {
    kernel::tp!(ip_rcv, skb);
    let _section = rcu_read_lock();
    let Some(skb) = ip_rcv_core(net, skb) else { return };
    if let Some(skb) = net.nf.run(HookPoint::PreRouting, net, skb) {
        ip_rcv_finish(net, skb);
    }
}

/// Checks the header and cuts the packet to the length it gives (RFC 1122, 3.2.1).
fn ip_rcv_core(net: &Arc<Net>, mut skb: Box<Skb>) -> Option<Box<Skb>> {
    if skb.pkt_type == PktType::OtherHost {
        return None;
    }
    net.mib.inc(Mib::IpInReceives);
    let bad = |why: Option<Mib>| {
        why.into_iter().for_each(|m| net.mib.inc(m));
        net.mib.inc(Mib::IpInHdrErrors);
        None
    };
    if !skb.may_pull(IpHdr::LEN) {
        return bad(None);
    }
    let iph = *IpHdr::read(skb.data())?;
    let ihl = iph.ihl();
    if iph.version() != 4 || ihl < IpHdr::LEN || !skb.may_pull(ihl) {
        return bad(None);
    }
    net.mib.ecn(iph.tos, skb.gso_segs, [Mib::IpExtInECT1Pkts, Mib::IpExtInECT0Pkts, Mib::IpExtInCEPkts]);
    if ip_fast_csum(skb.data().get(..ihl)?) != [0, 0] {
        return bad(Some(Mib::IpExtInCsumErrors));
    }
    let len = iph.tot_len.get() as usize;
    if len < ihl {
        return bad(None);
    }
    if skb.len() < len {
        net.mib.inc(Mib::IpExtInTruncatedPkts);
        return None;
    }
    if skb.len() > len && !skb.is_gso() {
        // The link's padding; a sum over it all is of no use any more.
        skb.trim(len);
        if skb.ip_summed == IpSummed::Complete {
            skb.ip_summed = IpSummed::None;
        }
    }
    skb.reset_network_header();
    skb.set_transport_header(ihl);
    skb.cb.clear();
    skb.orphan();
    Some(skb)
}

/// `ip_rcv_finish`: finds the packet's route and lets it take it.
fn ip_rcv_finish(net: &Arc<Net>, mut skb: Box<Skb>) {
    if !route_of(net, &mut skb) {
        return;
    }
    if skb.network_header_len() > IpHdr::LEN && !ip_rcv_options(net, &skb) {
        return;
    }
    let Some(dst) = &skb.dst else { return };
    match dst.kind {
        RtnType::Multicast => net.mib.inc(Mib::IpExtInMcastPkts),
        RtnType::Broadcast => net.mib.inc(Mib::IpExtInBcastPkts),
        _ => {}
    }
    let input = dst.input;
    input(net, skb);
}

/// Sets `skb.dst`; `false` when the packet has no business here, which is counted.
fn route_of(net: &Arc<Net>, skb: &mut Skb) -> bool {
    let Some(dev) = &skb.dev else { return false };
    // What this host sent to itself brings its route along.
    let own = |d: &crate::core::dst::Dst| {
        Arc::ptr_eq(&d.dev, dev) && (dev.is_loopback() || skb.pkt_type == PktType::Loopback)
    };
    if skb.dst.as_deref().is_some_and(own) {
        return true;
    }
    let Some(iph) = IpHdr::read(skb.data()) else { return false };
    match ip_route_input(net, iph.dst(), iph.src(), dev) {
        Ok(dst) => {
            skb.dst = Some(dst);
            true
        }
        Err(e) => {
            ip_error(net, skb, e);
            false
        }
    }
}

/// `ip_error`: no way on for this packet. Its source is told by hosts that forward, and only by them.
fn ip_error(net: &Net, skb: &Skb, why: Errno) {
    let code = match why {
        Errno::ENETUNREACH => ICMP_NET_UNREACH,
        Errno::EHOSTUNREACH => ICMP_HOST_UNREACH,
        Errno::EACCES => ICMP_PKT_FILTERED,
        // Martians and black holes get no answer.
        _ => return net.mib.inc(Mib::IpInAddrErrors),
    };
    net.mib.inc(if why == Errno::ENETUNREACH { Mib::IpExtInNoRoutes } else { Mib::IpInAddrErrors });
    if net.sysctl.ip_forward.on() {
        icmp_send(skb, ICMP_DEST_UNREACH, code, 0);
    }
}

/// `ip_rcv_options`: refuses what is malformed, and source routes (RFC 7126, 4.3).
fn ip_rcv_options(net: &Net, skb: &Skb) -> bool {
    let header = skb.data().get(..skb.network_header_len()).unwrap_or_default();
    match ip_options_compile(header) {
        Ok(opt) if opt.source_route => {
            net.mib.inc(Mib::IpInDiscards);
            false
        }
        Ok(_) => true,
        Err(pointer) => {
            net.mib.inc(Mib::IpInHdrErrors);
            icmp_send(skb, ICMP_PARAMETERPROB, 0, (pointer as u32) << 24);
            false
        }
    }
}

/// `ip_local_deliver`: the `dst.input` of packets for this host.
pub fn ip_local_deliver(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ip_local_deliver, skb);
    if IpHdr::read(skb.data()).is_some_and(IpHdr::is_fragment) {
        match ip_defrag(net, skb) {
            Some(whole) => skb = whole,
            None => return,
        }
    }
    if let Some(skb) = net.nf.run(HookPoint::LocalIn, net, skb) {
        ip_local_deliver_finish(net, skb);
    }
}

/// `ip_local_deliver_finish`: to the transport; `data` is at the IP header. A hook that has kept a packet of `LocalIn` hands it
/// back here, in softirq context or with bottom halves off.
pub fn ip_local_deliver_finish(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ip_local_deliver_finish, skb);
    let Some(protocol) = IpHdr::read(skb.data()).map(|h| h.protocol) else { return };
    let section = rcu_read_lock();
    let Some(transport) = inet_protocol(&net.reg, protocol, &section) else {
        net.mib.inc(Mib::IpInUnknownProtos);
        icmp_send(&skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0);
        return;
    };
    let ihl = skb.network_header_len();
    if !skb.pull(ihl) {
        return net.mib.inc(Mib::IpInDiscards);
    }
    net.mib.inc(Mib::IpInDelivers);
    (transport.handler)(net, skb);
}
