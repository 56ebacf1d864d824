//! Neighbours: next-hop addresses resolved to link-layer addresses.
//!
//! Interface: [`NeighTables`] (ARP's and ND's table of a namespace), [`NeighOps`] (how a family asks), [`neigh_output`],
//! [`neigh_update`], [`neigh_event_ns`], [`neigh_confirm`], [`neigh_lookup`], [`neigh_init`].
//! Linux counterpart: `net/core/neighbour.c`, `include/net/neighbour.h`.
//! Locks and context: look-ups anywhere, without a lock; each entry has a lock of its own, held for moments and never while
//! something is sent or asked. Timers run in softirq context.
//!
//! ```text
//!            packet            answer             30 s           packet         5 s             answer
//!   NONE ─────────▶ INCOMPLETE ─────▶ REACHABLE ─────▶ STALE ─────────▶ DELAY ─────▶ PROBE ─────────────▶ REACHABLE
//!                       │ 3 questions     ▲                               │ confirmed  │ 3 questions
//!                       ▼                 └───────────────────────────────┘            ▼
//!                     FAILED                                                         FAILED
//! ```
//! (RFC 4861, 7.3.2; IPv4 does the same. A failed entry is asked for anew by the next packet.)

use crate::core::dev::{
    ETH_P_IP, ETH_P_IPV6, Iff, NetDevice, NetdevEvent, dev_queue_xmit, register_netdevice_notifier,
};
use crate::core::dst::Dst;
use crate::core::eth::{ETH_HLEN, eth_header};
use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::{Skb, SkbQueue};
use crate::hdr::{IpHdr, Ipv6Hdr};
use kernel::{HZ, RcuHashTable, SpinLock, Timer, tp};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use uapi::{Errno, Result};

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
    fn in_timer(self) -> bool {
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

/// `neigh_table_init`: once a family, at start-up.
pub fn neigh_register(reg: &Registries, ops: &'static NeighOps) {
    let first = reg.neigh_ops[(ops.family == uapi::sockaddr::AF_INET6) as usize].set(ops).is_ok();
    debug_assert!(first, "neighbour operations of family {} registered twice", ops.family);
}

/// `neigh_init`: entries of a device go when it goes down.
pub fn neigh_init(reg: &Registries) {
    register_netdevice_notifier(reg, |dev, event| {
        if matches!(event, NetdevEvent::Down | NetdevEvent::Unregister)
            && let Some(net) = dev.net()
        {
            neigh_ifdown(&net, dev);
        }
    });
}

/// ARP's and ND's table of a namespace.
#[derive(Default)]
pub struct NeighTables {
    v4: NeighTable,
    v6: NeighTable,
}

/// Counters of a table (`struct neigh_statistics`).
#[derive(Default)]
pub struct NeighStats {
    pub allocs: AtomicU64,
    pub destroys: AtomicU64,
    /// Entries that could not be made because the table was full (`gc_thresh3`).
    pub table_fulls: AtomicU64,
    /// Packets dropped from queues of unresolved entries (`unres_qlen_bytes`).
    pub unres_discards: AtomicU64,
    /// Resolutions that failed.
    pub res_failed: AtomicU64,
    pub forced_gc_runs: AtomicU64,
    pub periodic_gc_runs: AtomicU64,
}

/// A family's table (`struct neigh_table`).
pub struct NeighTable {
    hash: RcuHashTable<Neighbour>,
    /// Slots taken; counted before an entry is made, so that the limit holds.
    entries: AtomicUsize,
    last_flush: AtomicU64,
    gc_timer: OnceLock<Timer>,
    pub stats: NeighStats,
}

impl Default for NeighTable {
    fn default() -> Self {
        NeighTable {
            hash: RcuHashTable::new(64),
            entries: AtomicUsize::new(0),
            last_flush: AtomicU64::new(0),
            gc_timer: OnceLock::new(),
            stats: NeighStats::default(),
        }
    }
}

impl NeighTables {
    pub fn table(&self, v6: bool) -> &NeighTable {
        if v6 { &self.v6 } else { &self.v4 }
    }
}

/// Marks a link-layer address as set, in the word that holds it.
const HA_VALID: u64 = 1 << 63;

/// One neighbour (`struct neighbour`).
pub struct Neighbour {
    pub dev: Arc<NetDevice>,
    pub hop: IpAddr,
    net: Weak<Net>,
    hash: u32,
    /// [`Nud`]; changes under the lock, is read anywhere.
    state: AtomicU8,
    /// Link-layer address and [`HA_VALID`]: read by senders without the lock.
    ha: AtomicU64,
    router: AtomicBool,
    /// A packet has gone out since the collector last looked.
    accessed: AtomicBool,
    /// Jiffies: last known reachable; last use that was not the fast path; last change.
    confirmed: AtomicU64,
    used: AtomicU64,
    updated: AtomicU64,
    inner: SpinLock<Inner>,
    timer: OnceLock<Timer>,
    me: Weak<Neighbour>,
}

#[derive(Default)]
struct Inner {
    probes: u32,
    /// How long it is taken to be reachable without confirmation, jiffies.
    reachable_time: u64,
    dead: bool,
    /// Packets that wait for the resolution (`arp_queue`), and their truesize.
    queue: SkbQueue,
    queue_bytes: usize,
}

/// What is to be done when the lock is released.
#[derive(Default)]
struct Todo {
    /// Packets whose resolution has failed.
    failed: SkbQueue,
    /// Packets that can go.
    ready: SkbQueue,
    /// Ask, for a packet from this address, this neighbour only.
    probe: Option<(Option<IpAddr>, Option<[u8; 6]>)>,
}

impl Neighbour {
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

    fn set_state(&self, s: Nud) {
        self.state.store(s as u8, Release);
    }

    fn set_lladdr(&self, a: [u8; 6]) {
        let [a0, a1, a2, a3, a4, a5] = a;
        self.ha.store(u64::from_be_bytes([0, 0, a0, a1, a2, a3, a4, a5]) | HA_VALID, Release);
    }

    fn is_v6(&self) -> bool {
        self.hop.is_ipv6()
    }

    fn timer(&self) -> &Timer {
        self.timer.get_or_init(|| {
            let me = self.me.clone();
            self.dev.reg.kernel.timer(move || {
                if let Some(n) = me.upgrade() {
                    neigh_timer_handler(&n);
                }
            })
        })
    }
}

fn ops_of(net: &Net, v6: bool) -> Option<&'static NeighOps> {
    net.reg.neigh_ops[v6 as usize].get().copied()
}

fn jiffies(net: &Net) -> u64 {
    net.kernel().jiffies()
}

fn ms(ctl: &crate::core::sysctl::Ctl) -> u64 {
    ctl.get().max(0) as u64 * HZ / 1000
}

fn secs(ctl: &crate::core::sysctl::Ctl) -> u64 {
    ctl.get().max(0) as u64 * HZ
}

fn hash_of(net: &Net, ifindex: u32, hop: IpAddr) -> u32 {
    net.hash(&(ifindex, hop))
}

// --- The way of a packet ---

/// `neigh_output`: sends `skb` (at its network header, `skb.dev` set) to next hop `hop` over `dst.dev`: prepends the link-layer
/// header if the neighbour is known, else queues it (bounded) and starts the resolution. `ENOBUFS` when the table is full.
pub fn neigh_output(net: &Arc<Net>, dst: &Dst, hop: IpAddr, mut skb: Box<Skb>) -> Result<()> {
    tp!(neigh_output, skb);
    let dev = &dst.dev;
    if skb.dev.as_ref().is_none_or(|d| !Arc::ptr_eq(d, dev)) {
        skb.dev = Some(dev.clone());
    }
    if dev.hard_header_len == 0 {
        return dev_queue_xmit(skb);
    }
    if dev.flags().intersects(Iff::LOOPBACK | Iff::NOARP) {
        return send_to(dev, dev.addr, hop, skb);
    }
    if let Some(n) = neigh_lookup(net, dev.ifindex, hop) {
        return output_through(net, &n, skb);
    }
    if let Some(ha) = ops_of(net, hop.is_ipv6()).and_then(|o| (o.direct)(net, dev, hop)) {
        return send_to(dev, ha, hop, skb);
    }
    let n = neigh_create(net, dev, hop)?;
    neigh_resolve_output(net, &n, skb)
}

/// Fast while the neighbour is known and not in doubt.
#[inline]
fn output_through(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Result<()> {
    if !n.accessed.load(Relaxed) {
        n.accessed.store(true, Relaxed);
    }
    match n.lladdr() {
        Some(ha) if n.state().is_connected() => send_to(&n.dev, ha, n.hop, skb),
        _ => neigh_resolve_output(net, n, skb),
    }
}

fn send_to(dev: &Arc<NetDevice>, ha: [u8; 6], hop: IpAddr, mut skb: Box<Skb>) -> Result<()> {
    if dev.hard_header_len >= ETH_HLEN {
        eth_header(&mut skb, dev, if hop.is_ipv6() { ETH_P_IPV6 } else { ETH_P_IP }, ha, None);
    }
    dev_queue_xmit(skb)
}

/// `neigh_resolve_output`: sends if the address may be used, else queues.
fn neigh_resolve_output(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Result<()> {
    match neigh_event_send(net, n, skb) {
        None => Ok(()),
        Some(skb) => match n.lladdr() {
            Some(ha) => send_to(&n.dev, ha, n.hop, skb),
            None => Err(Errno::EHOSTUNREACH),
        },
    }
}

/// `neigh_event_send`: somebody wants to send. The packet if it may go; else it waits in the entry's queue.
fn neigh_event_send(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Option<Box<Skb>> {
    let mut todo = Todo::default();
    let mut back = None;
    let mut dropped = SkbQueue::default();
    {
        let mut inner = n.inner.lock_bh();
        let now = jiffies(net);
        n.used.store(now, Relaxed);
        match n.state() {
            s if s.is_connected() || matches!(s, Nud::Delay | Nud::Probe) => back = Some(skb),
            _ if inner.dead => dropped.push_back(skb),
            Nud::Stale => {
                n.set_state(Nud::Delay);
                n.updated.store(now, Relaxed);
                n.timer().mod_timer(now + secs(&net.sysctl.neigh_delay_first_probe_time));
                back = Some(skb);
            }
            Nud::Incomplete => queue_unresolved(net, &mut inner, skb, &mut dropped),
            _ => start_resolution(net, n, &mut inner, now, skb, &mut todo, &mut dropped),
        }
    }
    let discards = &net.neigh.table(n.is_v6()).stats.unres_discards;
    discards.fetch_add(dropped.len() as u64, Relaxed);
    finish(net, n, todo);
    back
}

#[allow(clippy::too_many_arguments)]
fn start_resolution(
    net: &Arc<Net>,
    n: &Neighbour,
    inner: &mut Inner,
    now: u64,
    skb: Box<Skb>,
    todo: &mut Todo,
    dropped: &mut SkbQueue,
) {
    n.updated.store(now, Relaxed);
    if net.sysctl.neigh_mcast_solicit.get() == 0 {
        n.set_state(Nud::Failed);
        todo.failed.push_back(skb);
        return;
    }
    n.set_state(Nud::Incomplete);
    inner.probes = 1;
    todo.probe = Some((saddr_of(&skb), None));
    queue_unresolved(net, inner, skb, dropped);
    n.timer().mod_timer(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1));
}

/// Queues a packet; the oldest make room (`unres_qlen_bytes`).
fn queue_unresolved(net: &Net, inner: &mut Inner, skb: Box<Skb>, dropped: &mut SkbQueue) {
    let limit = net.sysctl.neigh_unres_qlen_bytes.get() as usize;
    while inner.queue_bytes + skb.truesize as usize > limit {
        let Some(old) = inner.queue.pop_front() else { break };
        inner.queue_bytes = inner.queue_bytes.saturating_sub(old.truesize as usize);
        dropped.push_back(old);
    }
    if skb.truesize as usize > limit {
        dropped.push_back(skb);
        return;
    }
    inner.queue_bytes += skb.truesize as usize;
    inner.queue.push_back(skb);
}

/// The source address of a packet at its network header.
fn saddr_of(skb: &Skb) -> Option<IpAddr> {
    let b = skb.data();
    match b.first()? >> 4 {
        4 => Some(IpHdr::read(b)?.src().into()),
        6 => Some(Ipv6Hdr::read(b)?.src().into()),
        _ => None,
    }
}

/// Does, without the lock, what was decided under it.
fn finish(net: &Arc<Net>, n: &Arc<Neighbour>, mut todo: Todo) {
    let ops = ops_of(net, n.is_v6());
    if let (Some((saddr, to)), Some(ops)) = (todo.probe, ops) {
        (ops.solicit)(net, n, saddr, to);
    }
    while let Some(skb) = todo.ready.pop_front() {
        let _ = output_through(net, n, skb);
    }
    while let Some(skb) = todo.failed.pop_front() {
        if let Some(ops) = ops {
            (ops.error_report)(net, skb);
        }
    }
}

// --- Time ---

fn neigh_timer_handler(n: &Arc<Neighbour>) {
    let Some(net) = n.net.upgrade() else { return };
    let mut todo = Todo::default();
    {
        let mut inner = n.inner.lock_bh();
        if inner.dead || !n.state().in_timer() {
            return;
        }
        if let Some(next) = neigh_tick(&net, n, &mut inner, &mut todo) {
            n.timer().mod_timer(next);
        }
    }
    finish(&net, n, todo);
}

/// What time does to an entry; when to look again.
fn neigh_tick(net: &Net, n: &Neighbour, inner: &mut Inner, todo: &mut Todo) -> Option<u64> {
    let now = jiffies(net);
    let delay = secs(&net.sysctl.neigh_delay_first_probe_time);
    let confirmed = n.confirmed.load(Relaxed);
    match n.state() {
        Nud::Reachable if now < confirmed + inner.reachable_time => return Some(confirmed + inner.reachable_time),
        Nud::Reachable if n.used.load(Relaxed) != 0 && now < n.used.load(Relaxed) + delay => {
            n.set_state(Nud::Delay);
            n.updated.store(now, Relaxed);
            return Some(now + delay);
        }
        Nud::Reachable => {
            n.set_state(Nud::Stale);
            n.updated.store(now, Relaxed);
            return None;
        }
        Nud::Delay if confirmed != 0 && now <= confirmed + delay => {
            n.set_state(Nud::Reachable);
            n.updated.store(now, Relaxed);
            return Some(confirmed + inner.reachable_time);
        }
        Nud::Delay => {
            n.set_state(Nud::Probe);
            n.updated.store(now, Relaxed);
            inner.probes = 0;
        }
        _ => {}
    }
    let limit = match n.state() {
        Nud::Probe => &net.sysctl.neigh_ucast_solicit,
        _ => &net.sysctl.neigh_mcast_solicit,
    };
    if inner.probes as i64 >= limit.get() {
        neigh_fail(net, n, inner, now, todo);
        return None;
    }
    inner.probes += 1;
    let to = if n.state() == Nud::Probe { n.lladdr() } else { None };
    todo.probe = Some((inner.queue.front().and_then(saddr_of), to));
    Some(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1))
}

/// `neigh_invalidate`.
fn neigh_fail(net: &Net, n: &Neighbour, inner: &mut Inner, now: u64, todo: &mut Todo) {
    n.set_state(Nud::Failed);
    n.updated.store(now, Relaxed);
    net.neigh.table(n.is_v6()).stats.res_failed.fetch_add(1, Relaxed);
    inner.queue.splice_to(&mut todo.failed);
    inner.queue_bytes = 0;
}

/// `dst_confirm_neigh`: the transport has seen forward progress through this next hop (RFC 4861, 7.3.1).
pub fn neigh_confirm(net: &Net, ifindex: u32, hop: IpAddr) {
    if let Some(n) = neigh_lookup(net, ifindex, hop) {
        n.confirmed.store(jiffies(net), Relaxed);
    }
}

// --- Learning ---

/// `neigh_update`: what has been learnt about a neighbour. `lladdr` `None` keeps the known address. Moves the entry to `new`,
/// sends what waited for it. `EPERM` for an entry that only an administrator may change, `EINVAL` for a valid state without an
/// address.
pub fn neigh_update(
    net: &Arc<Net>,
    n: &Arc<Neighbour>,
    lladdr: Option<[u8; 6]>,
    new: Nud,
    flags: NeighUpdate,
) -> Result<()> {
    let mut todo = Todo::default();
    let result = {
        let mut inner = n.inner.lock_bh();
        update_locked(net, n, &mut inner, lladdr, new, flags, &mut todo)
    };
    finish(net, n, todo);
    result
}

#[allow(clippy::too_many_arguments)]
fn update_locked(
    net: &Net,
    n: &Neighbour,
    inner: &mut Inner,
    lladdr: Option<[u8; 6]>,
    mut new: Nud,
    flags: NeighUpdate,
    todo: &mut Todo,
) -> Result<()> {
    let old = n.state();
    if inner.dead || (matches!(old, Nud::NoArp | Nud::Permanent) && !flags.contains(NeighUpdate::ADMIN)) {
        return Err(Errno::EPERM);
    }
    let now = jiffies(net);
    if !new.is_valid() {
        n.timer().del_timer();
        n.set_state(new);
        n.updated.store(now, Relaxed);
        if new == Nud::Failed && matches!(old, Nud::Incomplete | Nud::Probe) {
            neigh_fail(net, n, inner, now, todo);
        }
        return Ok(());
    }
    let known = n.lladdr().filter(|_| old.is_valid());
    let mut ha = lladdr.or(known).ok_or(Errno::EINVAL)?;
    if new.is_connected() {
        n.confirmed.store(now, Relaxed);
    }
    if let Some(k) = known {
        if k == ha {
            // Hearing the same again is no reason to doubt it.
            if new == Nud::Stale && !flags.contains(NeighUpdate::ADMIN) {
                new = old;
            }
        } else if !flags.contains(NeighUpdate::OVERRIDE) {
            if !flags.contains(NeighUpdate::WEAK_OVERRIDE) || !old.is_connected() {
                return Ok(());
            }
            (ha, new) = (k, Nud::Stale);
        }
    }
    if flags.contains(NeighUpdate::OVERRIDE_ISROUTER) {
        n.router.store(flags.contains(NeighUpdate::ISROUTER), Relaxed);
    }
    become_valid(net, n, inner, now, ha, new);
    if !old.is_valid() {
        inner.queue.splice_to(&mut todo.ready);
        inner.queue_bytes = 0;
    }
    Ok(())
}

fn become_valid(net: &Net, n: &Neighbour, inner: &mut Inner, now: u64, ha: [u8; 6], new: Nud) {
    let old = n.state();
    if n.lladdr() != Some(ha) {
        n.set_lladdr(ha);
        n.updated.store(now, Relaxed);
        // A new address is not confirmed by what was heard of the old one.
        if !new.is_connected() {
            n.confirmed.store(now.saturating_sub(inner.reachable_time * 2), Relaxed);
        }
    }
    if new == old {
        return;
    }
    n.updated.store(now, Relaxed);
    inner.probes = 0;
    n.set_state(new);
    match new {
        Nud::Reachable => {
            inner.reachable_time = reachable_time(net);
            n.timer().mod_timer(now + inner.reachable_time);
        }
        Nud::Delay => {
            n.timer().mod_timer(now + secs(&net.sysctl.neigh_delay_first_probe_time));
        }
        Nud::Probe => {
            n.timer().mod_timer(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1));
        }
        _ => {
            n.timer().del_timer();
        }
    }
}

/// `neigh_rand_reach_time`: uniformly between half and one and a half of the base (RFC 4861, 6.3.2), jiffies.
fn reachable_time(net: &Net) -> u64 {
    let base = ms(&net.sysctl.neigh_base_reachable_time_ms);
    match base {
        0 => 0,
        b => b / 2 + net.kernel().random_u32() as u64 % b,
    }
}

/// `neigh_event_ns`: a neighbour has asked for us, and so told its own address. `None` when the table is full.
pub fn neigh_event_ns(net: &Arc<Net>, dev: &Arc<NetDevice>, lladdr: [u8; 6], saddr: IpAddr) -> Option<Arc<Neighbour>> {
    let n = neigh_create(net, dev, saddr).ok()?;
    let _ = neigh_update(net, &n, Some(lladdr), Nud::Stale, NeighUpdate::OVERRIDE);
    Some(n)
}

// --- The table ---

/// `neigh_lookup`.
pub fn neigh_lookup(net: &Net, ifindex: u32, hop: IpAddr) -> Option<Arc<Neighbour>> {
    let t = net.neigh.table(hop.is_ipv6());
    t.hash.lookup(hash_of(net, ifindex, hop), |n| n.hop == hop && n.dev.ifindex == ifindex)
}

/// `neigh_create`: the entry, made if it is not there. `ENOBUFS` when the table is full (`gc_thresh3`), `ENETDOWN` when the
/// device is down.
pub fn neigh_create(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr) -> Result<Arc<Neighbour>> {
    if let Some(n) = neigh_lookup(net, dev.ifindex, hop) {
        return Ok(n);
    }
    if !dev.is_up() {
        return Err(Errno::ENETDOWN);
    }
    let t = net.neigh.table(hop.is_ipv6());
    neigh_reserve(net, t, hop.is_ipv6())?;
    let hash = hash_of(net, dev.ifindex, hop);
    let n = Arc::new_cyclic(|me| Neighbour {
        dev: dev.clone(),
        hop,
        net: net.weak(),
        hash,
        state: AtomicU8::new(Nud::None as u8),
        ha: AtomicU64::new(0),
        router: AtomicBool::new(false),
        accessed: AtomicBool::new(false),
        confirmed: AtomicU64::new(0),
        used: AtomicU64::new(jiffies(net)),
        updated: AtomicU64::new(jiffies(net)),
        inner: SpinLock::new(Inner { reachable_time: reachable_time(net), ..Inner::default() }),
        timer: OnceLock::new(),
        me: me.clone(),
    });
    match t.hash.insert_unless(hash, n.clone(), |o| o.hop == hop && o.dev.ifindex == dev.ifindex) {
        Ok(()) => {
            t.stats.allocs.fetch_add(1, Relaxed);
            Ok(n)
        }
        Err(there) => {
            t.entries.fetch_sub(1, Relaxed);
            Ok(there)
        }
    }
}

/// Takes a place in the table, collecting if it is nearly full (`neigh_alloc`).
fn neigh_reserve(net: &Arc<Net>, t: &NeighTable, v6: bool) -> Result<()> {
    let thresh = |c: &crate::core::sysctl::Ctl| c.get().max(0) as usize;
    let s = &net.sysctl;
    let entries = t.entries.fetch_add(1, Relaxed);
    if entries >= thresh(&s.neigh_gc_thresh1) {
        arm_periodic_gc(net, t, v6);
    }
    let now = jiffies(net);
    let since = now.saturating_sub(t.last_flush.load(Relaxed));
    // A full table is searched ten times a second at most: a flood must not cost a search each packet.
    let full = entries >= thresh(&s.neigh_gc_thresh3);
    if (full && since >= HZ / 10) || (entries >= thresh(&s.neigh_gc_thresh2) && since > 5 * HZ) {
        neigh_forced_gc(t, now);
    }
    if full && t.entries.load(Relaxed) > thresh(&s.neigh_gc_thresh3) {
        t.entries.fetch_sub(1, Relaxed);
        t.stats.table_fulls.fetch_add(1, Relaxed);
        return Err(Errno::ENOBUFS);
    }
    Ok(())
}

/// `neigh_forced_gc`: drops entries that are not valid, or were not changed or used for five seconds.
fn neigh_forced_gc(t: &NeighTable, now: u64) {
    t.last_flush.store(now, Relaxed);
    t.stats.forced_gc_runs.fetch_add(1, Relaxed);
    collect(t, |n| {
        let idle = now > n.updated.load(Relaxed) + 5 * HZ && !n.accessed.swap(false, Relaxed);
        n.state() != Nud::Incomplete && (!n.state().is_valid() || idle)
    });
}

/// `neigh_periodic_work`, while there are more than `gc_thresh1` entries; then it rests.
fn arm_periodic_gc(net: &Arc<Net>, t: &NeighTable, v6: bool) {
    let weak = net.weak();
    let timer = t.gc_timer.get_or_init(|| {
        net.kernel().timer(move || {
            if let Some(net) = weak.upgrade() {
                neigh_periodic_work(&net, v6);
            }
        })
    });
    if !timer.pending() {
        timer.mod_timer_in(ms(&net.sysctl.neigh_base_reachable_time_ms) / 2);
    }
}

fn neigh_periodic_work(net: &Arc<Net>, v6: bool) {
    let t = net.neigh.table(v6);
    let (now, stale) = (jiffies(net), secs(&net.sysctl.neigh_gc_stale_time));
    t.stats.periodic_gc_runs.fetch_add(1, Relaxed);
    collect(t, |n| {
        if n.accessed.swap(false, Relaxed) {
            n.used.store(now, Relaxed);
        }
        let last = n.used.load(Relaxed).max(n.confirmed.load(Relaxed));
        !n.state().in_timer() && (n.state() == Nud::Failed || now > last + stale)
    });
    if t.entries.load(Relaxed) as i64 >= net.sysctl.neigh_gc_thresh1.get() {
        arm_periodic_gc(net, t, v6);
    }
}

/// Removes all entries for which `gone` holds; permanent ones stay.
fn collect(t: &NeighTable, gone: impl Fn(&Neighbour) -> bool) {
    let mut victims = Vec::new();
    t.hash.for_each(|n| {
        if n.state() != Nud::Permanent && gone(n) {
            victims.push(n.clone());
        }
        true
    });
    for n in victims {
        neigh_remove(t, &n);
    }
}

/// Takes an entry out of the table. What waited for it is dropped.
fn neigh_remove(t: &NeighTable, n: &Arc<Neighbour>) {
    if !t.hash.remove(n.hash, n) {
        return;
    }
    t.entries.fetch_sub(1, Relaxed);
    t.stats.destroys.fetch_add(1, Relaxed);
    let mut waiting = SkbQueue::default();
    {
        let mut inner = n.inner.lock_bh();
        inner.dead = true;
        inner.queue.splice_to(&mut waiting);
        inner.queue_bytes = 0;
        n.timer().del_timer();
        n.set_state(Nud::Failed);
    }
    t.stats.unres_discards.fetch_add(waiting.len() as u64, Relaxed);
}

/// `neigh_delete`: `ENOENT` if there is no such entry.
pub fn neigh_delete(net: &Net, ifindex: u32, hop: IpAddr) -> Result<()> {
    let n = neigh_lookup(net, ifindex, hop).ok_or(Errno::ENOENT)?;
    neigh_remove(net.neigh.table(hop.is_ipv6()), &n);
    Ok(())
}

/// `neigh_add`: an entry by hand; with [`Nud::Permanent`] it is never asked for nor collected.
pub fn neigh_add(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr, lladdr: [u8; 6], state: Nud) -> Result<()> {
    let n = neigh_create(net, dev, hop)?;
    neigh_update(net, &n, Some(lladdr), state, NeighUpdate::OVERRIDE | NeighUpdate::ADMIN)
}

/// `neigh_ifdown`: forgets everybody on a device, permanent entries too.
pub fn neigh_ifdown(net: &Net, dev: &Arc<NetDevice>) {
    for v6 in [false, true] {
        let t = net.neigh.table(v6);
        for n in neigh_dump(net, v6) {
            if Arc::ptr_eq(&n.dev, dev) {
                neigh_remove(t, &n);
            }
        }
    }
}

/// All entries of a family, in no order (`neigh_dump_table`).
pub fn neigh_dump(net: &Net, v6: bool) -> Vec<Arc<Neighbour>> {
    let mut all = Vec::new();
    net.neigh.table(v6).hash.for_each(|n| {
        all.push(n.clone());
        true
    });
    all
}
