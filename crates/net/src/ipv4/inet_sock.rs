//! What TCP and UDP sockets share: addresses, ports, IP options of the socket.
//!
//! Interface: `InetSock`, `InetTuple`.
//! Linux counterpart: `include/net/inet_sock.h`, `net/ipv4/ip_sockglue.c`.
//! Locks and context: under the socket lock.

use crate::core::flow::Flow;
use crate::core::l3::XmitParams;
use crate::core::sock::{ProtoSock, Sock};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering::Relaxed;

/// What every socket of the Internet families has (`struct inet_sock`). Ports are in host order. On an IPv6 socket an
/// address of an IPv4 peer is kept as IPv4 and shown as IPv4-mapped.
#[derive(Clone, Debug)]
pub struct InetSock {
    /// The address it is bound to; unspecified: any (`inet_rcv_saddr`).
    pub rcv_saddr: IpAddr,
    /// The source of what it sends (`inet_saddr`).
    pub saddr: IpAddr,
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
    pub recverr: bool,
    pub recvttl: bool,
    pub recvtos: bool,
    pub pktinfo: bool,
    pub flowlabel: u32,
}

impl Default for InetSock {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        InetSock {
            rcv_saddr: any,
            saddr: any,
            daddr: any,
            num: 0,
            sport: 0,
            dport: 0,
            tos: 0,
            uc_ttl: -1,
            pmtudisc: uapi::socket::IP_PMTUDISC_WANT as u8,
            recverr: false,
            recvttl: false,
            recvtos: false,
            pktinfo: false,
            flowlabel: 0,
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

impl InetSock {
    /// The coordinates of its connection.
    pub fn tuple(&self) -> InetTuple {
        InetTuple { laddr: self.rcv_saddr, faddr: self.daddr, lport: self.num, fport: self.dport }
    }

    /// The flow of its connection.
    pub fn flow(&self, sk: &Sock) -> Flow {
        Flow {
            tos: self.tos,
            mark: sk.mark.load(Relaxed),
            oif: sk.bound_dev_if.load(Relaxed),
            ..Flow::new(sk.protocol as u8, self.saddr, self.sport, self.daddr, self.dport)
        }
    }

    /// How its packets look.
    pub fn xmit_params(&self, sk: &Sock) -> XmitParams {
        XmitParams {
            ttl: u8::try_from(self.uc_ttl).unwrap_or(0),
            tos: self.tos,
            dont_fragment: self.pmtudisc != uapi::socket::IP_PMTUDISC_DONT as u8,
            flowlabel: self.flowlabel,
            priority: sk.priority.load(Relaxed),
            mark: sk.mark.load(Relaxed),
        }
    }
}
