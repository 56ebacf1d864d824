//! What a network device is, and what its driver provides.
//!
//! Interface: [`NetDevice`], [`NetDeviceOps`], [`NetDeviceSpec`], [`Iff`], [`Features`], [`NetdevTx`].
//! Linux counterpart: `include/linux/netdevice.h`.
//! Locks and context: what changes is atomic, or under the transmit lock.

use crate::core::dev::softnet::NapiStruct;
use crate::core::net_namespace::{Net, Registries};
use crate::core::skb_queue::SkbQueue;
use crate::core::skbuff::Skb;
use kernel::{PerCpu, Rcu, SpinLock, this_cpu_add};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use uapi::Result;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_IPV6: u16 = 0x86dd;
/// Every protocol, for taps.
pub const ETH_P_ALL: u16 = 0x0003;

/// `txqueuelen`: packets that wait for a driver with a full ring.
pub const DEFAULT_TX_QUEUE_LEN: u32 = 1000;

bitflags::bitflags! {
    /// `IFF_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Iff: u32 {
        const UP = 1;
        const BROADCAST = 2;
        const LOOPBACK = 8;
        const POINTOPOINT = 0x10;
        const RUNNING = 0x40;
        const NOARP = 0x80;
        const PROMISC = 0x100;
        const ALLMULTI = 0x200;
        const MULTICAST = 0x1000;
    }

    /// What the device does for the stack (`NETIF_F_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Features: u32 {
        /// Sums and stores transport checksums of any protocol.
        const HW_CSUM = 1 << 0;
        /// Takes packets with fragments.
        const SG = 1 << 1;
        /// Cuts TCP over IPv4.
        const TSO = 1 << 2;
        /// Cuts TCP over IPv6.
        const TSO6 = 1 << 3;
        /// Cuts UDP into datagrams.
        const GSO_UDP_L4 = 1 << 4;
        /// Has verified checksums on receive.
        const RXCSUM = 1 << 5;
        const GRO = 1 << 6;
        /// Packets never leave this machine: no checksum is needed.
        const LOOPBACK = 1 << 7;
        /// Keeps CWR in all segments that it cuts (RFC 9768): the flag is part of a counter there.
        const GSO_ACCECN = 1 << 8;
    }
}

/// What a driver answers to a packet (`netdev_tx_t`).
pub enum NetdevTx {
    Ok,
    /// The ring is full: the packet comes back, and the queue stays stopped until `netif_wake_queue`.
    Busy(Box<Skb>),
}

/// A driver (`struct net_device_ops`).
///
/// Packets and bytes, both ways, are counted by the stack; a driver counts only its own errors and drops.
pub trait NetDeviceOps: Send + Sync + 'static {
    /// Called by `register_netdevice` before the device is visible.
    fn ndo_init(&self, _dev: &Arc<NetDevice>) -> Result<()> {
        Ok(())
    }
    /// The device is brought up.
    fn ndo_open(&self, _dev: &Arc<NetDevice>) -> Result<()> {
        Ok(())
    }
    /// The device is taken down.
    fn ndo_stop(&self, _dev: &Arc<NetDevice>) {}
    /// Sends one packet, link-layer header included. Softirqs are off; calls do not overlap unless `lltx`.
    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx;
    /// The last packet of a batch has been given (`xmit_more` has ended): a driver that collects packets sends them now.
    fn ndo_xmit_flush(&self, _dev: &Arc<NetDevice>) {}
    /// Does its own locking (`NETIF_F_LLTX`): loopback, veth.
    fn lltx(&self) -> bool {
        false
    }
    fn ndo_uninit(&self, _dev: &Arc<NetDevice>) {}
}

/// What each packet counts (`pcpu_lstats`).
#[derive(Default)]
struct PcpuStats {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
}

/// Interface counters (`rtnl_link_stats64`).
#[derive(Default)]
pub struct DevStats {
    pcpu: PerCpu<PcpuStats>,
    pub rx_errors: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub tx_errors: AtomicU64,
    pub tx_dropped: AtomicU64,
}

impl DevStats {
    /// A packet came in; `len` includes the link-layer header.
    #[inline]
    pub(crate) fn count_rx(&self, len: usize) {
        let s = self.pcpu.this();
        this_cpu_add(&s.rx_packets, 1);
        this_cpu_add(&s.rx_bytes, len as u64);
    }

    #[inline]
    pub(crate) fn count_tx(&self, len: usize) {
        let s = self.pcpu.this();
        this_cpu_add(&s.tx_packets, 1);
        this_cpu_add(&s.tx_bytes, len as u64);
    }

    fn sum(&self, which: fn(&PcpuStats) -> &AtomicU64) -> u64 {
        self.pcpu.iter().fold(0, |sum, s| sum.wrapping_add(which(s).load(Relaxed)))
    }

    pub fn rx_packets(&self) -> u64 {
        self.sum(|s| &s.rx_packets)
    }

    pub fn rx_bytes(&self) -> u64 {
        self.sum(|s| &s.rx_bytes)
    }

    pub fn tx_packets(&self) -> u64 {
        self.sum(|s| &s.tx_packets)
    }

    pub fn tx_bytes(&self) -> u64 {
        self.sum(|s| &s.tx_bytes)
    }
}

/// A network device (`struct net_device`).
pub struct NetDevice {
    pub name: String,
    pub ifindex: u32,
    net: Weak<Net>,
    pub reg: Arc<Registries>,
    pub addr: [u8; 6],
    pub broadcast: [u8; 6],
    /// Bytes of link-layer header (14 for Ethernet, 0 for a bare IP device).
    pub hard_header_len: usize,
    features: AtomicU32,
    pub ops: Box<dyn NetDeviceOps>,
    pub stats: DevStats,
    /// Packets the transmit queue holds (`txqueuelen`).
    pub tx_queue_len: AtomicU32,
    pub(super) max_mtu: u32,
    pub(super) flags: AtomicU32,
    pub(super) mtu: AtomicU32,
    pub(super) registered: AtomicBool,
    /// `__LINK_STATE_START`: `ndo_open` has been called, `ndo_stop` not yet.
    pub(super) started: AtomicBool,
    /// `__LINK_STATE_NOCARRIER`.
    pub(super) no_carrier: AtomicBool,
    /// `__QUEUE_STATE_DRV_XOFF`.
    pub(super) stopped: AtomicBool,
    /// How often the queue was woken: tells a driver that was full from one that has had room since.
    pub(super) wakes: AtomicU32,
    /// `__QDISC_STATE_SCHED`: on some CPU's output queue.
    pub(super) tx_scheduled: AtomicBool,
    /// The transmit lock and the packets that wait for room (a `pfifo`).
    pub(crate) tx: SpinLock<TxQueue>,
    /// IPv4's and IPv6's part of the device (`ip_ptr`, `ip6_ptr`).
    pub ip_ptr: OnceLock<Arc<dyn Any + Send + Sync>>,
    pub ip6_ptr: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// Nanoseconds that packets may wait in GRO for others after a poll, and that the interrupt is left off; 0: not at all.
    pub gro_flush_timeout: AtomicU64,
    /// Empty polls before the interrupt is switched on again, `gro_flush_timeout` apart; 0: at once.
    pub napi_defer_hard_irqs: AtomicU32,
    /// The queues that have been added (`napi_list`).
    pub(super) napi_list: SpinLock<Vec<Weak<NapiStruct>>>,
    pub(super) me: Weak<NetDevice>,
}

/// What waits for a device's transmit lock or ring.
#[derive(Default)]
pub(crate) struct TxQueue {
    pub(crate) list: SkbQueue,
    /// A CPU is giving packets to the driver (`qdisc_run_begin`); the others only enqueue.
    pub(crate) running: bool,
}

/// A device to be registered.
pub struct NetDeviceSpec {
    /// `%d` is replaced by the first free number.
    pub name: String,
    pub addr: [u8; 6],
    pub mtu: u32,
    /// With `UP`, `register_netdevice` also opens it.
    pub flags: Iff,
    pub hard_header_len: usize,
    pub features: Features,
    pub ops: Box<dyn NetDeviceOps>,
}

impl NetDevice {
    pub(super) fn new(net: &Arc<Net>, name: String, ifindex: u32, spec: NetDeviceSpec) -> Arc<NetDevice> {
        Arc::new_cyclic(|me| NetDevice {
            name,
            ifindex,
            net: net.weak(),
            reg: net.reg.clone(),
            addr: spec.addr,
            broadcast: if spec.flags.contains(Iff::LOOPBACK) { [0; 6] } else { [0xff; 6] },
            hard_header_len: spec.hard_header_len,
            features: AtomicU32::new(spec.features.bits()),
            ops: spec.ops,
            stats: DevStats::default(),
            tx_queue_len: AtomicU32::new(DEFAULT_TX_QUEUE_LEN),
            max_mtu: spec.mtu.max(65535),
            flags: AtomicU32::new((spec.flags - Iff::UP - Iff::RUNNING).bits()),
            mtu: AtomicU32::new(spec.mtu),
            registered: AtomicBool::new(false),
            started: AtomicBool::new(false),
            no_carrier: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wakes: AtomicU32::new(0),
            tx_scheduled: AtomicBool::new(false),
            tx: SpinLock::default(),
            ip_ptr: OnceLock::new(),
            ip6_ptr: OnceLock::new(),
            gro_flush_timeout: AtomicU64::new(0),
            napi_defer_hard_irqs: AtomicU32::new(0),
            napi_list: SpinLock::default(),
            me: me.clone(),
        })
    }

    /// The device's queues (`for_each_napi`), for whoever reads their statistics.
    pub fn napis(&self) -> Vec<Arc<NapiStruct>> {
        self.napi_list.lock_bh().iter().filter_map(Weak::upgrade).collect()
    }

    pub fn hold(&self) -> Arc<NetDevice> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("a device in use is referenced"))
    }

    pub fn weak(&self) -> Weak<NetDevice> {
        self.me.clone()
    }

    /// `dev_net`; `None` when the namespace is being torn down.
    pub fn net(&self) -> Option<Arc<Net>> {
        self.net.upgrade()
    }

    #[inline]
    pub fn features(&self) -> Features {
        Features::from_bits_truncate(self.features.load(Relaxed))
    }

    /// Leaves more or less of the work to the device from now on (`ethtool -K`). What it could not do at first it cannot do later:
    /// the caller knows.
    pub fn set_features(&self, f: Features) {
        self.features.store(f.bits(), Relaxed);
    }

    pub fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    /// The flags as `SIOCGIFFLAGS` answers them: `RUNNING` is up with a carrier.
    pub fn flags(&self) -> Iff {
        let f = Iff::from_bits_truncate(self.flags.load(Relaxed));
        if f.contains(Iff::UP) && self.carrier_ok() { f | Iff::RUNNING } else { f }
    }

    #[inline]
    pub fn is_up(&self) -> bool {
        self.flags.load(Relaxed) & Iff::UP.bits() != 0
    }

    pub fn is_loopback(&self) -> bool {
        self.flags().contains(Iff::LOOPBACK)
    }

    /// `netif_carrier_ok`.
    pub fn carrier_ok(&self) -> bool {
        !self.no_carrier.load(Relaxed)
    }

    /// Whether it is (still) in its namespace's table.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Acquire)
    }
}

/// The devices of a namespace, in the order of their index.
#[derive(Default)]
pub struct DeviceTable {
    pub(super) list: Rcu<Vec<Arc<NetDevice>>>,
    pub(super) lock: SpinLock<()>,
    pub(super) next_index: AtomicU32,
}
