//! The address family AF_INET6: how it reads addresses; the operations are `af_inet`'s.
//!
//! Interface: [`inet6_init`], [`inet6_create`], [`INET6_STREAM_OPS`], [`INET6_DGRAM_OPS`].
//! Linux counterpart: `net/ipv6/af_inet6.c`, `net/ipv6/datagram.c`.
//! Locks and context: process context.
//!
//! An IPv4-mapped address (RFC 4291, 2.5.5.2) becomes the IPv4 address here, so that nothing below has to know of them.

use crate::core::dev::dev_get_by_index;
use crate::core::dst::RtnType;
use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::{Sock, SockFlags};
use crate::ipv4::af_inet::{
    InetProtosw, addr_type, bind_to, can_nonlocal_bind, check_bind_v4, create_from, dgram_connect, dgram_ops,
    find_protosw, inet_release, register_protosw, stream_connect, stream_ops, stream_sendmsg, unregister_protosw,
};
use crate::ipv4::inet_sock::{InetSock, this_host_v4};
use crate::ipv6::ipv6_sockglue::{inet6_getsockopt, inet6_setsockopt, ipv6_sock_mc_close};
use crate::socket::{NetProtoFamily, ProtoOps, Socket, sock_register};
use kernel::{Wait, tp};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use uapi::sockaddr::AF_INET6;
use uapi::socket::SOCK_STREAM;
use uapi::{Errno, Result, SockAddr};

pub static INET6_STREAM_OPS: ProtoOps =
    inet6_ops(ProtoOps { sendmsg: inet6_stream_sendmsg, ..stream_ops(AF_INET6, inet6_bind, inet6_stream_connect) });
pub static INET6_DGRAM_OPS: ProtoOps = inet6_ops(dgram_ops(AF_INET6, inet6_bind, inet6_dgram_connect));

const fn inet6_ops(ops: ProtoOps) -> ProtoOps {
    ProtoOps { release: inet6_release, setsockopt: inet6_setsockopt, getsockopt: inet6_getsockopt, ..ops }
}

/// `inet6_sendmsg` of a stream.
fn inet6_stream_sendmsg(sock: &Socket, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    stream_sendmsg(sock, msg, wait, read_peer_v6)
}

/// `inet6_release`.
fn inet6_release(sock: &Socket) {
    ipv6_sock_mc_close(&sock.sk);
    inet_release(sock)
}

/// `inet6_register_protosw`.
pub fn inet6_register_protosw(reg: &Registries, p: InetProtosw) -> Result<()> {
    register_protosw(&reg.inetsw6, p)
}

/// `inet6_unregister_protosw`; see [`inet_unregister_protosw`](crate::ipv4::af_inet::inet_unregister_protosw).
pub fn inet6_unregister_protosw(reg: &Registries, p: &InetProtosw) -> Result<()> {
    unregister_protosw(reg, &reg.inetsw6, p)
}

/// `inet6_create`.
pub fn inet6_create(net: &Arc<Net>, kind: i32, protocol: i32) -> Result<Arc<Socket>> {
    tp!(inet6_create);
    let (e, protocol) = find_protosw(&net.reg.inetsw6, kind, protocol)?;
    let sock = create_from(net, AF_INET6, &e, protocol)?;
    sock.sk.set_flag(SockFlags::V6ONLY, net.sysctl.ipv6_bindv6only.on());
    Ok(sock)
}

/// `inet6_init`.
pub fn inet6_init(reg: &Registries) -> Result<()> {
    sock_register(reg, NetProtoFamily { family: AF_INET6, create: inet6_create })
}

/// `inet6_bind`: `EINVAL` for another family's address, a group on a stream, or a link-local address without its link.
fn inet6_bind(sock: &Socket, addr: &SockAddr) -> Result<()> {
    let SockAddr::V6(a) = addr else { return Err(Errno::EINVAL) };
    let sk = &sock.sk;
    if a.ip().is_multicast() && sk.kind == SOCK_STREAM {
        return Err(Errno::EINVAL);
    }
    if let Some(v4) = a.ip().to_ipv4_mapped() {
        if sk.flag(SockFlags::V6ONLY) {
            return Err(Errno::EINVAL);
        }
        let kind = check_bind_v4(sk, v4)?;
        return bind_to(sk, IpAddr::V4(v4), a.port(), kind);
    }
    let kind = check_bind_v6(sk, a)?;
    let v6only = sk.flag(SockFlags::V6ONLY);
    if !a.ip().is_unspecified() {
        // Before the port is claimed: whether it conflicts with an IPv4 socket depends on it.
        sk.set_flag(SockFlags::V6ONLY, true);
    }
    bind_to(sk, IpAddr::V6(*a.ip()), a.port(), kind).inspect_err(|_| sk.set_flag(SockFlags::V6ONLY, v6only))
}

fn check_bind_v6(sk: &Sock, a: &SocketAddrV6) -> Result<RtnType> {
    if a.ip().is_unspecified() {
        return Ok(RtnType::Local);
    }
    bind_to_scope(sk, a)?;
    let oif = sk.bound_dev_if.load(Relaxed);
    if oif != 0 && needs_scope(a.ip()) {
        dev_get_by_index(&sk.net, oif).ok_or(Errno::ENODEV)?;
    }
    if a.ip().is_multicast() {
        return Ok(RtnType::Multicast);
    }
    let kind = addr_type(&sk.net, IpAddr::V6(*a.ip()));
    if kind != RtnType::Local && !can_nonlocal_bind(sk) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(kind)
}

/// `__ipv6_addr_needs_scope_id`.
fn needs_scope(a: &Ipv6Addr) -> bool {
    let link_local_group = a.is_multicast() && matches!(a.octets()[1] & 0xf, 1 | 2);
    a.is_unicast_link_local() || link_local_group
}

/// A link-local address binds the socket to its link; `EINVAL` without one, or when it is bound to another.
fn bind_to_scope(sk: &Sock, a: &SocketAddrV6) -> Result<()> {
    if !needs_scope(a.ip()) {
        return Ok(());
    }
    let bound = sk.bound_dev_if.load(Relaxed);
    if a.scope_id() != 0 {
        if bound != 0 && bound != a.scope_id() {
            return Err(Errno::EINVAL);
        }
        sk.bound_dev_if.store(a.scope_id(), Relaxed);
    }
    // Groups may leave the choice to the routing table.
    if sk.bound_dev_if.load(Relaxed) == 0 && !a.ip().is_multicast() {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The peer as AF_INET6 takes it. `::` is this host; of an IPv4-mapped address the IPv4 address is taken.
fn read_peer_v6(sk: &Sock, inet: &InetSock, addr: &SockAddr) -> Result<SockAddr> {
    let a = match addr {
        SockAddr::V6(a) => a,
        // Datagram sockets take a plain IPv4 address too.
        SockAddr::V4(_) if sk.kind == SOCK_STREAM => return Err(Errno::EINVAL),
        SockAddr::V4(_) if sk.flag(SockFlags::V6ONLY) => return Err(Errno::EAFNOSUPPORT),
        SockAddr::V4(a) => {
            return Ok(SockAddr::V4(SocketAddrV4::new(this_host_v4(inet, *a.ip()), a.port())));
        }
        SockAddr::Unspec => return Err(Errno::EAFNOSUPPORT),
    };
    if let Some(v4) = a.ip().to_ipv4_mapped() {
        if sk.flag(SockFlags::V6ONLY) {
            return Err(Errno::ENETUNREACH);
        }
        return Ok(SockAddr::V4(SocketAddrV4::new(this_host_v4(inet, v4), a.port())));
    }
    if a.ip().is_unspecified() {
        if inet.rcv_saddr.is_ipv4() {
            return Ok(SockAddr::V4(SocketAddrV4::new(this_host_v4(inet, std::net::Ipv4Addr::UNSPECIFIED), a.port())));
        }
        return Ok(SockAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, a.port(), a.flowinfo(), 0)));
    }
    if a.ip().is_multicast() && sk.kind == SOCK_STREAM {
        return Err(Errno::ENETUNREACH);
    }
    bind_to_scope(sk, a)?;
    Ok(SockAddr::V6(*a))
}

fn inet6_stream_connect(sock: &Socket, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
    stream_connect(sock, addr, nonblock, wait, read_peer_v6)
}

fn inet6_dgram_connect(sock: &Socket, addr: &SockAddr, _nonblock: bool, _: &mut Wait) -> Poll<Result<()>> {
    Poll::Ready(dgram_connect(sock, addr, read_peer_v6))
}
