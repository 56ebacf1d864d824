//! A route as a packet or a socket carries it.
//!
//! Interface: [`Dst`]: device, next hop, MTU, and the functions that take the packet on.
//! Linux counterpart: `include/net/dst.h`, `net/core/dst.c`.
//! Locks and context: shared and immutable but for the atomics; any context.

use crate::core::dev::NetDevice;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use uapi::Result;

/// What kind of destination a route leads to (`RTN_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RtnType {
    Unicast,
    Local,
    Broadcast,
    Multicast,
    Unreachable,
    Blackhole,
    Prohibit,
}

/// A cached routing decision (`struct dst_entry` with its `rtable` or `rt6_info`).
pub struct Dst {
    pub dev: Arc<NetDevice>,
    pub kind: RtnType,
    /// The next hop: the gateway, or the destination itself.
    pub gateway: Option<IpAddr>,
    /// The source address this route prefers.
    pub prefsrc: IpAddr,
    /// Path MTU in bytes; 0: the device's.
    pub pmtu: AtomicU32,
    /// `RTAX_ADVMSS` override; 0: from the MTU.
    pub advmss: AtomicU32,
    /// The namespace's routing generation when it was made.
    pub genid: u32,
    /// Takes a packet for this route up the stack (`dst->input`): `ip_local_deliver`, `ip_forward`, `ip_error`.
    pub input: fn(net: &Arc<Net>, skb: Box<Skb>),
    /// Takes a packet for this route down (`dst->output`): `ip_output`, `ip_mc_output`.
    pub output: fn(net: &Arc<Net>, skb: Box<Skb>) -> Result<()>,
}

impl Dst {
    /// The largest IP packet that may take this route (`dst_mtu`).
    pub fn mtu(&self) -> u32 {
        match self.pmtu.load(Relaxed) {
            0 => self.dev.mtu(),
            m => m.min(self.dev.mtu()),
        }
    }

    /// Whether the routing tables are still as they were when this was looked up (`dst_check`).
    pub fn is_current(&self, net: &Net) -> bool {
        self.genid == net.rt_genid()
    }

    /// The neighbour a packet to `daddr` is handed to.
    pub fn next_hop(&self, daddr: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(daddr)
    }

    pub fn is_local(&self) -> bool {
        self.kind == RtnType::Local
    }
}
