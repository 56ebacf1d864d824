//! The address family AF_INET: `inetsw`, and the socket operations over any transport and both versions of IP.
//!
//! Interface: [`inet_init`], [`inet_register_protosw`], [`inet_create`], [`INET_STREAM_OPS`], [`INET_DGRAM_OPS`].
//! Linux counterpart: `net/ipv4/af_inet.c`.
//! Locks and context: process context; each operation takes the socket lock.
//!
//! The user of a stack is its owner: ports below `ip_unprivileged_port_start`, raw sockets and transparent sockets are
//! refused to nobody. A security module may refuse them.

use crate::core::dst::RtnType;
use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::{Proto, ProtoSock, RCV_SHUTDOWN, SHUTDOWN_MASK, Sock, SockFlags, SockGuard};
use crate::ipv4::inet_sock::{InetSock, inet_autobind, inet_sk, this_host_v4, unspecified_like};
use crate::ipv4::sockglue::{inet_getsockopt, inet_setsockopt, ip_mc_drop_socket};
use crate::socket::{
    NetProtoFamily, ProtoOps, Socket, SocketState, Whose, sock_no_accept, sock_no_listen, sock_register,
};
use kernel::module::{InUse, Registered};
use kernel::{SpinLock, Wait, tp};
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};
use uapi::poll::Poll as PollMask;
use uapi::sockaddr::{AF_INET, AF_INET6};
use uapi::socket::{IPPROTO_IP, IPPROTO_RAW, MSG_DONTWAIT, MSG_FASTOPEN, SOCK_RAW, SOCK_STREAM};
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

/// `IPPROTO_MAX` without the numbers above 255, which have no place in an IP header.
const IPPROTO_MAX: i32 = 256;

/// A type of socket with its transport (`struct inet_protosw`).
#[derive(Clone, Copy)]
pub struct InetProtosw {
    /// `SOCK_*`.
    pub kind: i32,
    /// `IPPROTO_*`; `IPPROTO_IP` takes any protocol asked for (raw sockets).
    pub protocol: u16,
    pub prot: &'static Proto,
    pub ops: &'static ProtoOps,
    /// Never overridden (`INET_PROTOSW_PERMANENT`).
    pub permanent: bool,
    /// Sockets start with `SO_REUSEADDR` (`INET_PROTOSW_REUSE`).
    pub reuse: bool,
}

type Entry = Arc<dyn Any + Send + Sync>;
type Inetsw = [SpinLock<Vec<Entry>>];

fn protosw(e: &Entry) -> Option<&InetProtosw> {
    e.downcast_ref::<Registered<InetProtosw>>().map(Registered::value)
}

/// `inet_register_protosw`: `EINVAL` for a type out of range, `EPERM` where a permanent entry has the protocol.
pub fn inet_register_protosw(reg: &Registries, p: InetProtosw) -> Result<()> {
    register_protosw(&reg.inetsw, p)
}

/// A new entry goes behind the permanent ones and before the rest, so it overrides what was registered before it.
pub fn register_protosw(inetsw: &Inetsw, p: InetProtosw) -> Result<()> {
    let slot = usize::try_from(p.kind).ok().and_then(|k| inetsw.get(k)).ok_or(Errno::EINVAL)?;
    let mut list = slot.lock_bh();
    let permanent = |e: &Entry| protosw(e).filter(|e| e.permanent).copied();
    if list.iter().filter_map(permanent).any(|e| e.protocol == p.protocol) {
        return Err(Errno::EPERM);
    }
    let at = list.iter().take_while(|e| permanent(e).is_some()).count();
    list.insert(at, Registered::new(p));
    Ok(())
}

/// `inet_unregister_protosw`; `EPERM` for a permanent entry. When it returns, nobody makes a socket of the entry any more: it
/// sleeps until then. Sockets that exist go on.
pub fn inet_unregister_protosw(reg: &Registries, p: &InetProtosw) -> Result<()> {
    unregister_protosw(reg, &reg.inetsw, p)
}

/// Takes an entry out of the table of either family.
pub fn unregister_protosw(reg: &Registries, inetsw: &Inetsw, p: &InetProtosw) -> Result<()> {
    if p.permanent {
        return Err(Errno::EPERM);
    }
    let slot = usize::try_from(p.kind).ok().and_then(|k| inetsw.get(k)).ok_or(Errno::EINVAL)?;
    let same = |e: &InetProtosw| e.protocol == p.protocol && !e.permanent && std::ptr::eq(e.prot, p.prot);
    let _cpu = reg.kernel.enter();
    let gone: Vec<Entry> = slot.lock_bh().extract_if(.., |e| protosw(e).is_some_and(same)).collect();
    for e in gone.iter().filter_map(|e| e.downcast_ref::<Registered<InetProtosw>>()) {
        e.wait_until_unused();
    }
    Ok(())
}

/// Walks `inetsw[kind]` for the protocol: the same number, or the wildcard `IPPROTO_IP` on either side. The entry stays
/// whole while it is in use.
pub fn find_protosw(inetsw: &Inetsw, kind: i32, protocol: i32) -> Result<(InUse<InetProtosw>, u16)> {
    if !(0..IPPROTO_MAX).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let slot = usize::try_from(kind).ok().and_then(|k| inetsw.get(k)).ok_or(Errno::ESOCKTNOSUPPORT)?;
    let list = slot.lock_bh();
    for entry in list.iter() {
        let Some(e) = protosw(entry) else { continue };
        let number = match (protocol, e.protocol as i32) {
            (IPPROTO_IP, IPPROTO_IP) => continue,
            (want, has) if want == has => want,
            (IPPROTO_IP, has) => has,
            (want, IPPROTO_IP) => want,
            _ => continue,
        };
        let e = entry.clone().downcast::<Registered<InetProtosw>>().ok().and_then(Registered::try_module_get);
        // Who unregisters takes an entry out of the list before it refuses entry.
        return e.map(|e| (e, number as u16)).ok_or(Errno::EPROTONOSUPPORT);
    }
    Err(if list.is_empty() { Errno::ESOCKTNOSUPPORT } else { Errno::EPROTONOSUPPORT })
}

/// Makes a socket of either family out of its entry (the second half of `inet_create` and `inet6_create`).
pub fn create_from(net: &Arc<Net>, family: u16, e: &InetProtosw, protocol: u16) -> Result<Arc<Socket>> {
    let sk = Sock::alloc(net, family, e.kind, protocol, e.prot)?;
    sk.set_flag(SockFlags::REUSEADDR, e.reuse);
    {
        let mut state = sk.lock_sock();
        let inet = inet_sk(&mut *state);
        if family == AF_INET6 {
            let any = unspecified_like(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED));
            (inet.rcv_saddr, inet.daddr) = (any, any);
        }
        if e.kind == SOCK_RAW {
            inet.num = protocol;
            inet.opts.make().hdrincl = protocol as i32 == IPPROTO_RAW;
        }
        if net.sysctl.ip_no_pmtu_disc.on() {
            inet.pmtudisc = uapi::socket::IP_PMTUDISC_DONT as u8;
        }
    }
    Ok(Socket::new(e.ops, sk))
}

/// `inet_create`.
pub fn inet_create(net: &Arc<Net>, kind: i32, protocol: i32) -> Result<Arc<Socket>> {
    tp!(inet_create);
    let (e, protocol) = find_protosw(&net.reg.inetsw, kind, protocol)?;
    create_from(net, AF_INET, &e, protocol)
}

/// `inet_init`: the family; its transports register themselves in `inetsw`.
pub fn inet_init(reg: &Registries) -> Result<()> {
    sock_register(reg, NetProtoFamily { family: AF_INET, create: inet_create })
}

/// `inet_stream_ops` and `inet6_stream_ops`.
pub const fn stream_ops(family: u16, bind: BindOp, connect: ConnectOp) -> ProtoOps {
    ProtoOps {
        family,
        release: inet_release,
        bind,
        connect,
        accept: inet_accept,
        getname: inet_getname,
        poll: inet_poll,
        ioctl: inet_ioctl,
        listen: inet_listen,
        shutdown: inet_shutdown,
        setsockopt: inet_setsockopt,
        getsockopt: inet_getsockopt,
        sendmsg: inet_sendmsg,
        recvmsg: inet_recvmsg,
    }
}

/// `inet_dgram_ops` and `inet6_dgram_ops`; raw sockets have the same.
pub const fn dgram_ops(family: u16, bind: BindOp, connect: ConnectOp) -> ProtoOps {
    ProtoOps { accept: sock_no_accept, listen: sock_no_listen, ..stream_ops(family, bind, connect) }
}

type BindOp = fn(&Socket, &SockAddr) -> Result<()>;
type ConnectOp = fn(&Socket, &SockAddr, bool, &mut Wait) -> Poll<Result<()>>;

pub static INET_STREAM_OPS: ProtoOps =
    ProtoOps { sendmsg: inet_stream_sendmsg, ..stream_ops(AF_INET, inet_bind, inet_stream_connect) };
pub static INET_DGRAM_OPS: ProtoOps = dgram_ops(AF_INET, inet_bind, inet_dgram_connect);

/// `inet_release`: the transport says good-bye to the peer, lingering if it was asked to.
pub fn inet_release(sock: &Socket) {
    tp!(inet_release, sock.sk);
    ip_mc_drop_socket(&sock.sk);
    (sock.sk.prot.close)(&sock.sk);
}

// --- bind ---

/// `inet_bind`: `EADDRNOTAVAIL` for an address that is not ours (unless nonlocal binds are allowed), `EINVAL` if already
/// bound, `EADDRINUSE`.
fn inet_bind(sock: &Socket, addr: &SockAddr) -> Result<()> {
    let sk = &sock.sk;
    let a = match addr {
        SockAddr::V4(a) => *a,
        // Old programs leave the family of the unspecified address out.
        SockAddr::Unspec => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        SockAddr::V6(_) => return Err(Errno::EAFNOSUPPORT),
    };
    let kind = check_bind_v4(sk, *a.ip())?;
    bind_to(sk, IpAddr::V4(*a.ip()), a.port(), kind)
}

/// `inet_can_nonlocal_bind`.
pub fn can_nonlocal_bind(sk: &Sock) -> bool {
    sk.flag(SockFlags::FREEBIND) || sk.flag(SockFlags::TRANSPARENT) || sk.net.sysctl.ip_nonlocal_bind.on()
}

/// What kind of address it is here (`inet_addr_type`).
pub fn addr_type(net: &Arc<Net>, addr: IpAddr) -> RtnType {
    net.l3(addr.is_ipv6()).map_or(RtnType::Unicast, |l3| (l3.addr_type)(net, addr))
}

/// `inet_addr_valid_or_nonlocal`: `EADDRNOTAVAIL`.
pub fn check_bind_v4(sk: &Sock, addr: Ipv4Addr) -> Result<RtnType> {
    let kind = addr_type(&sk.net, IpAddr::V4(addr));
    let bindable = matches!(kind, RtnType::Local | RtnType::Multicast | RtnType::Broadcast);
    if !bindable && !addr.is_unspecified() && !can_nonlocal_bind(sk) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(kind)
}

/// `__inet_bind`, the part both families share: `addr` has been checked, and is IPv4 also for an IPv4-mapped one.
pub fn bind_to(sk: &Arc<Sock>, addr: IpAddr, port: u16, kind: RtnType) -> Result<()> {
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    let bound = inet.num != 0 && sk.kind != SOCK_RAW;
    if sk.state() != TcpState::Close || bound {
        return Err(Errno::EINVAL);
    }
    let before = (inet.rcv_saddr, inet.saddr());
    let group = matches!(kind, RtnType::Multicast | RtnType::Broadcast);
    inet.rcv_saddr = addr;
    // A group or broadcast address is none to send from.
    inet.set_saddr(if group { unspecified_like(addr) } else { addr });
    let claim = port != 0 || !inet.bind_address_no_port;
    if claim && sk.kind != SOCK_RAW && (sk.prot.get_port)(sk, &mut *state, port).is_err() {
        let inet = inet_sk(&mut *state);
        inet.rcv_saddr = before.0;
        inet.set_saddr(before.1);
        return Err(Errno::EADDRINUSE);
    }
    let inet = inet_sk(&mut *state);
    sk.set_flag(SockFlags::BINDADDR_LOCK, !addr.is_unspecified());
    sk.set_flag(SockFlags::BINDPORT_LOCK, port != 0);
    inet.sport = inet.num;
    inet.daddr = unspecified_like(addr);
    inet.dport = 0;
    *sk.dst_cache.lock_bh() = None;
    Ok(())
}

// --- connect ---

/// How a family reads the address given to `connect`: checked, IPv4-mapped made IPv4, "this host" made loopback.
pub type ReadPeer = fn(&Sock, &InetSock, &SockAddr) -> Result<SockAddr>;

/// The peer as AF_INET takes it: `EAFNOSUPPORT` for another family. The unspecified address is this host.
fn read_peer_v4(_: &Sock, inet: &InetSock, addr: &SockAddr) -> Result<SockAddr> {
    match addr {
        SockAddr::V4(a) => Ok(SockAddr::V4(SocketAddrV4::new(this_host_v4(inet, *a.ip()), a.port()))),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `inet_sendmsg` of a stream.
#[inline]
fn inet_stream_sendmsg(sock: &Socket, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    stream_sendmsg(sock, msg, wait, read_peer_v4)
}

/// A stream's `sendmsg` in both families: one with `MSG_FASTOPEN`, or the first after a deferred `connect`, opens the connection.
#[inline]
pub fn stream_sendmsg(
    sock: &Socket,
    msg: &mut MsgHdr<'_>,
    wait: &mut Wait,
    read_peer: ReadPeer,
) -> Poll<Result<usize>> {
    tp!(inet_sendmsg, sock.sk);
    if msg.flags & MSG_FASTOPEN != 0 || sock.sk.flag(SockFlags::DEFER_CONNECT) {
        let opened = ready!(sendmsg_fastopen(sock, msg, wait, read_peer));
        match opened {
            Ok(()) => msg.flags &= !MSG_FASTOPEN,
            Err(Errno::EINPROGRESS) if msg.done > 0 => return Poll::Ready(Ok(msg.done)),
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    (sock.sk.prot.sendmsg)(&sock.sk, msg, wait)
}

/// Opens the connection with the beginning of the message (`tcp_sendmsg_fastopen`).
#[cold]
fn sendmsg_fastopen(sock: &Socket, msg: &mut MsgHdr<'_>, wait: &mut Wait, read_peer: ReadPeer) -> Poll<Result<()>> {
    let sk = &sock.sk;
    let Some(ops) = sk.prot.fastopen else { return Poll::Ready(Err(Errno::EOPNOTSUPP)) };
    if !wait.has_started() {
        let mut state = sk.lock_sock();
        (ops.begin)(sk, &mut *state, msg)?;
    }
    let nonblock = msg.flags & MSG_DONTWAIT != 0;
    let r = ready!(connect_or_wait(sock, msg.name.as_ref(), nonblock, wait, read_peer, true));
    let mut state = sk.lock_sock();
    let copied = (ops.end)(sk, &mut *state, r);
    msg.iter.advance(copied);
    msg.done += copied;
    Poll::Ready(r)
}

fn inet_stream_connect(sock: &Socket, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
    stream_connect(sock, addr, nonblock, wait, read_peer_v4)
}

const CONNECTING: u32 = TcpState::SynSent.flag() | TcpState::SynRecv.flag();

/// `inet_stream_connect` for both families. `EISCONN`, `EALREADY`, `EINPROGRESS` (non-blocking, or `SO_SNDTIMEO` over), or
/// how the handshake failed.
pub fn stream_connect(
    sock: &Socket,
    addr: &SockAddr,
    nonblock: bool,
    wait: &mut Wait,
    read_peer: ReadPeer,
) -> Poll<Result<()>> {
    tp!(inet_stream_connect, sock.sk);
    if *addr == SockAddr::Unspec {
        return Poll::Ready(disconnect(sock, &mut *sock.sk.lock_sock()));
    }
    connect_or_wait(sock, Some(addr), nonblock, wait, read_peer, false)
}

/// `__inet_stream_connect`. `writing`: for a message, which needs no address when `connect` was deferred.
fn connect_or_wait(
    sock: &Socket,
    addr: Option<&SockAddr>,
    nonblock: bool,
    wait: &mut Wait,
    read_peer: ReadPeer,
    writing: bool,
) -> Poll<Result<()>> {
    let sk = &sock.sk;
    let mut state = sk.lock_sock();
    let first = !wait.has_started();
    wait.set_timeout(|| sk.net.kernel().ktime_get(), sk.sndtimeo(nonblock));
    let mut in_vain = Errno::EINPROGRESS;
    if first {
        match sock.state() {
            SocketState::Connected => return Poll::Ready(Err(Errno::EISCONN)),
            SocketState::Disconnecting => return Poll::Ready(Err(Errno::EINVAL)),
            SocketState::Connecting if !sk.flag(SockFlags::DEFER_CONNECT) => in_vain = Errno::EALREADY,
            SocketState::Connecting if writing => {}
            SocketState::Connecting => in_vain = Errno::EISCONN,
            SocketState::Unconnected => {
                start_connect(sock, &mut *state, addr.unwrap_or(&SockAddr::Unspec), read_peer)?;
                if sk.flag(SockFlags::DEFER_CONNECT) {
                    wait.finish_wait();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
    let result = ready!(inet_wait_for_connect(sk, state, wait, in_vain));
    wait.finish_wait();
    Poll::Ready(result.and_then(|()| {
        let mut state = sk.lock_sock();
        finish_connect(sock, &mut *state)
    }))
}

fn start_connect(sock: &Socket, state: &mut dyn ProtoSock, addr: &SockAddr, read_peer: ReadPeer) -> Result<()> {
    let sk = &sock.sk;
    if sk.state() != TcpState::Close {
        return Err(Errno::EISCONN);
    }
    let peer = read_peer(sk, inet_sk(state), addr)?;
    (sk.prot.connect)(sk, state, &peer)?;
    sock.set_state(SocketState::Connecting);
    Ok(())
}

/// `inet_wait_for_connect`: until the handshake has ended one way or the other; `in_vain` when time is up.
fn inet_wait_for_connect(
    sk: &Arc<Sock>,
    mut state: SockGuard<'_>,
    wait: &mut Wait,
    in_vain: Errno,
) -> Poll<Result<()>> {
    let waits = !wait.timed_out(|| sk.net.kernel().ktime_get());
    if waits {
        // The answer may lie in the backlog: a connection through loopback is complete without a sleep. A caller who does
        // not wait is told that it is in progress all the same, as on Linux.
        state.flush_backlog();
    }
    if !sk.state().is_in(CONNECTING) {
        return Poll::Ready(Ok(()));
    }
    if !waits {
        wait.finish_wait();
        return Poll::Ready(Err(in_vain));
    }
    drop(state);
    if wait.signal_pending() {
        wait.finish_wait();
        let restart = wait.deadline().is_none();
        return Poll::Ready(Err(if restart { Errno::ERESTARTSYS } else { Errno::EINTR }));
    }
    wait.prepare_to_wait(&sk.wq);
    if sk.state().is_in(CONNECTING) { Poll::Pending } else { Poll::Ready(Ok(())) }
}

/// The handshake is over: connected, or the error that ended it.
fn finish_connect(sock: &Socket, state: &mut dyn ProtoSock) -> Result<()> {
    let sk = &sock.sk;
    if sk.state() != TcpState::Close {
        sock.set_state(SocketState::Connected);
        return Ok(());
    }
    let error = sk.take_error().err().unwrap_or(Errno::ECONNABORTED);
    sock.set_state(SocketState::Unconnected);
    if (sk.prot.disconnect)(sk, state).is_err() {
        sock.set_state(SocketState::Disconnecting);
    }
    Err(error)
}

/// `connect` to AF_UNSPEC.
fn disconnect(sock: &Socket, state: &mut dyn ProtoSock) -> Result<()> {
    let r = (sock.sk.prot.disconnect)(&sock.sk, state);
    sock.set_state(if r.is_ok() { SocketState::Unconnected } else { SocketState::Disconnecting });
    r
}

fn inet_dgram_connect(sock: &Socket, addr: &SockAddr, _nonblock: bool, _: &mut Wait) -> Poll<Result<()>> {
    Poll::Ready(dgram_connect(sock, addr, read_peer_v4))
}

/// `inet_dgram_connect` for both families: sets the peer, at once.
pub fn dgram_connect(sock: &Socket, addr: &SockAddr, read_peer: ReadPeer) -> Result<()> {
    let sk = &sock.sk;
    let mut state = sk.lock_sock();
    if *addr == SockAddr::Unspec {
        return (sk.prot.disconnect)(sk, &mut *state);
    }
    inet_autobind(sk, &mut *state)?;
    let peer = read_peer(sk, inet_sk(&mut *state), addr)?;
    (sk.prot.connect)(sk, &mut *state, &peer)
}

// --- the rest ---

/// `inet_listen`: `EINVAL` on a socket that is connected or connecting.
fn inet_listen(sock: &Socket, backlog: i32) -> Result<()> {
    tp!(inet_listen, sock.sk);
    let sk = &sock.sk;
    let mut state = sk.lock_sock();
    let may_listen = TcpState::Close.flag() | TcpState::Listen.flag();
    if sock.state() != SocketState::Unconnected || sock.sk.kind != SOCK_STREAM || !sk.state().is_in(may_listen) {
        return Err(Errno::EINVAL);
    }
    (sk.prot.listen)(sk, &mut *state, backlog)
}

/// `inet_accept`.
fn inet_accept(sock: &Socket, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Socket>>> {
    tp!(inet_accept, sock.sk);
    let child = ready!((sock.sk.prot.accept)(&sock.sk, nonblock, wait))?;
    let new = Socket::new(sock.ops, child);
    new.set_state(SocketState::Connected);
    Poll::Ready(Ok(new))
}

/// `inet_getname`: `ENOTCONN` for the peer of a socket that has none.
fn inet_getname(sock: &Socket, whose: Whose) -> Result<SockAddr> {
    let sk = &sock.sk;
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    let (ip, port) = if whose != Whose::Own {
        let unconnected = TcpState::Close.flag() | TcpState::SynSent.flag();
        if inet.dport == 0 || (whose == Whose::Peer && sk.state().is_in(unconnected)) {
            return Err(Errno::ENOTCONN);
        }
        (inet.daddr, inet.dport)
    } else {
        let ip = if inet.rcv_saddr.is_unspecified() { inet.saddr() } else { inet.rcv_saddr };
        (ip, inet.sport)
    };
    let name = SockAddr::for_family(sk.family, ip, port);
    Ok(match name {
        // A link-local address means nothing without its link.
        SockAddr::V6(mut a) if a.ip().is_unicast_link_local() => {
            a.set_scope_id(sk.bound_dev_if.load(Relaxed));
            SockAddr::V6(a)
        }
        a => a,
    })
}

/// `inet_shutdown`: `EINVAL` for an unknown `how`, `ENOTCONN` for a socket without a peer (which is shut down all the same).
fn inet_shutdown(sock: &Socket, how: i32) -> Result<()> {
    let sk = &sock.sk;
    let how = u8::try_from(how).ok().filter(|&h| h < SHUTDOWN_MASK).ok_or(Errno::EINVAL)? + 1;
    let mut state = sk.lock_sock();
    if sock.state() == SocketState::Connecting {
        let undecided = CONNECTING | TcpState::Close.flag();
        let to = if sk.state().is_in(undecided) { SocketState::Disconnecting } else { SocketState::Connected };
        sock.set_state(to);
    }
    let result = match sk.state() {
        TcpState::Listen if how & RCV_SHUTDOWN == 0 => Ok(()),
        TcpState::Listen | TcpState::SynSent => disconnect(sock, &mut *state),
        now => {
            sk.add_shutdown(how);
            (sk.prot.shutdown)(sk, &mut *state, how);
            if now == TcpState::Close { Err(Errno::ENOTCONN) } else { Ok(()) }
        }
    };
    drop(state);
    sk.state_change();
    result
}

/// `inet_sendmsg`.
#[inline]
fn inet_sendmsg(sock: &Socket, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(inet_sendmsg, sock.sk);
    (sock.sk.prot.sendmsg)(&sock.sk, msg, wait)
}

/// `inet_recvmsg`.
#[inline]
fn inet_recvmsg(sock: &Socket, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(inet_recvmsg, sock.sk);
    msg.flags = 0;
    (sock.sk.prot.recvmsg)(&sock.sk, msg, flags, wait)
}

fn inet_poll(sock: &Socket) -> PollMask {
    (sock.sk.prot.poll)(&sock.sk)
}

/// `inet_ioctl`: what the transport knows; `ENOIOCTLCMD` for the rest.
fn inet_ioctl(sock: &Socket, cmd: u32) -> Result<i32> {
    (sock.sk.prot.ioctl)(&sock.sk, cmd)
}
