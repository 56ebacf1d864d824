//! The façade through which the primitives reach atomics and thread-locals, so that model checkers can take their place.
//!
//! Interface: [`atomic`], [`fence`], [`spin_loop`], [`bound_spin`], [`yield_now`], [`Mutex`], [`OnceLock`], [`per_thread!`](crate::per_thread),
//! [`shared_static!`](crate::shared_static), [`maybe_const!`](crate::maybe_const), [`Witness`], [`planted`].
//! Linux counterpart: `tools/memory-model/`, in spirit; tokio's `src/loom/` is the model.
//! Locks and context: any.
//!
//! `--cfg loom` puts loom's types here, `--cfg shuttle` shuttle's. Without either, everything is the standard library's
//! and costs nothing. What a check is to find can be [planted](crate::plant).

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

pub use crate::plant::{Plant, planted};
/// Called with the number of rounds by whoever spins. Loom takes another turn of somebody who waits for another choice to
/// explore, so that three threads would keep it busy for ever: an execution in which one spins long is not branched further.
/// Those that it stands for, in which the waiter just comes later, are.
#[inline(always)]
pub fn bound_spin(_spins: u32) {
    #[cfg(loom)]
    if _spins >= 2 {
        loom::skip_branch();
    }
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
