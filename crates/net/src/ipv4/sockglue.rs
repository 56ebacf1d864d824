//! The options of level IPPROTO_IP, and which level is whose.
//!
//! Interface: [`inet_setsockopt`], [`inet_getsockopt`], [`ip_mc_drop_socket`].
//! Linux counterpart: `net/ipv4/ip_sockglue.c`, the socket's half of `net/ipv4/igmp.c`.
//! Locks and context: process context; takes the socket lock.

use crate::core::dev::{NetDevice, dev_get_by_index};
use crate::core::flow::Flow;
use crate::core::sock::{Sock, SockFlags};
use crate::core::sock_options::{cut, int_option, sock_getsockopt, sock_setsockopt, unsupported};
use crate::ipv4::datagram::IP_ORIGDSTADDR;
use crate::ipv4::devinet::{ip_dev_find, ip_mc_dec_group, ip_mc_inc_group};
use crate::ipv4::inet_sock::{InetSock, inet_sk};
use crate::socket::{Socket, Whose};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::*;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

const IP_OPTIONS: i32 = 4;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_MULTICAST_IF: i32 = 32;
const IP_MULTICAST_TTL: i32 = 33;
const IP_MULTICAST_LOOP: i32 = 34;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_MULTICAST_ALL: i32 = 49;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const SO_PEERNAME: i32 = 28;
/// The two ECN bits of the TOS byte, which belong to TCP on a stream.
const INET_ECN_MASK: u8 = 3;

/// `sock_common_setsockopt` for AF_INET: `SOL_SOCKET`, `IPPROTO_IP`, the transport's own level; else `ENOPROTOOPT`.
pub fn inet_setsockopt(sock: &Socket, level: i32, name: i32, val: &[u8]) -> Result<()> {
    let sk = &sock.sk;
    match level {
        SOL_SOCKET => return sock_setsockopt(sk, name, val),
        IPPROTO_IP => ip_setsockopt(sk, name, val)?,
        l if l == sk.protocol as i32 => (sk.prot.setsockopt)(sk, level, name, val)?,
        _ => return unsupported(sk),
    }
    sock_options_changed(sk);
    Ok(())
}

/// Tells the transport that an option of a listener was set: packets do not look at the state under the lock.
pub fn sock_options_changed(sk: &Arc<Sock>) {
    if sk.state() == TcpState::Listen
        && let Some(changed) = sk.prot.options_changed
    {
        let mut state = sk.lock_sock();
        changed(sk, &mut *state);
    }
}

/// `sock_common_getsockopt` for AF_INET.
pub fn inet_getsockopt(sock: &Socket, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
    let sk = &sock.sk;
    match level {
        SOL_SOCKET if name == SO_PEERNAME => peername(sock, len),
        SOL_SOCKET => sock_getsockopt(sk, name, len),
        IPPROTO_IP => ip_getsockopt(sk, name, len),
        l if l == sk.protocol as i32 => (sk.prot.getsockopt)(sk, level, name, len),
        // Linux's two families do not agree on what a level of nobody's is.
        _ if sk.family == uapi::sockaddr::AF_INET6 => unsupported(sk),
        _ => unsupported(sk).map_err(|_: Errno| Errno::EOPNOTSUPP),
    }
}

/// `SO_PEERNAME`: `ENOTCONN`; `EINVAL` when more is asked for than there is.
fn peername(sock: &Socket, len: usize) -> Result<Vec<u8>> {
    let (b, n) = (sock.ops.getname)(sock, Whose::Peer).map_err(|_| Errno::ENOTCONN)?.to_bytes();
    b.get(..n).filter(|b| len <= b.len()).map(|b| cut(b.to_vec(), len)).ok_or(Errno::EINVAL)
}

/// Most IP options take an `int` or a single byte; nothing at all counts as 0.
fn int_or_byte(val: &[u8]) -> i32 {
    int_option(val).unwrap_or(val.first().map_or(0, |&b| b as i32))
}

/// `ip_setsockopt`: `EINVAL` for a value out of range, `ENOPROTOOPT` for what is not honoured.
pub fn ip_setsockopt(sk: &Arc<Sock>, name: i32, val: &[u8]) -> Result<()> {
    match name {
        IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP => return change_membership(sk, name == IP_ADD_MEMBERSHIP, val),
        IP_MULTICAST_IF => return set_multicast_if(sk, val),
        _ => {}
    }
    let v = int_or_byte(val);
    let on = v != 0;
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    match name {
        IP_OPTIONS if val.is_empty() => {}
        IP_TOS => set_tos(sk, inet, v as u8),
        IP_TTL if val.is_empty() => return Err(Errno::EINVAL),
        IP_TTL => inet.uc_ttl = one_of(v, -1, 1..=255)? as i16,
        IP_HDRINCL if sk.kind == SOCK_RAW => inet.opts.make().hdrincl = on,
        IP_MTU_DISCOVER => inet.pmtudisc = one_of(v, 0, IP_PMTUDISC_DONT..=IP_PMTUDISC_OMIT)? as u8,
        IP_RECVERR => {
            let o = inet.opts.make();
            o.recverr = on;
            sk.set_flag(SockFlags::RECVERR, o.recverr || o.v6.recverr);
        }
        IP_RECVTTL => inet.opts.make().recvttl = on,
        IP_RECVTOS => inet.opts.make().recvtos = on,
        IP_PKTINFO => inet.opts.make().pktinfo = on,
        IP_ORIGDSTADDR => inet.opts.make().recvorigdstaddr = on,
        IP_FREEBIND if val.is_empty() => return Err(Errno::EINVAL),
        IP_FREEBIND => sk.set_flag(SockFlags::FREEBIND, on),
        IP_TRANSPARENT => sk.set_flag(SockFlags::TRANSPARENT, on),
        IP_BIND_ADDRESS_NO_PORT => inet.bind_address_no_port = on,
        IP_LOCAL_PORT_RANGE => inet.opts.make().local_port_range = port_range(val)?,
        IP_MULTICAST_TTL if sk.kind == SOCK_STREAM || val.is_empty() => return Err(Errno::EINVAL),
        IP_MULTICAST_TTL => {
            inet.opts.make().mc.ttl = if v == -1 { 1 } else { u8::try_from(v).map_err(|_| Errno::EINVAL)? };
        }
        IP_MULTICAST_LOOP if val.is_empty() => return Err(Errno::EINVAL),
        // Whether a copy comes back is decided by the route.
        IP_MULTICAST_LOOP if !on => return unsupported(sk),
        IP_MULTICAST_LOOP => {}
        IP_MULTICAST_ALL if val.is_empty() || !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        IP_MULTICAST_ALL => inet.opts.make().mc.groups().all.store(on, Relaxed),
        _ => return unsupported(sk),
    }
    let wants = inet.wants_cmsg();
    sk.set_flag(SockFlags::CMSG, wants);
    Ok(())
}

/// `v` if it is `special` or in the range, else `EINVAL`.
pub fn one_of(v: i32, special: i32, range: std::ops::RangeInclusive<i32>) -> Result<i32> {
    if v == special || range.contains(&v) { Ok(v) } else { Err(Errno::EINVAL) }
}

/// `IP_LOCAL_PORT_RANGE`: `EINVAL` when the lower end lies above the upper one.
fn port_range(val: &[u8]) -> Result<u32> {
    let v = match val.len() {
        4 => int_option(val)? as u32,
        _ => return Err(Errno::EINVAL),
    };
    let (low, high) = (v & 0xffff, v >> 16);
    if low != 0 && high != 0 && low > high { Err(Errno::EINVAL) } else { Ok(v) }
}

/// `__ip_sock_set_tos`.
fn set_tos(sk: &Sock, inet: &mut InetSock, tos: u8) {
    let ecn = if sk.kind == SOCK_STREAM { INET_ECN_MASK } else { 0 };
    inet.tos = tos & !ecn | inet.tos & ecn;
    // `rt_tos2priority`: best effort, bulk, interactive.
    let priority = match inet.tos & 0x1e {
        0x10 | 0x12 => 6,
        0x14..=0x1e => 4,
        0x08..=0x0e => 2,
        _ => 0,
    };
    sk.rare.set_priority(priority);
    *sk.dst_cache.lock_bh() = None;
}

/// `ip_getsockopt`. A value that fits a byte is given as one where there is no room for an `int`.
pub fn ip_getsockopt(sk: &Arc<Sock>, name: i32, len: usize) -> Result<Vec<u8>> {
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    let v = match name {
        IP_OPTIONS => return Ok(Vec::new()),
        IP_TOS => inet.tos as i32,
        IP_TTL if inet.uc_ttl < 0 => sk.net.sysctl.ip_default_ttl.get() as i32,
        IP_TTL => inet.uc_ttl as i32,
        IP_HDRINCL => inet.opts.hdrincl as i32,
        IP_MTU_DISCOVER => inet.pmtudisc as i32,
        IP_MTU => path_mtu(sk, inet)?,
        IP_LOCAL_PORT_RANGE => inet.opts.local_port_range as i32,
        IP_RECVERR => inet.opts.recverr as i32,
        IP_RECVTTL => inet.opts.recvttl as i32,
        IP_RECVTOS => inet.opts.recvtos as i32,
        IP_PKTINFO => inet.opts.pktinfo as i32,
        IP_ORIGDSTADDR => inet.opts.recvorigdstaddr as i32,
        IP_FREEBIND => sk.flag(SockFlags::FREEBIND) as i32,
        IP_TRANSPARENT => sk.flag(SockFlags::TRANSPARENT) as i32,
        IP_BIND_ADDRESS_NO_PORT => inet.bind_address_no_port as i32,
        IP_MULTICAST_TTL => inet.opts.mc.ttl as i32,
        IP_MULTICAST_LOOP => 1,
        IP_MULTICAST_ALL => inet.opts.mc.all() as i32,
        IP_MULTICAST_IF => {
            let source = match inet.saddr() {
                IpAddr::V4(a) if inet.opts.mc.oif != 0 => a,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            return Ok(cut(source.octets().to_vec(), len));
        }
        _ => return unsupported(sk),
    };
    match u8::try_from(v) {
        Ok(byte) if (1..4).contains(&len) => Ok(vec![byte]),
        _ => Ok(cut(v.to_ne_bytes().to_vec(), len)),
    }
}

/// `IP_MTU`: the path MTU of the connection; `ENOTCONN` without one.
pub fn path_mtu(sk: &Sock, inet: &InetSock) -> Result<i32> {
    let cached = sk.dst_cache.lock_bh().clone();
    if let Some(d) = cached.filter(|d| d.is_current(&sk.net)) {
        return Ok(d.mtu() as i32);
    }
    if inet.dport == 0 {
        return Err(Errno::ENOTCONN);
    }
    let mut flow: Flow = inet.flow(sk);
    let l3 = sk.net.l3(flow.is_v6()).ok_or(Errno::ENOTCONN)?;
    Ok((l3.route_output)(&sk.net, &mut flow)?.mtu() as i32)
}

// --- Groups ---

/// `struct ip_mreqn`, also in its shorter forms: the group (`ip_mreq`, `ip_mreqn`), and the interface by address or index.
struct Mreqn {
    group: Ipv4Addr,
    address: Ipv4Addr,
    ifindex: u32,
}

fn read_mreqn(val: &[u8]) -> Result<Mreqn> {
    let addr = |at: usize| {
        let b: [u8; 4] = val.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(b))
    };
    let group = addr(0).ok_or(Errno::EINVAL)?;
    let address = addr(4).ok_or(Errno::EINVAL)?;
    let ifindex = val.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Ok(Mreqn { group, address, ifindex })
}

/// `ip_mc_find_dev`: by index, by one of its addresses, or where the route to the group leads.
fn find_dev(sk: &Sock, m: &Mreqn) -> Result<Arc<NetDevice>> {
    if m.ifindex != 0 {
        return dev_get_by_index(&sk.net, m.ifindex).ok_or(Errno::ENODEV);
    }
    if !m.address.is_unspecified() {
        return ip_dev_find(&sk.net, m.address).ok_or(Errno::ENODEV);
    }
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut flow = Flow::new(0, any, 0, m.group.into(), 0);
    let l3 = sk.net.l3(false).ok_or(Errno::ENODEV)?;
    (l3.route_output)(&sk.net, &mut flow).map(|d| d.dev.clone()).map_err(|_| Errno::ENODEV)
}

/// `ip_mc_join_group`, `ip_mc_leave_group`: `EINVAL` for no group, `ENODEV`, `EADDRINUSE`, `ENOBUFS`, `EADDRNOTAVAIL`.
fn change_membership(sk: &Arc<Sock>, join: bool, val: &[u8]) -> Result<()> {
    if sk.kind == SOCK_STREAM {
        return Err(Errno::EPROTO);
    }
    let m = read_mreqn(val)?;
    if join && !m.group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let groups = inet_sk(&mut *sk.lock_sock()).opts.make().mc.groups().clone();
    let group = IpAddr::V4(m.group);
    let dev = find_dev(sk, &m);
    if !join {
        let ifindex = dev.map_or(0, |d| d.ifindex);
        return leave(sk, m.group, groups.leave(group, ifindex)?);
    }
    let dev = dev?;
    groups.join(group, dev.ifindex)?;
    ip_mc_inc_group(&dev, m.group).inspect_err(|_| {
        let _ = groups.leave(group, dev.ifindex);
    })
}

/// The device forgets the group; one that is gone has.
fn leave(sk: &Sock, group: Ipv4Addr, ifindex: u32) -> Result<()> {
    dev_get_by_index(&sk.net, ifindex).map_or(Ok(()), |dev| ip_mc_dec_group(&dev, group))
}

/// `ip_mc_drop_socket`: a closed socket leaves its groups.
pub fn ip_mc_drop_socket(sk: &Arc<Sock>) {
    let Some(groups) = inet_sk(&mut *sk.lock_sock()).opts.mc.joined().cloned() else { return };
    for (group, ifindex) in groups.drain() {
        if let IpAddr::V4(g) = group {
            let _ = leave(sk, g, ifindex);
        }
    }
}

/// `IP_MULTICAST_IF`: an address, or a `struct ip_mreqn`; the unspecified address leaves the choice to the routes.
fn set_multicast_if(sk: &Arc<Sock>, val: &[u8]) -> Result<()> {
    if sk.kind == SOCK_STREAM || val.len() < 4 {
        return Err(Errno::EINVAL);
    }
    let m = match val.get(..8) {
        Some(_) => read_mreqn(val)?,
        None => {
            let b: [u8; 4] = val.get(..4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            Mreqn { group: Ipv4Addr::UNSPECIFIED, address: b.into(), ifindex: 0 }
        }
    };
    let none = m.ifindex == 0 && m.address.is_unspecified();
    let oif = if none { 0 } else { find_dev(sk, &m).map_err(|_| Errno::EADDRNOTAVAIL)?.ifindex };
    let bound = sk.bound_dev_if.load(Relaxed);
    if bound != 0 && oif != 0 && bound != oif {
        return Err(Errno::EINVAL);
    }
    inet_sk(&mut *sk.lock_sock()).opts.make().mc.oif = oif;
    Ok(())
}
