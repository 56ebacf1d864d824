//! A device on a device that drops, reorders, duplicates, corrupts and delays.
//!
//! Interface: [`Netem`] (`new`, `wrap`, `set`, `stats`), [`NetemParams`], [`SplitMix64`].
//! Linux counterpart: `net/sched/sch_netem.c`.
//! Locks and context: transmit context and a high-resolution timer in softirq context. The queue is under a lock; the driver below is called
//! without it, by one CPU at a time.
//!
//! All chances come from one seeded generator, so the same packets in the same order meet the same fate.

use crate::core::checksum::{csum_replace2, skb_checksum_help};
use crate::core::dev::{Features, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx};
use crate::core::skbuff::Skb;
use crate::hdr::{IpHdr, Ipv6Hdr};
use kernel::{HrTimer, HrtimerRestart, SpinLock, TICK_NSEC, local_bh_disable};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use uapi::Result;

/// Nanoseconds until a driver that was full is asked again.
const RETRY_NS: u64 = TICK_NSEC;

/// What happens to packets. Probabilities are between 0 and 1; times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetemParams {
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    /// Delay of each packet, and how far it strays evenly to both sides.
    pub delay_ns: u64,
    pub jitter_ns: u64,
    /// Chance that a packet overtakes those that are delayed.
    pub reorder: f64,
    /// Only each so manieth packet may overtake; 0: any.
    pub gap: u32,
    /// Packets that are delayed at the same time; more are dropped.
    pub limit: usize,
    /// Bytes a second, headers included, after which the delay comes; 0: no limit.
    pub rate: u64,
    /// With a rate: bytes that may wait for it; 0: no limit.
    pub buffer: u64,
    /// With a rate: packets that find more bytes waiting are marked as having met congestion (RFC 3168), if their transport
    /// knows the mark; 0: none is (`ce_threshold`, in bytes).
    pub ce_threshold: u64,
}

impl Default for NetemParams {
    /// Nothing happens; the limit is Linux's.
    fn default() -> Self {
        NetemParams {
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            delay_ns: 0,
            jitter_ns: 0,
            reorder: 0.0,
            gap: 0,
            limit: 1000,
            rate: 0,
            buffer: 0,
            ce_threshold: 0,
        }
    }
}

/// What has happened to packets.
#[derive(Default)]
pub struct NetemStats {
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub corrupted: AtomicU64,
    pub reordered: AtomicU64,
    /// Dropped because too many were delayed, or too much waited for the rate.
    pub overlimits: AtomicU64,
    pub marked: AtomicU64,
    /// The most bytes that have waited for the rate since it was last set to 0.
    pub backlog_max: AtomicU64,
}

/// Impairments that can be put on devices and changed while they run.
pub struct Netem {
    state: SpinLock<State>,
    pub stats: NetemStats,
}

struct State {
    params: NetemParams,
    rng: SplitMix64,
    /// Packets since the last that overtook.
    counter: u32,
    /// When the last bit of what waits for the rate is out, nanoseconds.
    busy_until: u64,
}

/// The SplitMix64 generator (Steele, Lea, Flood 2014): small, fast, and the same everywhere.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `true` with probability `p`. Draws nothing when it is 0, so that unused impairments do not shift the others.
    fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && ((self.draw() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

/// What is to become of one packet.
struct Fate {
    copies: u32,
    /// A random number that says which bit to turn.
    corrupt: Option<u64>,
    delay_ns: u64,
    limit: usize,
}

impl Netem {
    pub fn new(params: NetemParams, seed: u64) -> Arc<Netem> {
        let state = State { params, rng: SplitMix64(seed), counter: 0, busy_until: 0 };
        Arc::new(Netem { state: SpinLock::new(state), stats: NetemStats::default() })
    }

    /// Changes what happens to packets from now on.
    pub fn set(&self, params: NetemParams) {
        self.state.lock_bh().params = params;
    }

    pub fn params(&self) -> NetemParams {
        self.state.lock_bh().params
    }

    /// Puts the impairments between a device and its driver, on transmit. Packets are then segmented above them, as each one
    /// on the wire is to have a fate of its own.
    pub fn wrap(self: &Arc<Self>, mut spec: NetDeviceSpec) -> NetDeviceSpec {
        spec.features -= Features::TSO | Features::TSO6 | Features::GSO_UDP_L4 | Features::GSO_ACCECN;
        let inner = Arc::new(Inner {
            netem: self.clone(),
            below: spec.ops,
            queue: SpinLock::default(),
            dev: OnceLock::new(),
            watchdog: OnceLock::new(),
        });
        spec.ops = Box::new(Decorator(inner));
        spec
    }

    /// Decides (`netem_enqueue`).
    fn decide(&self) -> Fate {
        let s = &mut *self.state.lock_bh();
        let p = s.params;
        let mut fate = Fate { copies: 1, corrupt: None, delay_ns: 0, limit: p.limit };
        if s.rng.chance(p.duplicate) {
            fate.copies += 1;
            self.stats.duplicated.fetch_add(1, Relaxed);
        }
        if s.rng.chance(p.loss) {
            fate.copies -= 1;
            self.stats.lost.fetch_add(1, Relaxed);
        }
        if s.rng.chance(p.corrupt) {
            fate.corrupt = Some(s.rng.draw());
        }
        let may = p.gap == 0 || s.counter >= p.gap - 1;
        if may && s.rng.chance(p.reorder) {
            s.counter = 0;
            self.stats.reordered.fetch_add(1, Relaxed);
            return fate;
        }
        s.counter = s.counter.saturating_add(1);
        fate.delay_ns = p.delay_ns;
        if p.jitter_ns > 0 {
            let stray = s.rng.draw() % (2 * p.jitter_ns + 1);
            fate.delay_ns = (p.delay_ns + stray).saturating_sub(p.jitter_ns);
        }
        fate
    }

    /// When a packet of `len` bytes has been sent at the rate, and whether it is to be marked; `None`: there is no room.
    fn transmit(&self, now: u64, len: u64) -> Option<(u64, bool)> {
        let s = &mut *self.state.lock_bh();
        let p = s.params;
        if p.rate == 0 {
            return Some((0, false));
        }
        let start = s.busy_until.max(now);
        let backlog = ((start - now) as u128 * p.rate as u128 / 1_000_000_000) as u64;
        if p.buffer != 0 && backlog + len > p.buffer {
            return None;
        }
        self.stats.backlog_max.fetch_max(backlog + len, Relaxed);
        s.busy_until = start + (len as u128 * 1_000_000_000 / p.rate as u128) as u64;
        Some((s.busy_until, p.ce_threshold != 0 && backlog > p.ce_threshold))
    }

    /// Turns one bit. The payload is shared, so the packet gets a copy of its own first.
    fn corrupt(&self, mut skb: Box<Skb>, random: u64) -> Box<Skb> {
        let len = skb.len();
        // What was left to the device would be right again after the damage.
        let _ = skb_checksum_help(&mut skb);
        if len == 0 || !skb.may_pull(len) {
            return skb;
        }
        let bit = random as usize % (len * 8);
        skb.data_mut()[bit / 8] ^= 1 << (bit % 8);
        self.stats.corrupted.fetch_add(1, Relaxed);
        skb
    }
}

/// Marks a packet whose sender knows congestion marks (RFC 3168, 5); `false`: it does not (`INET_ECN_set_ce`).
fn inet_ecn_set_ce(skb: &mut Skb) -> bool {
    const CE: u8 = 3;
    let b = skb.network_header_mut();
    match b.first().map(|v| v >> 4) {
        Some(4) => {
            let Some(ip) = IpHdr::read_mut(b) else { return false };
            if ip.tos & CE == 0 {
                return false;
            }
            let old = [ip.version_ihl, ip.tos];
            ip.tos |= CE;
            let new = [ip.version_ihl, ip.tos];
            csum_replace2(&mut ip.check, old, new);
        }
        Some(6) => {
            let Some(ip) = Ipv6Hdr::read_mut(b) else { return false };
            let flow = ip.flow.get();
            if flow >> 20 & CE as u32 == 0 {
                return false;
            }
            ip.flow.set(flow | (CE as u32) << 20);
        }
        _ => return false,
    }
    true
}

/// A packet and when it goes; ordered by time, then by arrival.
struct Delayed {
    at: u64,
    seq: u64,
    skb: Box<Skb>,
}

impl PartialEq for Delayed {
    fn eq(&self, o: &Self) -> bool {
        (self.at, self.seq) == (o.at, o.seq)
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Delayed {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(o.at, o.seq))
    }
}

#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<Delayed>>,
    seq: u64,
    /// A CPU is giving packets to the driver.
    running: bool,
}

/// One device's part.
struct Inner {
    netem: Arc<Netem>,
    below: Box<dyn NetDeviceOps>,
    queue: SpinLock<Queue>,
    dev: OnceLock<Weak<NetDevice>>,
    /// Wakes the queue when its first packet is due (`qdisc_watchdog`).
    watchdog: OnceLock<HrTimer>,
}

struct Decorator(Arc<Inner>);

impl NetDeviceOps for Decorator {
    fn ndo_init(&self, dev: &Arc<NetDevice>) -> Result<()> {
        let _ = self.0.dev.set(dev.weak());
        let weak = Arc::downgrade(&self.0);
        let _ = self.0.watchdog.set(dev.reg.kernel.hrtimer(move |_| {
            if let Some(inner) = weak.upgrade() {
                inner.pump();
            }
            HrtimerRestart::NoRestart
        }));
        self.0.below.ndo_init(dev)
    }

    fn ndo_open(&self, dev: &Arc<NetDevice>) -> Result<()> {
        self.0.below.ndo_open(dev)
    }

    fn ndo_stop(&self, dev: &Arc<NetDevice>) {
        if let Some(t) = self.0.watchdog.get() {
            t.cancel();
        }
        let waiting = std::mem::take(&mut self.0.queue.lock_bh().heap);
        dev.stats.tx_dropped.fetch_add(waiting.len() as u64, Relaxed);
        drop(waiting);
        self.0.below.ndo_stop(dev)
    }

    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx {
        self.0.enqueue(dev, skb);
        self.0.pump();
        NetdevTx::Ok
    }

    fn lltx(&self) -> bool {
        true
    }

    fn ndo_uninit(&self, dev: &Arc<NetDevice>) {
        self.0.below.ndo_uninit(dev)
    }
}

impl Inner {
    fn enqueue(&self, dev: &NetDevice, skb: Box<Skb>) {
        let fate = self.netem.decide();
        if fate.copies == 0 {
            return;
        }
        let skb = match fate.corrupt {
            Some(random) => self.netem.corrupt(skb, random),
            None => skb,
        };
        let mut skb = skb;
        let now = dev.reg.kernel.ktime_get();
        let Some((sent, mark)) = self.netem.transmit(now, skb.len() as u64) else {
            self.netem.stats.overlimits.fetch_add(1, Relaxed);
            dev.stats.tx_dropped.fetch_add(1, Relaxed);
            return;
        };
        if mark && inet_ecn_set_ce(&mut skb) {
            self.netem.stats.marked.fetch_add(1, Relaxed);
        }
        let at = if sent == 0 && fate.delay_ns == 0 { 0 } else { sent.max(now) + fate.delay_ns };
        if at != 0 {
            // On the wire: it has left the sender's queue (`skb_orphan_partial`).
            skb.orphan();
        }
        let twin = (fate.copies > 1).then(|| skb.clone_skb());
        for skb in [Some(skb), twin].into_iter().flatten() {
            let mut q = self.queue.lock_bh();
            if q.heap.len() >= fate.limit.max(1) {
                drop(q);
                self.netem.stats.overlimits.fetch_add(1, Relaxed);
                dev.stats.tx_dropped.fetch_add(1, Relaxed);
                continue;
            }
            q.seq += 1;
            let seq = q.seq;
            q.heap.push(Reverse(Delayed { at, seq, skb }));
        }
    }

    /// Gives the driver what is due, unless another CPU is at it, and sets the timer for the rest.
    fn pump(&self) {
        let Some(dev) = self.dev.get().and_then(Weak::upgrade) else { return };
        let _bh = local_bh_disable();
        if std::mem::replace(&mut self.queue.lock_bh().running, true) {
            return;
        }
        let mut sent = false;
        loop {
            match self.take_due(&dev, !sent) {
                Some(d) => {
                    sent = true;
                    if let NetdevTx::Busy(skb) = self.below.ndo_start_xmit(&dev, d.skb) {
                        let at = dev.reg.kernel.ktime_get() + RETRY_NS;
                        self.queue.lock_bh().heap.push(Reverse(Delayed { at, seq: d.seq, skb }));
                    }
                }
                // Still the only one with the driver; then look once more.
                None if std::mem::take(&mut sent) => self.below.ndo_xmit_flush(&dev),
                None => return,
            }
        }
    }

    /// The next packet that is due. Without one, and if `last`, sets the timer and gives up `running`.
    fn take_due(&self, dev: &NetDevice, last: bool) -> Option<Delayed> {
        let mut q = self.queue.lock_bh();
        let due = match q.heap.peek() {
            Some(Reverse(d)) if d.at == 0 || d.at <= dev.reg.kernel.ktime_get() => true,
            Some(Reverse(d)) => {
                if let Some(t) = self.watchdog.get().filter(|_| last) {
                    t.start(d.at);
                }
                false
            }
            None => false,
        };
        if due {
            return q.heap.pop().map(|Reverse(d)| d);
        }
        q.running &= !last;
        None
    }
}
