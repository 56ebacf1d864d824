//! UDP on its way out: from a message to datagrams (RFC 768).
//!
//! Interface: [`UdpSock`], [`udp_sk`], [`udp_sendmsg`], [`udp_push_pending_frames`], [`mib`].
//! Linux counterpart: `udp_sendmsg`, `udp_send_skb` in `net/ipv4/udp.c`; `udpv6_sendmsg`; `ip_append_data`.
//! Locks and context: process context, under the socket lock until the datagram is made.

use crate::core::checksum::{csum_partial_seed, csum_tcpudp_magic, skb_checksum};
use crate::core::dst::{Dst, RtnType};
use crate::core::flow::Flow;
use crate::core::iov_iter::MsgHdr;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::net_namespace::Net;
use crate::core::skbuff::{GsoType, MAX_HEADER, MAX_SKB_FRAGS, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, SEND_SHUTDOWN, Sock, SockFlags};
use crate::hdr::{IPPROTO_UDP, UdpHdr};
use crate::ipv4::datagram::{IpcmCookie, read_cmsgs, sock_alloc_send_space};
use crate::ipv4::inet_sock::{InetSock, inet_autobind, this_host_v4, unspecified_like};
use crate::ipv4::udp_table::udp_ext;
use kernel::{Frag, PageMut, Wait, tp};
use smallvec::SmallVec;
use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};
use uapi::sockaddr::AF_INET6;
use uapi::socket::*;
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

/// Largest payload of a datagram over IPv4 and over IPv6: 65535 less the headers that the length field counts.
const MAX_V4: usize = 65535 - 20 - UdpHdr::LEN;
const MAX_V6: usize = 65535 - UdpHdr::LEN;
/// `UDP_MAX_SEGMENTS`.
const UDP_MAX_SEGMENTS: usize = 128;
/// Payloads up to this size go into the linear part: one buffer instead of two.
const COPYBREAK: usize = 360;
/// `MSG_PROBE`: only look whether the destination can be reached.
const MSG_PROBE: i32 = 0x10;

/// A UDP socket's state (`struct udp_sock`).
#[derive(Default)]
pub struct UdpSock {
    pub inet: InetSock,
    /// Data that waits for the end of its datagram (`MSG_MORE`, `UDP_CORK`).
    pending: Option<Box<Cork>>,
    /// `UDP_CORK`.
    pub corked: bool,
    /// `UDP_SEGMENT`: payload bytes of each datagram a message is cut into; 0: it is one.
    pub gso_size: u16,
    /// `UDP_NO_CHECK6_TX`.
    pub no_check6_tx: bool,
}

impl ProtoSock for UdpSock {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn inet(&mut self) -> &mut dyn Any {
        &mut self.inet
    }
}

/// The state of a locked UDP socket.
pub fn udp_sk(state: &mut dyn ProtoSock) -> &mut UdpSock {
    match state.as_any_mut().downcast_mut() {
        Some(u) => u,
        None => unreachable!("a socket of UDP_PROT"),
    }
}

/// Counts under the version's own name.
pub fn mib(net: &Net, v6: bool, m: Mib) {
    net.mib.inc(match m {
        m if !v6 => m,
        Mib::UdpInDatagrams => Mib::Udp6InDatagrams,
        Mib::UdpNoPorts => Mib::Udp6NoPorts,
        Mib::UdpInErrors => Mib::Udp6InErrors,
        Mib::UdpOutDatagrams => Mib::Udp6OutDatagrams,
        Mib::UdpRcvbufErrors => Mib::Udp6RcvbufErrors,
        Mib::UdpSndbufErrors => Mib::Udp6SndbufErrors,
        Mib::UdpInCsumErrors => Mib::Udp6InCsumErrors,
        Mib::UdpIgnoredMulti => Mib::Udp6IgnoredMulti,
        m => m,
    });
}

/// A datagram in the making: where it goes, and its payload so far (`struct inet_cork`).
pub struct Cork {
    pub flow: Flow,
    pub dst: Arc<Dst>,
    pub params: XmitParams,
    gso_size: u16,
    no_check: bool,
    /// `IP_PMTUDISC_DO`, `_PROBE` or `_INTERFACE`: nothing is fragmented. By default only what fits is sent with DF.
    pub strict: bool,
    frags: SmallVec<[Frag; 4]>,
    len: usize,
}

/// `udp_sendmsg` and `udpv6_sendmsg`: `EMSGSIZE`, `EOPNOTSUPP` (out-of-band), `EDESTADDRREQ`, `EAFNOSUPPORT`, `EINVAL`,
/// what routing says, `EACCES` (broadcast without `SO_BROADCAST`), the pending error.
pub fn udp_sendmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(udp_sendmsg, *sk);
    let len = msg.iter.count();
    if len > 0xffff {
        return Poll::Ready(Err(Errno::EMSGSIZE));
    }
    if msg.flags & MSG_OOB != 0 {
        return Poll::Ready(Err(Errno::EOPNOTSUPP));
    }
    let mut state = sk.lock_sock();
    let more = msg.flags & MSG_MORE != 0 || udp_sk(&mut *state).corked;
    if udp_sk(&mut *state).pending.is_none() {
        let cork = prepare(sk, &mut *state, msg)?;
        if msg.flags & MSG_PROBE != 0 && len == 0 {
            return Poll::Ready(Ok(0));
        }
        check_size(sk, &cork, len)?;
        ready!(sock_alloc_send_space(sk, msg.flags & MSG_DONTWAIT != 0, wait))?;
        if !more {
            let skb = make_skb(msg, len)?;
            drop(state);
            return Poll::Ready(udp_send_skb(sk, skb, &cork, len).map(|()| len));
        }
        udp_sk(&mut *state).pending = Some(Box::new(cork));
    } else if sk.shutdown() & SEND_SHUTDOWN != 0 {
        return Poll::Ready(Err(Errno::EPIPE));
    }
    let result = append(sk, udp_sk(&mut *state), msg, len);
    if result.is_ok() && !more {
        return Poll::Ready(udp_push_pending_frames(sk, udp_sk(&mut *state)).map(|()| len));
    }
    Poll::Ready(result.map(|()| len))
}

/// Adds a message to the pending datagram (`ip_append_data`); when it does not fit, all of it is thrown away.
fn append(sk: &Sock, up: &mut UdpSock, msg: &mut MsgHdr<'_>, len: usize) -> Result<()> {
    let Some(cork) = up.pending.as_mut() else { return Err(Errno::EINVAL) };
    let result = match check_size(sk, cork, cork.len + len) {
        Ok(()) => take_payload(msg, len, &mut cork.frags),
        Err(e) => Err(e),
    };
    cork.len += len;
    if result.is_err() {
        up.pending = None;
    }
    result
}

/// `udp_push_pending_frames`: what has been collected leaves as one datagram. Nothing pending is fine.
pub fn udp_push_pending_frames(sk: &Arc<Sock>, up: &mut UdpSock) -> Result<()> {
    let Some(mut cork) = up.pending.take() else { return Ok(()) };
    let mut skb = new_skb(0)?;
    for f in std::mem::take(&mut cork.frags) {
        if !skb.add_frag(f) {
            return Err(Errno::EMSGSIZE);
        }
    }
    let len = cork.len;
    udp_send_skb(sk, skb, &cork, len)
}

/// `udp_flush_pending_frames`.
pub fn udp_flush_pending_frames(up: &mut UdpSock) {
    up.pending = None;
}

// --- Where it goes ---

/// Everything about a datagram but its payload: destination, options, route.
pub fn prepare(sk: &Arc<Sock>, state: &mut dyn ProtoSock, msg: &MsgHdr<'_>) -> Result<Cork> {
    let peer = destination(sk, udp_sk(state), msg.name.as_ref())?;
    inet_autobind(sk, state)?;
    let up = udp_sk(state);
    let ipc = if msg.control.is_empty() { IpcmCookie::default() } else { read_cmsgs(sk, &msg.control)? };
    let (daddr, dport) = peer.unwrap_or((up.inet.daddr, up.inet.dport));
    let v6 = daddr.is_ipv6();
    let mut flow = up.inet.flow_to(sk, daddr, dport);
    let mut params = up.inet.xmit_params_to(sk, v6);
    apply(sk, &up.inet, &ipc, &mut flow, &mut params);
    // Only what is as the connection has it may use the connection's route.
    let connected = peer.is_none() && msg.control.is_empty() && msg.flags & MSG_DONTROUTE == 0;
    let dst = route(sk, &mut flow, connected)?;
    if dst.kind == RtnType::Broadcast && !sk.flag(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    if (msg.flags & MSG_DONTROUTE != 0 || sk.flag(SockFlags::LOCALROUTE)) && dst.gateway.is_some() {
        return Err(Errno::ENETUNREACH);
    }
    let no_check = if v6 { up.no_check6_tx } else { sk.flag(SockFlags::NO_CHECK_TX) };
    let gso_size = ipc.gso_size.unwrap_or(up.gso_size);
    let pmtudisc = if v6 { up.inet.opts.v6.pmtudisc } else { up.inet.pmtudisc } as i32;
    let strict = matches!(pmtudisc, IP_PMTUDISC_DO | IP_PMTUDISC_PROBE | IP_PMTUDISC_INTERFACE);
    if pmtudisc == IP_PMTUDISC_PROBE {
        params.dont_fragment = DontFragment::Always;
    }
    Ok(Cork { flow, dst, params, gso_size, no_check, strict, frags: SmallVec::new(), len: 0 })
}

impl Cork {
    /// What is larger is cut, or refused (`cork->fragsize`).
    pub fn mtu(&self) -> usize {
        self.dst.mtu_of(self.params.ignore_pmtu) as usize
    }

    /// How a packet of `len` bytes looks, headers included: where DF is a wish, it is one for what fits the path.
    pub fn params_of(&self, len: usize) -> XmitParams {
        let fits = self.params.dont_fragment == DontFragment::Always || len <= self.dst.mtu() as usize;
        let dont_fragment = if fits { self.params.dont_fragment } else { DontFragment::Never };
        XmitParams { dont_fragment, ..self.params }
    }
}

/// The destination of a message; `None`: the connected peer.
fn destination(sk: &Sock, up: &UdpSock, name: Option<&SockAddr>) -> Result<Option<(IpAddr, u16)>> {
    let v6 = sk.family == AF_INET6;
    let (addr, port) = match name {
        None => (None, 0),
        Some(SockAddr::Unspec) if v6 => (None, 0),
        // BSD programs leave the family out.
        Some(SockAddr::Unspec) => (Some(this_host_v4(&up.inet, std::net::Ipv4Addr::UNSPECIFIED).into()), 0),
        Some(SockAddr::V4(_)) if v6 && sk.flag(SockFlags::V6ONLY) => return Err(Errno::ENETUNREACH),
        Some(SockAddr::V4(a)) => (Some(this_host_v4(&up.inet, *a.ip()).into()), a.port()),
        Some(SockAddr::V6(_)) if !v6 => return Err(Errno::EAFNOSUPPORT),
        Some(SockAddr::V6(a)) => (Some(destination_v6(sk, up, a)?), a.port()),
    };
    match addr {
        None if sk.state() != TcpState::Established => Err(Errno::EDESTADDRREQ),
        None => Ok(None),
        // A ping has no port.
        Some(_) if port == 0 && sk.protocol == IPPROTO_UDP as u16 => Err(Errno::EINVAL),
        Some(a) => Ok(Some((a, port))),
    }
}

fn destination_v6(sk: &Sock, up: &UdpSock, a: &std::net::SocketAddrV6) -> Result<IpAddr> {
    match a.ip().to_ipv4_mapped() {
        Some(_) if sk.flag(SockFlags::V6ONLY) => Err(Errno::ENETUNREACH),
        Some(v4) => Ok(this_host_v4(&up.inet, v4).into()),
        None if a.ip().is_unspecified() => Ok(Ipv6Addr::LOCALHOST.into()),
        None => Ok((*a.ip()).into()),
    }
}

/// What the message and the multicast options change about flow and header.
fn apply(sk: &Sock, inet: &InetSock, ipc: &IpcmCookie, flow: &mut Flow, params: &mut XmitParams) {
    if let Some(tos) = ipc.tos {
        (flow.tos, params.tos) = (tos, tos);
    }
    if let Some(a) = ipc.saddr.filter(|a| a.is_ipv6() == flow.daddr.is_ipv6()) {
        flow.saddr = a;
    }
    if ipc.oif != 0 {
        flow.oif = ipc.oif;
    }
    if flow.daddr.is_multicast() {
        let mc = if flow.is_v6() { &inet.opts.v6.mc } else { &inet.opts.mc };
        params.ttl = mc.ttl;
        if flow.oif == 0 {
            flow.oif = mc.oif;
        }
    }
    if let Some(ttl) = ipc.ttl {
        params.ttl = ttl;
    }
    flow.anysrc = sk.flag(SockFlags::TRANSPARENT);
}

/// The route, from the socket's cache where that holds it (`sk_dst_check`).
fn route(sk: &Sock, flow: &mut Flow, connected: bool) -> Result<Arc<Dst>> {
    if connected {
        let cached = sk.dst_cache.lock_bh().clone();
        if let Some(dst) = cached.filter(|d| d.is_current(&sk.net)) {
            if flow.saddr.is_unspecified() {
                flow.saddr = dst.prefsrc;
            }
            return Ok(dst);
        }
    }
    let l3 = sk.net.l3(flow.is_v6()).ok_or(Errno::ENETUNREACH)?;
    let dst = (l3.route_output)(&sk.net, flow)?;
    if connected {
        *sk.dst_cache.lock_bh() = Some(dst.clone());
    }
    Ok(dst)
}

// --- What it is ---

/// `EMSGSIZE` for what no datagram, or none that may not be fragmented, can hold, and for segments that do not fit; `EINVAL` for
/// too many of them, or without checksum.
fn check_size(sk: &Sock, c: &Cork, len: usize) -> Result<()> {
    let v6 = c.flow.is_v6();
    let headers = if v6 { 40 } else { 20 } + UdpHdr::LEN;
    if len > if v6 { MAX_V6 } else { MAX_V4 } {
        return Err(Errno::EMSGSIZE);
    }
    let mtu = c.mtu();
    let gso = c.gso_size as usize;
    if gso > 0 {
        return match len {
            _ if headers + len.min(gso) > mtu => Err(Errno::EMSGSIZE),
            _ if c.no_check || len.div_ceil(gso) > UDP_MAX_SEGMENTS => Err(Errno::EINVAL),
            _ => Ok(()),
        };
    }
    if headers + len > mtu && c.strict {
        if sk.flag(SockFlags::RECVERR) {
            udp_ext(sk).errq.local_error(Errno::EMSGSIZE, c.flow.daddr, c.flow.dport, mtu as u32);
        }
        return Err(Errno::EMSGSIZE);
    }
    Ok(())
}

/// An empty packet with room for the headers in front, and for `linear` bytes of payload.
fn new_skb(linear: usize) -> Result<Box<Skb>> {
    let headroom = MAX_HEADER + UdpHdr::LEN;
    let mut skb = Skb::try_alloc(headroom + linear)?;
    skb.reserve(headroom);
    Ok(skb)
}

/// The packet with the message's payload, copied once or not at all.
pub fn make_skb(msg: &mut MsgHdr<'_>, len: usize) -> Result<Box<Skb>> {
    if len <= COPYBREAK && !msg.iter.has_frags() {
        let mut skb = new_skb(len)?;
        if msg.iter.copy_from(skb.put(len)) != len {
            return Err(Errno::EFAULT);
        }
        return Ok(skb);
    }
    let mut skb = new_skb(0)?;
    let mut frags = SmallVec::new();
    take_payload(msg, len, &mut frags)?;
    for f in frags {
        if !skb.add_frag(f) {
            return Err(Errno::EMSGSIZE);
        }
    }
    Ok(skb)
}

/// The sender's one copy of its payload, or none where it gives pages.
fn take_payload(msg: &mut MsgHdr<'_>, len: usize, to: &mut SmallVec<[Frag; 4]>) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    if msg.iter.has_frags() && to.len() < MAX_SKB_FRAGS / 2 {
        let mut left = len;
        while left > 0 {
            let f = msg.iter.take_frag(left).ok_or(Errno::EFAULT)?;
            left -= f.len();
            to.push(f);
        }
        if to.len() <= MAX_SKB_FRAGS {
            return Ok(());
        }
        return Err(Errno::EMSGSIZE);
    }
    let mut page = PageMut::alloc(len);
    let room = page.as_mut_slice().get_mut(..len).ok_or(Errno::EFAULT)?;
    if msg.iter.copy_from(room) != len {
        return Err(Errno::EFAULT);
    }
    to.push(page.freeze(len));
    if to.len() > 8 {
        coalesce(to);
    }
    Ok(())
}

/// Many small pieces become one: a datagram written byte by byte must not run out of fragments.
fn coalesce(frags: &mut SmallVec<[Frag; 4]>) {
    let total = frags.iter().map(|f| f.len()).sum();
    let mut page = PageMut::alloc(total);
    let mut at = 0;
    for f in frags.drain(..) {
        if let Some(to) = page.as_mut_slice().get_mut(at..at + f.len()) {
            to.copy_from_slice(&f);
        }
        at += f.len();
    }
    frags.push(page.freeze(total));
}

/// `udp_send_skb`: header, checksum, and on to IP. `len` is the payload's.
fn udp_send_skb(sk: &Arc<Sock>, mut skb: Box<Skb>, c: &Cork, len: usize) -> Result<()> {
    tp!(udp_send_skb, skb, *sk);
    let (net, v6) = (&sk.net, c.flow.is_v6());
    let l3 = net.l3(v6).ok_or(Errno::ENETUNREACH)?;
    let total = len + UdpHdr::LEN;
    let fits = l3.header_len + total <= c.mtu();
    let is_gso = c.gso_size > 0 && len > c.gso_size as usize;
    put_header(&mut skb, c, total);
    if is_gso {
        skb.gso_size = c.gso_size;
        skb.gso_segs = len.div_ceil(c.gso_size as usize) as u16;
        skb.gso_type = GsoType::UDP_L4;
    }
    put_checksum(&mut skb, c, total, fits || is_gso);
    if kernel::trace::enabled() {
        skb.identify(sk.net.kernel());
    }
    skb.traced = sk.traced.load(Relaxed);
    skb.copies = 1;
    skb.dst = Some(c.dst.clone());
    (skb.priority, skb.mark) = (c.params.priority, c.params.mark);
    sk.skb_set_owner_w(&mut skb);
    let params = c.params_of(l3.header_len + total);
    match (l3.queue_xmit)(net, Some(sk), skb, &c.flow, &params) {
        Ok(()) => {
            mib(net, v6, Mib::UdpOutDatagrams);
            Ok(())
        }
        // A full device queue is congestion, of which UDP hears only on request.
        Err(Errno::ENOBUFS) if !sk.flag(SockFlags::RECVERR) => {
            mib(net, v6, Mib::UdpSndbufErrors);
            mib(net, v6, Mib::UdpOutDatagrams);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn put_header(skb: &mut Skb, c: &Cork, total: usize) {
    let head = skb.push(UdpHdr::LEN);
    if let Some(h) = UdpHdr::read_mut(head) {
        h.source.set(c.flow.sport);
        h.dest.set(c.flow.dport);
        h.len.set(total as u16);
        h.check = [0, 0];
    }
    skb.reset_transport_header();
}

/// RFC 768: 0 means "no checksum"; a sum that is 0 is sent as all ones. Left to the device unless IP will fragment.
fn put_checksum(skb: &mut Skb, c: &Cork, total: usize, whole: bool) {
    if c.no_check {
        return;
    }
    let check = if whole {
        skb.set_csum_partial(std::mem::offset_of!(UdpHdr, check));
        csum_partial_seed(c.flow.saddr, c.flow.daddr, total, IPPROTO_UDP)
    } else {
        let sum = skb_checksum(skb, 0, total, 0);
        match csum_tcpudp_magic(c.flow.saddr, c.flow.daddr, total, IPPROTO_UDP, sum) {
            [0, 0] => [0xff, 0xff],
            c => c,
        }
    };
    if let Some(h) = UdpHdr::read_mut(skb.transport_header_mut()) {
        h.check = check;
    }
}

/// `__ip4_datagram_connect`, `__ip6_datagram_connect`, the part below the tables: route and addresses. The socket's own
/// address, if it had none, is the route's.
pub fn udp_set_peer(sk: &Arc<Sock>, up: &mut UdpSock, daddr: IpAddr, dport: u16) -> Result<()> {
    *sk.dst_cache.lock_bh() = None;
    let mut flow = up.inet.flow_to(sk, daddr, dport);
    if daddr.is_multicast() && flow.oif == 0 {
        flow.oif = if flow.is_v6() { up.inet.opts.v6.mc.oif } else { up.inet.opts.mc.oif };
    }
    let dst = route(sk, &mut flow, false)?;
    if dst.kind == RtnType::Broadcast && !sk.flag(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    let inet = &mut up.inet;
    let own = inet.saddr();
    if inet.rcv_saddr.is_unspecified() {
        inet.rcv_saddr = flow.saddr;
    }
    inet.set_saddr(if own.is_unspecified() { flow.saddr } else { own });
    (inet.daddr, inet.dport) = (daddr, dport);
    sk.traced.fetch_or(sk.net.wants_trace(&flow), Relaxed);
    *sk.dst_cache.lock_bh() = Some(dst);
    Ok(())
}

/// Forgets the peer, and the address too unless `bind` gave it.
pub fn udp_clear_peer(sk: &Sock, inet: &mut InetSock) {
    let any = unspecified_like(if sk.family == AF_INET6 { Ipv6Addr::UNSPECIFIED.into() } else { inet.saddr() });
    (inet.daddr, inet.dport) = (any, 0);
    if !sk.flag(SockFlags::BINDADDR_LOCK) {
        inet.rcv_saddr = any;
        inet.set_saddr(any);
    }
    *sk.dst_cache.lock_bh() = None;
}
