//! Spinlocks: those who wait are served in order.
//!
//! Interface: [`SpinLock`]: `lock`, `try_lock`, `lock_bh`, `lock_irq`, `lock_irqsave`, `lock_nested`; guards deref to the data.
//! Linux counterpart: `include/linux/spinlock.h`, `kernel/locking/spinlock.c`, `kernel/locking/qspinlock.c`.
//! Locks and context: any. Preemption is off while held. A lock that softirq code takes must be taken with `lock_bh`
//! in process context; one that a top half takes, with `lock_irqsave`. [`lockdep`](crate::lockdep) watches in debug builds.
//!
//! Whoever finds the lock taken draws a ticket, and only the first in that queue tries for the lock. Threads are CPUs here, and
//! the machine may take a thread off its processor at any time, also the one that is next: a strict order would keep the lock
//! idle until it is back. So the lock may still be had by a newcomer, until the first in the queue has lost patience and
//! shuts the door, which it can only do while it runs. Hence no waiter starves and nobody waits for one who is not there.
//! Taking a free lock is one compare-and-swap, letting go one store; the whole lock is four bytes.

use crate::cpu::{self, BhGuard, IrqGuard, PreemptGuard};
use crate::lockdep::{How, Kind, LockDebug};
use crate::maybe_const;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Plant, Witness, planted};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// Rounds that the first in the queue lets newcomers go ahead.
const PATIENCE: u32 = 32;
/// Rounds that the others in the queue do. By then the arch has put the waiter to sleep between rounds.
const PATIENCE_QUEUED: u32 = 160;

/// Mutual exclusion by spinning, for sections that are short and never sleep.
pub struct SpinLock<T: ?Sized> {
    locked: AtomicBool,
    /// The door is shut to newcomers.
    shut: AtomicBool,
    /// The next ticket. Tickets only order the waiters, so it does no harm that they wrap.
    next: AtomicU8,
    /// The ticket whose holder is the first in the queue.
    serving: AtomicU8,
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
                locked: AtomicBool::new(false),
                shut: AtomicBool::new(false),
                next: AtomicU8::new(0),
                serving: AtomicU8::new(0),
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
        if !self.grab_if_open() {
            return None;
        }
        // The guard first: it lets the lock go if the validator unwinds.
        let guard = SpinGuard { lock: self, _context: context };
        self.debug.acquired(How::TRY, Location::caller());
        self.witness.write();
        Some(guard)
    }

    /// `spin_lock_bh`: softirqs stay off this CPU until the drop, which then runs those raised.
    #[track_caller]
    #[inline]
    pub fn lock_bh(&self) -> SpinGuard<'_, T, BhGuard> {
        let context = cpu::local_bh_disable();
        self.acquire(How::LOCK);
        SpinGuard { lock: self, _context: context }
    }

    /// `spin_lock_bh` for one of many locks that lie in an array: they may be held together if they are taken in the order of
    /// their addresses, which the validator checks.
    #[track_caller]
    #[inline]
    pub fn lock_bh_ordered(&self) -> SpinGuard<'_, T, BhGuard> {
        let context = cpu::local_bh_disable();
        self.acquire(How::ORDERED);
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
        self.locked.load(Ordering::Relaxed)
    }

    #[inline]
    fn grab(&self) -> bool {
        self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn grab_if_open(&self) -> bool {
        !self.shut.load(Ordering::Relaxed) && self.grab()
    }

    #[track_caller]
    #[inline]
    fn acquire(&self, how: How) {
        self.debug.acquire(how, Location::caller());
        if !self.grab_if_open() {
            self.acquire_slow();
        }
        self.debug.acquired(how, Location::caller());
        self.witness.write();
    }

    #[cold]
    fn acquire_slow(&self) {
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        let mut spins = 0u32;
        let mut wait = |shut| {
            if shut {
                self.shut.store(true, Ordering::Relaxed);
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
            self.debug.contended(spins);
            spins
        };
        let mut waited = 0;
        while self.serving.load(Ordering::Relaxed) != mine {
            waited = wait(waited >= PATIENCE_QUEUED);
        }
        let patience = waited.saturating_add(PATIENCE);
        while self.locked.load(Ordering::Relaxed) || !self.grab() {
            waited = wait(waited >= patience.min(PATIENCE_QUEUED));
        }
        self.shut.store(false, Ordering::Relaxed);
        self.serving.store(mine.wrapping_add(1), Ordering::Relaxed);
    }

    #[inline]
    fn release(&self) {
        self.witness.write();
        self.debug.release();
        let order = if planted(Plant::SpinUnlockRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.locked.store(false, order);
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

/// The validator costs a release build nothing.
#[cfg(not(any(debug_assertions, loom, shuttle)))]
const _: () = assert!(size_of::<SpinLock<()>>() == 4);
