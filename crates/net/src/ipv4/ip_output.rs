//! IPv4 transmit.
//!
//! Interface: [`ip_queue_xmit`], [`ip_local_out`], [`ip_output`], [`ip_mc_output`], [`ip_send_check`], [`ip_output_net_init`].
//! Linux counterpart: `net/ipv4/ip_output.c`; identifications: `ip_idents_reserve` in `route.c`.
//! Locks and context: process and softirq context; no locks of its own.
//!
//! ```text
//! ip_queue_xmit -> ip_local_out -> [LocalOut] -> dst.output = ip_output -> [PostRouting]
//!   -> ip_finish_output -> (ip_fragment) -> ip_finish_output2 -> neigh_output
//! ```

use crate::core::checksum::{ip_fast_csum, skb_checksum_help};
use crate::core::dev::{ETH_P_IP, netif_rx};
use crate::core::dst::{Dst, RtnType};
use crate::core::dst_metrics::Rtax;
use crate::core::flow::Flow;
use crate::core::gso::skb_gso_segment;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::neighbour::neigh_output;
use crate::core::net_namespace::{Net, NetId};
use crate::core::netfilter::HookPoint;
use crate::core::skbuff::{IpSummed, MAX_HEADER, PktType, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::icmp::{ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED};
use crate::hdr::{IP_DF, IP_MF, IP_OFFSET, IPPROTO_TCP, IPPROTO_UDP, IpHdr, TcpHdr, UdpHdr};
use crate::ipv4::ip_options::ip_options_fragment;
use crate::ipv4::route::ip_route_output_flow;
use kernel::{HZ, rcu_read_lock};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// `IP_IDENTS_SZ`.
const IDENTS: usize = 2048;

/// How often the counters may move on by themselves, in milliseconds: distributions' kernels tick 250 times a second.
const IDENT_TICK: u64 = HZ / 250;

/// The next identification for some flows, and the tick in which it was last taken.
struct Ident {
    id: AtomicU32,
    stamp: AtomicU64,
}

/// A namespace's part (`ip_idents`).
struct Ipv4Output {
    idents: Box<[Ident]>,
}

/// Once a namespace.
pub fn ip_output_net_init(net: &Arc<Net>) {
    let ident = |i: usize| Ident { id: AtomicU32::new(net.hash(&("ip_idents", i))), stamp: AtomicU64::new(0) };
    net.set_generic(NetId::Ipv4Output, Ipv4Output { idents: (0..IDENTS).map(ident).collect() });
}

/// `ip_send_check`: stores the header's checksum.
pub fn ip_send_check(header: &mut [u8]) {
    let Some(iph) = IpHdr::read_mut(header) else { return };
    iph.check = [0, 0];
    let ihl = iph.ihl();
    let sum = header.get(..ihl).map(ip_fast_csum);
    if let (Some(iph), Some(sum)) = (IpHdr::read_mut(header), sum) {
        iph.check = sum;
    }
}

/// `ip_queue_xmit`: prepends the IP header and sends; see [`L3Ops::queue_xmit`](crate::core::l3::L3Ops). `EMSGSIZE` for what is
/// too large to be a packet, or for the path when it may not be fragmented.
pub fn ip_queue_xmit(net: &Arc<Net>, sk: Option<&Sock>, mut skb: Box<Skb>, flow: &Flow, p: &XmitParams) -> Result<()> {
    kernel::tp!(ip_queue_xmit, skb);
    // One read section for all that is looked up on the way down.
    let _section = rcu_read_lock();
    let dst = match skb.dst.take() {
        Some(d) => d,
        None => ip_route_output_flow(net, &mut flow.clone()).inspect_err(|_| net.mib.inc(Mib::IpOutNoRoutes))?,
    };
    let (IpAddr::V4(saddr), IpAddr::V4(daddr)) = (flow.saddr, flow.daddr) else { return Err(Errno::EAFNOSUPPORT) };
    let len = IpHdr::LEN + skb.len();
    let dont_fragment = p.dont_fragment.on(&dst);
    let mtu = dst.mtu_of(p.ignore_pmtu) as usize;
    let too_big = len > 65535 || (dont_fragment && flow.proto == IPPROTO_UDP && len > mtu);
    if too_big && !skb.is_gso() {
        return Err(Errno::EMSGSIZE);
    }
    skb.reset_transport_header();
    let segs = skb.gso_segs.max(1) as u32;
    let id = match sk {
        // A connection has a count of its own: with DF for old header compressors, who want one.
        Some(sk) if sk.state() != TcpState::Close => sk.inet_id.fetch_add(segs as u16, Relaxed),
        // An atomic datagram needs none (RFC 6864, 4.1); where DF is a wish the next may be without.
        _ if p.dont_fragment == DontFragment::Always => 0,
        _ => ip_select_ident(net, saddr, daddr, flow.proto, segs),
    };
    let ttl = if p.ttl != 0 { p.ttl } else { default_ttl(net, &dst) };
    skb.push(IpHdr::LEN);
    skb.reset_network_header();
    if let Some(iph) = IpHdr::read_mut(skb.data_mut()) {
        *iph = IpHdr {
            version_ihl: 0x45,
            tos: p.tos,
            tot_len: (len.min(65535) as u16).into(),
            id: id.into(),
            frag_off: if dont_fragment { IP_DF } else { 0 }.into(),
            ttl,
            protocol: flow.proto,
            check: [0, 0],
            saddr: saddr.octets(),
            daddr: daddr.octets(),
        };
    }
    ip_send_check(skb.data_mut());
    skb.priority = p.priority;
    skb.mark = p.mark;
    skb.ignore_pmtu = p.ignore_pmtu;
    skb.dst = Some(dst);
    ip_local_out(net, skb)
}

fn default_ttl(net: &Net, dst: &Dst) -> u8 {
    match dst.metric(Rtax::Hoplimit) {
        _ if dst.kind == RtnType::Multicast => 1,
        0 => net.sysctl.ip_default_ttl.get() as u8,
        hops => hops as u8,
    }
}

/// `__ip_select_ident`: a run of `segs` identifications, from a counter shared by few flows and moved on unpredictably with
/// time, so that nobody can count another's packets (RFC 7739 in spirit).
fn ip_select_ident(net: &Net, saddr: Ipv4Addr, daddr: Ipv4Addr, proto: u8, segs: u32) -> u16 {
    let idents = &net.generic::<Ipv4Output>(NetId::Ipv4Output).idents;
    let h = net.hash(&(saddr, daddr, proto)) as usize % IDENTS;
    let ident = &idents[h];
    let now = net.kernel().jiffies() / IDENT_TICK;
    let idle = now.saturating_sub(ident.stamp.swap(now, Relaxed)) as u32;
    let jump = if idle > 1 { net.hash(&(h, now)) % idle } else { 0 };
    ident.id.fetch_add(segs.wrapping_add(jump), Relaxed).wrapping_add(jump) as u16
}

/// `ip_local_out`: a packet of ours, its IP header complete, `dst` set, `data` at the IP header.
pub fn ip_local_out(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip_local_out, skb);
    net.mib.inc(Mib::IpOutRequests);
    skb.protocol = ETH_P_IP;
    match net.nf.run(HookPoint::LocalOut, net, skb) {
        Some(skb) => dst_output(net, skb),
        None => Ok(()),
    }
}

/// `dst_output`.
pub fn dst_output(net: &Arc<Net>, skb: Box<Skb>) -> Result<()> {
    let output = skb.dst.as_ref().map(|d| d.output).ok_or(Errno::EHOSTUNREACH)?;
    output(net, skb)
}

/// `ip_output`: the `dst.output` of unicast.
pub fn ip_output(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip_output, skb);
    skb.dev = skb.dst.as_ref().map(|d| d.dev.clone());
    skb.protocol = ETH_P_IP;
    match net.nf.run(HookPoint::PostRouting, net, skb) {
        Some(skb) => ip_finish_output(net, skb),
        None => Ok(()),
    }
}

/// `ip_mc_output`: the `dst.output` of groups that this host belongs to: a copy comes back.
pub fn ip_mc_output(net: &Arc<Net>, mut skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip_mc_output, skb);
    let dev = skb.dst.as_ref().map(|d| d.dev.clone()).ok_or(Errno::EHOSTUNREACH)?;
    let mut copy = skb.clone_skb();
    copy.dev = Some(dev.clone());
    copy.protocol = ETH_P_IP;
    copy.pkt_type = PktType::Loopback;
    if copy.ip_summed != IpSummed::Partial {
        copy.ip_summed = IpSummed::Unnecessary;
    }
    copy.skb_iif = dev.ifindex;
    // A full input queue loses the host's own copy only, and has counted it.
    let _ = netif_rx(copy);
    let to_nobody_else = IpHdr::read(skb.data()).is_some_and(|h| h.ttl == 0);
    if to_nobody_else {
        return Ok(());
    }
    skb.protocol = ETH_P_IP;
    ip_output(net, skb)
}

/// `ip_finish_output`: cuts what does not fit the path.
fn ip_finish_output(net: &Arc<Net>, skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip_finish_output, skb);
    let mtu = skb.dst.as_ref().ok_or(Errno::EHOSTUNREACH)?.mtu_of(skb.ignore_pmtu) as usize;
    if skb.is_gso() {
        return ip_finish_output_gso(net, skb, mtu);
    }
    if skb.len() > mtu {
        return ip_fragment(net, skb, mtu);
    }
    ip_finish_output2(net, skb)
}

/// Bytes of IP packet that the segments of a GSO packet will have (`skb_gso_network_seglen`).
pub fn gso_network_seglen(skb: &Skb) -> usize {
    let transport = skb.transport_header();
    let proto = IpHdr::read(skb.network_header()).map_or(0, |h| h.protocol);
    let header = match proto {
        IPPROTO_TCP => TcpHdr::read(transport).map_or(0, TcpHdr::header_len),
        IPPROTO_UDP => UdpHdr::LEN,
        _ => 0,
    };
    skb.network_header_len() + header + skb.gso_size as usize
}

/// `ip_finish_output_gso`: segments fit the path as a rule. Where it has shrunk since, or what came in by one link is too large
/// for another, each segment is treated as a packet of its own.
fn ip_finish_output_gso(net: &Arc<Net>, skb: Box<Skb>, mtu: usize) -> Result<()> {
    if gso_network_seglen(&skb) <= mtu {
        return ip_finish_output2(net, skb);
    }
    if IpHdr::read(skb.data()).is_none_or(|h| h.frag_off.get() & IP_DF != 0) {
        return too_big(net, &skb, mtu);
    }
    let segments = skb_gso_segment(skb, false).inspect_err(|_| net.mib.inc(Mib::IpOutDiscards))?;
    segments.into_iter().try_for_each(|s| ip_fragment(net, s, mtu))
}

/// `ip_finish_output2`: to the neighbour.
fn ip_finish_output2(net: &Arc<Net>, skb: Box<Skb>) -> Result<()> {
    kernel::tp!(ip_finish_output2, skb);
    net.mib.inc(Mib::IpOutTransmits);
    let Some(daddr) = IpHdr::read(skb.data()).map(IpHdr::dst) else { return Err(Errno::EINVAL) };
    let Some(dst) = &skb.dst else { return Err(Errno::EHOSTUNREACH) };
    let (dev, hop) = (dst.dev.clone(), dst.next_hop(IpAddr::V4(daddr)));
    neigh_output(net, &dev, hop, skb)
}

/// The packet has DF and does not fit: tells its source, which may be this host's own transport.
fn too_big(net: &Arc<Net>, skb: &Skb, mtu: usize) -> Result<()> {
    net.mib.inc(Mib::IpFragFails);
    if let Some(l3) = net.l3(false) {
        (l3.icmp_send)(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu as u32);
    }
    Err(Errno::EMSGSIZE)
}

/// `ip_fragment`: cuts a packet (RFC 791, 3.2). Payload in fragments of the buffer is shared, not copied.
fn ip_fragment(net: &Arc<Net>, mut skb: Box<Skb>, mtu: usize) -> Result<()> {
    kernel::tp!(ip_fragment, skb);
    let Some(iph) = IpHdr::read(skb.data()).copied() else { return Err(Errno::EINVAL) };
    let (hlen, frag_off) = (iph.ihl(), iph.frag_off.get());
    if frag_off & IP_DF != 0 {
        return too_big(net, &skb, mtu);
    }
    if mtu < hlen + 8 || (skb.ip_summed == IpSummed::Partial && !skb_checksum_help(&mut skb)) {
        net.mib.inc(Mib::IpFragFails);
        return Err(Errno::EMSGSIZE);
    }
    let step = (mtu - hlen) & !7;
    let total = skb.len() - hlen;
    let mut header = skb.data().get(..hlen).ok_or(Errno::EINVAL)?.to_vec();
    let mut at = 0;
    while at < total {
        let len = step.min(total - at);
        let more = at + len < total || frag_off & IP_MF != 0;
        let offset = (frag_off & IP_OFFSET) + (at / 8) as u16;
        let piece = one_fragment(&skb, &header, at, len, offset | if more { IP_MF } else { 0 });
        if let Err(e) = piece.and_then(|f| ip_finish_output2(net, f)) {
            net.mib.inc(Mib::IpFragFails);
            return Err(e);
        }
        net.mib.inc(Mib::IpFragCreates);
        if at == 0 {
            ip_options_fragment(&mut header);
        }
        at += len;
    }
    net.mib.inc(Mib::IpFragOKs);
    Ok(())
}

/// The fragment of `skb` with `len` bytes of payload from `at` on.
fn one_fragment(skb: &Skb, header: &[u8], at: usize, len: usize, frag_off: u16) -> Result<Box<Skb>> {
    let mut f = Skb::from_bytes(MAX_HEADER, header);
    f.copy_metadata(skb);
    (f.gso_size, f.gso_segs) = (0, 0);
    f.ip_summed = IpSummed::None;
    f.reset_network_header();
    f.set_transport_header(header.len());
    if let Some(iph) = IpHdr::read_mut(f.data_mut()) {
        iph.tot_len = ((header.len() + len) as u16).into();
        iph.frag_off = frag_off.into();
    }
    ip_send_check(f.data_mut());
    if !skb.share_range(header.len() + at, len, &mut f) {
        return Err(Errno::ENOBUFS);
    }
    if let Some(sk) = &skb.sk {
        sk.skb_set_owner_w(&mut f);
    }
    Ok(f)
}
