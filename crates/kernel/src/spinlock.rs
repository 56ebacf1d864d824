//! Spinlocks: first come, first served.
//!
//! Interface: [`SpinLock`]: `lock`, `try_lock`, `lock_bh`, `lock_irq`, `lock_irqsave`, `lock_nested`; guards deref to the data.
//! Linux counterpart: `include/linux/spinlock.h`, `kernel/locking/spinlock.c`, `include/asm-generic/spinlock.h` (tickets).
//! Locks and context: any. Preemption is off while held. A lock that softirq code takes must be taken with `lock_bh`
//! in process context; one that a top half takes, with `lock_irqsave`. [`lockdep`](crate::lockdep) watches in debug builds.
//!
//! A ticket lock: whoever wants the lock draws the next number and waits until it is served, so no waiter starves. Taking a
//! free lock is one compare-and-swap, letting go one store; the whole lock is four bytes.

use crate::cpu::{self, BhGuard, IrqGuard, PreemptGuard};
use crate::lockdep::{How, Kind, LockDebug};
use crate::maybe_const;
use crate::sync::atomic::{AtomicU16, Ordering};
use crate::sync::{Plant, Witness, planted};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// Mutual exclusion by spinning, for sections that are short and never sleep.
pub struct SpinLock<T: ?Sized> {
    /// The next number to be drawn.
    next: AtomicU16,
    /// The number that is served.
    owner: AtomicU16,
    witness: Witness,
    debug: LockDebug,
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
    maybe_const! {
        /// `spin_lock_init`. The place of the call is the lock's class for lockdep.
        #[track_caller]
        pub fn new(data: T) -> Self {
            SpinLock {
                next: AtomicU16::new(0),
                owner: AtomicU16::new(0),
                witness: Witness::new(),
                debug: LockDebug::new(Kind::Spin, std::any::type_name::<T>),
                data: UnsafeCell::new(data),
            }
        }
    }

    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: Default> Default for SpinLock<T> {
    #[track_caller]
    fn default() -> Self {
        SpinLock::new(T::default())
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// `spin_lock`.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        self.lock_nested(0)
    }

    /// `spin_lock_nested`: while another lock of the class is held, in an order that the caller vouches for.
    #[track_caller]
    #[inline]
    pub fn lock_nested(&self, subclass: u8) -> SpinGuard<'_, T> {
        let context = cpu::preempt_disable();
        self.acquire(How { subclass, ..How::LOCK });
        SpinGuard { lock: self, _context: context }
    }

    /// `spin_trylock`.
    #[track_caller]
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let context = cpu::preempt_disable();
        self.try_acquire().then(|| SpinGuard { lock: self, _context: context })
    }

    /// `spin_lock_bh`: softirqs stay off this CPU until the drop, which then runs those raised.
    #[track_caller]
    #[inline]
    pub fn lock_bh(&self) -> SpinGuard<'_, T, BhGuard> {
        let context = cpu::local_bh_disable();
        self.acquire(How::LOCK);
        SpinGuard { lock: self, _context: context }
    }

    /// `spin_lock_irq`: for callers who know that interrupts are on; debug builds check that they do.
    #[track_caller]
    #[inline]
    pub fn lock_irq(&self) -> SpinGuard<'_, T, IrqGuard> {
        debug_assert!(!cpu::irqs_disabled(), "spin_lock_irq with interrupts off would turn them on too early");
        self.lock_irqsave()
    }

    /// `spin_lock_irqsave`: interrupts stay off this CPU until the drop, which gives back what was.
    #[track_caller]
    #[inline]
    pub fn lock_irqsave(&self) -> SpinGuard<'_, T, IrqGuard> {
        let context = cpu::local_irq_save();
        self.acquire(How::LOCK);
        SpinGuard { lock: self, _context: context }
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// `spin_is_locked`.
    pub fn is_locked(&self) -> bool {
        self.next.load(Ordering::Relaxed) != self.owner.load(Ordering::Relaxed)
    }

    /// Draws a number if it would be served at once.
    #[inline]
    fn draw_if_free(&self) -> bool {
        let owner = self.owner.load(Ordering::Acquire);
        self.next.compare_exchange(owner, owner.wrapping_add(1), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[track_caller]
    #[inline]
    fn try_acquire(&self) -> bool {
        let got = self.draw_if_free();
        if got {
            self.debug.acquired(How::TRY, Location::caller());
            self.witness.write();
        }
        got
    }

    #[track_caller]
    #[inline]
    fn acquire(&self, how: How) {
        self.debug.acquire(how, Location::caller());
        if !self.draw_if_free() {
            self.acquire_slow();
        }
        self.debug.acquired(how, Location::caller());
        self.witness.write();
    }

    #[cold]
    fn acquire_slow(&self) {
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        let mut spins = 0u32;
        while self.owner.load(Ordering::Acquire) != mine {
            cpu::relax(spins);
            spins = spins.saturating_add(1);
            self.debug.contended(spins);
        }
    }

    #[inline]
    fn release(&self) {
        self.witness.write();
        self.debug.release();
        let served = self.owner.load(Ordering::Relaxed);
        let order = if planted(Plant::SpinUnlockRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.owner.store(served.wrapping_add(1), order);
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
        self.lock.release();
    }
}
