//! A kernel: its CPUs, its softirq vector, its timers, its tracer, and the arch it runs on.
//!
//! Interface: [`Kernel::new`], [`Kernel::enter`] (a thread becomes a CPU), [`Kernel::open_softirq`], [`raise_softirq`].
//! Linux counterpart: `kernel/softirq.c`, and everything that Linux keeps in static variables.
//! Locks and context: `enter` in process context, by workers and by callers of system calls; the rest says.

use crate::arch::Arch;
use crate::cpu::{self, CpuSlot, NR_CPUS, Saved};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::timer::{Timer, Timers};
use crate::trace::Tracer;
use crate::{TICK_NSEC, per_thread, rcu};
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

/// The softirqs, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Softirq {
    Hi = 0,
    Timer = 1,
    NetTx = 2,
    NetRx = 3,
}

const NR_SOFTIRQS: usize = 4;
/// `MAX_SOFTIRQ_RESTART`: rounds before the rest is left to `ksoftirqd`.
const MAX_SOFTIRQ_RESTART: u32 = 10;

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
    id: usize,
    /// The slot was taken for the thread; otherwise the arch says that it is the thread's anyway.
    exclusive: bool,
    saved: Option<Saved>,
}

impl Kernel {
    /// A kernel on `arch`, with `workers` timer bases.
    pub fn new(arch: Arc<dyn Arch>, workers: usize) -> Arc<Kernel> {
        Arc::new(Kernel {
            timers: Timers::new(arch.clone(), workers),
            arch,
            cpus: (0..NR_CPUS).map(|_| CpuSlot::default()).collect(),
            softirq_vec: Default::default(),
            tracer: Tracer::default(),
            next_cpu: AtomicUsize::new(0),
        })
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

    /// Monotonic nanoseconds.
    #[inline]
    pub fn ktime_get(&self) -> u64 {
        self.arch.ktime_get()
    }

    /// Monotonic milliseconds.
    #[inline]
    pub fn jiffies(&self) -> u64 {
        self.ktime_get() / TICK_NSEC
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
        Inside { kernel: self, claimed: Some(Claim { id, exclusive, saved }) }
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
        let mut tries = 0;
        while !self.try_claim(at) {
            at = (at + 1) % NR_CPUS;
            tries += 1;
            if tries >= NR_CPUS as u32 {
                self.arch.cpu_relax(tries);
            }
        }
        LAST.with(|l| l.set(at));
        at
    }

    /// Sets the handler of a softirq, once.
    pub fn open_softirq(&self, nr: Softirq, action: impl Fn() + Send + Sync + 'static) {
        let first = self.softirq_vec[nr as usize].set(Box::new(action)).is_ok();
        debug_assert!(first, "softirq {nr:?} opened twice");
    }

    /// `run_ksoftirqd`: works off what CPU `id` left pending when its thread went. Called by the arch's workers.
    pub fn run_ksoftirqd(&self, id: usize) {
        if self.cpus[id].pending.load(Ordering::Relaxed) != 0 && self.try_claim(id) {
            drop(self.enter_as(id, true));
        }
        // Busy again: whoever is there now runs them when it leaves.
    }

    /// Fires the due timers of wheel `base`, in softirq context. Called by the arch when the programmed time has come.
    pub fn run_timers(&self, base: usize) {
        let _inside = self.enter();
        let _bh = cpu::local_bh_disable();
        self.timers.run(base);
        rcu::process_callbacks();
    }
}

impl cpu::Owner for Kernel {
    fn do_softirq(&self) {
        let id = cpu::smp_processor_id();
        let slot = &self.cpus[id];
        for _ in 0..MAX_SOFTIRQ_RESTART {
            let mut pending = slot.pending.swap(0, Ordering::Relaxed);
            if pending == 0 {
                return;
            }
            while pending != 0 {
                let nr = pending.trailing_zeros();
                pending &= pending - 1;
                if let Some(action) = self.softirq_vec[nr as usize].get() {
                    action();
                }
            }
        }
        // What is left runs when this CPU next enables bottom halves, or in `ksoftirqd` once the thread has left.
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(Claim { id, exclusive, saved }) = self.claimed.take() {
            // Runs what was raised outside any bottom-half section.
            drop(cpu::local_bh_disable());
            if let Some(s) = saved {
                cpu::restore(s);
            }
            let slot = &self.kernel.cpus[id];
            if exclusive {
                slot.busy.store(false, Ordering::SeqCst);
            }
            if slot.pending.load(Ordering::SeqCst) != 0 {
                self.kernel.arch.wakeup_softirqd(id);
            }
        }
    }
}

/// `raise_softirq`: the handler runs when this CPU leaves its outermost bottom-half-disabled section, or the kernel.
#[inline]
pub fn raise_softirq(nr: Softirq) {
    cpu::raise(nr as u32);
}
