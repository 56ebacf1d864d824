//! Ping sockets over IPv6.
//!
//! Interface: [`pingv6_init`].
//! Linux counterpart: `net/ipv6/ping.c`.
//! Locks and context: once a kernel; the rest is `ipv4::ping`'s.

use crate::core::net_namespace::{Net, Registries};
use crate::ipv4::af_inet::InetProtosw;
use crate::ipv4::ping::ping_rcv;
use crate::ipv4::ping_prot::PING_PROTOSW;
use crate::ipv6::af_inet6::{INET6_DGRAM_OPS, inet6_register_protosw};
use crate::ipv6::icmp::{ICMPV6_ECHO_REPLY, icmpv6_register};
use std::sync::Arc;
use uapi::Result;
use uapi::socket::IPPROTO_ICMPV6;

/// `pingv6_init`: takes the echo replies of each namespace, and the entry in `inetsw6`.
pub fn pingv6_init(reg: &Registries) -> Result<()> {
    reg.pernet.lock_bh().push(|net: &Arc<Net>| icmpv6_register(net, ICMPV6_ECHO_REPLY, ping_rcv));
    let p = InetProtosw { protocol: IPPROTO_ICMPV6 as u16, ops: &INET6_DGRAM_OPS, ..PING_PROTOSW };
    inet6_register_protosw(reg, p)
}
