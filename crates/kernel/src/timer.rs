//! Timers: a hierarchical wheel with Linux's granularity levels.
//!
//! Interface: [`Timer`] (`mod_timer`, `del_timer`, `timer_pending`), [`Timers`] (the wheels; one per `ksoftirqd`).
//! Linux counterpart: `kernel/time/timer.c`.
//! Locks and context: any context may arm and cancel. Functions run in softirq context, without the wheel's lock, and may
//! re-arm themselves. Times are in jiffies (milliseconds). A timer never fires early; it fires late by at most an eighth
//! of its distance, as the levels are ever coarser.
//!
//! Arming a pending timer for a later time only notes the time: the wheel finds out when it gets there. That makes the
//! common case, a retransmission timer pushed back by every ACK, one store.

use crate::TICK_NSEC;
use crate::arch::Arch;
use crate::spinlock::SpinLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LVL_BITS: u32 = 6;
const LVL_SIZE: usize = 1 << LVL_BITS;
/// Each level is eight times coarser than the one below.
const LVL_CLK_SHIFT: u32 = 3;
const LVL_DEPTH: usize = 9;
const SLOTS: usize = LVL_SIZE * LVL_DEPTH;
/// `slot` of a timer that is on no wheel.
const NO_SLOT: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

struct Node {
    timers: Arc<Timers>,
    /// When it should fire, in jiffies; [`NEVER`] when not pending.
    expires: AtomicU64,
    /// Where it hangs, under the base's lock: slot and index in the slot.
    place: SpinLock<Place>,
    func: Box<dyn Fn() + Send + Sync>,
}

struct Place {
    slot: u32,
    index: u32,
    /// The jiffy at which the wheel looks at it.
    at: u64,
}

impl Node {
    /// Its wheel: chosen by where it lies in memory, which spreads timers well and costs a socket no room.
    fn base(&self) -> usize {
        (std::ptr::from_ref(self).addr() >> 7) % self.timers.bases.len()
    }
}

/// A function to call at a time (`struct timer_list`). Dropping it cancels it.
pub struct Timer(Arc<Node>);

struct Wheel {
    /// The next jiffy to be processed.
    clk: u64,
    slots: Vec<Vec<Arc<Node>>>,
    /// A bit for each slot that holds something.
    bitmap: [u64; LVL_DEPTH],
}

struct TimerBase {
    wheel: SpinLock<Wheel>,
    /// The time for which the arch has been asked, in jiffies.
    programmed: AtomicU64,
}

/// All wheels of a kernel.
pub struct Timers {
    arch: Arc<dyn Arch>,
    bases: Box<[TimerBase]>,
}

impl Timers {
    pub(crate) fn new(arch: Arc<dyn Arch>, bases: usize) -> Arc<Self> {
        let clk = arch.ktime_get() / TICK_NSEC;
        let base = || TimerBase { wheel: SpinLock::new(Wheel::new(clk)), programmed: AtomicU64::new(NEVER) };
        Arc::new(Timers { bases: (0..bases.max(1)).map(|_| base()).collect(), arch })
    }

    /// Now, in jiffies.
    pub fn jiffies(&self) -> u64 {
        self.arch.ktime_get() / TICK_NSEC
    }

    /// Fires what is due on wheel `base`, and asks the arch for the next time.
    pub(crate) fn run(&self, base: usize) {
        let now = self.jiffies();
        let b = &self.bases[base];
        b.programmed.store(NEVER, Ordering::SeqCst);
        let mut due = Vec::new();
        loop {
            b.wheel.lock_bh().collect(now, &mut due);
            if due.is_empty() {
                break;
            }
            for node in due.drain(..) {
                self.expire(&node, now);
            }
        }
        let next = b.wheel.lock_bh().next_expiry();
        if let Some(next) = next {
            self.program(base, next);
        }
    }

    fn expire(&self, node: &Arc<Node>, now: u64) {
        let expires = node.expires.load(Ordering::SeqCst);
        if expires == NEVER {
            return;
        }
        if expires > now {
            self.enqueue(node, expires);
        } else if node.expires.compare_exchange(expires, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            (node.func)();
        }
    }

    fn enqueue(&self, node: &Arc<Node>, expires: u64) {
        let b = &self.bases[node.base()];
        let at = {
            let mut w = b.wheel.lock_bh();
            w.remove(node);
            w.forward(self.jiffies());
            w.insert(node, expires)
        };
        self.program(node.base(), at);
    }

    fn program(&self, base: usize, at: u64) {
        let b = &self.bases[base];
        if b.programmed.fetch_min(at, Ordering::SeqCst) > at {
            self.arch.program_timer(base, at.saturating_mul(TICK_NSEC));
        }
    }
}

impl Wheel {
    fn new(clk: u64) -> Self {
        Wheel { clk, slots: (0..SLOTS).map(|_| Vec::new()).collect(), bitmap: [0; LVL_DEPTH] }
    }

    /// The slot for an expiry, and the jiffy at which that slot is processed (rounded up to the level's granularity).
    fn place_for(&self, expires: u64) -> (usize, u64) {
        let expires = expires.max(self.clk);
        let delta = expires - self.clk;
        for lvl in 0..LVL_DEPTH {
            let shift = LVL_CLK_SHIFT * lvl as u32;
            let reach = (LVL_SIZE as u64 - 1) << shift;
            if delta < reach || lvl == LVL_DEPTH - 1 {
                let unit = if delta < reach { expires } else { self.clk + reach - 1 };
                let tick = if lvl == 0 { unit } else { (unit >> shift) + 1 };
                return (lvl * LVL_SIZE + (tick as usize & (LVL_SIZE - 1)), tick << shift);
            }
        }
        unreachable!("the last level takes everything")
    }

    /// Moves the clock of a wheel that had nothing to do (`forward_timer_base`): a distance counted from long ago would be
    /// rounded like a long one.
    fn forward(&mut self, now: u64) {
        if self.clk < now {
            let to = self.next_expiry().map_or(now, |at| at.min(now));
            self.clk = self.clk.max(to);
        }
    }

    fn insert(&mut self, node: &Arc<Node>, expires: u64) -> u64 {
        let (slot, at) = self.place_for(expires);
        *node.place.lock() = Place { slot: slot as u32, index: self.slots[slot].len() as u32, at };
        self.slots[slot].push(node.clone());
        self.bitmap[slot / LVL_SIZE] |= 1 << (slot % LVL_SIZE);
        at
    }

    fn remove(&mut self, node: &Arc<Node>) {
        let mut place = node.place.lock();
        if place.slot == NO_SLOT {
            return;
        }
        let (slot, index) = (place.slot as usize, place.index as usize);
        place.slot = NO_SLOT;
        drop(place);
        let list = &mut self.slots[slot];
        list.swap_remove(index);
        if let Some(moved) = list.get(index) {
            moved.place.lock().index = index as u32;
        }
        if list.is_empty() {
            self.bitmap[slot / LVL_SIZE] &= !(1 << (slot % LVL_SIZE));
        }
    }

    /// Moves everything due by `now` to `due`, up to one processed slot with content.
    fn collect(&mut self, now: u64, due: &mut Vec<Arc<Node>>) {
        while self.clk <= now && due.is_empty() {
            match self.next_expiry() {
                Some(at) if at <= now => self.clk = self.clk.max(at),
                _ => {
                    self.clk = now + 1;
                    return;
                }
            }
            for lvl in 0..LVL_DEPTH {
                let shift = LVL_CLK_SHIFT * lvl as u32;
                if self.clk & ((1 << shift) - 1) != 0 {
                    break;
                }
                let slot = lvl * LVL_SIZE + ((self.clk >> shift) as usize & (LVL_SIZE - 1));
                for node in self.slots[slot].drain(..) {
                    node.place.lock().slot = NO_SLOT;
                    due.push(node);
                }
                self.bitmap[lvl] &= !(1 << (slot % LVL_SIZE));
            }
            self.clk += 1;
        }
    }

    /// The jiffy of the first slot that holds something.
    fn next_expiry(&self) -> Option<u64> {
        let mut next = None;
        for lvl in 0..LVL_DEPTH {
            if self.bitmap[lvl] == 0 {
                continue;
            }
            let shift = LVL_CLK_SHIFT * lvl as u32;
            // The first tick of this level that has not been processed.
            let tick = (self.clk + (1 << shift) - 1) >> shift;
            let ahead = self.bitmap[lvl].rotate_right(tick as u32 & (LVL_SIZE as u32 - 1)).trailing_zeros() as u64;
            let at = (tick + ahead) << shift;
            next = Some(next.map_or(at, |n: u64| n.min(at)));
        }
        next
    }
}

impl Timer {
    /// `timer_setup`. `func` must not hold a strong reference to what owns the timer.
    pub fn new(timers: &Arc<Timers>, func: impl Fn() + Send + Sync + 'static) -> Timer {
        Timer(Arc::new(Node {
            timers: timers.clone(),
            expires: AtomicU64::new(NEVER),
            place: SpinLock::new(Place { slot: NO_SLOT, index: 0, at: 0 }),
            func: Box::new(func),
        }))
    }

    /// Arms the timer for `expires` jiffies, or changes when it fires; `true` if it was pending.
    pub fn mod_timer(&self, expires: u64) -> bool {
        let node = &self.0;
        let expires = expires.min(NEVER - 1);
        let old = node.expires.swap(expires, Ordering::SeqCst);
        let look_at = {
            let place = node.place.lock_bh();
            (place.slot != NO_SLOT).then_some(place.at)
        };
        // Hanging early enough: the wheel will see the new time when it looks.
        if look_at.is_none_or(|at| at > expires) {
            node.timers.enqueue(node, expires);
        }
        old != NEVER
    }

    /// Arms the timer `delta` jiffies from now.
    pub fn mod_timer_in(&self, delta: u64) -> bool {
        self.mod_timer(self.0.timers.jiffies() + delta.max(1))
    }

    /// Cancels; `true` if it was pending. A function already running is not waited for.
    pub fn del_timer(&self) -> bool {
        self.0.expires.swap(NEVER, Ordering::SeqCst) != NEVER
    }

    /// `timer_pending`.
    pub fn pending(&self) -> bool {
        self.0.expires.load(Ordering::SeqCst) != NEVER
    }

    /// When it fires, in jiffies.
    pub fn expires(&self) -> Option<u64> {
        Some(self.0.expires.load(Ordering::SeqCst)).filter(|&e| e != NEVER)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.del_timer();
        if self.0.place.lock_bh().slot != NO_SLOT {
            let base = &self.0.timers.bases[self.0.base()];
            base.wheel.lock_bh().remove(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_wheel_keeps_its_precision() {
        let mut w = Wheel::new(0);
        w.forward(1_000_003);
        let (_, at) = w.place_for(1_000_203);
        assert!((1_000_203..=1_000_228).contains(&at), "{at}");
    }
}
