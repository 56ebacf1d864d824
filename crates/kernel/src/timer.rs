//! Timers: a hierarchical wheel with Linux's granularity levels.
//!
//! Interface: [`Timer`] (`mod_timer`, `del_timer`, `del_timer_sync`, `shutdown`, `pending`), [`Timers`] (the wheels; one per
//! `ksoftirqd`, or per simulated CPU).
//! Linux counterpart: `kernel/time/timer.c`.
//! Locks and context: any context may arm and cancel. Functions run in softirq context, without the wheel's lock, and may
//! re-arm themselves. Times are in jiffies (milliseconds). A timer never fires early; it fires late by at most an eighth
//! of its distance (8/63 to be exact), as the levels are ever coarser.
//!
//! Arming a pending timer for a later time only notes the time: the wheel finds out when it gets there. That makes the
//! common case, a retransmission timer pushed back by every ACK, one store.

use crate::arch::Arch;
use crate::cpu;
use crate::spinlock::SpinLock;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use crate::sync::{Plant, planted};
use crate::{NR_TIMER_BASES, TICK_NSEC};
use std::any::Any;
use std::ptr;
use std::sync::{Arc, Weak};

const LVL_BITS: u32 = 6;
const LVL_SIZE: usize = 1 << LVL_BITS;
/// Each level is eight times coarser than the one below.
const LVL_CLK_SHIFT: u32 = 3;
const LVL_DEPTH: usize = 9;
const SLOTS: usize = LVL_SIZE * LVL_DEPTH;
/// `slot` of a timer that is on no wheel.
const NO_SLOT: u16 = u16::MAX;
/// `expires` of a timer that is not pending; `at` of one that hangs nowhere.
const NEVER: u64 = u64::MAX;
/// `expires` of a timer that cannot be armed any more.
const SHUTDOWN: u64 = u64::MAX - 1;
/// Timers taken off a wheel at a time: the lock is not held for longer, however many are due.
const BATCH: usize = 32;
/// A slot's list that has been larger gives its memory back.
const KEEP_CAPACITY: usize = 4096;

/// What a timer calls.
enum Func {
    Closure(Box<dyn Fn() + Send + Sync>),
    /// A function of what the timer is part of, while that exists. Costs no allocation of its own.
    Owner(Weak<TimerOwner>, fn(Arc<TimerOwner>)),
}

/// What a timer is part of ([`Timer::of`]). Its function gets it back whole by `downcast`, Linux's `from_timer`.
pub type TimerOwner = dyn Any + Send + Sync;

impl Func {
    fn call(&self) {
        match self {
            Func::Closure(f) => f(),
            Func::Owner(owner, f) => owner.upgrade().into_iter().for_each(f),
        }
    }
}

struct Node {
    timers: Arc<Timers>,
    func: Func,
    /// When it should fire, in jiffies; [`NEVER`] when not pending.
    expires: AtomicU64,
    /// The jiffy at which the wheel looks at it; [`NEVER`] when it hangs nowhere. Written under the wheel's lock.
    at: AtomicU64,
    /// Where it hangs: its place in the slot, and the slot. Only touched under the wheel's lock.
    index: AtomicU32,
    slot: AtomicU16,
    /// Its wheel: that of the CPU that made it.
    base: u16,
    /// Held to claim the function's run, so that it is either cancelled or seen to run.
    claim: SpinLock<()>,
}

impl Node {
    fn base(&self) -> &TimerBase {
        &self.timers.bases[self.base as usize]
    }

    /// Changes when it fires; the old time. `None` after a shutdown.
    fn set_expires(&self, to: u64) -> Option<u64> {
        let mut old = self.expires.load(Relaxed);
        loop {
            if old == SHUTDOWN && to != SHUTDOWN {
                return None;
            }
            match self.expires.compare_exchange_weak(old, to, SeqCst, Relaxed) {
                Ok(_) => return Some(old),
                Err(now) => old = now,
            }
        }
    }
}

/// A function to call at a time (`struct timer_list`). Dropping it cancels it.
pub struct Timer(Arc<Node>);

/// A slot's timers. What hangs in a slot is `Some`; only the list being worked off has gaps.
type List = Vec<Option<Arc<Node>>>;

struct Wheel {
    /// The next jiffy to be processed.
    clk: u64,
    slots: Box<[List]>,
    /// A bit for each slot that holds something.
    bitmap: [u64; LVL_DEPTH],
    /// The list whose turn it is, and how far it has been worked off.
    turn: List,
    next: usize,
    /// The jiffy whose turn it is, and the level to look at next.
    turn_clk: u64,
    turn_lvl: usize,
}

struct TimerBase {
    wheel: SpinLock<Wheel>,
    /// The time for which the arch has been asked, in jiffies.
    programmed: AtomicU64,
    /// A CPU is running the functions.
    busy: AtomicBool,
    /// Whose function runs, and on which CPU.
    running: AtomicPtr<Node>,
    running_cpu: AtomicUsize,
}

/// All wheels of a kernel.
pub struct Timers {
    arch: Arc<dyn Arch>,
    /// The last jiffy that anybody read.
    seen: AtomicU64,
    bases: Box<[TimerBase]>,
}

impl Timers {
    pub(crate) fn new(arch: Arc<dyn Arch>, bases: usize) -> Arc<Self> {
        let clk = arch.ktime_get() / TICK_NSEC;
        let base = || TimerBase {
            wheel: SpinLock::new(Wheel::new(clk)),
            programmed: AtomicU64::new(NEVER),
            busy: AtomicBool::new(false),
            running: AtomicPtr::new(ptr::null_mut()),
            running_cpu: AtomicUsize::new(0),
        };
        Arc::new(Timers {
            seen: AtomicU64::new(clk),
            bases: (0..bases.clamp(1, NR_TIMER_BASES)).map(|_| base()).collect(),
            arch,
        })
    }

    /// Now, in jiffies.
    pub fn jiffies(&self) -> u64 {
        let now = self.arch.ktime_get() / TICK_NSEC;
        self.saw(now);
        now
    }

    /// Notes what the clock said.
    #[inline]
    pub(crate) fn saw(&self, now: u64) {
        if self.seen.load(Relaxed) != now {
            self.seen.store(now, Relaxed);
        }
    }

    /// The last jiffy that anybody read: never later than now.
    #[inline]
    pub fn jiffies_coarse(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// Timers that are armed. Walks all wheels under their locks: for tests, and for whoever shuts down. One whose function
    /// is due at this moment may be missed.
    pub fn pending(&self) -> usize {
        self.bases.iter().map(|b| b.wheel.lock_irqsave().pending()).sum()
    }

    /// The programmed time of base `base` has come: whether something is due. If not, asks the arch again.
    pub(crate) fn is_due(&self, base: usize) -> bool {
        let Some(b) = self.bases.get(base) else { return false };
        let at = b.programmed.load(SeqCst);
        let due = at != NEVER && at <= self.jiffies();
        if !due && at != NEVER {
            self.arch.program_timer(base, at.saturating_mul(TICK_NSEC));
        }
        due
    }

    /// Fires what is due on wheel `base`, and asks the arch for the next time. Softirq context. If another CPU is at it,
    /// that one does the rest.
    pub(crate) fn run(&self, base: usize) {
        let Some(b) = self.bases.get(base) else { return };
        // Before the look at `busy`: whoever is running then asks for the next time after this.
        b.programmed.store(NEVER, SeqCst);
        if b.busy.swap(true, SeqCst) {
            return;
        }
        let now = self.jiffies();
        let mut due = Vec::new();
        loop {
            b.wheel.lock_irqsave().collect(now, &mut due);
            if due.is_empty() {
                break;
            }
            due.drain(..).for_each(|node| self.expire(b, &node, now));
        }
        b.busy.store(false, SeqCst);
        let next = b.wheel.lock_irqsave().next_expiry();
        if let Some(next) = next {
            self.program(base, next);
        }
    }

    fn expire(&self, b: &TimerBase, node: &Arc<Node>, now: u64) {
        let expires = node.expires.load(SeqCst);
        if expires >= SHUTDOWN {
            return;
        }
        if expires > now {
            self.enqueue(node, now);
        } else if b.claim(node, expires) {
            node.func.call();
            b.running.store(ptr::null_mut(), SeqCst);
        }
    }

    /// Hangs the timer where its time wants it to be.
    fn enqueue(&self, node: &Arc<Node>, now: u64) {
        let at = {
            let mut w = node.base().wheel.lock_irqsave();
            w.remove(node);
            // Read under the lock: of two that change the time, the later one counts.
            let expires = node.expires.load(SeqCst);
            if expires >= SHUTDOWN {
                return;
            }
            w.forward(now);
            w.insert(node, expires)
        };
        self.program(node.base as usize, at);
    }

    fn program(&self, base: usize, at: u64) {
        if self.bases[base].programmed.fetch_min(at, SeqCst) > at {
            self.arch.program_timer(base, at.saturating_mul(TICK_NSEC));
        }
    }
}

impl TimerBase {
    /// Takes the run of a function that is due; `false` if it has been cancelled or put off.
    fn claim(&self, node: &Arc<Node>, expires: u64) -> bool {
        if planted(Plant::TimerAfterClose) {
            node.expires.store(NEVER, SeqCst);
            return true;
        }
        let _l = node.claim.lock();
        self.running_cpu.store(cpu::smp_processor_id(), Relaxed);
        self.running.store(Arc::as_ptr(node).cast_mut(), SeqCst);
        let claimed = node.expires.compare_exchange(expires, NEVER, SeqCst, SeqCst).is_ok();
        if !claimed {
            self.running.store(ptr::null_mut(), SeqCst);
        }
        claimed
    }

    fn is_running(&self, node: &Arc<Node>) -> bool {
        ptr::eq(self.running.load(SeqCst), Arc::as_ptr(node))
    }
}

impl Wheel {
    fn new(clk: u64) -> Self {
        Wheel {
            clk,
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            bitmap: [0; LVL_DEPTH],
            turn: Vec::new(),
            next: 0,
            turn_clk: clk,
            turn_lvl: LVL_DEPTH,
        }
    }

    /// The slot for an expiry, and the jiffy at which that slot is processed (rounded up to the level's granularity).
    fn place_for(&self, expires: u64) -> (usize, u64) {
        let expires = expires.max(self.clk);
        let delta = expires - self.clk;
        let mut lvl = 0;
        while lvl < LVL_DEPTH - 1 && delta >= reach(lvl) {
            lvl += 1;
        }
        // What is too far for the last level is looked at when that has turned, and hung again.
        let expires = expires.min(self.clk + reach(lvl) - 1);
        let tick = expires.div_ceil(granularity(lvl));
        (lvl * LVL_SIZE + (tick as usize & (LVL_SIZE - 1)), tick * granularity(lvl))
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
        node.slot.store(slot as u16, Relaxed);
        node.index.store(self.slots[slot].len() as u32, Relaxed);
        node.at.store(at, SeqCst);
        self.slots[slot].push(Some(node.clone()));
        self.bitmap[slot / LVL_SIZE] |= 1 << (slot % LVL_SIZE);
        at
    }

    fn remove(&mut self, node: &Arc<Node>) {
        let slot = node.slot.swap(NO_SLOT, Relaxed) as usize;
        if slot >= SLOTS {
            return;
        }
        node.at.store(NEVER, SeqCst);
        let index = node.index.load(Relaxed) as usize;
        let list = &mut self.slots[slot];
        if !list.get(index).is_some_and(|n| is(n, node)) {
            // Its slot's turn has come, with the list as it was.
            if let Some(n) = self.turn.get_mut(index).filter(|n| is(n, node)) {
                *n = None;
            }
            return;
        }
        list.swap_remove(index);
        if let Some(Some(moved)) = list.get(index) {
            moved.index.store(index as u32, Relaxed);
        }
        if list.is_empty() {
            self.bitmap[slot / LVL_SIZE] &= !(1 << (slot % LVL_SIZE));
        }
    }

    /// Moves what is due by `now` to `due`, up to [`BATCH`].
    fn collect(&mut self, now: u64, due: &mut Vec<Arc<Node>>) {
        loop {
            while let Some(n) = self.turn.get_mut(self.next) {
                if due.len() == BATCH {
                    return;
                }
                self.next += 1;
                if let Some(n) = n.take() {
                    n.slot.store(NO_SLOT, Relaxed);
                    n.at.store(NEVER, SeqCst);
                    due.push(n);
                }
            }
            self.turn.clear();
            self.next = 0;
            if self.turn.capacity() > KEEP_CAPACITY {
                self.turn = Vec::new();
            }
            if !self.turn_on(now) {
                return;
            }
        }
    }

    /// Makes the next slot that is due by `now` the one to be worked off.
    fn turn_on(&mut self, now: u64) -> bool {
        loop {
            while self.turn_lvl < LVL_DEPTH && self.turn_clk.is_multiple_of(granularity(self.turn_lvl)) {
                let lvl = self.turn_lvl;
                self.turn_lvl += 1;
                let at = (self.turn_clk / granularity(lvl)) as usize & (LVL_SIZE - 1);
                if self.bitmap[lvl] & 1 << at != 0 {
                    self.bitmap[lvl] &= !(1 << at);
                    std::mem::swap(&mut self.turn, &mut self.slots[lvl * LVL_SIZE + at]);
                    return true;
                }
            }
            self.turn_lvl = LVL_DEPTH;
            if self.clk > now {
                return false;
            }
            match self.next_expiry() {
                Some(at) if at <= now => {
                    self.turn_clk = self.clk.max(at);
                    self.turn_lvl = 0;
                    self.clk = self.turn_clk + 1;
                }
                _ => self.clk = now + 1,
            }
        }
    }

    /// The jiffy of the first slot that holds something.
    fn next_expiry(&self) -> Option<u64> {
        let first = |lvl: usize| {
            // The first tick of this level that has not been processed.
            let tick = self.clk.div_ceil(granularity(lvl));
            let ahead = self.bitmap[lvl].rotate_right(tick as u32 & (LVL_SIZE as u32 - 1)).trailing_zeros() as u64;
            (tick + ahead) * granularity(lvl)
        };
        (0..LVL_DEPTH).filter(|&lvl| self.bitmap[lvl] != 0).map(first).min()
    }

    fn pending(&self) -> usize {
        let all = self.slots.iter().flatten().chain(&self.turn).flatten();
        all.filter(|n| n.expires.load(SeqCst) < SHUTDOWN).count()
    }
}

fn is(n: &Option<Arc<Node>>, node: &Arc<Node>) -> bool {
    n.as_ref().is_some_and(|n| Arc::ptr_eq(n, node))
}

/// Jiffies a slot of this level stands for.
fn granularity(lvl: usize) -> u64 {
    1 << (LVL_CLK_SHIFT * lvl as u32)
}

/// Distances that the level takes are smaller than this, in jiffies.
fn reach(lvl: usize) -> u64 {
    (LVL_SIZE as u64 - 1) * granularity(lvl)
}

impl Timer {
    /// `timer_setup`. `func` must not hold a strong reference to what owns the timer.
    pub fn new(timers: &Arc<Timers>, func: impl Fn() + Send + Sync + 'static) -> Timer {
        Self::with_func(timers, Func::Closure(Box::new(func)))
    }

    /// `timer_setup` of a timer that is part of `owner`, which its function is given, unless it has gone.
    pub fn of(timers: &Arc<Timers>, owner: Weak<TimerOwner>, func: fn(Arc<TimerOwner>)) -> Timer {
        Self::with_func(timers, Func::Owner(owner, func))
    }

    fn with_func(timers: &Arc<Timers>, func: Func) -> Timer {
        Timer(Arc::new(Node {
            timers: timers.clone(),
            func,
            expires: AtomicU64::new(NEVER),
            at: AtomicU64::new(NEVER),
            index: AtomicU32::new(0),
            slot: AtomicU16::new(NO_SLOT),
            base: (cpu::smp_processor_id() % timers.bases.len()) as u16,
            claim: SpinLock::new(()),
        }))
    }

    /// Arms the timer for `expires` jiffies, or changes when it fires; `true` if it was pending. Nothing after a shutdown.
    pub fn mod_timer(&self, expires: u64) -> bool {
        self.arm(expires, Timers::jiffies)
    }

    /// [`mod_timer`](Self::mod_timer) for who has just read the clock to say when: it is not read again. With a clock that
    /// nobody has read for long the timer would be as late as if armed that much earlier.
    #[inline]
    pub fn mod_timer_coarse(&self, expires: u64) -> bool {
        self.arm(expires, Timers::jiffies_coarse)
    }

    fn arm(&self, expires: u64, now: fn(&Timers) -> u64) -> bool {
        let expires = expires.min(SHUTDOWN - 1);
        let Some(old) = self.0.set_expires(expires) else { return false };
        // Hanging early enough: the wheel will see the new time when it looks.
        if self.0.at.load(SeqCst) > expires {
            let timers = &self.0.timers;
            timers.enqueue(&self.0, now(timers));
        }
        old != NEVER
    }

    /// Arms the timer `delta` jiffies from now.
    pub fn mod_timer_in(&self, delta: u64) -> bool {
        self.mod_timer_coarse(self.0.timers.jiffies().saturating_add(delta.max(1)))
    }

    /// Cancels (`timer_delete`); `true` if it was pending. A function already running is not waited for.
    pub fn del_timer(&self) -> bool {
        self.0.set_expires(NEVER).is_some_and(|old| old != NEVER)
    }

    /// `timer_delete_sync`: cancels, and waits for a function that is running; `true` if it was pending. Not in hard-interrupt
    /// context, nor with a lock held that the function takes, nor from the function itself, which could never end: debug
    /// builds report that, others do not wait.
    pub fn del_timer_sync(&self) -> bool {
        self.cancel_sync(NEVER)
    }

    /// `timer_shutdown`: cancels for good; arming it again does nothing. A running function is not waited for.
    pub fn shutdown(&self) -> bool {
        self.0.set_expires(SHUTDOWN).is_some_and(|old| old < SHUTDOWN)
    }

    /// `timer_shutdown_sync`: [`shutdown`](Self::shutdown), and waits like [`del_timer_sync`](Self::del_timer_sync): when it
    /// returns, the function does not run and never will.
    pub fn shutdown_sync(&self) -> bool {
        self.cancel_sync(SHUTDOWN)
    }

    fn cancel_sync(&self, to: u64) -> bool {
        let (node, b) = (&self.0, self.0.base());
        // At once, so that a shut down timer cannot arm itself while it is waited for.
        let cancel = || node.set_expires(to).is_some_and(|old| old < SHUTDOWN);
        let mut was = false;
        let mut spins = 0;
        loop {
            {
                let _l = node.claim.lock_irqsave();
                was |= cancel();
                if !b.is_running(node) {
                    return was;
                }
            }
            if cpu::in_serving_softirq() && b.running_cpu.load(Relaxed) == cpu::smp_processor_id() {
                debug_assert!(false, "del_timer_sync from the timer's own function would wait for itself for ever");
                return was;
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// `timer_pending`.
    pub fn pending(&self) -> bool {
        self.0.expires.load(SeqCst) < SHUTDOWN
    }

    /// When it fires, in jiffies.
    pub fn expires(&self) -> Option<u64> {
        Some(self.0.expires.load(SeqCst)).filter(|&e| e < SHUTDOWN)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shutdown();
        if self.0.at.load(SeqCst) != NEVER {
            self.0.base().wheel.lock_irqsave().remove(&self.0);
        }
    }
}
