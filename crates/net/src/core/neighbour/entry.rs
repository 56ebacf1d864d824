//! One neighbour, and what a family brings to resolve it.
//!
//! Interface: [`Neighbour`], [`Nud`], [`NeighUpdate`], [`NeighOps`].
//! Linux counterpart: `include/net/neighbour.h`.
//! Locks and context: state and link-layer address are read anywhere; they change under the entry's lock.

use crate::core::dev::NetDevice;
use crate::core::net_namespace::Net;
use crate::core::skb_queue::SkbQueue;
use crate::core::skbuff::Skb;
use crate::core::sysctl::Ctl;
use kernel::{HZ, SpinLock, Timer};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};

/// State of an entry (`NUD_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Nud {
    None = 0,
    Incomplete = 0x01,
    Reachable = 0x02,
    Stale = 0x04,
    Delay = 0x08,
    Probe = 0x10,
    Failed = 0x20,
    NoArp = 0x40,
    Permanent = 0x80,
}

impl Nud {
    fn from_u8(v: u8) -> Nud {
        use Nud::*;
        [Incomplete, Reachable, Stale, Delay, Probe, Failed, NoArp, Permanent]
            .into_iter()
            .find(|s| *s as u8 == v)
            .unwrap_or(None)
    }

    /// Known and not in doubt (`NUD_CONNECTED`).
    pub fn is_connected(self) -> bool {
        matches!(self, Nud::Permanent | Nud::NoArp | Nud::Reachable)
    }

    /// The link-layer address may be used (`NUD_VALID`).
    pub fn is_valid(self) -> bool {
        self.is_connected() || matches!(self, Nud::Probe | Nud::Stale | Nud::Delay)
    }

    /// A timer runs (`NUD_IN_TIMER`).
    pub(super) fn in_timer(self) -> bool {
        matches!(self, Nud::Incomplete | Nud::Reachable | Nud::Delay | Nud::Probe)
    }
}

bitflags::bitflags! {
    /// `NEIGH_UPDATE_F_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NeighUpdate: u32 {
        /// A known link-layer address may be replaced by another.
        const OVERRIDE = 1;
        /// Another address makes the entry stale, but does not replace the known one.
        const WEAK_OVERRIDE = 2;
        /// `ISROUTER` says whether it is one; without this flag the entry keeps what it knew.
        const OVERRIDE_ISROUTER = 4;
        const ISROUTER = 0x40;
        /// By an administrator: entries that resolution must not touch may be changed.
        const ADMIN = 0x8000;
    }
}

/// How a family asks for neighbours, registered by ARP and ND (`struct neigh_ops` with the table's `constructor`).
pub struct NeighOps {
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// The link-layer address of a next hop that needs no resolution (multicast, broadcast); `None`: to be resolved.
    pub direct: fn(net: &Arc<Net>, dev: &NetDevice, hop: IpAddr) -> Option<[u8; 6]>,
    /// Asks: multicast or broadcast, or only the known address (`unicast_to`) to see if it is still there. `saddr` is the
    /// source address of the packet that waits, if one does. Softirq or process context, no lock held.
    pub solicit: fn(net: &Arc<Net>, n: &Arc<Neighbour>, saddr: Option<IpAddr>, unicast_to: Option<[u8; 6]>),
    /// A packet (at its network header) that could not be sent: "host unreachable" to whoever sent it.
    pub error_report: fn(net: &Arc<Net>, skb: Box<Skb>),
}

/// Marks a link-layer address as set, in the word that holds it.
const HA_VALID: u64 = 1 << 63;

/// One neighbour (`struct neighbour`).
pub struct Neighbour {
    pub dev: Arc<NetDevice>,
    pub hop: IpAddr,
    pub(super) net: Weak<Net>,
    pub(super) hash: u32,
    /// [`Nud`]; changes under the lock, is read anywhere.
    state: AtomicU8,
    /// Link-layer address and [`HA_VALID`]: read by senders without the lock.
    ha: AtomicU64,
    pub(super) router: AtomicBool,
    /// A packet has gone out since the collector last looked.
    pub(super) accessed: AtomicBool,
    /// Jiffies: last known reachable; last use that was not the fast path; last change.
    pub(super) confirmed: AtomicU64,
    pub(super) used: AtomicU64,
    pub(super) updated: AtomicU64,
    pub(super) inner: SpinLock<Inner>,
    timer: OnceLock<Timer>,
    /// What its timer runs.
    on_timer: fn(&Arc<Neighbour>),
    me: Weak<Neighbour>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) probes: u32,
    /// How long it is taken to be reachable without confirmation, jiffies.
    pub(super) reachable_time: u64,
    pub(super) dead: bool,
    /// Packets that wait for the resolution (`arp_queue`), and their truesize.
    pub(super) queue: SkbQueue,
    pub(super) queue_bytes: usize,
}

/// What is to be done when the lock is released.
#[derive(Default)]
pub(super) struct Todo {
    /// Packets whose resolution has failed.
    pub(super) failed: SkbQueue,
    /// Packets that can go.
    pub(super) ready: SkbQueue,
    /// Ask, for a packet from this address, this neighbour only.
    pub(super) probe: Option<(Option<IpAddr>, Option<[u8; 6]>)>,
}

impl Neighbour {
    pub(super) fn new(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr, on_timer: fn(&Arc<Neighbour>)) -> Arc<Self> {
        let now = jiffies(net);
        Arc::new_cyclic(|me| Neighbour {
            dev: dev.clone(),
            hop,
            net: net.weak(),
            hash: hash_of(net, dev.ifindex, hop),
            state: AtomicU8::new(Nud::None as u8),
            ha: AtomicU64::new(0),
            router: AtomicBool::new(false),
            accessed: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
            used: AtomicU64::new(now),
            updated: AtomicU64::new(now),
            inner: SpinLock::new(Inner { reachable_time: reachable_time(net), ..Inner::default() }),
            timer: OnceLock::new(),
            on_timer,
            me: me.clone(),
        })
    }

    pub fn state(&self) -> Nud {
        Nud::from_u8(self.state.load(Acquire))
    }

    /// The link-layer address; whether it may be used is in the state.
    pub fn lladdr(&self) -> Option<[u8; 6]> {
        match self.ha.load(Acquire) {
            v if v & HA_VALID == 0 => None,
            v => {
                let [_, _, a @ ..] = v.to_be_bytes();
                Some(a)
            }
        }
    }

    /// Jiffies of the last change.
    pub fn updated(&self) -> u64 {
        self.updated.load(Relaxed)
    }

    /// Jiffies when it was last known to be reachable.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Relaxed)
    }

    /// Whether it says it is a router (RFC 4861, 6.3.4).
    pub fn is_router(&self) -> bool {
        self.router.load(Relaxed)
    }

    pub(super) fn set_state(&self, s: Nud) {
        self.state.store(s as u8, Release);
    }

    pub(super) fn set_lladdr(&self, a: [u8; 6]) {
        let [a0, a1, a2, a3, a4, a5] = a;
        self.ha.store(u64::from_be_bytes([0, 0, a0, a1, a2, a3, a4, a5]) | HA_VALID, Release);
    }

    pub(super) fn is_v6(&self) -> bool {
        self.hop.is_ipv6()
    }

    pub(super) fn timer(&self) -> &Timer {
        self.timer.get_or_init(|| {
            let me = self.me.clone();
            self.dev.reg.kernel.timer(move || {
                if let Some(n) = me.upgrade() {
                    (n.on_timer)(&n);
                }
            })
        })
    }
}

pub(super) fn ops_of(net: &Net, v6: bool) -> Option<&'static NeighOps> {
    net.reg.neigh_ops[v6 as usize].get().copied()
}

pub(super) fn jiffies(net: &Net) -> u64 {
    net.kernel().jiffies()
}

pub(super) fn ms(ctl: &Ctl) -> u64 {
    ctl.get().max(0) as u64 * HZ / 1000
}

pub(super) fn secs(ctl: &Ctl) -> u64 {
    ctl.get().max(0) as u64 * HZ
}

pub(super) fn hash_of(net: &Net, ifindex: u32, hop: IpAddr) -> u32 {
    net.hash(&(ifindex, hop))
}

/// `neigh_rand_reach_time`: uniformly between half and one and a half of the base (RFC 4861, 6.3.2), jiffies.
pub(super) fn reachable_time(net: &Net) -> u64 {
    let base = ms(&net.sysctl.neigh_base_reachable_time_ms);
    match base {
        0 => 0,
        b => b / 2 + net.kernel().random_u32() as u64 % b,
    }
}
