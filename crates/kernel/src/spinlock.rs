//! Spinlocks.
//!
//! Interface: [`SpinLock`]: `lock`, `try_lock`, `lock_bh`, `lock_irqsave`; guards deref to the data.
//! Linux counterpart: `include/linux/spinlock.h`, `kernel/locking/spinlock.c`.
//! Locks and context: any. Preemption is off while held. A lock that softirq code takes must be taken with `lock_bh`
//! in process context; one that a top half takes, with `lock_irqsave`.

use crate::cpu::{self, BhGuard, IrqGuard, PreemptGuard};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// Mutual exclusion by spinning, for sections that are short and never sleep.
#[derive(Default)]
pub struct SpinLock<T: ?Sized> {
    locked: AtomicBool,
    data: UnsafeCell<T>,
}

// SAFETY: the lock hands out one `&mut T` at a time, so sharing it only moves `T` between threads.
unsafe impl<T: ?Sized + Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for SpinLock<T> {}

/// Holds the lock; `C` is what else was disabled, given back after the unlock.
pub struct SpinGuard<'a, T: ?Sized, C = PreemptGuard> {
    lock: &'a SpinLock<T>,
    _context: C,
}

impl<T> SpinLock<T> {
    pub const fn new(data: T) -> Self {
        SpinLock { locked: AtomicBool::new(false), data: UnsafeCell::new(data) }
    }

    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// `spin_lock`.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let context = cpu::preempt_disable();
        self.acquire();
        SpinGuard { lock: self, _context: context }
    }

    /// `spin_trylock`.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let context = cpu::preempt_disable();
        self.try_acquire().then(|| SpinGuard { lock: self, _context: context })
    }

    /// `spin_lock_bh`: softirqs stay off this CPU until the drop, which then runs those raised.
    #[inline]
    pub fn lock_bh(&self) -> SpinGuard<'_, T, BhGuard> {
        let context = cpu::local_bh_disable();
        self.acquire();
        SpinGuard { lock: self, _context: context }
    }

    /// `spin_lock_irqsave`.
    #[inline]
    pub fn lock_irqsave(&self) -> SpinGuard<'_, T, IrqGuard> {
        let context = cpu::local_irq_save();
        self.acquire();
        SpinGuard { lock: self, _context: context }
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[inline]
    fn try_acquire(&self) -> bool {
        self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn acquire(&self) {
        if !self.try_acquire() {
            self.acquire_slow();
        }
    }

    #[cold]
    fn acquire_slow(&self) {
        let mut spins = 0;
        loop {
            while self.locked.load(Ordering::Relaxed) {
                cpu::relax(spins);
                spins = spins.saturating_add(1);
            }
            if self.try_acquire() {
                return;
            }
        }
    }
}

impl<T: ?Sized, C> Deref for SpinGuard<'_, T, C> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized, C> DerefMut for SpinGuard<'_, T, C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized, C> Drop for SpinGuard<'_, T, C> {
    #[inline]
    fn drop(&mut self) {
        // The context is a field: it is given back after this, with the lock already free.
        self.lock.locked.store(false, Ordering::Release);
    }
}
