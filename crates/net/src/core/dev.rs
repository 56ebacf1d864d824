//! Network devices and the two softirqs that move packets: registration, `dev_queue_xmit` down, NAPI and `netif_rx` up.
//!
//! Interface: [`NetDevice`], [`NetDeviceOps`], [`NapiStruct`]; `register_netdevice`, `netif_rx`, `netif_receive_skb`,
//! `dev_queue_xmit`, `napi_schedule`, `dev_add_pack`.
//! Linux counterpart: `include/linux/netdevice.h`, `net/core/dev.c`.
//! Locks and context: transmit in process or softirq context; receive in softirq context; registration in process context.

use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::Skb;
use kernel::{Rcu, SpinLock};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use uapi::{Errno, Result};

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_IPV6: u16 = 0x86dd;
/// Every protocol, for taps.
pub const ETH_P_ALL: u16 = 0x0003;

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
    }
}

/// What a driver answers to a packet (`netdev_tx_t`).
pub enum NetdevTx {
    Ok,
    /// The ring is full: the packet comes back, and the queue stays stopped until `netif_wake_queue`.
    Busy(Box<Skb>),
}

/// A driver (`struct net_device_ops`).
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

/// Interface counters (`rtnl_link_stats64`).
#[derive(Default)]
pub struct DevStats {
    pub rx_packets: AtomicU64,
    pub rx_bytes: AtomicU64,
    pub rx_errors: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_errors: AtomicU64,
    pub tx_dropped: AtomicU64,
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
    pub features: Features,
    pub ops: Box<dyn NetDeviceOps>,
    pub stats: DevStats,
    flags: AtomicU32,
    mtu: AtomicU32,
    registered: AtomicBool,
    /// `__QUEUE_STATE_DRV_XOFF`.
    stopped: AtomicBool,
    /// The transmit lock and the packets that wait for room (a `pfifo`).
    pub(crate) tx: SpinLock<TxQueue>,
    /// IPv4's and IPv6's part of the device (`ip_ptr`, `ip6_ptr`).
    pub ip_ptr: OnceLock<Arc<dyn Any + Send + Sync>>,
    pub ip6_ptr: OnceLock<Arc<dyn Any + Send + Sync>>,
    me: Weak<NetDevice>,
}

/// What waits for a device's transmit lock or ring.
#[derive(Default)]
pub(crate) struct TxQueue {
    pub(crate) list: crate::core::skbuff::SkbQueue,
}

/// A device to be registered.
pub struct NetDeviceSpec {
    /// `%d` is replaced by the first free number.
    pub name: String,
    pub addr: [u8; 6],
    pub mtu: u32,
    pub flags: Iff,
    pub hard_header_len: usize,
    pub features: Features,
    pub ops: Box<dyn NetDeviceOps>,
}

impl NetDevice {
    pub fn hold(&self) -> Arc<NetDevice> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("a device in use is referenced"))
    }

    /// `dev_net`; `None` when the namespace is being torn down.
    pub fn net(&self) -> Option<Arc<Net>> {
        self.net.upgrade()
    }

    pub fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    pub fn flags(&self) -> Iff {
        Iff::from_bits_truncate(self.flags.load(Relaxed))
    }

    pub fn is_up(&self) -> bool {
        self.flags().contains(Iff::UP)
    }

    pub fn is_loopback(&self) -> bool {
        self.flags().contains(Iff::LOOPBACK)
    }
}

/// The devices of a namespace.
#[derive(Default)]
pub struct DeviceTable {
    list: Rcu<Vec<Arc<NetDevice>>>,
    lock: SpinLock<()>,
    next_index: AtomicU32,
}

/// Who takes packets of an EtherType (`struct packet_type`). `data` is at the network header.
pub struct PacketType {
    pub kind: u16,
    pub func: Box<dyn Fn(&Arc<Net>, Box<Skb>) + Send + Sync>,
}

/// A tap: sees every frame, both ways, without owning it (`ptype_all`, `dev_queue_xmit_nit`).
pub struct Tap {
    /// Only this device; 0: all of all namespaces.
    pub ifindex: u32,
    pub func: Box<dyn Fn(&Net, &NetDevice, &Skb) + Send + Sync>,
}

/// `ptype_base` and `ptype_all`.
#[derive(Default)]
pub struct PacketTypes {
    base: Rcu<Vec<Arc<PacketType>>>,
    taps: Rcu<Vec<Arc<Tap>>>,
    lock: SpinLock<()>,
    nr_taps: AtomicUsize,
}

/// What a NAPI poll does: takes up to `budget` packets from the device and hands them to `napi_gro_receive`; answers
/// how many. Fewer than the budget means the ring is empty, and the poll has called `napi_complete` (which re-enables
/// the device's interrupt).
pub type NapiPoll = Box<dyn Fn(&Arc<NapiStruct>, usize) -> usize + Send + Sync>;

/// A device queue being polled (`struct napi_struct`).
pub struct NapiStruct {
    pub dev: Arc<NetDevice>,
    pub weight: usize,
    pub poll: NapiPoll,
    /// `NAPI_STATE_SCHED`.
    pub(crate) scheduled: AtomicBool,
}

/// A CPU's receive side (`struct softnet_data`).
#[derive(Default)]
pub struct SoftnetData {
    pub(crate) inner: SpinLock<SoftnetInner>,
    pub processed: AtomicU64,
    pub dropped: AtomicU64,
    pub time_squeeze: AtomicU64,
}

#[derive(Default)]
pub(crate) struct SoftnetInner {
    pub(crate) poll_list: std::collections::VecDeque<Arc<NapiStruct>>,
    pub(crate) input_pkt_queue: crate::core::skbuff::SkbQueue,
}

/// What happens to a device, for whoever keeps state about it (`NETDEV_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetdevEvent {
    Register,
    Up,
    Down,
    ChangeMtu,
    Unregister,
}

/// `register_netdevice`: gives it an index, initialises it, makes it visible; `EEXIST` for a name in use.
pub fn register_netdevice(net: &Arc<Net>, spec: NetDeviceSpec) -> Result<Arc<NetDevice>> {
    let _ = (net, spec);
    todo!()
}

/// `unregister_netdevice`: takes it down, tells everybody, makes it invisible.
pub fn unregister_netdevice(dev: &Arc<NetDevice>) {
    let _ = dev;
    todo!()
}

/// `dev_open`: `IFF_UP`.
pub fn dev_open(dev: &Arc<NetDevice>) -> Result<()> {
    let _ = dev;
    todo!()
}

/// `dev_close`.
pub fn dev_close(dev: &Arc<NetDevice>) {
    let _ = dev;
    todo!()
}

/// `dev_set_mtu`; `EINVAL` outside 68..=65535.
pub fn dev_set_mtu(dev: &Arc<NetDevice>, mtu: u32) -> Result<()> {
    let _ = (dev, mtu);
    todo!()
}

/// `dev_get_by_index`.
pub fn dev_get_by_index(net: &Net, ifindex: u32) -> Option<Arc<NetDevice>> {
    let _ = (net, ifindex);
    todo!()
}

/// `__dev_get_by_name`.
pub fn dev_get_by_name(net: &Net, name: &str) -> Option<Arc<NetDevice>> {
    let _ = (net, name);
    todo!()
}

/// `for_each_netdev`.
pub fn for_each_netdev(net: &Net) -> Vec<Arc<NetDevice>> {
    let _ = net;
    todo!()
}

/// `register_netdevice_notifier`: `f` is called for each event of every device.
pub fn register_netdevice_notifier(reg: &Registries, f: fn(&Arc<NetDevice>, NetdevEvent)) {
    let _ = (reg, f);
    todo!()
}

/// `dev_add_pack`.
pub fn dev_add_pack(reg: &Registries, pt: PacketType) -> Arc<PacketType> {
    let _ = (reg, pt);
    todo!()
}

/// `dev_remove_pack`.
pub fn dev_remove_pack(reg: &Registries, pt: &Arc<PacketType>) {
    let _ = (reg, pt);
    todo!()
}

/// Adds a tap (`dev_add_pack` with `ETH_P_ALL`).
pub fn dev_add_tap(reg: &Registries, tap: Tap) -> Arc<Tap> {
    let _ = (reg, tap);
    todo!()
}

pub fn dev_remove_tap(reg: &Registries, tap: &Arc<Tap>) {
    let _ = (reg, tap);
    todo!()
}

/// `dev_queue_xmit`: taps, checksum and segmentation where the device can't, its queue, its driver. `skb.dev` is set and
/// the link-layer header is in place. `ENETDOWN`, `ENOBUFS` (queue full).
pub fn dev_queue_xmit(skb: Box<Skb>) -> Result<()> {
    let _ = skb;
    todo!()
}

/// `netif_wake_queue`: the driver has room again.
pub fn netif_wake_queue(dev: &Arc<NetDevice>) {
    let _ = dev;
    todo!()
}

/// `netif_rx`: puts a packet on this CPU's input queue (bounded by `netdev_max_backlog`) and raises `NET_RX_SOFTIRQ`.
/// `skb.dev`, `protocol` and `pkt_type` are set (`eth_type_trans`), `data` is at the network header.
pub fn netif_rx(skb: Box<Skb>) -> Result<()> {
    let _ = skb;
    todo!()
}

/// `netif_receive_skb`: taps, then the packet type's handler. Softirq context.
pub fn netif_receive_skb(skb: Box<Skb>) {
    let _ = skb;
    todo!()
}

/// `netif_napi_add`.
pub fn netif_napi_add(dev: &Arc<NetDevice>, weight: usize, poll: NapiPoll) -> Arc<NapiStruct> {
    let _ = (dev, weight, poll);
    todo!()
}

/// `napi_schedule`, by a top half that has masked its interrupt: polls soon, on this CPU. `false` if already scheduled.
pub fn napi_schedule(n: &Arc<NapiStruct>) -> bool {
    let _ = n;
    todo!()
}

/// `napi_complete_done`: the ring is empty; flushes GRO. `false` if it must be polled again.
pub fn napi_complete_done(n: &Arc<NapiStruct>, work: usize) -> bool {
    let _ = (n, work);
    todo!()
}

/// `napi_gro_receive`: merges the packet with others of its flow, or passes it on. In a NAPI poll.
pub fn napi_gro_receive(n: &Arc<NapiStruct>, skb: Box<Skb>) {
    let _ = (n, skb);
    todo!()
}

/// `net_dev_init`: opens the two softirqs.
pub fn net_dev_init(reg: &Arc<Registries>) {
    let _ = (reg, Errno::EINVAL);
    todo!()
}
