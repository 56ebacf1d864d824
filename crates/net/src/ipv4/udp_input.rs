//! UDP on its way in: from IP to the socket, and from there to the process (RFC 768).
//!
//! Interface: [`udp_rcv`], [`udp_err`], [`udp_recvmsg`].
//! Linux counterpart: `__udp4_lib_rcv`, `__udp6_lib_rcv`, `udp_recvmsg`, `__udp4_lib_err`.
//! Locks and context: receive and errors in softirq context, without the socket lock: a datagram goes onto the receive
//! queue whoever owns the socket. `udp_recvmsg` in process context.

use crate::core::checksum::{csum_pseudo, csum_tcpudp_magic, skb_checksum};
use crate::core::dst::RtnType;
use crate::core::flow::Flow;
use crate::core::iov_iter::{CMsg, MsgHdr};
use crate::core::l3::IcmpError;
use crate::core::net_namespace::Net;
use crate::core::skbuff::{GsoType, IpSummed, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::{Sock, SockFlags};
use crate::hdr::{IPPROTO_UDP as PROTO, UdpHdr};
use crate::ipv4::datagram::{ip_info, put_cmsgs, skb_copy_datagram_msg, skb_recv_datagram, sock_queue_rcv_skb};
use crate::ipv4::udp_output::mib;
use crate::ipv4::udp_table::{UdpKey, udp_ext, udp_table};
use kernel::{Wait, tp};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};
use uapi::socket::{IPPROTO_UDP, MSG_ERRQUEUE, MSG_TRUNC};
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

/// `UDP_GRO`, also the type of its control message.
pub const UDP_GRO: i32 = 104;
const ICMP_DEST_UNREACH: u8 = 3;
const ICMP_PORT_UNREACH: u8 = 3;
const ICMPV6_DEST_UNREACH: u8 = 1;
const ICMPV6_PORT_UNREACH: u8 = 4;

/// The handler of both versions of IP (`struct net_protocol`): `skb.data` is at the UDP header.
pub fn udp_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    tp!(udp_rcv, skb);
    let Some(ip) = ip_info(&skb) else { return };
    let v6 = ip.daddr.is_ipv6();
    let Some((sport, dport)) = check_header(&mut skb, v6) else {
        return mib(net, v6, Mib::UdpInErrors);
    };
    if !checksum_ok(&mut skb, ip.saddr, ip.daddr, dport, net) {
        mib(net, v6, Mib::UdpInCsumErrors);
        return mib(net, v6, Mib::UdpInErrors);
    }
    let k = UdpKey { saddr: ip.saddr, sport, daddr: ip.daddr, dport, dif: skb.skb_iif };
    let kind = skb.dst.as_ref().map(|d| d.kind);
    if matches!(kind, Some(RtnType::Broadcast | RtnType::Multicast)) || ip.daddr.is_multicast() {
        return mcast_deliver(net, skb, &k);
    }
    match udp_table(net).lookup(net, &k) {
        Some(sk) => udp_queue_rcv_skb(net, &sk, skb, v6),
        None => no_port(net, skb, v6),
    }
}

/// The header's ports; `None` for a packet that is cut off or lies about its length. Padding behind the datagram goes.
fn check_header(skb: &mut Skb, v6: bool) -> Option<(u16, u16)> {
    if !skb.may_pull(UdpHdr::LEN) {
        return None;
    }
    let h = *UdpHdr::read(skb.data())?;
    let mut len = h.len.get() as usize;
    if len == 0 && v6 {
        // RFC 2675: a jumbogram has its length elsewhere.
        len = skb.len();
    }
    if len < UdpHdr::LEN || len > skb.len() {
        return None;
    }
    skb.trim(len);
    Some((h.source.get(), h.dest.get()))
}

/// Verifies the checksum unless somebody has. RFC 8200, 8.1: over IPv6 a datagram without one is discarded, unless its
/// receiver wants such (RFC 6935).
fn checksum_ok(skb: &mut Skb, saddr: IpAddr, daddr: IpAddr, dport: u16, net: &Arc<Net>) -> bool {
    let absent = UdpHdr::read(skb.data()).is_some_and(|h| h.check == [0, 0]);
    if absent {
        return !daddr.is_ipv6() || accepts_unsummed(net, skb, saddr, daddr, dport);
    }
    let good = match skb.ip_summed {
        IpSummed::Unnecessary | IpSummed::Partial => true,
        IpSummed::Complete => csum_tcpudp_magic(saddr, daddr, skb.len(), PROTO, skb.csum) == [0, 0],
        IpSummed::None => {
            let sum = csum_pseudo(saddr, daddr, skb.len(), PROTO, 0);
            crate::core::checksum::csum_fold(skb_checksum(skb, 0, skb.len(), sum)) == [0, 0]
        }
    };
    if good && skb.ip_summed != IpSummed::Partial {
        skb.ip_summed = IpSummed::Unnecessary;
    }
    good
}

fn accepts_unsummed(net: &Arc<Net>, skb: &Skb, saddr: IpAddr, daddr: IpAddr, dport: u16) -> bool {
    let sport = UdpHdr::read(skb.data()).map_or(0, |h| h.source.get());
    let k = UdpKey { saddr, sport, daddr, dport, dif: skb.skb_iif };
    udp_table(net).lookup(net, &k).is_some_and(|sk| udp_ext(&sk).no_check6_rx.load(Relaxed))
}

/// Nobody has the port: "port unreachable" to the sender (RFC 1122, 4.1.3.1).
fn no_port(net: &Arc<Net>, skb: Box<Skb>, v6: bool) {
    mib(net, v6, Mib::UdpNoPorts);
    let (kind, code) =
        if v6 { (ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH) } else { (ICMP_DEST_UNREACH, ICMP_PORT_UNREACH) };
    if let Some(l3) = net.l3(v6) {
        (l3.icmp_send)(&skb, kind, code, 0);
    }
}

/// `__udp4_lib_mcast_deliver`: a copy for every socket it is for; the payload is shared.
fn mcast_deliver(net: &Arc<Net>, skb: Box<Skb>, k: &UdpKey) {
    let v6 = k.daddr.is_ipv6();
    let mut to = udp_table(net).lookup_all(net, k);
    let Some(last) = to.pop() else {
        return mib(net, v6, Mib::UdpIgnoredMulti);
    };
    for sk in to {
        udp_queue_rcv_skb(net, &sk, skb.clone_skb(), v6);
    }
    udp_queue_rcv_skb(net, &last, skb, v6);
}

/// `udp_queue_rcv_skb`: onto the socket's queue, cut into datagrams unless the socket takes them together.
fn udp_queue_rcv_skb(net: &Net, sk: &Sock, skb: Box<Skb>, v6: bool) {
    if skb.is_gso() && !udp_ext(sk).gro.load(Relaxed) {
        return udp_rcv_segment(net, sk, &skb, v6);
    }
    enqueue(net, sk, skb, v6);
}

/// `__udp_enqueue_schedule_skb`.
fn enqueue(net: &Net, sk: &Sock, mut skb: Box<Skb>, v6: bool) {
    tp!(__udp_enqueue_schedule_skb, skb, sk);
    // From here on the packet is its payload; the headers stay in front of it.
    skb.pull(UdpHdr::LEN);
    if !sock_queue_rcv_skb(sk, skb) {
        mib(net, v6, Mib::UdpRcvbufErrors);
        mib(net, v6, Mib::UdpInErrors);
    }
}

/// A packet of several datagrams becomes those: headers copied, payload shared.
fn udp_rcv_segment(net: &Net, sk: &Sock, skb: &Skb, v6: bool) {
    let (gso, payload) = (skb.gso_size as usize, skb.len() - UdpHdr::LEN);
    let headers = skb.network_header_len() + UdpHdr::LEN;
    let mut at = 0;
    while at < payload {
        let n = gso.min(payload - at);
        let mut s = Skb::alloc(headers);
        let Some(from) = skb.network_header().get(..headers) else { return };
        s.reset_network_header();
        s.put(headers).copy_from_slice(from);
        s.pull(headers - UdpHdr::LEN);
        s.reset_transport_header();
        if let Some(h) = UdpHdr::read_mut(s.data_mut()) {
            h.len.set((n + UdpHdr::LEN) as u16);
        }
        if !skb.share_range(UdpHdr::LEN + at, n, &mut s) {
            return mib(net, v6, Mib::UdpInErrors);
        }
        s.copy_metadata(skb);
        (s.gso_size, s.gso_segs, s.gso_type) = (0, 0, GsoType::empty());
        s.ip_summed = IpSummed::Unnecessary;
        enqueue(net, sk, s, v6);
        at += n;
    }
}

/// `udp_recvmsg`: one datagram, with its source and what the socket's options ask for. `EAGAIN`, the pending error.
pub fn udp_recvmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(udp_recvmsg, *sk);
    if flags & MSG_ERRQUEUE != 0 {
        return Poll::Ready(udp_ext(sk).errq.recv(sk, msg));
    }
    let Some(mut skb) = ready!(skb_recv_datagram(sk, flags, wait))? else { return Poll::Ready(Ok(0)) };
    let copied = skb_copy_datagram_msg(&skb, msg);
    skb.copies = skb.copies.saturating_add(1);
    if flags & uapi::socket::MSG_PEEK == 0 {
        mib(&sk.net, ip_info(&skb).is_some_and(|i| i.daddr.is_ipv6()), Mib::UdpInDatagrams);
    }
    msg.name = source(sk, &skb);
    put_cmsgs(sk, &skb, msg);
    if skb.is_gso() && udp_ext(sk).gro.load(Relaxed) {
        let data = (skb.gso_size as i32).to_ne_bytes().to_vec();
        msg.control.push(CMsg { level: IPPROTO_UDP, kind: UDP_GRO, data });
    }
    Poll::Ready(Ok(if flags & MSG_TRUNC != 0 { skb.len() } else { copied }))
}

fn source(sk: &Sock, skb: &Skb) -> Option<SockAddr> {
    let ip = ip_info(skb)?;
    let port = UdpHdr::read(skb.transport_header())?.source.get();
    Some(match SockAddr::for_family(sk.family, ip.saddr, port) {
        SockAddr::V6(mut a) if a.ip().is_unicast_link_local() => {
            a.set_scope_id(skb.skb_iif);
            SockAddr::V6(a)
        }
        a => a,
    })
}

/// `__udp4_lib_err`, `__udp6_lib_err`: an ICMP error about a datagram of ours. A connected socket hears of final ones, one
/// with `IP_RECVERR` of all.
pub fn udp_err(net: &Arc<Net>, err: &IcmpError, quoted: &[u8]) {
    let Some(h) = UdpHdr::read(quoted) else { return };
    let (sport, dport) = (h.source.get(), h.dest.get());
    let k = UdpKey { saddr: err.daddr, sport: dport, daddr: err.saddr, dport: sport, dif: 0 };
    let Some(sk) = udp_table(net).lookup(net, &k) else {
        return net.mib.inc(if err.saddr.is_ipv6() { Mib::Icmp6InErrors } else { Mib::IcmpInErrors });
    };
    let mut fatal = err.fatal;
    if err.info != 0 {
        // "Too big": the route learns; the sender must make smaller ones.
        fatal = true;
        let flow = Flow { oif: sk.bound_dev_if.load(Relaxed), ..Flow::new(PROTO, err.saddr, sport, err.daddr, dport) };
        if let Some(l3) = net.l3(flow.is_v6()) {
            (l3.update_pmtu)(net, &flow, err.info);
        }
    }
    let errno = if err.info != 0 { Errno::EMSGSIZE } else { err.errno };
    let payload = quoted.get(UdpHdr::LEN..).unwrap_or(&[]);
    report_icmp_error(&sk, err, errno, fatal, dport, payload);
}

/// Tells a socket with a [`UdpExt`](crate::ipv4::udp_table::UdpExt) of an ICMP error: final ones only if it is connected, all
/// of them if it asked (`IP_RECVERR`).
pub fn report_icmp_error(sk: &Sock, err: &IcmpError, errno: Errno, fatal: bool, port: u16, payload: &[u8]) {
    if sk.flag(SockFlags::RECVERR) {
        udp_ext(sk).errq.icmp_error(err, errno, port, payload);
    } else if !fatal || sk.state() != TcpState::Established {
        return;
    }
    sk.set_err(errno);
    sk.error_report();
}
