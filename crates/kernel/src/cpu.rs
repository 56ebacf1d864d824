//! The calling thread as a CPU: which one it is, what it has disabled, which softirqs it has raised.
//!
//! Interface: [`local_bh_disable`], [`local_irq_save`], [`irq_enter`], [`preempt_disable`], [`in_softirq`] and its like,
//! [`smp_processor_id`], [`checkpoint`]; [`CpuContext`] for whoever runs several contexts on one thread; [`CpuSlot`] and
//! the crate's own entry points for [`Kernel`](crate::Kernel).
//! Linux counterpart: `include/linux/preempt.h`, `kernel/softirq.c` (the counting half), `thread_info`.
//! Locks and context: thread-local, lock-free. On a host nothing interrupts a thread, so `irq` counts only matter to the
//! simulator and to the checks.
//!
//! A simulated CPU is interrupted, or switched to another task, at a [`checkpoint`]: where a guard ends, a lock is let go, a
//! tracepoint is passed. With no simulator in the process a checkpoint is one load and a predictable branch.

use crate::arch::Arch;
use crate::lockdep::held::{self, HeldSlot, Since};
use crate::lockdep::state::State;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::{per_thread, sync};
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr;
use std::sync::atomic as real;

/// Threads that can be inside one kernel at the same time. One more waits for a place at the door.
pub const NR_CPUS: usize = if cfg!(loom) { 2 } else { 64 };

/// A CPU of a kernel: claimed by the thread that is inside.
#[derive(Default)]
#[repr(align(128))]
pub struct CpuSlot {
    pub(crate) busy: AtomicBool,
    /// Bit set of raised softirqs (`__softirq_pending`).
    pub(crate) pending: AtomicU32,
    /// What is pending has been left to `ksoftirqd`, which has not come yet.
    pub(crate) deferred: AtomicBool,
    /// `ksoftirqd` is here.
    pub(crate) ksoftirqd: AtomicBool,
    /// When the interrupt that is served began, and how long interrupts have taken since when, nanoseconds.
    pub(crate) irq_start: AtomicU64,
    pub(crate) irq_spent: AtomicU64,
    pub(crate) irq_since: AtomicU64,
}

/// A kernel, as far as its CPUs need to know it.
pub(crate) trait Owner {
    /// Runs this CPU's pending softirqs; bottom halves are off.
    fn do_softirq(&self);
    /// The thread is going to sleep: its CPU is for others until [`schedule_in`](Self::schedule_in), which finds it one.
    fn schedule_out(&self);
    fn schedule_in(&self);
    /// An interrupt begins that interrupted no other.
    fn irq_enter(&self);
    /// It has ended. Runs the softirqs, or leaves them to `ksoftirqd`, if they `may` run.
    fn irq_exit(&self, may: bool);
}

/// What a thread, or a simulated context, carries as a CPU. `slot` is null outside every kernel.
#[derive(Clone)]
struct Context {
    slot: Cell<*const CpuSlot>,
    id: Cell<usize>,
    kernel: Cell<Option<*const dyn Owner>>,
    arch: Cell<Option<*const dyn Arch>>,
    preempt: Cell<u32>,
    bh: Cell<u32>,
    irq: Cell<u32>,
    hardirq: Cell<u32>,
    serving: Cell<bool>,
    /// Nesting of RCU read sections; in its upper bits, how the outermost one is counted.
    pub(crate) rcu: Cell<u32>,
    /// Traced functions that have been entered and not left.
    depth: Cell<u32>,
    /// Where sleeping began to be forbidden, in debug builds.
    since: Since,
}

impl Context {
    const fn outside() -> Context {
        Context {
            slot: Cell::new(ptr::null()),
            id: Cell::new(0),
            kernel: Cell::new(None),
            arch: Cell::new(None),
            preempt: Cell::new(0),
            bh: Cell::new(0),
            irq: Cell::new(0),
            hardirq: Cell::new(0),
            serving: Cell::new(false),
            rcu: Cell::new(0),
            depth: Cell::new(0),
            since: Since::new(),
        }
    }

    fn swap(&self, o: &Context) {
        self.slot.swap(&o.slot);
        self.id.swap(&o.id);
        self.kernel.swap(&o.kernel);
        self.arch.swap(&o.arch);
        self.preempt.swap(&o.preempt);
        self.bh.swap(&o.bh);
        self.irq.swap(&o.irq);
        self.hardirq.swap(&o.hardirq);
        self.serving.swap(&o.serving);
        self.rcu.swap(&o.rcu);
        self.depth.swap(&o.depth);
        self.since.swap(&o.since);
    }

    /// Remembers the place of the first call that makes the context atomic.
    #[inline(always)]
    fn note(&self, at: &'static Location<'static>) {
        if held::ON && self.preempt.get() + self.bh.get() + self.irq.get() + self.hardirq.get() == 0 {
            self.since.set(at);
        }
    }
}

per_thread! {
    static CTX: Context = Context::outside();
}

/// A context that is not running: what a simulated task or CPU carries while others use the thread.
pub struct CpuContext(Context, HeldSlot);

impl Default for CpuContext {
    /// Outside every kernel, nothing disabled.
    fn default() -> Self {
        CpuContext(Context::outside(), HeldSlot::default())
    }
}

impl CpuContext {
    /// Names it in the reports of the lock validator. While it is not running.
    pub fn set_name(&self, name: &str) {
        self.1.set_name(name);
    }

    /// Exchanges the thread's context with this one.
    ///
    /// # Safety
    /// The thread must switch stacks with it: guards made in a context may only be dropped, and kernels entered in it only
    /// be left, while that context is the thread's.
    pub unsafe fn switch(&self) {
        CTX.with(|c| c.swap(&self.0));
        self.1.switch();
    }

    /// A context outside every kernel whose waiting `arch` looks after: user mode, as it were.
    ///
    /// # Safety
    /// `arch` must outlive the context, and every use of it.
    pub unsafe fn on(arch: *const dyn Arch) -> CpuContext {
        let c = Context::outside();
        c.arch.set(Some(arch));
        CpuContext(c, HeldSlot::default())
    }

    /// Whether the context, which is not running, could be put to sleep: nothing of it forbids that.
    pub fn is_atomic(&self) -> bool {
        let c = &self.0;
        c.preempt.get() > 0 || c.bh.get() > 0 || c.irq.get() > 0 || c.hardirq.get() > 0
    }

    /// Whether the context, which is not running, is inside a kernel, as one of its CPUs.
    pub fn has_cpu(&self) -> bool {
        !self.0.slot.get().is_null()
    }

    /// Whether the context, which is not running, has interrupts off.
    pub fn irqs_disabled(&self) -> bool {
        self.0.irq.get() > 0 || self.0.hardirq.get() > 0
    }
}

/// What [`install`] replaced; given back by [`restore`].
pub(crate) struct Saved {
    slot: *const CpuSlot,
    id: usize,
    kernel: Option<*const dyn Owner>,
    arch: Option<*const dyn Arch>,
}

/// Makes the calling thread CPU `id` of `kernel`. The pointers must stay valid until [`restore`].
pub(crate) fn install(slot: &CpuSlot, id: usize, kernel: &(impl Owner + 'static), arch: &dyn Arch) -> Saved {
    // SAFETY: only the lifetime is erased; `Kernel::enter` holds the kernel borrowed until `restore`.
    let arch: *const dyn Arch = unsafe { std::mem::transmute::<&dyn Arch, &'static dyn Arch>(arch) };
    CTX.with(|c| Saved {
        slot: c.slot.replace(slot),
        id: c.id.replace(id),
        kernel: c.kernel.replace(Some(kernel as *const dyn Owner)),
        arch: c.arch.replace(Some(arch)),
    })
}

/// Undoes [`install`].
pub(crate) fn restore(s: Saved) {
    CTX.with(|c| {
        c.slot.set(s.slot);
        c.id.set(s.id);
        c.kernel.set(s.kernel);
        c.arch.set(s.arch);
    })
}

/// The static key of checkpoints: on while this process has a simulator that wants them. One a process, as code is.
static CHECKPOINTS: real::AtomicU32 = real::AtomicU32::new(0);

per_thread! {
    /// Checkpoints until the arch is asked; 0: the arch has not been heard of on this thread.
    static COUNTDOWN: Cell<u32> = Cell::new(0);
}

/// Switches checkpoints on, until the drop of the last such guard.
pub struct CheckpointsOn(NotSend);

impl CheckpointsOn {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        CHECKPOINTS.fetch_add(1, real::Ordering::SeqCst);
        CheckpointsOn(PhantomData)
    }
}

impl Drop for CheckpointsOn {
    fn drop(&mut self) {
        COUNTDOWN.with(|n| n.set(0));
        CHECKPOINTS.fetch_sub(1, real::Ordering::SeqCst);
    }
}

/// Has the arch asked ([`Arch::checkpoint`]) at this thread's `n`th checkpoint from now; 0: never, until this is called again.
/// Answers how many were left.
pub fn set_countdown(n: u32) -> u32 {
    COUNTDOWN.with(|c| c.replace(n))
}

/// A point where a simulated CPU may be interrupted or its task be preempted.
#[inline(always)]
pub fn checkpoint() {
    if CHECKPOINTS.load(real::Ordering::Relaxed) != 0 {
        count_checkpoint();
    }
}

#[cold]
fn count_checkpoint() {
    let due = COUNTDOWN.with(|n| match n.get() {
        0 => false,
        left => {
            n.set(left - 1);
            left == 1
        }
    });
    if due && with_arch(|a| a.checkpoint()).is_none() {
        // Nobody to ask here: the next one is as good.
        set_countdown(1);
    }
}

/// Calls `sleep`, which gives up the CPU, from inside a kernel or from outside of all.
pub(crate) fn while_asleep(sleep: impl FnOnce()) {
    let Some(kernel) = CTX.with(|c| c.kernel.get()) else { return sleep() };
    // SAFETY: set by `install`, whose caller holds the kernel borrowed until `restore`.
    unsafe { (*kernel).schedule_out() };
    sleep();
    // SAFETY: as above.
    unsafe { (*kernel).schedule_in() };
}

/// The calling thread, which is inside a kernel, is that kernel's CPU `id` from now on; null: none.
pub(crate) fn migrate(slot: *const CpuSlot, id: usize) {
    CTX.with(|c| {
        c.slot.set(slot);
        c.id.set(id);
    })
}

/// The address of the kernel the thread is inside, or null.
pub(crate) fn current_kernel() -> *const () {
    CTX.with(|c| c.kernel.get()).map_or(ptr::null(), |k| k.cast())
}

/// Whether the thread is inside a kernel, and so a CPU.
#[inline]
pub fn is_a_cpu() -> bool {
    CTX.with(|c| !c.slot.get().is_null())
}

/// This CPU's number, 0 outside every kernel.
#[inline]
pub fn smp_processor_id() -> usize {
    CTX.with(|c| c.id.get())
}

/// Calls `f` with the arch the thread runs on; `None` outside every kernel.
pub(crate) fn with_arch<R>(f: impl FnOnce(&dyn Arch) -> R) -> Option<R> {
    let arch = CTX.with(|c| c.arch.get())?;
    // SAFETY: set by `install`, whose caller keeps the arch alive until `restore`; `f` runs in between.
    Some(f(unsafe { &*arch }))
}

/// Spins politely: lets the arch yield when a lock stays contended.
pub(crate) fn relax(spins: u32) {
    sync::bound_spin(spins);
    match CTX.with(|c| c.arch.get()) {
        // SAFETY: set by `install`, whose caller keeps the arch alive until `restore`.
        Some(a) => unsafe { (*a).cpu_relax(spins) },
        None if spins < 64 => sync::spin_loop(),
        None => sync::yield_now(),
    }
}

/// Whether the calling code runs in softirq context or with bottom halves disabled (`in_softirq`).
pub fn in_softirq() -> bool {
    CTX.with(|c| c.bh.get() > 0)
}

/// Whether the calling code is a softirq handler (`in_serving_softirq`).
pub fn in_serving_softirq() -> bool {
    CTX.with(|c| c.serving.get())
}

/// Whether the calling code is a device's top half.
pub fn in_hardirq() -> bool {
    CTX.with(|c| c.hardirq.get() > 0)
}

/// Whether sleeping is forbidden here (`in_atomic`).
pub fn in_atomic() -> bool {
    CTX.with(|c| c.preempt.get() > 0 || c.bh.get() > 0 || c.irq.get() > 0 || c.hardirq.get() > 0)
}

/// Whether interrupts are off on this CPU (`irqs_disabled`).
pub fn irqs_disabled() -> bool {
    CTX.with(|c| c.irq.get() > 0 || c.hardirq.get() > 0)
}

/// The nesting of RCU read sections in this context.
pub(crate) fn rcu_nesting<R>(f: impl FnOnce(&Cell<u32>) -> R) -> R {
    CTX.with(|c| f(&c.rcu))
}

/// How many traced functions this context is in.
pub(crate) fn trace_depth<R>(f: impl FnOnce(&Cell<u32>) -> R) -> R {
    CTX.with(|c| f(&c.depth))
}

/// The context a tracepoint records.
pub fn context_name() -> &'static str {
    if in_hardirq() {
        "hardirq"
    } else if in_serving_softirq() {
        "softirq"
    } else {
        "process"
    }
}

/// Guard types must stay on their thread.
type NotSend = PhantomData<*const ()>;

macro_rules! count_guard {
    ($(#[$m:meta])* $guard:ident, $(#[$f:meta])* $ctor:ident, $field:ident, $may_enable:literal) => {
        $(#[$m])*
        #[must_use]
        pub struct $guard(NotSend);

        $(#[$f])*
        #[cfg_attr(debug_assertions, track_caller)]
        #[inline]
        pub fn $ctor() -> $guard {
            let at = Location::caller();
            CTX.with(|c| {
                c.note(at);
                c.$field.set(c.$field.get() + 1)
            });
            $guard(PhantomData)
        }

        impl Drop for $guard {
            #[inline]
            fn drop(&mut self) {
                CTX.with(|c| c.$field.set(c.$field.get() - 1));
                if held::ON && $may_enable {
                    check_enabled();
                }
                checkpoint();
            }
        }
    };
}

count_guard!(
    /// While it lives the thread may not sleep.
    PreemptGuard,
    /// `preempt_disable`.
    preempt_disable,
    preempt,
    false
);
count_guard!(
    /// While it lives the simulator delivers no interrupt here.
    IrqGuard,
    /// `local_irq_save`; nests, and the drop restores.
    local_irq_save,
    irq,
    true
);

/// While it lives the thread is in hard-interrupt context.
#[must_use]
pub struct HardirqGuard(NotSend);

/// `irq_enter`, by the arch before it calls a device's top half. The drop is `irq_exit`: it runs the softirqs that the top
/// half raised, unless what was interrupted has them disabled.
#[cfg_attr(debug_assertions, track_caller)]
pub fn irq_enter() -> HardirqGuard {
    let at = Location::caller();
    let first = CTX.with(|c| {
        c.note(at);
        c.hardirq.replace(c.hardirq.get() + 1) == 0
    });
    if first {
        with_owner(|k| k.irq_enter());
    }
    HardirqGuard(PhantomData)
}

impl Drop for HardirqGuard {
    fn drop(&mut self) {
        CTX.with(|c| c.hardirq.set(c.hardirq.get() - 1));
        let (last, may) = CTX.with(|c| (c.hardirq.get() == 0, c.irq.get() == 0 && c.bh.get() == 0));
        if last {
            with_owner(|k| k.irq_exit(may));
        }
    }
}

/// Calls `f` with the kernel that the thread is inside, if any.
fn with_owner(f: impl FnOnce(&dyn Owner)) {
    if let Some(kernel) = CTX.with(|c| c.kernel.get()) {
        // SAFETY: set by `install`, whose caller holds the kernel borrowed until `restore`.
        f(unsafe { &*kernel });
    }
}

/// While it lives no softirq runs on this CPU; the drop of the outermost one runs what was raised.
#[must_use]
pub struct BhGuard(NotSend);

/// `local_bh_disable`.
#[cfg_attr(debug_assertions, track_caller)]
#[inline]
pub fn local_bh_disable() -> BhGuard {
    let at = Location::caller();
    CTX.with(|c| {
        c.note(at);
        c.bh.set(c.bh.get() + 1)
    });
    BhGuard(PhantomData)
}

impl Drop for BhGuard {
    /// `local_bh_enable`.
    #[inline]
    fn drop(&mut self) {
        let run = CTX.with(|c| {
            let interrupts = c.hardirq.get() == 0 && c.irq.get() == 0;
            let outermost = c.bh.get() == 1 && !c.slot.get().is_null() && interrupts;
            // SAFETY: a non-null slot belongs to the kernel that the thread is inside.
            if outermost && unsafe { (*c.slot.get()).pending.load(Ordering::Relaxed) } != 0 {
                // `bh` stays up: softirq context is "bottom halves disabled".
                true
            } else {
                c.bh.set(c.bh.get() - 1);
                false
            }
        });
        if run {
            run_pending();
            CTX.with(|c| c.bh.set(c.bh.get() - 1));
        }
        if held::ON {
            check_enabled();
        }
        checkpoint();
    }
}

/// A guard's end may have turned interrupts or bottom halves on: the lock validator looks at what is held.
#[inline]
fn check_enabled() {
    let s = state();
    if !s.irqs_off && !s.hardirq {
        held::enabled(&s);
    }
}

#[cold]
fn run_pending() {
    CTX.with(|c| c.serving.set(true));
    with_owner(|k| k.do_softirq());
    CTX.with(|c| c.serving.set(false));
}

/// Marks softirq `nr` raised on this CPU. Outside every kernel it is a bug, caught in debug builds.
pub(crate) fn raise(nr: u32) {
    CTX.with(|c| {
        debug_assert!(!c.slot.get().is_null(), "raise_softirq outside the kernel: Kernel::enter first");
        // SAFETY: a non-null slot belongs to the kernel that the thread is inside.
        if let Some(s) = unsafe { c.slot.get().as_ref() } {
            s.pending.fetch_or(1 << nr, Ordering::Relaxed);
        }
    })
}

/// The number of [`Softirq::Rcu`](crate::Softirq::Rcu), for those below the kernel.
pub(crate) const RCU_SOFTIRQ: u32 = 5;

/// Marks softirq `nr` raised on this CPU, if the thread is one.
pub(crate) fn raise_if_inside(nr: u32) {
    if CTX.with(|c| !c.slot.get().is_null()) {
        raise(nr);
    }
}

/// The context, for the lock validator.
pub(crate) fn state() -> State {
    CTX.with(|c| State {
        hardirq: c.hardirq.get() > 0,
        softirq: c.serving.get(),
        irqs_off: c.irq.get() > 0,
        bh_off: c.bh.get() > 0,
        preempt_off: c.preempt.get() > 0,
        rcu: c.rcu.get() > 0,
        since: c.since.get(),
    })
}

/// The caller may sleep, now or in another run. Debug builds report it where sleeping is forbidden: in atomic context, and
/// in an RCU read section.
#[cfg_attr(debug_assertions, track_caller)]
#[inline(always)]
pub fn might_sleep() {
    if cfg!(debug_assertions) && (in_atomic() || CTX.with(|c| c.rcu.get() > 0)) {
        held::sleeping(Location::caller(), &state());
    }
}

/// The old name of [`might_sleep`].
#[cfg_attr(debug_assertions, track_caller)]
#[inline(always)]
pub(crate) fn assert_may_sleep() {
    might_sleep();
}
