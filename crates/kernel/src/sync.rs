//! The façade through which the primitives reach atomics and thread-locals, so that model checkers can take their place.
//!
//! Interface: [`atomic`], [`fence`], [`spin_loop`], [`yield_now`], [`Mutex`], [`OnceLock`], [`per_thread!`](crate::per_thread),
//! [`shared_static!`](crate::shared_static), [`maybe_const!`](crate::maybe_const), [`Witness`], [`planted`].
//! Linux counterpart: `tools/memory-model/`, in spirit; tokio's `src/loom/` is the model.
//! Locks and context: any.
//!
//! `--cfg loom` puts loom's types here, `--cfg shuttle` shuttle's. Without either, everything is the standard library's
//! and costs nothing. `--cfg verify` (implied by both) lets a bug be planted at run time, to see that a check finds it.

#[cfg(not(any(loom, shuttle)))]
mod imp {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{self, fence};
    pub use std::sync::{Mutex, MutexGuard, OnceLock};
    pub use std::thread::yield_now;
}

#[cfg(loom)]
mod imp {
    pub use super::model::OnceLock;
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{self, fence};
    pub use loom::sync::{Mutex, MutexGuard};
    pub use loom::thread::yield_now;
}

#[cfg(all(shuttle, not(loom)))]
mod imp {
    pub use super::model::OnceLock;
    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::atomic::{self, fence};
    pub use shuttle::sync::{Mutex, MutexGuard};
    pub use shuttle::thread::yield_now;
}

pub use imp::{Mutex, MutexGuard, OnceLock, atomic, fence, spin_loop, yield_now};

#[cfg(any(loom, shuttle))]
mod model {
    use super::atomic::{AtomicPtr, Ordering};
    use std::marker::PhantomData;
    use std::ptr;

    /// The standard library's `OnceLock`, made of the model's atomics. Two threads that both start to fill it both run the
    /// closure, and one result is dropped: in a model a thread must not wait outside the model's sight.
    pub struct OnceLock<T> {
        ptr: AtomicPtr<T>,
        owns: PhantomData<Box<T>>,
    }

    // SAFETY: it owns a `T`, and hands out `&T` only.
    unsafe impl<T: Send> Send for OnceLock<T> {}
    // SAFETY: as above; a `T` may also be moved in through `&self`.
    unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}

    impl<T> OnceLock<T> {
        crate::maybe_const! {
            pub fn new() -> Self {
                OnceLock { ptr: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
            }
        }

        pub fn get(&self) -> Option<&T> {
            // SAFETY: null, or a box that lives as long as `self`, published by `set`.
            unsafe { self.ptr.load(Ordering::Acquire).as_ref() }
        }

        pub fn set(&self, value: T) -> Result<(), T> {
            let new = Box::into_raw(Box::new(value));
            match self.ptr.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => Ok(()),
                // SAFETY: not published, so still ours.
                Err(_) => Err(*unsafe { Box::from_raw(new) }),
            }
        }

        pub fn get_or_init(&self, f: impl FnOnce() -> T) -> &T {
            if self.get().is_none() {
                let _ = self.set(f());
            }
            self.get().expect("just filled")
        }
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            OnceLock::new()
        }
    }

    impl<T> Drop for OnceLock<T> {
        fn drop(&mut self) {
            let p = self.ptr.load(Ordering::Acquire);
            if !p.is_null() {
                // SAFETY: made by `set`, and nobody can reach it any more.
                drop(unsafe { Box::from_raw(p) });
            }
        }
    }
}

/// A static that the process shares. In a model it is made anew for each execution, so that one leaves nothing to the next.
#[cfg(not(any(loom, shuttle)))]
#[macro_export]
macro_rules! shared_static {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        $(#[$m])* static $name: $t = $init;
    };
}

/// A static of one execution of the model.
#[cfg(loom)]
#[macro_export]
macro_rules! shared_static {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        loom::lazy_static! { $(#[$m])* static ref $name: $t = $init; }
    };
}

/// A static of one execution of the model.
#[cfg(all(shuttle, not(loom)))]
#[macro_export]
macro_rules! shared_static {
    ($(#[$m:meta])* static $name:ident: $t:ty = $init:expr;) => {
        shuttle::lazy_static! { $(#[$m])* static ref $name: $t = $init; }
    };
}

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

impl Plant {
    pub const ALL: [Plant; 11] = [
        Plant::SpinUnlockRelaxed,
        Plant::WaitStateLate,
        Plant::SemaphoreUpEarly,
        Plant::RcuOneEpoch,
        Plant::SoftirqClearLate,
        Plant::BacklogForgotten,
        Plant::AcceptCheckEarly,
        Plant::TimerAfterClose,
        Plant::ListFreeEarly,
        Plant::BufDoubleFree,
        Plant::PlainCounter,
    ];
}

/// Where the planted bug is noted. A model runs all its threads on one thread of the host, so that tests of different
/// bugs can run side by side; elsewhere the bug is the process's.
#[cfg(any(loom, shuttle, verify))]
mod plants {
    use super::Plant;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[cfg(any(loom, shuttle))]
    std::thread_local! {
        static PLANTED: AtomicU32 = const { AtomicU32::new(0) };
    }
    #[cfg(any(loom, shuttle))]
    fn with<R>(f: impl FnOnce(&AtomicU32) -> R) -> R {
        PLANTED.with(f)
    }

    #[cfg(not(any(loom, shuttle)))]
    fn with<R>(f: impl FnOnce(&AtomicU32) -> R) -> R {
        static PLANTED: AtomicU32 = AtomicU32::new(0);
        f(&PLANTED)
    }

    /// Plants a bug, for a check that is to find it; `None` takes it out.
    pub fn plant(p: Option<Plant>) {
        with(|w| w.store(p.map_or(0, |p| p as u32), Ordering::Relaxed));
    }

    /// Whether this bug has been planted. Always `false`, at compile time, outside verification builds.
    pub fn planted(p: Plant) -> bool {
        with(|w| w.load(Ordering::Relaxed)) == p as u32
    }

    /// Plants the bug that the environment names in `SOCKEYE_PLANT`, if any.
    pub fn plant_from_env() {
        let Ok(name) = std::env::var("SOCKEYE_PLANT") else { return };
        let found = Plant::ALL.iter().copied().find(|p| format!("{p:?}") == name);
        assert!(found.is_some(), "SOCKEYE_PLANT={name}: there is no such bug");
        plant(found);
    }
}

#[cfg(any(loom, shuttle, verify))]
pub use plants::{plant, plant_from_env, planted};

/// Whether this bug has been planted. Always `false`, at compile time, outside verification builds.
#[cfg(not(any(loom, shuttle, verify)))]
#[inline(always)]
pub const fn planted(_: Plant) -> bool {
    false
}
