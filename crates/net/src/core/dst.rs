//! A route as a packet or a socket carries it.
//!
//! Interface: [`Dst`]: device, next hop, MTU, and the functions that take the packet on.
//! Linux counterpart: `include/net/dst.h`, `net/core/dst.c`.
//! Locks and context: shared and immutable but for the atomics; any context.

use crate::core::dev::NetDevice;
use crate::core::dst_metrics::{DstMetrics, Rtax};
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
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
    /// It was said to take less than is believed of any path (`rt_mtu_locked`).
    pub pmtu_locked: AtomicBool,
    /// What the route says beyond that; most say nothing.
    pub metrics: Option<Arc<DstMetrics>>,
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

    /// The largest for a sender who may not care for the path (`ip_skb_dst_mtu`).
    pub fn mtu_of(&self, ignore_pmtu: bool) -> u32 {
        if ignore_pmtu { self.dev.mtu() } else { self.mtu() }
    }

    /// Whether routers may cut what takes this route, because its MTU is not to be discovered (`ip_mtu_locked`).
    pub fn mtu_locked(&self) -> bool {
        self.pmtu_locked.load(Relaxed) || self.metric_locked(Rtax::Mtu)
    }

    /// One of the route's metrics; 0: not set (`dst_metric`).
    pub fn metric(&self, which: Rtax) -> u32 {
        self.metrics.as_ref().map_or(0, |m| m.get(which))
    }

    /// `dst_metric_locked`.
    pub fn metric_locked(&self, which: Rtax) -> bool {
        self.metrics.as_ref().is_some_and(|m| m.is_locked(which))
    }

    /// `dst_feature`.
    pub fn feature(&self, bit: u32) -> bool {
        self.metrics.as_ref().is_some_and(|m| m.feature(bit))
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
