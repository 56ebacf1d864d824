//! Tasks: who waits, in which state, and how to wake them.
//!
//! Interface: [`Task`] (`try_to_wake_up`, `wake_up_process`, signals), [`Runnable`], the states `TASK_*`, [`WF_SYNC`].
//! Linux counterpart: `struct task_struct`, `include/linux/sched.h`, `include/linux/sched/signal.h`, `kernel/sched/core.c`.
//! Locks and context: waking and signalling may be done anywhere, with spinlocks held.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::fence;
use std::sync::Arc;

/// Runs, or may run.
pub const TASK_RUNNING: u32 = 0;
/// Sleeps until its event, or a signal.
pub const TASK_INTERRUPTIBLE: u32 = 1;
/// Sleeps until its event, whatever else comes.
pub const TASK_UNINTERRUPTIBLE: u32 = 2;
/// Not a sleep of its own: the bit that lets a fatal signal through.
pub const TASK_WAKEKILL: u32 = 0x100;
/// Sleeps until its event, or a fatal signal.
pub const TASK_KILLABLE: u32 = TASK_WAKEKILL | TASK_UNINTERRUPTIBLE;
/// The sleepers that an ordinary wake-up wakes: all of them.
pub const TASK_NORMAL: u32 = TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE;

/// A flag of a wake-up: the waker is about to sleep itself, so the task need not push it off its CPU.
pub const WF_SYNC: u32 = 0x10;

const SIGNAL: u32 = 1;
const SIGNAL_FATAL: u32 = 2;

/// How a kind of task is made to run again: a thread is unparked, a future's waker called, a parked system call put on
/// its supervisor's list, a simulated task on its CPU's run queue.
pub trait Runnable: Send + Sync {
    /// Called once for each change from sleeping to running; must not block. The task may still be on its way to sleep: then
    /// it must find out that it is running before it gives up its CPU, or be run again.
    fn wake(&self);

    /// The waker is about to sleep itself ([`WF_SYNC`]): the task need not be given a CPU at once.
    fn wake_sync(&self) {
        self.wake()
    }
}

/// Something that can sleep on a wait queue.
pub struct Task {
    state: AtomicU32,
    /// [`SIGNAL`] and [`SIGNAL_FATAL`].
    signals: AtomicU32,
    pid: u32,
    comm: &'static str,
    how: Box<dyn Runnable>,
}

impl Task {
    pub fn new(how: Box<dyn Runnable>) -> Arc<Task> {
        Task::named("task", 0, how)
    }

    /// A task with a name and a number for reports.
    pub fn named(comm: &'static str, pid: u32, how: Box<dyn Runnable>) -> Arc<Task> {
        let (state, signals) = (AtomicU32::new(TASK_RUNNING), AtomicU32::new(0));
        Arc::new(Task { state, signals, pid, comm, how })
    }

    /// A task whose wake-up is a closure.
    pub fn from_fn(f: impl Fn() + Send + Sync + 'static) -> Arc<Task> {
        struct Callback<F>(F);
        impl<F: Fn() + Send + Sync> Runnable for Callback<F> {
            fn wake(&self) {
                (self.0)()
            }
        }
        Task::named("callback", 0, Box::new(Callback(f)))
    }

    /// The task of a future: its executor's waker, which must be the same at each poll of the operation.
    pub fn from_waker(w: std::task::Waker) -> Arc<Task> {
        struct Future(std::task::Waker);
        impl Runnable for Future {
            fn wake(&self) {
                self.0.wake_by_ref()
            }
        }
        Task::named("future", 0, Box::new(Future(w)))
    }

    /// What reports call it.
    pub fn comm(&self) -> &'static str {
        self.comm
    }

    /// Its number in reports; 0: it has none.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    /// `set_current_state`. Falling asleep is a full barrier: a condition checked after it has not been checked before.
    pub fn set_state(&self, state: u32) {
        self.state.store(state, Ordering::Release);
        if state != TASK_RUNNING {
            fence(Ordering::SeqCst);
        }
    }

    /// The same without the barrier, for a caller who has one of its own behind it.
    pub(crate) fn set_state_unordered(&self, state: u32) {
        self.state.store(state, Ordering::Release);
    }

    /// Makes the task runnable if it sleeps in one of the states of `mask`; whether it did. A full barrier: what was stored
    /// before it is seen by the task, or the task is seen asleep. `flags`: 0 or [`WF_SYNC`].
    pub fn try_to_wake_up(&self, mask: u32, flags: u32) -> bool {
        fence(Ordering::SeqCst);
        let woken = self.ttwu_state_match(mask);
        if woken {
            self.ttwu_queue(flags);
        }
        woken
    }

    /// The first half of it, without the barrier: whoever gets `true` owes the task the [second](Self::ttwu_queue).
    pub(crate) fn ttwu_state_match(&self, mask: u32) -> bool {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            if state & mask == 0 {
                return false;
            }
            match self.state.compare_exchange(state, TASK_RUNNING, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// The second half: lets the task run.
    pub(crate) fn ttwu_queue(&self, flags: u32) {
        match flags & WF_SYNC {
            0 => self.how.wake(),
            _ => self.how.wake_sync(),
        }
    }

    /// Wakes the task whatever it sleeps for.
    pub fn wake_up_process(&self) -> bool {
        self.try_to_wake_up(TASK_NORMAL, 0)
    }

    /// Wakes the task if it sleeps in one of the states of `mask`.
    pub fn wake_up_state(&self, mask: u32) -> bool {
        self.try_to_wake_up(mask, 0)
    }

    /// For [`Arch::schedule`](crate::Arch::schedule), each time round: whether the task really has to sleep. It has not when
    /// it was woken meanwhile, nor when a signal that ends its kind of sleep came before it was marked asleep and so woke
    /// nobody; then it is running.
    pub fn try_to_block_task(&self) -> bool {
        let state = self.state();
        if state != TASK_RUNNING && self.signal_pending_state(state) {
            self.set_state(TASK_RUNNING);
            return false;
        }
        state != TASK_RUNNING
    }

    /// Delivers a signal that has a handler: an interruptible sleep ends and the operation answers `EINTR` (or its restart).
    pub fn send_signal(&self) {
        self.signal_wake_up(SIGNAL, TASK_INTERRUPTIBLE);
    }

    /// Delivers `SIGKILL`: interruptible and killable sleeps end. It stays pending until [`flush_signals`](Self::flush_signals).
    pub fn send_sig_kill(&self) {
        self.signal_wake_up(SIGNAL | SIGNAL_FATAL, TASK_INTERRUPTIBLE | TASK_WAKEKILL);
    }

    fn signal_wake_up(&self, signals: u32, mask: u32) {
        self.signals.fetch_or(signals, Ordering::SeqCst);
        self.try_to_wake_up(mask, 0);
    }

    pub fn signal_pending(&self) -> bool {
        self.signals.load(Ordering::SeqCst) != 0
    }

    pub fn fatal_signal_pending(&self) -> bool {
        self.signals.load(Ordering::SeqCst) & SIGNAL_FATAL != 0
    }

    /// Whether a signal is pending that ends a sleep in `state`.
    pub fn signal_pending_state(&self, state: u32) -> bool {
        match state {
            s if s & TASK_INTERRUPTIBLE != 0 => self.signal_pending(),
            s if s & TASK_WAKEKILL != 0 => self.fatal_signal_pending(),
            _ => false,
        }
    }

    /// Takes the pending signal, if any. A fatal one cannot be taken.
    pub fn clear_signal(&self) -> bool {
        if self.fatal_signal_pending() {
            return true;
        }
        self.signals.fetch_and(!SIGNAL, Ordering::SeqCst) & SIGNAL != 0
    }

    /// Drops all pending signals, also a fatal one (`flush_signals`).
    pub fn flush_signals(&self) {
        self.signals.store(0, Ordering::SeqCst);
    }
}
