//! A flow: what a route is looked up for.
//!
//! Interface: [`Flow`].
//! Linux counterpart: `include/net/flow.h` (`struct flowi4`, `flowi6`, over either version of IP).
//! Locks and context: plain data.

use std::net::IpAddr;

/// The key of a route look-up, and the addresses it settles on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Unspecified: the look-up fills in the preferred source.
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    /// Host order.
    pub sport: u16,
    pub dport: u16,
    /// `IPPROTO_*`.
    pub proto: u8,
    pub tos: u8,
    pub mark: u32,
    /// Device to leave by; 0: the routing table's choice.
    pub oif: u32,
    /// `FLOWI_FLAG_ANYSRC`: any source address will do, also one that is not ours.
    pub anysrc: bool,
}

impl Flow {
    pub fn new(proto: u8, saddr: IpAddr, sport: u16, daddr: IpAddr, dport: u16) -> Flow {
        Flow { saddr, daddr, sport, dport, proto, tos: 0, mark: 0, oif: 0, anysrc: false }
    }

    /// Whether it is one of IPv6.
    pub fn is_v6(&self) -> bool {
        self.daddr.is_ipv6()
    }
}
