//! The mutex: a lock whose waiters sleep.
//!
//! Interface: [`Mutex`]: `lock`, `try_lock`; the guard derefs to the data.
//! Linux counterpart: `kernel/locking/mutex.c`.
//! Locks and context: process context, inside a kernel ([`Kernel::enter`](crate::Kernel::enter)); never where sleeping is
//! forbidden. The holder may sleep. Waiters are woken one at a time, first come first served, and try again.

use crate::cpu;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wait::{Wait, WaitQueueHead, block_on};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::task::Poll;

/// Mutual exclusion by sleeping, for sections that may be long or sleep themselves.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    locked: AtomicBool,
    waiters: WaitQueueHead,
    data: UnsafeCell<T>,
}

// SAFETY: the lock hands out one `&mut T` at a time, so sharing it only moves `T` between threads.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Holds the lock.
pub struct MutexGuard<'a, T: ?Sized>(&'a Mutex<T>);

impl<T> Mutex<T> {
    crate::maybe_const! {
        pub fn new(data: T) -> Self {
            Mutex { locked: AtomicBool::new(false), waiters: WaitQueueHead::new(), data: UnsafeCell::new(data) }
        }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// `mutex_lock`.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        cpu::assert_may_sleep();
        if let Some(g) = self.try_lock() {
            return g;
        }
        cpu::with_arch(|arch| block_on(arch, |wait| self.poll_lock(wait))).unwrap_or_else(|| self.spin())
    }

    fn poll_lock(&self, wait: &mut Wait) -> Poll<MutexGuard<'_, T>> {
        wait.prepare_to_wait_exclusive(&self.waiters);
        match self.try_lock() {
            Some(g) => {
                wait.finish_wait();
                Poll::Ready(g)
            }
            None => Poll::Pending,
        }
    }

    /// Outside every kernel nobody can put the thread to sleep.
    fn spin(&self) -> MutexGuard<'_, T> {
        let mut spins = 0;
        loop {
            if let Some(g) = self.try_lock() {
                return g;
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// `mutex_trylock`.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let free = self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| MutexGuard(self))
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.data.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    /// `mutex_unlock`.
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::SeqCst);
        self.0.waiters.wake_up(0);
    }
}
