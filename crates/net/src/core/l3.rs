//! The operations in which the two versions of IP differ, as a table; what lets transports be written once over both.
//!
//! Interface: [`L3Ops`], [`XmitParams`], [`DontFragment`], [`Registries`](crate::core::net_namespace::Registries)`::l3`.
//! Linux counterpart: `struct inet_connection_sock_af_ops`, `struct ipv6_stub`.
//! Locks and context: the functions may be called in process and softirq context.

use crate::core::dst::Dst;
use crate::core::flow::Flow;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::sock::Sock;
use std::net::IpAddr;
use std::sync::Arc;
use uapi::Result;
use uapi::socket::{IP_PMTUDISC_DO, IP_PMTUDISC_WANT};

/// Which packets carry DF (IPv4), and so are refused with `EMSGSIZE` and not fragmented when they are over the MTU (both
/// versions).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DontFragment {
    #[default]
    Never,
    /// Not where the MTU is locked: there routers may cut.
    UnlessLocked,
    Always,
}

impl DontFragment {
    /// What `IP_MTU_DISCOVER` says of a connection's packets. Datagrams that probe the path carry it too.
    pub fn of(pmtudisc: u8) -> DontFragment {
        match pmtudisc as i32 {
            IP_PMTUDISC_WANT => DontFragment::UnlessLocked,
            IP_PMTUDISC_DO => DontFragment::Always,
            _ => DontFragment::Never,
        }
    }

    /// Whether packets of this route have it (`ip_dont_fragment`).
    #[inline]
    pub fn on(self, dst: &Dst) -> bool {
        match self {
            DontFragment::Never => false,
            DontFragment::UnlessLocked => !dst.mtu_locked(),
            DontFragment::Always => true,
        }
    }
}

/// How a socket wants its packets to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct XmitParams {
    /// TTL or hop limit; 0: the namespace's default.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    pub dont_fragment: DontFragment,
    /// As large as the device takes, whatever is known of the path (`ip_sk_use_pmtu` says no).
    pub ignore_pmtu: bool,
    pub flowlabel: u32,
    pub priority: u32,
    pub mark: u32,
}

/// A quoted packet inside an ICMP error, given to the transport it came from.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    /// The packet was ours: source is local, destination is the peer.
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    /// ICMP or ICMPv6 type and code.
    pub kind: u8,
    pub code: u8,
    /// The next-hop MTU of "too big", else 0.
    pub info: u32,
    /// The errno the error stands for, and whether it is final (`icmp_err_convert`).
    pub errno: uapi::Errno,
    pub fatal: bool,
    /// Who sent the error.
    pub offender: IpAddr,
}

/// One version of IP.
pub struct L3Ops {
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Header bytes without options.
    pub header_len: usize,
    /// Finds a route for a packet of ours and fills in `flow.saddr` if it is unspecified (`ip_route_output_flow`,
    /// `ip6_dst_lookup_flow`). `ENETUNREACH`, `EINVAL`, `EACCES` (broadcast without `SO_BROADCAST` is the transport's business).
    pub route_output: fn(net: &Arc<Net>, flow: &mut Flow) -> Result<Arc<Dst>>,
    /// Prepends the IP header and sends; `skb.data` is at the transport header, whose checksum is final or `Partial`
    /// (`ip_queue_xmit`, `ip6_xmit`). Routes by `skb.dst`, which is set.
    pub queue_xmit: fn(net: &Arc<Net>, sk: Option<&Sock>, skb: Box<Skb>, flow: &Flow, p: &XmitParams) -> Result<()>,
    /// Whether the address is one of this namespace's (`inet_addr_type` is `RTN_LOCAL`, `ipv6_chk_addr`).
    pub is_local: fn(net: &Arc<Net>, addr: IpAddr) -> bool,
    /// The kind of destination the address is.
    pub addr_type: fn(net: &Arc<Net>, addr: IpAddr) -> crate::core::dst::RtnType,
    /// Answers a packet with "port unreachable" and the like: ICMP type and code in this version's numbers.
    pub icmp_send: fn(skb: &Skb, kind: u8, code: u8, info: u32),
    /// Notes a smaller path MTU towards the flow's destination.
    pub update_pmtu: fn(net: &Arc<Net>, flow: &Flow, mtu: u32),
}
