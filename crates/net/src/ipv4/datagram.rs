//! What sockets that keep message boundaries share: the receive queue, the error queue, IP's control messages.
//!
//! Interface: [`sock_queue_rcv_skb`], [`skb_recv_datagram`], [`skb_copy_datagram_msg`], [`put_cmsgs`], [`datagram_poll`],
//! [`sock_alloc_send_space`], [`ErrQueue`], [`read_cmsgs`].
//! Linux counterpart: `net/core/datagram.c`, `ip_cmsg_recv`, `ip_cmsg_send`, `ip_recv_error` in `net/ipv4/ip_sockglue.c`.
//! Locks and context: queueing in softirq context, under the receive queue's lock; the rest in process context.

use crate::core::iov_iter::{CMsg, MsgHdr};
use crate::core::skbuff::Skb;
use crate::core::sock::{RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK, Sock, SockFlags};
use crate::hdr::{IpHdr, Ipv6Hdr, UdpHdr};
use crate::ipv4::errqueue::ErrQueue;
use crate::ipv4::inet_sock::{InetSock, inet_sk};
use kernel::{Wait, tp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::sockaddr::AF_INET6;
use uapi::socket::*;
use uapi::{Errno, Result, SockAddr};

/// `IP_RECVORIGDSTADDR`, which is also the type of its control message.
pub const IP_ORIGDSTADDR: i32 = 20;
pub const IPV6_ORIGDSTADDR: i32 = 74;
/// Types of IPv6 control messages (RFC 3542).
pub const IPV6_PKTINFO: i32 = 50;
pub const IPV6_HOPLIMIT: i32 = 52;

/// The addresses of a received packet, whose IP header is still in front of it.
#[derive(Clone, Copy, Debug)]
pub struct IpInfo {
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub ttl: u8,
    pub tos: u8,
}

/// Reads them; `None` for a packet without a whole IP header.
#[inline]
pub fn ip_info(skb: &Skb) -> Option<IpInfo> {
    let h = skb.network_header();
    match h.first()? >> 4 {
        4 => {
            let h = IpHdr::read(h)?;
            Some(IpInfo { saddr: h.src().into(), daddr: h.dst().into(), ttl: h.ttl, tos: h.tos })
        }
        6 => {
            let h = Ipv6Hdr::read(h)?;
            Some(IpInfo { saddr: h.src().into(), daddr: h.dst().into(), ttl: h.hop_limit, tos: h.traffic_class() })
        }
        _ => None,
    }
}

// --- Receiving ---

/// `sock_queue_rcv_skb`: leaves a packet for the process and wakes it; `false` when `SO_RCVBUF` is used up, or the socket
/// is closed.
pub fn sock_queue_rcv_skb(sk: &Sock, mut skb: Box<Skb>) -> bool {
    if sk.rcvqueue_full() {
        sk.rare.make().drops.fetch_add(1, Relaxed);
        return false;
    }
    if !sk.flag(SockFlags::CMSG) {
        skb.dst = None;
    }
    sk.skb_set_owner_r(&mut skb);
    let refused = {
        let mut queue = sk.receive_queue().lock_bh();
        // Seen under the lock: a close that has emptied the queue finds nothing left behind in it.
        if sk.flag(SockFlags::DEAD) {
            Some(skb)
        } else {
            queue.push_back(skb);
            None
        }
    };
    if refused.is_some() {
        return false;
    }
    sk.data_ready();
    true
}

/// Empties the receive queue of a socket that is closed; nothing comes in any more.
pub fn purge_receive_queue(sk: &Sock) {
    let mut gone = Default::default();
    {
        let mut queue = sk.receive_queue().lock_bh();
        sk.set_flag(SockFlags::DEAD, true);
        queue.splice_to(&mut gone);
    }
    drop(gone);
}

/// `__skb_recv_datagram`: the next packet, or a clone of it for `MSG_PEEK`. `None`: no more will come (`SHUT_RD`).
pub fn skb_recv_datagram(sk: &Sock, flags: i32, wait: &mut Wait) -> Poll<Result<Option<Box<Skb>>>> {
    let mut prepared = false;
    loop {
        if let Err(e) = sk.take_error() {
            wait.abort_exclusive_wait();
            return Poll::Ready(Err(e));
        }
        if let Some(skb) = take_next(sk, flags) {
            // Only the first look is at what the caller was woken for.
            if prepared || flags & MSG_PEEK != 0 {
                wait.abort_exclusive_wait()
            } else {
                wait.finish_wait()
            }
            return Poll::Ready(Ok(Some(skb)));
        }
        wait.set_timeout(|| sk.net.kernel().ktime_get(), sk.rcvtimeo(flags & MSG_DONTWAIT != 0));
        if let Some(end) = no_more_waiting(sk, wait) {
            // A wake-up that came meanwhile is for another reader.
            wait.abort_exclusive_wait();
            return Poll::Ready(end);
        }
        // One packet wakes one of those who wait for one (`receiver_wake_function`).
        wait.set_key((PollMask::IN | PollMask::ERR).bits());
        wait.prepare_to_wait_exclusive(&sk.wq);
        prepared = true;
        let nothing =
            sk.receive_queue().lock_bh().is_empty() && sk.err().is_none() && sk.shutdown() & RCV_SHUTDOWN == 0;
        if nothing {
            return Poll::Pending;
        }
    }
}

#[inline]
fn take_next(sk: &Sock, flags: i32) -> Option<Box<Skb>> {
    let mut queue = sk.receive_queue().lock_bh();
    if flags & MSG_PEEK != 0 { queue.front().map(Skb::clone_skb) } else { queue.pop_front() }
}

fn no_more_waiting(sk: &Sock, wait: &Wait) -> Option<Result<Option<Box<Skb>>>> {
    if wait.timed_out(|| sk.net.kernel().ktime_get()) {
        return Some(Err(Errno::EAGAIN));
    }
    if sk.shutdown() & RCV_SHUTDOWN != 0 {
        return Some(Ok(None));
    }
    wait.signal_pending().then(|| Err(sock_intr_errno(wait)))
}

/// `sock_intr_errno`: a call without a timeout is restarted after the signal handler.
pub fn sock_intr_errno(wait: &Wait) -> Errno {
    if wait.deadline().is_none() { Errno::ERESTARTSYS } else { Errno::EINTR }
}

/// `skb_copy_datagram_msg`: the packet's bytes into the message's room; how many found place. `MSG_TRUNC` is set in the
/// message's flags when it is not all.
pub fn skb_copy_datagram_msg(skb: &Skb, msg: &mut MsgHdr<'_>) -> usize {
    tp!(skb_copy_datagram_iter, skb);
    let mut copied = match skb.data() {
        [] => 0,
        head => msg.iter.copy_to(head),
    };
    let mut whole = copied == skb.headlen();
    for f in skb.frags() {
        if !whole {
            break;
        }
        let n = msg.iter.copy_frag_to(f);
        copied += n;
        whole = n == f.len();
    }
    if copied < skb.len() {
        msg.flags |= MSG_TRUNC;
    }
    copied
}

// --- Control messages to the process ---

fn cmsg(msg: &mut MsgHdr<'_>, level: i32, kind: i32, data: &[&[u8]]) {
    msg.control.push(CMsg { level, kind, data: data.concat() });
}

/// `sock_recv_cmsgs` and `ip_cmsg_recv`: what the socket's options ask for. Cheap when they ask for nothing.
#[inline]
pub fn put_cmsgs(sk: &Sock, skb: &Skb, msg: &mut MsgHdr<'_>) {
    let stamps = sk.flag(SockFlags::RCVTSTAMP | SockFlags::RCVTSTAMPNS | SockFlags::RXQ_OVFL);
    if stamps {
        put_sock_cmsgs(sk, skb, msg);
    }
    if sk.flag(SockFlags::CMSG) {
        let inet = inet_sk(&mut *sk.lock_sock()).clone();
        put_ip_cmsgs(sk, &inet, skb, msg);
    }
}

/// `__sock_recv_timestamp`, `sock_recv_drops`.
#[cold]
fn put_sock_cmsgs(sk: &Sock, skb: &Skb, msg: &mut MsgHdr<'_>) {
    let arch = sk.net.kernel().arch();
    let age = if skb.tstamp == 0 { 0 } else { arch.ktime_get().saturating_sub(skb.tstamp) };
    let at = arch.ktime_get_real().saturating_sub(age);
    let secs = ((at / 1_000_000_000) as i64).to_ne_bytes();
    let nanos = at % 1_000_000_000;
    if sk.flag(SockFlags::RCVTSTAMPNS) {
        let kind = if sk.flag(SockFlags::TSTAMP_NEW) { 64 } else { SO_TIMESTAMPNS };
        cmsg(msg, SOL_SOCKET, kind, &[&secs, &(nanos as i64).to_ne_bytes()]);
    } else if sk.flag(SockFlags::RCVTSTAMP) {
        let kind = if sk.flag(SockFlags::TSTAMP_NEW) { 63 } else { SO_TIMESTAMP };
        cmsg(msg, SOL_SOCKET, kind, &[&secs, &((nanos / 1000) as i64).to_ne_bytes()]);
    }
    if sk.flag(SockFlags::RXQ_OVFL) {
        cmsg(msg, SOL_SOCKET, SO_RXQ_OVFL, &[&sk.rare.drops().to_ne_bytes()]);
    }
}

/// `ip_cmsg_recv`, `ip6_datagram_recv_ctl`.
#[cold]
fn put_ip_cmsgs(sk: &Sock, inet: &InetSock, skb: &Skb, msg: &mut MsgHdr<'_>) {
    let Some(ip) = ip_info(skb) else { return };
    let dport = UdpHdr::read(skb.transport_header()).map_or(0, |h| h.dest.get());
    if let IpAddr::V4(daddr) = ip.daddr {
        put_ip4_cmsgs(inet, skb, &ip, daddr, dport, msg);
    }
    if sk.family == AF_INET6 {
        put_ip6_cmsgs(inet, skb, &ip, dport, msg);
    }
}

fn put_ip4_cmsgs(inet: &InetSock, skb: &Skb, ip: &IpInfo, daddr: Ipv4Addr, dport: u16, msg: &mut MsgHdr<'_>) {
    if inet.opts.pktinfo {
        // `struct in_pktinfo`: the device, the local address to answer from, the destination in the header.
        let group = daddr.is_multicast() || daddr.is_broadcast();
        let local = skb.dst.as_ref().map(|d| d.prefsrc).filter(|_| group);
        let local = match local {
            Some(IpAddr::V4(a)) => a,
            _ => daddr,
        };
        cmsg(msg, IPPROTO_IP, IP_PKTINFO, &[&skb.skb_iif.to_ne_bytes(), &local.octets(), &daddr.octets()]);
    }
    if inet.opts.recvttl {
        cmsg(msg, IPPROTO_IP, IP_TTL, &[&(ip.ttl as i32).to_ne_bytes()]);
    }
    if inet.opts.recvtos {
        cmsg(msg, IPPROTO_IP, IP_TOS, &[&[ip.tos]]);
    }
    if inet.opts.recvorigdstaddr {
        let (b, n) = SockAddr::V4(std::net::SocketAddrV4::new(daddr, dport)).to_bytes();
        cmsg(msg, IPPROTO_IP, IP_ORIGDSTADDR, &[b.get(..n).unwrap_or(&b)]);
    }
}

fn put_ip6_cmsgs(inet: &InetSock, skb: &Skb, ip: &IpInfo, dport: u16, msg: &mut MsgHdr<'_>) {
    let daddr = to_v6(ip.daddr);
    if inet.opts.v6.pktinfo {
        // `struct in6_pktinfo`.
        cmsg(msg, IPPROTO_IPV6, IPV6_PKTINFO, &[&daddr.octets(), &skb.skb_iif.to_ne_bytes()]);
    }
    if ip.daddr.is_ipv4() {
        return;
    }
    if inet.opts.v6.recvhoplimit {
        cmsg(msg, IPPROTO_IPV6, IPV6_HOPLIMIT, &[&(ip.ttl as i32).to_ne_bytes()]);
    }
    if inet.opts.v6.recvtclass {
        cmsg(msg, IPPROTO_IPV6, IPV6_TCLASS, &[&(ip.tos as i32).to_ne_bytes()]);
    }
    if inet.opts.v6.recvorigdstaddr {
        let (b, _) = SockAddr::for_family(AF_INET6, ip.daddr, dport).to_bytes();
        cmsg(msg, IPPROTO_IPV6, IPV6_ORIGDSTADDR, &[&b]);
    }
}

fn to_v6(a: IpAddr) -> Ipv6Addr {
    match a {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

// --- Control messages from the process ---

/// What a sender says about one packet (`struct ipcm_cookie`).
#[derive(Clone, Copy, Debug, Default)]
pub struct IpcmCookie {
    pub saddr: Option<IpAddr>,
    pub oif: u32,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    /// `UDP_SEGMENT`: payload bytes of each datagram.
    pub gso_size: Option<u16>,
}

/// `UDP_SEGMENT`, at level `IPPROTO_UDP`.
pub const UDP_SEGMENT: i32 = 103;

fn int(d: &[u8]) -> Result<i32> {
    let b: [u8; 4] = d.try_into().map_err(|_| Errno::EINVAL)?;
    Ok(i32::from_ne_bytes(b))
}

/// `-1` is the default, else 0..=255.
fn byte(d: &[u8]) -> Result<Option<u8>> {
    match int(d)? {
        -1 => Ok(None),
        v => Ok(Some(u8::try_from(v).map_err(|_| Errno::EINVAL)?)),
    }
}

/// `ip_cmsg_send`, `ip6_datagram_send_ctl`, `udp_cmsg_send`: `EINVAL` for one that is unknown or malformed. Those of
/// `SOL_SOCKET` other than `SO_MARK`'s kind are refused likewise.
pub fn read_cmsgs(sk: &Sock, control: &[CMsg]) -> Result<IpcmCookie> {
    let mut c = IpcmCookie::default();
    for m in control {
        let d = m.data.as_slice();
        match (m.level, m.kind) {
            (IPPROTO_IP, IP_PKTINFO) => {
                let d: &[u8; 12] = d.try_into().map_err(|_| Errno::EINVAL)?;
                c.oif = u32::from_ne_bytes([d[0], d[1], d[2], d[3]]);
                let a = Ipv4Addr::new(d[4], d[5], d[6], d[7]);
                c.saddr = Some(IpAddr::V4(a)).filter(|a| !a.is_unspecified());
            }
            (IPPROTO_IP, IP_TTL) => c.ttl = Some(byte(d)?.filter(|&t| t > 0).ok_or(Errno::EINVAL)?),
            (IPPROTO_IP, IP_TOS) => c.tos = if let [tos] = d { Some(*tos) } else { byte(d)? },
            (IPPROTO_IPV6, IPV6_PKTINFO) if sk.family == AF_INET6 => read_pktinfo6(d, &mut c)?,
            (IPPROTO_IPV6, IPV6_HOPLIMIT) if sk.family == AF_INET6 => c.ttl = byte(d)?,
            (IPPROTO_IPV6, IPV6_TCLASS) if sk.family == AF_INET6 => c.tos = byte(d)?,
            (IPPROTO_UDP, UDP_SEGMENT) if sk.protocol as i32 == IPPROTO_UDP => {
                let b: [u8; 2] = d.try_into().map_err(|_| Errno::EINVAL)?;
                c.gso_size = Some(u16::from_ne_bytes(b));
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(c)
}

fn read_pktinfo6(d: &[u8], c: &mut IpcmCookie) -> Result<()> {
    let d: &[u8; 20] = d.try_into().map_err(|_| Errno::EINVAL)?;
    let mut a = [0; 16];
    a.copy_from_slice(&d[..16]);
    c.oif = u32::from_ne_bytes([d[16], d[17], d[18], d[19]]);
    let a = Ipv6Addr::from(a);
    c.saddr = match a.to_ipv4_mapped() {
        Some(v4) => Some(IpAddr::V4(v4)),
        None => Some(IpAddr::V6(a)),
    }
    .filter(|a| !a.is_unspecified());
    Ok(())
}

// --- Sending ---

/// `sock_alloc_send_pskb`, the waiting half: until less than `SO_SNDBUF` is on its way out. The pending error, `EPIPE` after
/// `SHUT_WR`, `EAGAIN`.
pub fn sock_alloc_send_space(sk: &Sock, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
    let full = || sk.wmem_alloc.load(Relaxed) >= sk.sndbuf.load(Relaxed) as usize;
    loop {
        let failed = sk.take_error().err().or((sk.shutdown() & SEND_SHUTDOWN != 0).then_some(Errno::EPIPE));
        if let Some(e) = failed {
            wait.finish_wait();
            return Poll::Ready(Err(e));
        }
        if !full() {
            wait.finish_wait();
            return Poll::Ready(Ok(()));
        }
        let now = || sk.net.kernel().ktime_get();
        wait.set_timeout(now, sk.sndtimeo(nonblock));
        let given_up = if wait.timed_out(now) {
            Some(Errno::EAGAIN)
        } else {
            wait.signal_pending().then(|| sock_intr_errno(wait))
        };
        if let Some(e) = given_up {
            wait.finish_wait();
            return Poll::Ready(Err(e));
        }
        wait.prepare_to_wait(&sk.wq);
        if full() && sk.err().is_none() && sk.shutdown() & SEND_SHUTDOWN == 0 {
            return Poll::Pending;
        }
    }
}

/// `datagram_poll`.
pub fn datagram_poll(sk: &Sock, errq: &ErrQueue) -> PollMask {
    let mut mask = PollMask::empty();
    if sk.err().is_some() || !errq.is_empty() {
        mask |= PollMask::ERR;
    }
    let shut = sk.shutdown();
    if shut & RCV_SHUTDOWN != 0 {
        mask |= PollMask::RDHUP | PollMask::IN | PollMask::RDNORM;
    }
    if shut == SHUTDOWN_MASK {
        mask |= PollMask::HUP;
    }
    if !sk.receive_queue().lock_bh().is_empty() {
        mask |= PollMask::IN | PollMask::RDNORM;
    }
    // `sock_writeable`.
    if sk.wmem_alloc.load(Relaxed) < sk.sndbuf.load(Relaxed) as usize / 2 {
        mask |= PollMask::OUT | PollMask::WRNORM | PollMask::WRBAND;
    }
    mask
}
