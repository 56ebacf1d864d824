//! IPv6 as transports see it, and its initialisation.
//!
//! Interface: [`IPV6_OPS`], [`ip6_init`].
//! Linux counterpart: `struct ipv6_stub`, `ipv6_specific` in `tcp_ipv6.c`, `inet6_init` in `af_inet6.c`.
//! Locks and context: initialisation in process context, once a kernel; the operations in any.

use super::addrconf::{addrconf_net_init, addrconf_notify};
use super::addrconf_core::Addrconf;
use super::icmp::{Icmp6, icmpv6_err, icmpv6_rcv, icmpv6_send};
use super::ip6_forward::{ip6_forward, ip6_pkt_discard};
use super::ip6_input::{ip6_input, ip6_mc_input, ipv6_rcv};
use super::ip6_output::{ip6_output, ip6_pkt_discard_out, ip6_xmit};
use super::mcast::mcast_net_init;
use super::ndisc::{ndisc_init, ndisc_net_init, ndisc_send_redirect};
use super::reassembly::Ip6Frag;
use super::route::{Ip6Paths, Ip6Route, ip6_addr_type, ip6_is_local, ip6_route_output, ip6_update_pmtu};
use crate::core::dev::{ETH_P_IPV6, PacketType, dev_add_pack, register_netdevice_notifier};
use crate::core::dst::RtnType;
use crate::core::l3::L3Ops;
use crate::core::net_namespace::{Net, NetId, NetProtocol, Registries};
use crate::hdr::{IPPROTO_ICMPV6, Ipv6Hdr};
use std::net::IpAddr;
use std::sync::Arc;

/// IPv6's operations.
pub static IPV6_OPS: L3Ops = L3Ops {
    family: uapi::sockaddr::AF_INET6,
    header_len: Ipv6Hdr::LEN,
    route_output: ip6_route_output,
    queue_xmit: ip6_xmit,
    is_local: |net, addr| matches!(addr, IpAddr::V6(a) if ip6_is_local(net, a)),
    addr_type: |net, addr| match addr {
        IpAddr::V6(a) => ip6_addr_type(net, a),
        IpAddr::V4(_) => RtnType::Unreachable,
    },
    icmp_send: icmpv6_send,
    update_pmtu: ip6_update_pmtu,
};

/// Where packets go, by their route.
const PATHS: Ip6Paths = Ip6Paths {
    local_in: ip6_input,
    mc_in: ip6_mc_input,
    forward: ip6_forward,
    error_in: ip6_pkt_discard,
    redirect: ndisc_send_redirect,
    output: ip6_output,
    error_out: ip6_pkt_discard_out,
};

/// Registers IPv6 with a kernel, before its first namespace is made.
pub fn ip6_init(reg: &Arc<Registries>) {
    let _ = reg.l3[1].set(&IPV6_OPS);
    let icmp = NetProtocol { handler: icmpv6_rcv, err_handler: icmpv6_err };
    reg.inet6_protos[IPPROTO_ICMPV6 as usize].assign(Some(Arc::new(icmp)));
    dev_add_pack(reg, PacketType { kind: ETH_P_IPV6, func: Box::new(ipv6_rcv) });
    reg.pernet.lock_bh().push(ip6_net_init);
    register_netdevice_notifier(reg, addrconf_notify);
    ndisc_init(reg);
}

/// A new namespace's IPv6.
fn ip6_net_init(net: &Arc<Net>) {
    net.set_generic(NetId::Ipv6Addrconf, Addrconf::default());
    net.set_generic(NetId::Ipv6Route, Ip6Route::new(PATHS));
    net.set_generic(NetId::Ipv6Icmp, Icmp6::default());
    net.set_generic(NetId::Ipv6Frag, Ip6Frag::new(net));
    ndisc_net_init(net);
    mcast_net_init(net);
    addrconf_net_init(net);
}
