//! The device between packetdrill and the stack: raw IP packets, no link-layer header.
//!
//! Interface: [`RawIp`] (`register`, `receive`, `take`, `shape`).
//! Linux counterpart: `drivers/net/tun.c` in `IFF_TUN` mode with the offloads packetdrill asks for.
//! Locks and context: transmit with softirqs off; [`RawIp::receive`] and [`RawIp::take`] in process context.

use crate::clock::VirtualArch;
use crate::tbf::{Tbf, Verdict};
use kernel::{Arch, Frag, HrTimer, HrtimerRestart};
use net::core::checksum::skb_checksum_help;
use net::core::dev::{
    ETH_P_IP, ETH_P_IPV6, Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, netif_rx, netif_wake_queue,
    register_netdevice,
};
use net::core::net_namespace::Net;
use net::core::skbuff::{IpSummed, Skb};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use uapi::{Errno, Result};

/// Packets that wait for packetdrill; it reads them one by one, and a broken stack must not fill the memory.
const RING: usize = 65536;
/// Room in front of a received packet (`NET_SKB_PAD`).
const NET_SKB_PAD: usize = 64;
/// Bytes of a received packet in its linear part; what is beyond is in pages, as in `tun_get_user`, so that a large packet
/// counts for not much more than it carries.
const GOOD_LINEAR: usize = 2048 - NET_SKB_PAD;

/// A packet that the stack has sent.
pub struct Sent {
    pub bytes: Vec<u8>,
    /// When, nanoseconds.
    pub at: u64,
}

pub struct RawIp {
    arch: Arc<VirtualArch>,
    sent: Mutex<VecDeque<Sent>>,
    tbf: Tbf,
    /// Wakes the queue when there are tokens for its first packet.
    watchdog: OnceLock<HrTimer>,
}

struct Ops(Arc<RawIp>);

impl NetDeviceOps for Ops {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        match self.0.tbf.take(skb.len(), self.0.arch.ktime_get()) {
            Verdict::Goes => {}
            Verdict::Never => return NetdevTx::Ok,
            Verdict::Waits(ns) => {
                if let Some(watchdog) = self.0.watchdog.get() {
                    watchdog.start(self.0.arch.ktime_get() + ns);
                }
                return NetdevTx::Busy(skb);
            }
        }
        // What is left whole for the device to cut is shown whole, as a packet socket on Linux shows it.
        if skb.ip_summed == IpSummed::Partial && !skb.is_gso() {
            skb_checksum_help(&mut skb);
        }
        let bytes = skb.chunks().flatten().copied().collect();
        let mut q = self.0.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if q.len() < RING {
            q.push_back(Sent { bytes, at: self.0.arch.ktime_get() });
        }
        NetdevTx::Ok
    }
}

const SHARED_INFO: usize = 320;

/// What Linux allocates for the head of a packet from a TUN device, as `kmalloc` rounds it. Heads that fit have a cache of their own.
fn head_size(linear: usize) -> usize {
    /// As `SO_MEMINFO` shows it.
    const SMALL_HEAD: usize = 576;
    let head = (linear + NET_SKB_PAD).next_multiple_of(64) + SHARED_INFO;
    if head <= SMALL_HEAD { SMALL_HEAD } else { head.next_power_of_two() }
}

/// What such a packet weighs: its head, its pages and the `sk_buff`. Windows hang on it.
fn truesize(linear: usize, paged: usize) -> u32 {
    const SKB_STRUCT: usize = 256;
    (head_size(linear) + SKB_STRUCT + paged.next_multiple_of(4096)) as u32
}

impl RawIp {
    /// Adds a device `tun0` with the offloads of packetdrill's TUN device, up.
    pub fn register(net: &Arc<Net>, arch: &Arc<VirtualArch>, mtu: u32) -> Result<(Arc<RawIp>, Arc<NetDevice>)> {
        let raw = Arc::new(RawIp {
            arch: arch.clone(),
            sent: Mutex::default(),
            tbf: Tbf::default(),
            watchdog: OnceLock::new(),
        });
        let spec = NetDeviceSpec {
            name: "tun0".to_owned(),
            addr: [0; 6],
            mtu,
            flags: Iff::UP | Iff::POINTOPOINT | Iff::NOARP | Iff::MULTICAST | Iff::RUNNING,
            hard_header_len: 0,
            features: Features::HW_CSUM | Features::SG | Features::TSO | Features::TSO6,
            ops: Box::new(Ops(raw.clone())),
        };
        let dev = register_netdevice(net, spec)?;
        let weak = Arc::downgrade(&dev);
        let _ = raw.watchdog.set(net.kernel().hrtimer(move |_| {
            if let Some(dev) = weak.upgrade() {
                netif_wake_queue(&dev);
            }
            HrtimerRestart::NoRestart
        }));
        Ok((raw, dev))
    }

    /// A packet arrives. `EINVAL` if it is of no version of IP.
    pub fn receive(dev: &Arc<NetDevice>, packet: &[u8]) -> Result<()> {
        let protocol = match packet.first().map(|b| b >> 4) {
            Some(4) => ETH_P_IP,
            Some(6) => ETH_P_IPV6,
            _ => return Err(Errno::EINVAL),
        };
        let _cpu = dev.reg.kernel.enter();
        let (linear, paged) = packet.split_at(packet.len().min(GOOD_LINEAR));
        // As much room behind as in Linux: small segments that follow may be copied there.
        let tailroom = head_size(linear.len()) - SHARED_INFO - NET_SKB_PAD - linear.len();
        let mut skb = Skb::alloc(NET_SKB_PAD + linear.len() + tailroom);
        skb.reserve(skb.tailroom() - linear.len() - tailroom);
        skb.put(linear.len()).copy_from_slice(linear);
        skb.add_frag(Frag::copy_of(paged));
        skb.truesize = truesize(linear.len(), paged.len());
        skb.dev = Some(dev.clone());
        skb.reset_mac_header();
        skb.reset_network_header();
        skb.protocol = protocol;
        let _ = netif_rx(skb);
        Ok(())
    }

    /// From now on `rate` bytes a second, and `burst` at once; `None`: as fast as can be.
    pub fn shape(&self, limits: Option<(u64, u64)>) {
        let now = self.arch.ktime_get();
        self.tbf.set(limits, now);
        if let Some(watchdog) = self.watchdog.get() {
            watchdog.start(now);
        }
    }

    /// The oldest packet sent and not yet taken.
    pub fn take(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
