//! Brings a stack up: a kernel's registries with every subsystem, in order.
//!
//! Interface: [`net_init`].
//! Linux counterpart: `subsys_initcall`, `fs_initcall` in `net/`.
//! Locks and context: process context, once a kernel.

use crate::core::net_namespace::Registries;
use crate::ipv4::af_inet::{InetProtosw, inet_init};
use crate::ipv4::ping_prot::ping_init;
use crate::ipv4::tcp_prot::{TCP_PROTOSW, TCPV6_PROT, tcp_init};
use crate::ipv4::udp::{UDP_PROTOSW, udp_init};
use crate::ipv6::af_inet6::{INET6_DGRAM_OPS, INET6_STREAM_OPS, inet6_init, inet6_register_protosw};
use crate::ipv6::ping::pingv6_init;
use kernel::Kernel;
use std::sync::Arc;

/// The registries of a kernel with all of the network registered; namespaces are made with `Net::new`.
pub fn net_init(kernel: &Arc<Kernel>) -> Arc<Registries> {
    let reg = Registries::new(kernel.clone());
    crate::core::dev::net_dev_init(&reg);
    crate::core::neighbour::neigh_init(&reg);
    crate::ipv4::l3_ops::ip_init(&reg);
    crate::ipv4::arp::arp_init(&reg);
    crate::ipv6::l3_ops::ip6_init(&reg);
    register_families(&reg);
    // The last: each of the others hears of a namespace's loopback device when it is made.
    crate::drivers::loopback::loopback_init(&reg);
    reg
}

/// The address families and their socket types (`fs_initcall(inet_init)` and its like). A slot is taken once, in a
/// registry that is new.
fn register_families(reg: &Registries) {
    let results = [
        inet_init(reg),
        inet6_init(reg),
        udp_init(reg),
        tcp_init(&reg.hold()),
        inet6_register_protosw(reg, InetProtosw { ops: &INET6_DGRAM_OPS, ..UDP_PROTOSW }),
        inet6_register_protosw(reg, InetProtosw { ops: &INET6_STREAM_OPS, prot: &TCPV6_PROT, ..TCP_PROTOSW }),
        ping_init(reg),
        pingv6_init(reg),
    ];
    debug_assert!(results.iter().all(Result::is_ok));
}
