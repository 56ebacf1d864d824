//! A kernel: its CPUs, its softirq vector, its timers, its tracer, and the arch it runs on.
//!
//! Interface: [`Kernel::new`], [`Kernel::enter`] (a thread becomes a CPU), [`Kernel::open_softirq`], [`raise_softirq`].
//! Linux counterpart: `kernel/softirq.c`, and everything that Linux keeps in static variables.
//! Locks and context: `enter` in process context, by workers and by callers of system calls; the rest says.

use crate::arch::Arch;
use crate::cpu::{self, CpuSlot, NR_CPUS, Saved};
use crate::hrtimer::{Expiry, HrTimer, HrTimers, HrtimerRestart};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Plant, planted};
use crate::timer::{Timer, TimerOwner, Timers};
use crate::trace::Tracer;
use crate::{TICK_NSEC, per_thread, rcu};
use std::cell::Cell;
use std::sync::{Arc, OnceLock, Weak};

/// The softirqs, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Softirq {
    Hi = 0,
    Timer = 1,
    NetTx = 2,
    NetRx = 3,
    Hrtimer = 4,
    /// Frees what RCU's readers have left (`RCU_SOFTIRQ`).
    Rcu = cpu::RCU_SOFTIRQ,
}

const NR_SOFTIRQS: usize = 6;
/// `MAX_SOFTIRQ_RESTART`: rounds before the rest is left to `ksoftirqd`.
const MAX_SOFTIRQ_RESTART: u32 = 10;
/// `MAX_SOFTIRQ_TIME`: nanoseconds before the rest is left to `ksoftirqd`.
const MAX_SOFTIRQ_TIME: u64 = 2_000_000;
/// Of so many nanoseconds, interrupts and the softirqs after them may take so many; then softirqs wait for `ksoftirqd`.
const IRQ_WINDOW: u64 = 4_000_000;
const MAX_IRQ_TIME: u64 = 2_000_000;

/// Rounds that a thread waits for `ksoftirqd` to leave its CPU, a few milliseconds, before it goes to another.
const KSOFTIRQD_PATIENCE: u32 = 192;

type Action = Box<dyn Fn() + Send + Sync>;

per_thread! {
    /// The CPU that the thread was last.
    static LAST: Cell<usize> = Cell::new(usize::MAX);
}

/// One kernel. Everything that Linux has once, a `Kernel` has once; a process may hold any number.
pub struct Kernel {
    arch: Arc<dyn Arch>,
    cpus: Box<[CpuSlot]>,
    softirq_vec: [OnceLock<Action>; NR_SOFTIRQS],
    timers: Arc<Timers>,
    hrtimers: Arc<HrTimers>,
    /// Timer bases whose functions are to be called by the softirqs [`Softirq::Timer`] and [`Softirq::Hrtimer`], a bit each.
    due: [AtomicU64; 2],
    tracer: Tracer,
    /// Where the search for a free CPU starts.
    next_cpu: AtomicUsize,
}

/// The thread is inside the kernel, as a CPU.
#[must_use]
pub struct Inside<'k> {
    kernel: &'k Kernel,
    /// `None` when it already was inside.
    claimed: Option<Claim>,
}

/// A CPU that this thread became.
struct Claim {
    /// The slot was taken for the thread; otherwise the arch says that it is the thread's anyway.
    exclusive: bool,
    saved: Option<Saved>,
}

impl Kernel {
    /// A kernel on `arch`, with `workers` timer bases (64 at most).
    pub fn new(arch: Arc<dyn Arch>, workers: usize) -> Arc<Kernel> {
        let kernel = Kernel {
            timers: Timers::new(arch.clone(), workers),
            hrtimers: HrTimers::new(arch.clone(), workers),
            due: Default::default(),
            arch,
            cpus: (0..NR_CPUS).map(|_| CpuSlot::default()).collect(),
            softirq_vec: Default::default(),
            tracer: Tracer::default(),
            next_cpu: AtomicUsize::new(0),
        };
        kernel.open_softirq(Softirq::Rcu, rcu::process_callbacks);
        Arc::new(kernel)
    }

    pub fn arch(&self) -> &dyn Arch {
        &*self.arch
    }

    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// A new timer of this kernel (`timer_setup`).
    pub fn timer(&self, func: impl Fn() + Send + Sync + 'static) -> Timer {
        Timer::new(&self.timers, func)
    }

    /// A new timer that is part of `owner` (`timer_setup`): see [`Timer::of`].
    pub fn timer_of(&self, owner: Weak<TimerOwner>, func: fn(Arc<TimerOwner>)) -> Timer {
        Timer::of(&self.timers, owner, func)
    }

    pub fn hrtimers(&self) -> &Arc<HrTimers> {
        &self.hrtimers
    }

    /// A new high-resolution timer of this kernel (`hrtimer_setup`).
    pub fn hrtimer(&self, func: impl Fn(&Expiry<'_>) -> HrtimerRestart + Send + Sync + 'static) -> HrTimer {
        HrTimer::new(&self.hrtimers, func)
    }

    /// Monotonic nanoseconds.
    #[inline]
    pub fn ktime_get(&self) -> u64 {
        let now = self.arch.ktime_get();
        self.timers.saw(now / TICK_NSEC);
        now
    }

    /// Monotonic milliseconds.
    #[inline]
    pub fn jiffies(&self) -> u64 {
        self.ktime_get() / TICK_NSEC
    }

    /// [`jiffies`](Self::jiffies) as somebody last read them: for who has just read the clock on the way here, as each packet
    /// does, and has no need to do it again.
    #[inline]
    pub fn jiffies_coarse(&self) -> u64 {
        self.timers.jiffies_coarse()
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut b = [0; N];
        self.arch.get_random_bytes(&mut b);
        b
    }

    /// A random number.
    pub fn random_u32(&self) -> u32 {
        u32::from_ne_bytes(self.random())
    }

    /// The calling thread becomes a CPU until the guard is dropped; then the softirqs it raised have run. Nests.
    #[inline]
    pub fn enter(&self) -> Inside<'_> {
        if std::ptr::eq(cpu::current_kernel(), std::ptr::from_ref(self).cast()) {
            return Inside { kernel: self, claimed: None };
        }
        match self.arch.smp_processor_id() {
            Some(id) => self.enter_as(id % NR_CPUS, false),
            None => self.enter_as(self.claim(), true),
        }
    }

    fn enter_as(&self, id: usize, exclusive: bool) -> Inside<'_> {
        let saved = Some(cpu::install(&self.cpus[id], id, self, &*self.arch));
        Inside { kernel: self, claimed: Some(Claim { exclusive, saved }) }
    }

    fn try_claim(&self, id: usize) -> bool {
        let busy = &self.cpus[id].busy;
        !busy.load(Ordering::Relaxed) && !busy.swap(true, Ordering::Acquire)
    }

    /// A free CPU: the thread's last one if it can be had.
    fn claim(&self) -> usize {
        let mut at = LAST.with(Cell::get);
        if at == usize::MAX {
            at = self.next_cpu.fetch_add(1, Ordering::Relaxed) % NR_CPUS;
        }
        let (mut tries, mut waited) = (0, 0);
        // Also if it waits for `ksoftirqd`: what this thread sends stays in line behind what it has sent.
        while !self.try_claim(at) {
            if tries == 0 && waited < KSOFTIRQD_PATIENCE && self.cpus[at].ksoftirqd.load(Ordering::Relaxed) {
                self.arch.cpu_relax(waited);
                waited += 1;
                continue;
            }
            at = (at + 1) % NR_CPUS;
            tries += 1;
            if tries >= NR_CPUS as u32 {
                self.arch.cpu_relax(tries);
            }
        }
        LAST.with(|l| l.set(at));
        at
    }

    /// The CPU is free again.
    fn release(&self, id: usize) {
        self.cpus[id].busy.store(false, Ordering::SeqCst);
        self.leave_pending(id);
    }

    /// What the CPU still has to do when nobody is there is for `ksoftirqd`.
    fn leave_pending(&self, id: usize) {
        if self.cpus[id].pending.load(Ordering::SeqCst) != 0 {
            self.arch.wakeup_softirqd(id);
        }
    }

    /// Sets the handler of a softirq, once.
    pub fn open_softirq(&self, nr: Softirq, action: impl Fn() + Send + Sync + 'static) {
        let first = self.softirq_vec[nr as usize].set(Box::new(action)).is_ok();
        debug_assert!(first, "softirq {nr:?} opened twice");
    }

    /// `run_ksoftirqd`: works off what CPU `id` left pending when its limit was reached or its thread went. Called by the
    /// arch's workers, after [`Arch::wakeup_softirqd`].
    pub fn run_ksoftirqd(&self, id: usize) {
        let slot = &self.cpus[id];
        // From here on the CPU runs its softirqs itself again: this worker, or whoever is there if it is busy.
        slot.deferred.store(false, Ordering::SeqCst);
        if slot.pending.load(Ordering::SeqCst) != 0 && self.try_claim(id) {
            slot.ksoftirqd.store(true, Ordering::Relaxed);
            let inside = self.enter_as(id, true);
            drop(cpu::local_bh_disable());
            slot.ksoftirqd.store(false, Ordering::Relaxed);
            drop(inside);
        }
    }

    /// The clock event of timer base `base`: raises the softirqs that call the functions which are due. Called by the arch
    /// when the programmed time has come, in process context or by a top half; in the former they have run on return.
    pub fn run_timers(&self, base: usize) {
        let _inside = self.enter();
        let _bh = cpu::local_bh_disable();
        let bit = 1u64.checked_shl(base as u32).unwrap_or(0);
        let due = [self.timers.is_due(base), self.hrtimers.is_due(base)];
        for (i, nr) in [Softirq::Timer, Softirq::Hrtimer].into_iter().enumerate() {
            if due[i] {
                self.due[i].fetch_or(bit, Ordering::SeqCst);
                raise_softirq_irqoff(nr);
            }
        }
    }

    /// `run_timer_softirq`, `hrtimer_run_softirq`.
    fn run_due(&self, nr: Softirq) {
        let mut bases = self.due[usize::from(nr == Softirq::Hrtimer)].swap(0, Ordering::SeqCst);
        while bases != 0 {
            let base = bases.trailing_zeros() as usize;
            bases &= bases - 1;
            match nr {
                Softirq::Hrtimer => self.hrtimers.run(base),
                _ => self.timers.run(base),
            }
        }
        rcu::process_callbacks();
    }

    /// What is pending on this CPU is `ksoftirqd`'s.
    fn defer_softirqs(&self, id: usize) {
        self.cpus[id].deferred.store(true, Ordering::SeqCst);
        self.arch.wakeup_softirqd(id);
    }

    /// Calls the handlers of these softirqs.
    fn handle_softirqs(&self, mut pending: u32) {
        const TIMER: u32 = Softirq::Timer as u32;
        const HRTIMER: u32 = Softirq::Hrtimer as u32;
        while pending != 0 {
            let nr = pending.trailing_zeros();
            pending &= pending - 1;
            match nr {
                TIMER => self.run_due(Softirq::Timer),
                HRTIMER => self.run_due(Softirq::Hrtimer),
                _ => {
                    if let Some(action) = self.softirq_vec[nr as usize].get() {
                        action();
                    }
                }
            }
        }
    }
}

impl cpu::Owner for Kernel {
    /// `__do_softirq`.
    fn do_softirq(&self) {
        let id = cpu::smp_processor_id();
        let slot = &self.cpus[id];
        if slot.deferred.load(Ordering::Relaxed) {
            // `ksoftirqd` has been asked: until it has come, nobody is held up by more of the same.
            return;
        }
        let mut start = None;
        for _ in 0..MAX_SOFTIRQ_RESTART {
            let late = planted(Plant::SoftirqClearLate);
            let pending = match late {
                false => slot.pending.swap(0, Ordering::Relaxed),
                true => slot.pending.load(Ordering::Relaxed),
            };
            self.handle_softirqs(pending);
            if late {
                slot.pending.fetch_and(!pending, Ordering::Relaxed);
            }
            if slot.pending.load(Ordering::Relaxed) == 0 {
                return;
            }
            // The clock is only read when one round was not enough.
            let now = self.ktime_get();
            if now - *start.get_or_insert(now) >= MAX_SOFTIRQ_TIME {
                break;
            }
        }
        self.defer_softirqs(id);
    }

    fn irq_enter(&self) {
        let (slot, now) = (&self.cpus[cpu::smp_processor_id()], self.ktime_get());
        slot.irq_start.store(now, Ordering::Relaxed);
        if now - slot.irq_since.load(Ordering::Relaxed).min(now) >= IRQ_WINDOW {
            slot.irq_since.store(now, Ordering::Relaxed);
            slot.irq_spent.store(0, Ordering::Relaxed);
        }
    }

    /// Where a packet's interrupt comes as soon as the one before it has been dealt with, softirqs never reach their limit and
    /// yet leave nothing of the CPU: so what they take in all is limited as well. This Linux does not have.
    fn irq_exit(&self, may: bool) {
        let id = cpu::smp_processor_id();
        let slot = &self.cpus[id];
        let start = slot.irq_start.load(Ordering::Relaxed);
        let spent = slot.irq_spent.load(Ordering::Relaxed);
        let total = || spent + self.ktime_get().saturating_sub(start);
        if may && slot.pending.load(Ordering::Relaxed) != 0 {
            if total() >= MAX_IRQ_TIME {
                self.defer_softirqs(id);
            } else {
                drop(cpu::local_bh_disable());
            }
        }
        slot.irq_spent.store(total(), Ordering::Relaxed);
    }

    /// Or sixty-four sleepers would shut everybody else out, also those for whom they wait.
    fn schedule_out(&self) {
        drop(cpu::local_bh_disable());
        let id = cpu::smp_processor_id();
        cpu::migrate(std::ptr::null(), id);
        if self.arch.smp_processor_id().is_none() {
            self.release(id);
        }
    }

    fn schedule_in(&self) {
        let id = self.arch.smp_processor_id().map_or_else(|| self.claim(), |id| id % NR_CPUS);
        cpu::migrate(&self.cpus[id], id);
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(Claim { exclusive, saved }) = self.claimed.take() {
            // Runs what was raised outside any bottom-half section.
            drop(cpu::local_bh_disable());
            // It may have slept, and be another one since.
            let id = cpu::smp_processor_id();
            if let Some(s) = saved {
                cpu::restore(s);
            }
            match exclusive {
                true => self.kernel.release(id),
                false => self.kernel.leave_pending(id),
            }
        }
    }
}

/// `raise_softirq`: the handler runs when this CPU leaves its outermost bottom-half-disabled section or interrupt, or the
/// kernel.
#[inline]
pub fn raise_softirq(nr: Softirq) {
    cpu::raise(nr as u32);
}

/// `raise_softirq_irqoff`: the same for who has interrupts off already. Raising is one atomic instruction here, so nothing
/// has to be switched off for it.
#[inline]
pub fn raise_softirq_irqoff(nr: Softirq) {
    raise_softirq(nr);
}
