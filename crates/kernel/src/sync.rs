//! The façade through which the primitives reach atomics and thread-locals, so that model checkers can take their place.
//!
//! Interface: [`atomic`], [`fence`], [`spin_loop`], [`yield_now`], [`per_thread!`](crate::per_thread),
//! [`maybe_const!`](crate::maybe_const), [`Witness`], [`planted`].
//! Linux counterpart: `tools/memory-model/`, in spirit; tokio's `src/loom/` is the model.
//! Locks and context: any.
//!
//! `--cfg loom` puts loom's types here, `--cfg shuttle` shuttle's. Without either, everything is the standard library's
//! and costs nothing. `--cfg verify` (implied by both) lets a bug be planted at run time, to see that a check finds it.

#[cfg(not(any(loom, shuttle)))]
mod imp {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{self, fence};
    pub use std::thread::yield_now;
}

#[cfg(loom)]
mod imp {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{self, fence};
    pub use loom::thread::yield_now;
}

#[cfg(all(shuttle, not(loom)))]
mod imp {
    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::atomic::{self, fence};
    pub use shuttle::thread::yield_now;
}

pub use imp::{atomic, fence, spin_loop, yield_now};

/// A thread-local with a constant first value.
#[cfg(not(any(loom, shuttle)))]
#[macro_export]
macro_rules! per_thread {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        std::thread_local! { $(#[$m])* static $name: $t = const { $init }; }
    };
}

/// A thread-local of the model's threads.
#[cfg(loom)]
#[macro_export]
macro_rules! per_thread {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        loom::thread_local! { $(#[$m])* static $name: $t = $init; }
    };
}

/// A thread-local of the model's threads.
#[cfg(all(shuttle, not(loom)))]
#[macro_export]
macro_rules! per_thread {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        shuttle::thread_local! { $(#[$m])* static $name: $t = $init; }
    };
}

/// A function that is `const` except in a model, whose atomics cannot be made at compile time.
#[macro_export]
macro_rules! maybe_const {
    ($(#[$m:meta])* pub fn $($rest:tt)*) => {
        #[cfg(not(loom))]
        $(#[$m])*
        pub const fn $($rest)*
        #[cfg(loom)]
        $(#[$m])*
        pub fn $($rest)*
    };
}

/// Stands beside data that a lock guards: in a model it notices accesses that nothing orders. Elsewhere it is nothing.
#[cfg(not(loom))]
#[derive(Default)]
pub struct Witness;

#[cfg(not(loom))]
impl Witness {
    pub const fn new() -> Self {
        Witness
    }
    #[inline(always)]
    pub fn read(&self) {}
    #[inline(always)]
    pub fn write(&self) {}
}

/// See the other one.
#[cfg(loom)]
#[derive(Default)]
pub struct Witness(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
impl Witness {
    pub fn new() -> Self {
        Witness(loom::cell::UnsafeCell::new(()))
    }
    /// The data is read now.
    pub fn read(&self) {
        self.0.with(|_| ());
    }
    /// The data is written now.
    pub fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

#[cfg(loom)]
// SAFETY: there is no data; concurrent access is what it is there to notice.
unsafe impl Sync for Witness {}

/// The bugs that can be planted: each names the place that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Plant {
    /// The spinlock lets go without `Release`.
    SpinUnlockRelaxed = 1,
    /// `prepare_to_wait` marks the task asleep after it has left the queue's lock.
    WaitStateLate,
    /// A semaphore's `up` looks for sleepers before it has given the count back.
    SemaphoreUpEarly,
    /// RCU frees after one epoch instead of two.
    RcuOneEpoch,
    /// A softirq's pending bits are cleared after the handlers have run.
    SoftirqClearLate,
    /// The socket lock is let go without a last look at the backlog.
    BacklogForgotten,
    /// An accept queue is checked before the entry is queued.
    AcceptCheckEarly,
    /// A timer's function runs although the timer was deleted.
    TimerAfterClose,
    /// A list entry is freed at once instead of after a grace period.
    ListFreeEarly,
    /// A count on a buffer is dropped twice.
    BufDoubleFree,
    /// The host's tests: a plain counter that two threads write.
    PlainCounter,
}

#[cfg(any(loom, shuttle, verify))]
static PLANTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Plants a bug, for a check that is to find it; `None` takes it out.
#[cfg(any(loom, shuttle, verify))]
pub fn plant(p: Option<Plant>) {
    PLANTED.store(p.map_or(0, |p| p as u32), std::sync::atomic::Ordering::SeqCst);
}

/// Whether this bug has been planted. Always `false`, at compile time, outside verification builds.
#[cfg(any(loom, shuttle, verify))]
pub fn planted(p: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::SeqCst) == p as u32
}

/// Whether this bug has been planted. Always `false`, at compile time, outside verification builds.
#[cfg(not(any(loom, shuttle, verify)))]
#[inline(always)]
pub const fn planted(_: Plant) -> bool {
    false
}
