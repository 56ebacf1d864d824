//! The options of level IPPROTO_IPV6, and which level is whose on a socket of AF_INET6.
//!
//! Interface: [`inet6_setsockopt`], [`inet6_getsockopt`], [`ipv6_sock_mc_close`].
//! Linux counterpart: `net/ipv6/ipv6_sockglue.c`, the socket's half of `net/ipv6/mcast.c`.
//! Locks and context: process context; takes the socket lock.

use crate::core::dev::{NetDevice, dev_get_by_index};
use crate::core::flow::Flow;
use crate::core::sock::{Sock, SockFlags};
use crate::core::sock_options::{cut, int_option, unsupported};
use crate::ipv4::datagram::IPV6_ORIGDSTADDR;
use crate::ipv4::inet_sock::inet_sk;
use crate::ipv4::sockglue::{inet_getsockopt, inet_setsockopt, one_of, path_mtu, sock_options_changed};
use crate::ipv6::addrconf_core::{ipv6_dev_mc_dec, ipv6_dev_mc_inc};
use crate::socket::Socket;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::*;
use uapi::{Errno, Result};

const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_MULTICAST_HOPS: i32 = 18;
const IPV6_MULTICAST_LOOP: i32 = 19;
const IPV6_JOIN_GROUP: i32 = 20;
const IPV6_LEAVE_GROUP: i32 = 21;
const IPV6_MTU: i32 = 24;
const IPV6_MULTICAST_ALL: i32 = 29;
const IPV6_RECVHOPLIMIT: i32 = 51;
const IPV6_RECVTCLASS: i32 = 66;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;

/// `sock_common_setsockopt` for AF_INET6: `IPPROTO_IPV6` here, the rest as AF_INET has it.
pub fn inet6_setsockopt(sock: &Socket, level: i32, name: i32, val: &[u8]) -> Result<()> {
    match level {
        IPPROTO_IPV6 => {
            ipv6_setsockopt(&sock.sk, name, val)?;
            sock_options_changed(&sock.sk);
            Ok(())
        }
        IPPROTO_IP if sock.sk.kind == SOCK_RAW => unsupported(&sock.sk),
        _ => inet_setsockopt(sock, level, name, val),
    }
}

/// `sock_common_getsockopt` for AF_INET6.
pub fn inet6_getsockopt(sock: &Socket, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
    match level {
        IPPROTO_IPV6 => ipv6_getsockopt(&sock.sk, name, len),
        IPPROTO_IP if sock.sk.kind == SOCK_RAW => unsupported(&sock.sk),
        _ => inet_getsockopt(sock, level, name, len),
    }
}

/// `ipv6_setsockopt`: `EINVAL` for a value too short or out of range, `ENOPROTOOPT` for what is not honoured.
fn ipv6_setsockopt(sk: &Arc<Sock>, name: i32, val: &[u8]) -> Result<()> {
    if matches!(name, IPV6_JOIN_GROUP | IPV6_LEAVE_GROUP) {
        return change_membership(sk, name == IPV6_JOIN_GROUP, val);
    }
    let v = match name {
        IPV6_V6ONLY | IPV6_UNICAST_HOPS | IPV6_MULTICAST_HOPS | IPV6_MULTICAST_LOOP | IPV6_MULTICAST_IF
        | IPV6_TCLASS | IPV6_MTU_DISCOVER | IPV6_RECVERR | IPV6_RECVPKTINFO | IPV6_RECVHOPLIMIT | IPV6_RECVTCLASS
        | IPV6_ORIGDSTADDR | IPV6_FREEBIND | IPV6_TRANSPARENT | IPV6_MULTICAST_ALL => int_option(val)?,
        _ => return unsupported(sk),
    };
    let on = v != 0;
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    match name {
        // What it may be bound beside has been decided.
        IPV6_V6ONLY if inet.num != 0 => return Err(Errno::EINVAL),
        IPV6_V6ONLY => sk.set_flag(SockFlags::V6ONLY, on),
        IPV6_UNICAST_HOPS => inet.opts.make().v6.hop_limit = one_of(v, -1, 0..=255)? as i16,
        IPV6_MULTICAST_HOPS if sk.kind == SOCK_STREAM => return unsupported(sk),
        IPV6_MULTICAST_HOPS => {
            inet.opts.make().v6.mc.ttl = one_of(v, -1, 0..=255).map(|v| if v == -1 { 1 } else { v as u8 })?
        }
        IPV6_MULTICAST_LOOP if v == 0 => return unsupported(sk),
        IPV6_MULTICAST_LOOP => one_of(v, 1, 1..=1).map(drop)?,
        IPV6_MULTICAST_IF => inet.opts.make().v6.mc.oif = multicast_if(sk, v)?,
        IPV6_TCLASS => inet.opts.make().v6.tclass = one_of(v, -1, 0..=255).map(|v| v.max(0) as u8)?,
        IPV6_MTU_DISCOVER => inet.opts.make().v6.pmtudisc = one_of(v, 0, IP_PMTUDISC_DONT..=IP_PMTUDISC_OMIT)? as u8,
        IPV6_RECVERR => {
            let o = inet.opts.make();
            o.v6.recverr = on;
            sk.set_flag(SockFlags::RECVERR, o.recverr || o.v6.recverr);
        }
        IPV6_RECVPKTINFO => inet.opts.make().v6.pktinfo = on,
        IPV6_RECVHOPLIMIT => inet.opts.make().v6.recvhoplimit = on,
        IPV6_RECVTCLASS => inet.opts.make().v6.recvtclass = on,
        IPV6_ORIGDSTADDR => inet.opts.make().v6.recvorigdstaddr = on,
        IPV6_FREEBIND => sk.set_flag(SockFlags::FREEBIND, on),
        IPV6_TRANSPARENT => sk.set_flag(SockFlags::TRANSPARENT, on),
        _ => inet.opts.make().v6.mc.groups().all.store(one_of(v, 0, 0..=1)? != 0, Relaxed),
    }
    let wants = inet.wants_cmsg();
    sk.set_flag(SockFlags::CMSG, wants);
    Ok(())
}

/// `ipv6_getsockopt`.
fn ipv6_getsockopt(sk: &Arc<Sock>, name: i32, len: usize) -> Result<Vec<u8>> {
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    let o = &inet.opts.v6;
    let v = match name {
        IPV6_V6ONLY => sk.flag(SockFlags::V6ONLY) as i32,
        IPV6_UNICAST_HOPS if o.hop_limit < 0 => sk.net.sysctl.ipv6_hop_limit.get() as i32,
        IPV6_UNICAST_HOPS => o.hop_limit as i32,
        IPV6_MULTICAST_HOPS => o.mc.ttl as i32,
        IPV6_MULTICAST_LOOP => 1,
        IPV6_MULTICAST_IF => o.mc.oif as i32,
        IPV6_MULTICAST_ALL => o.mc.all() as i32,
        IPV6_TCLASS => o.tclass as i32,
        IPV6_MTU_DISCOVER => o.pmtudisc as i32,
        IPV6_MTU => path_mtu(sk, inet)?,
        IPV6_RECVERR => o.recverr as i32,
        IPV6_RECVPKTINFO => o.pktinfo as i32,
        IPV6_RECVHOPLIMIT => o.recvhoplimit as i32,
        IPV6_RECVTCLASS => o.recvtclass as i32,
        IPV6_ORIGDSTADDR => o.recvorigdstaddr as i32,
        IPV6_FREEBIND => sk.flag(SockFlags::FREEBIND) as i32,
        IPV6_TRANSPARENT => sk.flag(SockFlags::TRANSPARENT) as i32,
        _ => return unsupported(sk),
    };
    Ok(cut(v.to_ne_bytes().to_vec(), len))
}

/// `IPV6_MULTICAST_IF`: an index, 0 for none; `ENODEV`, or `EINVAL` beside another device the socket is bound to.
fn multicast_if(sk: &Sock, v: i32) -> Result<u32> {
    if v == 0 {
        return Ok(0);
    }
    let bound = sk.bound_dev_if.load(Relaxed);
    if bound != 0 && bound as i32 != v {
        return Err(Errno::EINVAL);
    }
    let dev = u32::try_from(v).ok().and_then(|i| dev_get_by_index(&sk.net, i)).ok_or(Errno::ENODEV)?;
    Ok(dev.ifindex)
}

/// `ipv6_sock_mc_join`, `ipv6_sock_mc_drop` with a `struct ipv6_mreq`.
fn change_membership(sk: &Arc<Sock>, join: bool, val: &[u8]) -> Result<()> {
    if sk.kind == SOCK_STREAM {
        return Err(Errno::EPROTO);
    }
    let b: [u8; 16] = val.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    let group = Ipv6Addr::from(b);
    let ifindex = int_option(val.get(16..).unwrap_or(&[]))? as u32;
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let groups = inet_sk(&mut *sk.lock_sock()).opts.make().v6.mc.groups().clone();
    if !join {
        let ifindex = groups.leave(group.into(), ifindex)?;
        leave(sk, group, ifindex);
        return Ok(());
    }
    let dev = find_dev(sk, group, ifindex)?;
    groups.join(group.into(), dev.ifindex)?;
    match ipv6_dev_mc_inc(&dev, group) {
        Ok(_) => Ok(()),
        Err(e) => {
            let _ = groups.leave(group.into(), dev.ifindex);
            Err(e)
        }
    }
}

fn find_dev(sk: &Sock, group: Ipv6Addr, ifindex: u32) -> Result<Arc<NetDevice>> {
    if ifindex != 0 {
        return dev_get_by_index(&sk.net, ifindex).ok_or(Errno::ENODEV);
    }
    let mut flow = Flow::new(0, Ipv6Addr::UNSPECIFIED.into(), 0, group.into(), 0);
    let l3 = sk.net.l3(true).ok_or(Errno::ENODEV)?;
    (l3.route_output)(&sk.net, &mut flow).map(|d| d.dev.clone()).map_err(|_| Errno::ENODEV)
}

fn leave(sk: &Sock, group: Ipv6Addr, ifindex: u32) {
    if let Some(dev) = dev_get_by_index(&sk.net, ifindex) {
        let _ = ipv6_dev_mc_dec(&dev, group);
    }
}

/// `ipv6_sock_mc_close`: a closed socket leaves its groups.
pub fn ipv6_sock_mc_close(sk: &Arc<Sock>) {
    let groups = inet_sk(&mut *sk.lock_sock()).opts.make().v6.mc.groups().clone();
    for (group, ifindex) in groups.drain() {
        if let IpAddr::V6(g) = group {
            leave(sk, g, ifindex);
        }
    }
}
