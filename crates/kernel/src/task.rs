//! Tasks: who waits, and how to wake them.
//!
//! Interface: [`Task`], [`Runnable`], [`Task::try_to_wake_up`].
//! Linux counterpart: `struct task_struct`, `kernel/sched/core.c`.
//! Locks and context: `try_to_wake_up` may be called anywhere, with spinlocks held.

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

pub const TASK_RUNNING: u32 = 0;
pub const TASK_INTERRUPTIBLE: u32 = 1;
pub const TASK_UNINTERRUPTIBLE: u32 = 2;

/// How a kind of task is made to run again: a thread is unparked, a future's waker called, a parked system call put on
/// its supervisor's list, a simulated task on its CPU's run queue.
pub trait Runnable: Send + Sync {
    /// Called once for each change from sleeping to running; must not block.
    fn wake(&self);

    /// The waker is about to sleep itself (`WF_SYNC`): the task need not be given a CPU at once.
    fn wake_sync(&self) {
        self.wake()
    }
}

/// Something that can sleep on a wait queue.
pub struct Task {
    state: AtomicU32,
    signal: AtomicBool,
    how: Box<dyn Runnable>,
}

impl Task {
    pub fn new(how: Box<dyn Runnable>) -> Arc<Task> {
        Arc::new(Task { state: AtomicU32::new(TASK_RUNNING), signal: AtomicBool::new(false), how })
    }

    /// A task whose wake-up is a closure.
    pub fn from_fn(f: impl Fn() + Send + Sync + 'static) -> Arc<Task> {
        struct Callback<F>(F);
        impl<F: Fn() + Send + Sync> Runnable for Callback<F> {
            fn wake(&self) {
                (self.0)()
            }
        }
        Task::new(Box::new(Callback(f)))
    }

    /// The task of a future: its executor's waker, which must be the same at each poll of the operation.
    pub fn from_waker(w: std::task::Waker) -> Arc<Task> {
        Task::from_fn(move || w.wake_by_ref())
    }

    pub fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    /// `set_current_state`: a full barrier, so that a condition checked after it cannot have been checked before.
    pub fn set_state(&self, state: u32) {
        self.state.swap(state, Ordering::SeqCst);
    }

    /// Makes a sleeping task runnable; `false` if it already was.
    pub fn try_to_wake_up(&self) -> bool {
        if self.state.swap(TASK_RUNNING, Ordering::SeqCst) == TASK_RUNNING {
            return false;
        }
        self.how.wake();
        true
    }

    /// Delivers a signal: an interruptible sleep ends and the operation answers `EINTR` (or its restart).
    pub fn send_signal(&self) {
        self.signal.store(true, Ordering::SeqCst);
        self.try_to_wake_up();
    }

    /// `signal_pending`.
    pub fn signal_pending(&self) -> bool {
        self.signal.load(Ordering::SeqCst)
    }

    /// Takes the pending signal, if any.
    pub fn clear_signal(&self) -> bool {
        self.signal.swap(false, Ordering::SeqCst)
    }
}
