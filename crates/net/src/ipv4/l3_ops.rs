//! IPv4 as transports see it, and its start.
//!
//! Interface: [`IPV4_OPS`], [`ip_init`].
//! Linux counterpart: `struct inet_connection_sock_af_ops ipv4_specific`, `inet_init` in `net/ipv4/af_inet.c`.
//! Locks and context: process context, once a kernel and once a namespace.

use crate::core::dev::{ETH_P_IP, PacketType, dev_add_pack};
use crate::core::dst::{Dst, RtnType};
use crate::core::flow::Flow;
use crate::core::l3::L3Ops;
use crate::core::net_namespace::{Net, NetProtocol, Registries};
use crate::hdr::{IPPROTO_ICMP, IpHdr};
use crate::ipv4::devinet::{devinet_init, devinet_net_init};
use crate::ipv4::icmp::{icmp_err, icmp_net_init, icmp_rcv, icmp_send};
use crate::ipv4::ip_forward::ip_forward;
use crate::ipv4::ip_fragment::ip_frag_net_init;
use crate::ipv4::ip_input::{ip_local_deliver, ip_rcv};
use crate::ipv4::ip_output::{ip_mc_output, ip_output, ip_output_net_init, ip_queue_xmit};
use crate::ipv4::protocol::inet_add_protocol;
use crate::ipv4::route::{RtOps, inet_addr_type, ip_route_output_flow, ip_rt_net_init, ip_update_pmtu};
use std::net::IpAddr;
use std::sync::Arc;
use uapi::Result;

/// IPv4.
pub static IPV4_OPS: L3Ops = L3Ops {
    family: uapi::sockaddr::AF_INET,
    header_len: IpHdr::LEN,
    route_output,
    queue_xmit: ip_queue_xmit,
    is_local,
    addr_type,
    icmp_send,
    update_pmtu: ip_update_pmtu,
};

/// Where packets go when they have a route.
static RT_OPS: RtOps =
    RtOps { local_deliver: ip_local_deliver, forward: ip_forward, output: ip_output, mc_output: ip_mc_output };

fn route_output(net: &Arc<Net>, flow: &mut Flow) -> Result<Arc<Dst>> {
    ip_route_output_flow(net, flow)
}

fn is_local(net: &Arc<Net>, addr: IpAddr) -> bool {
    addr_type(net, addr) == RtnType::Local
}

/// An IPv6 address is nowhere IPv4 could reach.
fn addr_type(net: &Arc<Net>, addr: IpAddr) -> RtnType {
    match addr {
        IpAddr::V4(a) => inet_addr_type(net, a),
        IpAddr::V6(_) => RtnType::Unreachable,
    }
}

/// `ip_init`, once a kernel: IPv4's packet type, its operations, ICMP, and its part of each namespace to come.
pub fn ip_init(reg: &Arc<Registries>) {
    let first = reg.l3[0].set(&IPV4_OPS).is_ok();
    debug_assert!(first, "IPv4 initialised twice");
    devinet_init(reg);
    reg.pernet.lock_bh().push(ip_net_init);
    let icmp = inet_add_protocol(reg, IPPROTO_ICMP, NetProtocol { handler: icmp_rcv, err_handler: icmp_err });
    debug_assert!(icmp.is_ok(), "ICMP registered twice");
    // Lives as long as the registry that holds it.
    dev_add_pack(reg, PacketType { kind: ETH_P_IP, func: Box::new(ip_rcv) });
}

fn ip_net_init(net: &Arc<Net>) {
    devinet_net_init(net);
    ip_output_net_init(net);
    ip_rt_net_init(net, &RT_OPS);
    ip_frag_net_init(net);
    icmp_net_init(net);
}
