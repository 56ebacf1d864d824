//! Ping sockets: `SOCK_DGRAM` with `IPPROTO_ICMP` or `IPPROTO_ICMPV6`, which send echo requests and receive their replies.
//!
//! Interface: [`PING_PROT`], [`PING_PROTOSW`], [`ping_init`].
//! Linux counterpart: `net/ipv4/ping.c`, `net/ipv6/ping.c`.
//! Locks and context: process context. State, route and options are a UDP socket's; only header and table differ.
//!
//! Linux allows them to the groups of `net.ipv4.ping_group_range`; here, as everything, to the stack's owner.

use crate::core::checksum::{csum_fold, csum_tcpudp_magic, skb_checksum};
use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::{Net, NetId, Registries};
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{Proto, ProtoSock, Sock, SockFlags};
use crate::hdr::{IPPROTO_ICMPV6 as ICMPV6, IcmpHdr};
use crate::ipv4::af_inet::{INET_DGRAM_OPS, InetProtosw, inet_register_protosw};
use crate::ipv4::datagram::*;
use crate::ipv4::ping::{PingTable, ping_hash, ping_unhash};
use crate::ipv4::udp::{UDP_PROT, udp_init_sock};
use crate::ipv4::udp_output::{Cork, make_skb, prepare, udp_clear_peer, udp_set_peer, udp_sk};
use crate::ipv4::udp_table::udp_ext;
use kernel::{Wait, tp};
use std::sync::Arc;
use std::task::{Poll, ready};
use uapi::socket::{IPPROTO_ICMP, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_TRUNC, SOCK_DGRAM};
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// `ping_prot` and `pingv6_prot`.
pub static PING_PROT: Proto = Proto {
    name: "PING",
    init: udp_init_sock,
    close: ping_close,
    linger: |_, _| Poll::Ready(()),
    connect: ping_connect,
    disconnect: ping_disconnect,
    setsockopt: |sk, _, _, _| crate::core::sock_options::unsupported(sk),
    getsockopt: |sk, _, _, _| crate::core::sock_options::unsupported(sk),
    shutdown: |_, _, _| {},
    sendmsg: ping_sendmsg,
    recvmsg: ping_recvmsg,
    backlog_rcv: |_, _, _| {},
    get_port: ping_get_port,
    ..UDP_PROT
};

/// `SOCK_DGRAM` with `IPPROTO_ICMP` of AF_INET.
pub const PING_PROTOSW: InetProtosw = InetProtosw {
    kind: SOCK_DGRAM,
    protocol: IPPROTO_ICMP as u16,
    prot: &PING_PROT,
    ops: &INET_DGRAM_OPS,
    permanent: false,
    reuse: true,
};

/// `ping_init`.
pub fn ping_init(reg: &Registries) -> Result<()> {
    reg.pernet.lock_bh().push(|net: &Arc<Net>| net.set_generic(NetId::Ping, PingTable::default()));
    inet_register_protosw(reg, PING_PROTOSW)
}

fn ping_get_port(sk: &Arc<Sock>, state: &mut dyn ProtoSock, port: u16) -> Result<()> {
    udp_sk(state).inet.num = ping_hash(sk, port)?;
    Ok(())
}

fn ping_close(sk: &Arc<Sock>) {
    tp!(ping_close, *sk);
    let ident = udp_sk(&mut *sk.lock_sock()).inet.num;
    ping_unhash(sk, ident);
    sk.set_state(TcpState::Close);
    *sk.dst_cache.lock_bh() = None;
    purge_receive_queue(sk);
}

/// Whether the address is of the version whose echo requests the socket sends.
fn fits(sk: &Sock, v6: bool) -> bool {
    v6 == (sk.protocol == ICMPV6 as u16)
}

fn ping_connect(sk: &Arc<Sock>, state: &mut dyn ProtoSock, addr: &SockAddr) -> Result<()> {
    if !fits(sk, addr.ip().is_ipv6()) {
        return Err(Errno::EINVAL);
    }
    udp_set_peer(sk, udp_sk(state), addr.ip(), addr.port())?;
    sk.set_state(TcpState::Established);
    Ok(())
}

fn ping_disconnect(sk: &Arc<Sock>, state: &mut dyn ProtoSock) -> Result<()> {
    sk.set_state(TcpState::Close);
    let inet = &mut udp_sk(state).inet;
    udp_clear_peer(sk, inet);
    if !sk.flag(SockFlags::BINDPORT_LOCK) {
        ping_unhash(sk, inet.num);
        (inet.num, inet.sport) = (0, 0);
    }
    Ok(())
}

/// `ping_v4_sendmsg`, `ping_v6_sendmsg`: the message is an echo request with its header, of which identifier and checksum
/// are filled in. `EINVAL` for anything else, `EMSGSIZE`.
fn ping_sendmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(ping_sendmsg, *sk);
    let len = msg.iter.count();
    let early = match len {
        _ if msg.flags & MSG_OOB != 0 => Some(Errno::EOPNOTSUPP),
        0..IcmpHdr::LEN => Some(Errno::EINVAL),
        0x1_0000.. => Some(Errno::EMSGSIZE),
        _ => None,
    };
    if let Some(e) = early {
        return Poll::Ready(Err(e));
    }
    let mut state = sk.lock_sock();
    let cork = prepare(sk, &mut *state, msg)?;
    if !fits(sk, cork.flow.is_v6()) {
        return Poll::Ready(Err(Errno::EINVAL));
    }
    ready!(sock_alloc_send_space(sk, msg.flags & MSG_DONTWAIT != 0, wait))?;
    let ident = udp_sk(&mut *state).inet.num;
    drop(state);
    let skb = make_skb(msg, len)?;
    Poll::Ready(ping_push(sk, skb, &cork, ident, len).map(|()| len))
}

fn ping_push(sk: &Arc<Sock>, mut skb: Box<Skb>, c: &Cork, ident: u16, len: usize) -> Result<()> {
    let v6 = c.flow.is_v6();
    let l3 = sk.net.l3(v6).ok_or(Errno::ENETUNREACH)?;
    if l3.header_len + len > 65535 || (c.strict && l3.header_len + len > c.mtu()) {
        return Err(Errno::EMSGSIZE);
    }
    // The header may lie in a fragment, shared with whoever gave the page: from here on it is the packet's own.
    if !skb.may_pull(IcmpHdr::LEN) {
        return Err(Errno::EINVAL);
    }
    skb.reset_transport_header();
    write_header(&mut skb, c, ident, v6)?;
    if kernel::trace::enabled() {
        skb.identify(sk.net.kernel());
    }
    skb.dst = Some(c.dst.clone());
    (skb.priority, skb.mark) = (c.params.priority, c.params.mark);
    sk.skb_set_owner_w(&mut skb);
    (l3.queue_xmit)(&sk.net, Some(sk), skb, &c.flow, &c.params_of(l3.header_len + len))?;
    let counters = if v6 { [Mib::Icmp6OutMsgs, Mib::Icmp6OutEchos] } else { [Mib::IcmpOutMsgs, Mib::IcmpOutEchos] };
    counters.into_iter().for_each(|m| sk.net.mib.inc(m));
    Ok(())
}

/// Identifier and checksum; only echo requests pass.
fn write_header(skb: &mut Skb, c: &Cork, ident: u16, v6: bool) -> Result<()> {
    let request = if v6 { ICMPV6_ECHO_REQUEST } else { ICMP_ECHO };
    let h = IcmpHdr::read_mut(skb.data_mut()).filter(|h| h.kind == request && h.code == 0).ok_or(Errno::EINVAL)?;
    let [hi, lo] = ident.to_be_bytes();
    (h.rest[0], h.rest[1]) = (hi, lo);
    h.check = [0, 0];
    let sum = skb_checksum(skb, 0, skb.len(), 0);
    let check = match v6 {
        false => csum_fold(sum),
        true => csum_tcpudp_magic(c.flow.saddr, c.flow.daddr, skb.len(), ICMPV6, sum),
    };
    if let Some(h) = IcmpHdr::read_mut(skb.data_mut()) {
        h.check = check;
    }
    Ok(())
}

/// `ping_recvmsg`: one echo reply, header and all, and who sent it.
fn ping_recvmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(ping_recvmsg, *sk);
    if flags & MSG_OOB != 0 {
        return Poll::Ready(Err(Errno::EOPNOTSUPP));
    }
    if flags & MSG_ERRQUEUE != 0 {
        return Poll::Ready(udp_ext(sk).errq.recv(sk, msg));
    }
    let Some(skb) = ready!(skb_recv_datagram(sk, flags, wait))? else { return Poll::Ready(Ok(0)) };
    let copied = skb_copy_datagram_msg(&skb, msg);
    msg.name = ip_info(&skb).map(|ip| SockAddr::for_family(sk.family, ip.saddr, 0));
    put_cmsgs(sk, &skb, msg);
    Poll::Ready(Ok(if flags & MSG_TRUNC != 0 { skb.len() } else { copied }))
}
