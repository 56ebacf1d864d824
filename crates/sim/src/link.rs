//! The wire as a pure model: what becomes of a packet, and when.
//!
//! Interface: [`Wire`] (`send`), [`LinkParams`], [`GilbertElliott`], [`Chance`], [`Fate`], [`WireStats`].
//! Linux counterpart: `net/sched/sch_netem.c` and `sch_tbf.c` in purpose; `drivers/net/ethernet` below the ring.
//! Locks and context: none; a wire belongs to whoever sends into it.
//!
//! One direction of a cable. A packet waits for those before it, takes its time to be put on the wire, travels, and meets
//! its fate. Everything is computed when it is sent, in integers, so the same draws give the same fates on every machine.
//! Nothing is drawn for an impairment that is off: switching one on does not shift the fates of the others.

use smallvec::SmallVec;
use std::collections::VecDeque;

const NSEC_PER_SEC: u64 = 1_000_000_000;

/// Where the wire's chances come from: uniformly distributed numbers.
pub type Draw<'a> = &'a mut dyn FnMut() -> u64;

/// A probability, as a fraction of 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(u64);

impl Chance {
    pub const NEVER: Chance = Chance(0);
    pub const ALWAYS: Chance = Chance(1 << 32);

    /// Parts in a million; more than a million is always.
    pub const fn ppm(n: u32) -> Chance {
        let n = if n > 1_000_000 { 1_000_000 } else { n as u64 };
        Chance((n << 32) / 1_000_000)
    }

    /// Whether it happens this time. Draws nothing where there is nothing to decide.
    pub fn happens(self, draw: Draw<'_>) -> bool {
        match self {
            Chance::NEVER => false,
            Chance::ALWAYS => true,
            Chance(p) => (draw() >> 32) < p,
        }
    }
}

/// Loss in bursts (Gilbert 1960, Elliott 1963): a wire that is now good, now bad, and loses with a chance of its own in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GilbertElliott {
    /// Chance, at each packet, that a good wire turns bad, and a bad one good.
    pub to_bad: Chance,
    pub to_good: Chance,
    /// Chance of loss while it is good, and while it is bad.
    pub loss_in_good: Chance,
    pub loss_in_bad: Chance,
}

/// What a wire does to packets. The default is a perfect one: no delay, no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkParams {
    /// Bits per second; 0: putting a packet on the wire takes no time.
    pub bandwidth: u64,
    /// Nanoseconds from end to end, and how far they stray, evenly to both sides.
    pub delay: u64,
    pub jitter: u64,
    /// Packets whose jitter would have them overtake others wait for them.
    pub keep_order: bool,
    pub loss: Chance,
    pub burst: GilbertElliott,
    /// Chance that a packet is held back by `reorder_by` nanoseconds, so that others overtake it.
    pub reorder: Chance,
    pub reorder_by: u64,
    pub duplicate: Chance,
    /// Chance that one bit of a packet is turned.
    pub corrupt: Chance,
    /// What may wait to be put on the wire, the packet that is being put there included; more is dropped.
    pub limit_packets: usize,
    pub limit_bytes: usize,
    /// The longest frame in bytes, link-layer header included; longer ones are dropped.
    pub max_frame: usize,
}

impl Default for LinkParams {
    fn default() -> Self {
        LinkParams {
            bandwidth: 0,
            delay: 0,
            jitter: 0,
            keep_order: true,
            loss: Chance::NEVER,
            burst: GilbertElliott::default(),
            reorder: Chance::NEVER,
            reorder_by: 0,
            duplicate: Chance::NEVER,
            corrupt: Chance::NEVER,
            limit_packets: usize::MAX,
            limit_bytes: usize::MAX,
            max_frame: usize::MAX,
        }
    }
}

/// What has happened on a wire, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireStats {
    /// Given to it, whatever became of them.
    pub sent: u64,
    pub bytes: u64,
    pub delivered: u64,
    pub lost: u64,
    /// Lost because the wire was cut.
    pub cut: u64,
    /// Dropped because too many waited, and because they were too long.
    pub overflow: u64,
    pub oversize: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    pub held_back: u64,
}

/// One copy of a packet that gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When its last bit is there, in nanoseconds.
    pub at: u64,
    /// The bit that was turned, counted from the frame's first.
    pub flipped: Option<usize>,
}

/// What becomes of one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When the sender is rid of it: its last bit is on the wire, or it was dropped.
    pub done: u64,
    /// Empty: it is lost. Two: it was duplicated.
    pub arrivals: SmallVec<[Arrival; 2]>,
}

/// One direction of a cable.
#[derive(Debug, Default)]
pub struct Wire {
    params: LinkParams,
    pub stats: WireStats,
    /// Plugged in, as far as it was plugged in or out by hand.
    unplugged: bool,
    /// When it is cut: `[from, to)` in nanoseconds, in order.
    cuts: VecDeque<(u64, u64)>,
    /// Packets that are not yet wholly on the wire: when they will be, and their bytes.
    queue: VecDeque<(u64, usize)>,
    queued_bytes: usize,
    /// When the last of them will be, and the fraction of a nanosecond that is left of it, in parts of the bandwidth.
    busy_until: u64,
    remainder: u64,
    last_arrival: u64,
    /// The Gilbert-Elliott model is in its bad state.
    bad: bool,
}

impl Wire {
    pub fn new(params: LinkParams) -> Wire {
        Wire { params, ..Wire::default() }
    }

    pub fn params(&self) -> &LinkParams {
        &self.params
    }

    /// Changes what happens to packets from now on; what is on its way is not touched.
    pub fn set(&mut self, params: LinkParams) {
        self.params = params;
    }

    /// Plugs it in or out.
    pub fn plug(&mut self, plugged: bool) {
        self.unplugged = !plugged;
    }

    pub fn is_plugged(&self) -> bool {
        !self.unplugged
    }

    /// Cuts it from `from` until before `to`, nanoseconds: what is put on it then is lost. Cuts are given in order of time,
    /// apart from each other; one that is not is cut down to what is.
    pub fn cut(&mut self, from: u64, to: u64) {
        let from = self.cuts.back().map_or(from, |last| from.max(last.1));
        if from < to {
            self.cuts.push_back((from, to));
        }
    }

    /// Packets and bytes that wait at `now`, that being sent included.
    pub fn backlog(&mut self, now: u64) -> (usize, usize) {
        while let Some(&(_, len)) = self.queue.front().filter(|q| q.0 <= now) {
            self.queued_bytes -= len;
            self.queue.pop_front();
        }
        (self.queue.len(), self.queued_bytes)
    }

    /// When no more than `left` of the packets that wait will be left; 0 if there are no more.
    pub fn drained_at(&self, left: usize) -> u64 {
        let before = self.queue.len().checked_sub(left + 1);
        before.and_then(|i| self.queue.get(i)).map_or(0, |q| q.0)
    }

    /// Sends a packet of `len` bytes at `now`. `now` never goes back.
    pub fn send(&mut self, now: u64, len: usize, draw: Draw<'_>) -> Fate {
        self.stats.sent += 1;
        self.stats.bytes += len as u64;
        if len > self.params.max_frame {
            self.stats.oversize += 1;
            return Fate { done: now, ..Fate::default() };
        }
        let (packets, bytes) = self.backlog(now);
        if packets >= self.params.limit_packets || bytes.saturating_add(len) > self.params.limit_bytes {
            self.stats.overflow += 1;
            return Fate { done: now, ..Fate::default() };
        }
        let done = self.serialise(now, len);
        Fate { done, arrivals: self.travel(done, len, draw) }
    }

    /// When the packet's last bit is on the wire. Fractions of a nanosecond are carried, so no bit rate is off by rounding.
    fn serialise(&mut self, now: u64, len: usize) -> u64 {
        if self.busy_until < now {
            (self.busy_until, self.remainder) = (now, 0);
        }
        if let Some(bandwidth) = std::num::NonZeroU64::new(self.params.bandwidth) {
            let parts = len as u128 * 8 * NSEC_PER_SEC as u128 + self.remainder as u128;
            let bandwidth = bandwidth.get() as u128;
            self.busy_until = self.busy_until.saturating_add((parts / bandwidth) as u64);
            self.remainder = (parts % bandwidth) as u64;
        }
        if self.busy_until > now {
            self.queue.push_back((self.busy_until, len));
            self.queued_bytes += len;
        }
        self.busy_until
    }

    /// The draws come in this order: loss, duplication, then for each copy holding back, jitter, corruption.
    fn travel(&mut self, done: u64, len: usize, draw: Draw<'_>) -> SmallVec<[Arrival; 2]> {
        let mut arrivals = SmallVec::new();
        if self.is_cut(done) {
            self.stats.cut += 1;
            return arrivals;
        }
        if self.is_lost(draw) {
            self.stats.lost += 1;
            return arrivals;
        }
        let twice = self.params.duplicate.happens(draw);
        self.stats.duplicated += twice as u64;
        for _ in 0..1 + twice as u32 {
            let at = self.arrival(done, draw);
            let flipped = self.flipped(len, draw);
            arrivals.push(Arrival { at, flipped });
        }
        self.stats.delivered += arrivals.len() as u64;
        arrivals
    }

    fn is_cut(&mut self, at: u64) -> bool {
        while self.cuts.front().is_some_and(|c| c.1 <= at) {
            self.cuts.pop_front();
        }
        self.unplugged || self.cuts.front().is_some_and(|c| c.0 <= at)
    }

    fn is_lost(&mut self, draw: Draw<'_>) -> bool {
        let b = self.params.burst;
        let turn = if self.bad { b.to_good } else { b.to_bad };
        self.bad ^= turn.happens(draw);
        let burst = if self.bad { b.loss_in_bad } else { b.loss_in_good };
        burst.happens(draw) || self.params.loss.happens(draw)
    }

    fn arrival(&mut self, done: u64, draw: Draw<'_>) -> u64 {
        let p = self.params;
        let held = p.reorder.happens(draw);
        self.stats.held_back += held as u64;
        let mut at = done + p.delay;
        if p.jitter > 0 {
            let stray = below(draw, 2 * p.jitter + 1);
            at = (at + stray).saturating_sub(p.jitter).max(done);
        }
        if held {
            return at + p.reorder_by;
        }
        if p.keep_order {
            at = at.max(self.last_arrival);
        }
        self.last_arrival = at;
        at
    }

    fn flipped(&mut self, len: usize, draw: Draw<'_>) -> Option<usize> {
        let hit = len > 0 && self.params.corrupt.happens(draw);
        self.stats.corrupted += hit as u64;
        hit.then(|| below(draw, len as u64 * 8) as usize)
    }
}

/// A number below `n`, from one draw: the high half of a wide product (Lemire 2019, without the correction of its bias, which
/// is below 2^-32 for any `n` that a packet has).
fn below(draw: Draw<'_>, n: u64) -> u64 {
    ((draw() as u128 * n as u128) >> 64) as u64
}

#[cfg(test)]
mod tests;
