//! What TCP and UDP sockets share: addresses, ports, IP options of the socket.
//!
//! Interface: [`InetSock`], [`InetOpts`], [`InetTuple`], [`inet_sk`], [`inet_autobind`].
//! Linux counterpart: `include/net/inet_sock.h`, `struct ipv6_pinfo`.
//! Locks and context: under the socket lock.

use crate::core::flow::Flow;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::on_use::{OnUse, unused};
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use kernel::SpinLock;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use uapi::socket::{IP_PMTUDISC_PROBE, IP_PMTUDISC_WANT};
use uapi::{Errno, Result};

/// What every socket of the Internet families has (`struct inet_sock`). Ports are in host order. On an IPv6 socket an
/// address of an IPv4 peer is kept as IPv4 and shown as IPv4-mapped.
#[derive(Clone, Debug)]
pub struct InetSock {
    /// The address it is bound to; unspecified: any (`inet_rcv_saddr`). [`InetSock::set_saddr`] comes after a change.
    pub rcv_saddr: IpAddr,
    pub daddr: IpAddr,
    /// The bound port (`inet_num`); 0: not bound.
    pub num: u16,
    pub sport: u16,
    pub dport: u16,
    pub tos: u8,
    /// -1: the namespace's default.
    pub uc_ttl: i16,
    /// `IP_PMTUDISC_*`.
    pub pmtudisc: u8,
    /// `IP_BIND_ADDRESS_NO_PORT`: a bind to port 0 leaves the choice of the port to `connect`.
    pub bind_address_no_port: bool,
    pub opts: OnUse<InetOpts>,
}

/// What few sockets set.
#[derive(Clone, Debug)]
pub struct InetOpts {
    /// The source of what it sends (`inet_saddr`), where that is not `rcv_saddr`.
    saddr: Option<IpAddr>,
    pub recverr: bool,
    pub recvttl: bool,
    pub recvtos: bool,
    pub pktinfo: bool,
    /// The program writes the IP header itself (`IP_HDRINCL`).
    pub hdrincl: bool,
    /// `IP_RECVORIGDSTADDR`.
    pub recvorigdstaddr: bool,
    /// `IP_LOCAL_PORT_RANGE`: the lowest port in the low half, the highest in the high half; 0: the namespace's.
    pub local_port_range: u32,
    pub mc: McastOpts,
    pub v6: Ipv6Opts,
    pub flowlabel: u32,
}

/// The options of level `IPPROTO_IPV6` (`struct ipv6_pinfo`).
#[derive(Clone, Debug)]
pub struct Ipv6Opts {
    /// -1: the namespace's default.
    pub hop_limit: i16,
    pub tclass: u8,
    pub pmtudisc: u8,
    pub recverr: bool,
    pub pktinfo: bool,
    pub recvhoplimit: bool,
    pub recvtclass: bool,
    pub recvorigdstaddr: bool,
    pub mc: McastOpts,
}

/// How a socket sends to groups, and which it has joined (`mc_ttl`, `mc_list`, …).
#[derive(Clone, Debug)]
pub struct McastOpts {
    pub ttl: u8,
    /// Device to leave by; 0: the routing table's choice.
    pub oif: u32,
    /// Made when somebody asks.
    groups: Option<Arc<McastGroups>>,
}

/// The groups a socket has joined (`mc_list`); read by the receive path, which has no socket lock.
pub struct McastGroups {
    /// Also receives what only other sockets of the namespace have joined (`IP_MULTICAST_ALL`).
    pub all: AtomicBool,
    /// Groups joined, each on a device. At most [`IP_MAX_MEMBERSHIPS`].
    list: SpinLock<Vec<(IpAddr, u32)>>,
}

impl std::fmt::Debug for McastGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "McastGroups({:?})", &*self.list.lock_bh())
    }
}

impl Default for McastGroups {
    fn default() -> Self {
        McastGroups { all: AtomicBool::new(true), list: SpinLock::default() }
    }
}

impl McastGroups {
    /// `ip_mc_join_group`: `EADDRINUSE` if it is joined already, `ENOBUFS` over the limit.
    pub fn join(&self, group: IpAddr, ifindex: u32) -> Result<()> {
        let mut list = self.list.lock_bh();
        if list.contains(&(group, ifindex)) {
            return Err(Errno::EADDRINUSE);
        }
        if list.len() >= IP_MAX_MEMBERSHIPS {
            return Err(Errno::ENOBUFS);
        }
        list.push((group, ifindex));
        Ok(())
    }

    /// `ip_mc_leave_group`, on any device if `ifindex` is 0; the device it was, `EADDRNOTAVAIL` if it is not joined.
    pub fn leave(&self, group: IpAddr, ifindex: u32) -> Result<u32> {
        let mut list = self.list.lock_bh();
        let is = |&(g, i): &(IpAddr, u32)| g == group && (ifindex == 0 || i == ifindex);
        let at = list.iter().position(is).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok(list.swap_remove(at).1)
    }

    /// `ip_mc_sf_allow`: whether a packet to the group that came in by the device is for the socket.
    pub fn allows(&self, group: IpAddr, ifindex: u32) -> bool {
        if self.list.lock_bh().iter().any(|&(g, i)| g == group && (i == 0 || i == ifindex)) {
            return true;
        }
        self.all.load(Relaxed)
    }

    /// Takes everything out, for a socket that is closed.
    pub fn drain(&self) -> Vec<(IpAddr, u32)> {
        std::mem::take(&mut *self.list.lock_bh())
    }
}

/// `net.ipv4.igmp_max_memberships`.
pub const IP_MAX_MEMBERSHIPS: usize = 20;

impl McastOpts {
    /// The groups the socket has joined.
    pub fn groups(&mut self) -> &Arc<McastGroups> {
        self.groups.get_or_insert_default()
    }

    /// `IP_MULTICAST_ALL`.
    pub fn all(&self) -> bool {
        self.groups.as_ref().is_none_or(|g| g.all.load(Relaxed))
    }

    /// The groups, if it has ever been asked about them.
    pub fn joined(&self) -> Option<&Arc<McastGroups>> {
        self.groups.as_ref()
    }

    /// The options were copied from another socket, whose groups are its own.
    fn forget_groups(&mut self) {
        self.groups = None;
    }
}

const MCAST_UNUSED: McastOpts = McastOpts { ttl: 1, oif: 0, groups: None };

unused!(
    InetOpts,
    InetOpts {
        saddr: None,
        recverr: false,
        recvttl: false,
        recvtos: false,
        pktinfo: false,
        hdrincl: false,
        recvorigdstaddr: false,
        local_port_range: 0,
        mc: MCAST_UNUSED,
        v6: Ipv6Opts {
            hop_limit: -1,
            tclass: 0,
            pmtudisc: IP_PMTUDISC_WANT as u8,
            recverr: false,
            pktinfo: false,
            recvhoplimit: false,
            recvtclass: false,
            recvorigdstaddr: false,
            mc: MCAST_UNUSED,
        },
        flowlabel: 0,
    }
);

impl Default for InetSock {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        InetSock {
            rcv_saddr: any,
            daddr: any,
            num: 0,
            sport: 0,
            dport: 0,
            tos: 0,
            uc_ttl: -1,
            pmtudisc: IP_PMTUDISC_WANT as u8,
            bind_address_no_port: false,
            opts: OnUse::default(),
        }
    }
}

/// A connection's four coordinates, seen from this side. Ports are in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InetTuple {
    pub laddr: IpAddr,
    pub faddr: IpAddr,
    pub lport: u16,
    pub fport: u16,
}

/// The Internet part of a locked socket.
pub fn inet_sk(state: &mut dyn ProtoSock) -> &mut InetSock {
    match state.inet().downcast_mut() {
        Some(i) => i,
        None => unreachable!("every transport of the Internet families has one"),
    }
}

/// `inet_autobind`: gives an unbound socket a port of the transport's choice; `EAGAIN` when there is none.
pub fn inet_autobind(sk: &Arc<Sock>, state: &mut dyn ProtoSock) -> Result<()> {
    if inet_sk(state).num == 0 {
        (sk.prot.get_port)(sk, state, 0).map_err(|_| Errno::EAGAIN)?;
        let inet = inet_sk(state);
        inet.sport = inet.num;
    }
    Ok(())
}

/// The unspecified address of the version that `like` is of.
pub fn unspecified_like(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// INADDR_ANY as a destination: the socket's own address, or loopback.
pub fn this_host_v4(inet: &InetSock, daddr: Ipv4Addr) -> Ipv4Addr {
    match inet.saddr() {
        _ if !daddr.is_unspecified() => daddr,
        IpAddr::V4(own) if !own.is_unspecified() => own,
        _ => Ipv4Addr::LOCALHOST,
    }
}

impl InetSock {
    /// The source of what it sends (`inet_saddr`).
    #[inline]
    pub fn saddr(&self) -> IpAddr {
        self.opts.saddr.unwrap_or(self.rcv_saddr)
    }

    pub fn set_saddr(&mut self, saddr: IpAddr) {
        if saddr != self.rcv_saddr {
            self.opts.make().saddr = Some(saddr);
        } else if let Some(o) = self.opts.if_used() {
            o.saddr = None;
        }
    }

    /// The socket was copied from one whose groups are its own.
    pub fn forget_groups(&mut self) {
        if let Some(o) = self.opts.if_used() {
            o.mc.forget_groups();
            o.v6.mc.forget_groups();
        }
    }

    /// The coordinates of its connection.
    pub fn tuple(&self) -> InetTuple {
        InetTuple { laddr: self.rcv_saddr, faddr: self.daddr, lport: self.num, fport: self.dport }
    }

    /// The flow to some peer. A source of the other version of IP is none.
    pub fn flow_to(&self, sk: &Sock, daddr: IpAddr, dport: u16) -> Flow {
        let own = self.saddr();
        let saddr = if own.is_ipv4() == daddr.is_ipv4() { own } else { unspecified_like(daddr) };
        Flow {
            tos: if daddr.is_ipv6() { self.opts.v6.tclass } else { self.tos },
            mark: sk.rare.mark(),
            oif: sk.bound_dev_if.load(Relaxed),
            anysrc: sk.flag(SockFlags::TRANSPARENT),
            ..Flow::new(sk.protocol as u8, saddr, self.sport, daddr, dport)
        }
    }

    /// The flow of its connection.
    pub fn flow(&self, sk: &Sock) -> Flow {
        self.flow_to(sk, self.daddr, self.dport)
    }

    /// How its packets to the connected peer look.
    pub fn xmit_params(&self, sk: &Sock) -> XmitParams {
        self.xmit_params_to(sk, self.daddr.is_ipv6())
    }

    /// How its packets look in one version of IP.
    pub fn xmit_params_to(&self, sk: &Sock, v6: bool) -> XmitParams {
        let (ttl, tos, pmtudisc) = match v6 {
            false => (self.uc_ttl, self.tos, self.pmtudisc),
            true => (self.opts.v6.hop_limit, self.opts.v6.tclass, self.opts.v6.pmtudisc),
        };
        XmitParams {
            ttl: u8::try_from(ttl).unwrap_or(0),
            tos,
            dont_fragment: DontFragment::of(pmtudisc),
            ignore_pmtu: pmtudisc as i32 >= IP_PMTUDISC_PROBE,
            flowlabel: self.opts.flowlabel,
            priority: sk.rare.priority(),
            mark: sk.rare.mark(),
        }
    }

    /// `inet_sk(sk)->cmsg_flags != 0`: whether received packets come with control messages of IP's.
    pub fn wants_cmsg(&self) -> bool {
        let o = &*self.opts;
        let v4 = o.recvttl || o.recvtos || o.pktinfo || o.recvorigdstaddr;
        let o = &o.v6;
        v4 || o.pktinfo || o.recvhoplimit || o.recvtclass || o.recvorigdstaddr
    }
}
