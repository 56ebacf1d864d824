//! The reader-writer spinlock.
//!
//! Interface: [`RwLock`]: `read`, `write`, their `try_`, `_bh` and `_irqsave` forms; guards deref to the data.
//! Linux counterpart: `include/linux/rwlock.h`, `kernel/locking/qrwlock.c`.
//! Locks and context: any. Preemption is off while held. What softirq code writes must be taken with the `_bh` forms in
//! process context, what a top half writes with `_irqsave`.
//!
//! Who does not get the lock at once queues, readers and writers in one line: a writer that waits keeps newcomers out, and
//! the readers behind it come in together once it has been. Only interrupts go past the line: what they interrupted may be a
//! reader.

use crate::cpu::{self, BhGuard, IrqGuard, PreemptGuard};
use crate::lockdep::{How, Kind, LockDebug};
use crate::maybe_const;
use crate::sync::Witness;
use crate::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// A writer has it.
const LOCKED: u32 = 1;
/// The writer at the head of the line waits for the readers to go.
const WAITING: u32 = 2;
const WRITER: u32 = LOCKED | WAITING;
/// One reader.
const READER: u32 = 4;

const TRY_READ: How = How { trylock: true, ..How::READ };

/// Several readers or one writer, spinning (`rwlock_t`).
pub struct RwLock<T: ?Sized> {
    /// [`LOCKED`], [`WAITING`], and the readers.
    cnts: AtomicU32,
    /// The line: the next number to be drawn, and the number at its head.
    next: AtomicU16,
    head: AtomicU16,
    witness: Witness,
    debug: LockDebug,
    data: UnsafeCell<T>,
}

// SAFETY: sharing the lock moves `T` between threads (writers) and shares it (readers).
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

/// Holds the lock with other readers.
pub struct ReadGuard<'a, T: ?Sized, C = PreemptGuard> {
    lock: &'a RwLock<T>,
    _context: C,
}

/// Holds the lock alone.
pub struct WriteGuard<'a, T: ?Sized, C = PreemptGuard> {
    lock: &'a RwLock<T>,
    _context: C,
}

impl<T> RwLock<T> {
    maybe_const! {
        /// `rwlock_init`. The place of the call is the lock's class for lockdep.
        #[track_caller]
        pub fn new(data: T) -> Self {
            RwLock {
                cnts: AtomicU32::new(0),
                next: AtomicU16::new(0),
                head: AtomicU16::new(0),
                witness: Witness::new(),
                debug: LockDebug::new(Kind::ReadWrite, std::any::type_name::<T>),
                data: UnsafeCell::new(data),
            }
        }
    }
}

impl<T: Default> Default for RwLock<T> {
    #[track_caller]
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized> RwLock<T> {
    /// `read_lock`. Not while the caller is a reader already, except in an interrupt: a writer may wait in between.
    #[track_caller]
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.read_in(cpu::preempt_disable())
    }

    /// `read_lock_bh`.
    #[track_caller]
    #[inline]
    pub fn read_bh(&self) -> ReadGuard<'_, T, BhGuard> {
        self.read_in(cpu::local_bh_disable())
    }

    /// `read_lock_irqsave`.
    #[track_caller]
    #[inline]
    pub fn read_irqsave(&self) -> ReadGuard<'_, T, IrqGuard> {
        self.read_in(cpu::local_irq_save())
    }

    /// `read_trylock`.
    #[track_caller]
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let context = cpu::preempt_disable();
        self.try_acquire_read().then(|| ReadGuard { lock: self, _context: context })
    }

    /// `write_lock`.
    #[track_caller]
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        self.write_in(cpu::preempt_disable())
    }

    /// `write_lock_bh`.
    #[track_caller]
    #[inline]
    pub fn write_bh(&self) -> WriteGuard<'_, T, BhGuard> {
        self.write_in(cpu::local_bh_disable())
    }

    /// `write_lock_irqsave`.
    #[track_caller]
    #[inline]
    pub fn write_irqsave(&self) -> WriteGuard<'_, T, IrqGuard> {
        self.write_in(cpu::local_irq_save())
    }

    /// `write_trylock`.
    #[track_caller]
    #[inline]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let context = cpu::preempt_disable();
        let got = self.swap_free(0);
        if got {
            self.debug.acquired(How::TRY, Location::caller());
            self.witness.write();
        }
        got.then(|| WriteGuard { lock: self, _context: context })
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[track_caller]
    #[inline]
    fn read_in<C>(&self, context: C) -> ReadGuard<'_, T, C> {
        self.debug.acquire(How::READ, Location::caller());
        if self.cnts.fetch_add(READER, Ordering::Acquire) & WRITER != 0 {
            self.read_slow();
        }
        self.debug.acquired(How::READ, Location::caller());
        self.witness.read();
        ReadGuard { lock: self, _context: context }
    }

    #[track_caller]
    #[inline]
    fn write_in<C>(&self, context: C) -> WriteGuard<'_, T, C> {
        self.debug.acquire(How::LOCK, Location::caller());
        if !self.swap_free(0) {
            self.write_slow();
        }
        self.debug.acquired(How::LOCK, Location::caller());
        self.witness.write();
        WriteGuard { lock: self, _context: context }
    }

    #[track_caller]
    #[inline]
    fn try_acquire_read(&self) -> bool {
        let free = |n: u32| (n & WRITER == 0).then_some(n + READER);
        let got = self.cnts.fetch_update(Ordering::Acquire, Ordering::Relaxed, free).is_ok();
        if got {
            self.debug.acquired(TRY_READ, Location::caller());
            self.witness.read();
        }
        got
    }

    /// Makes the lock a writer's if nobody has it and it is `waiting` (0 or [`WAITING`]).
    #[inline]
    fn swap_free(&self, waiting: u32) -> bool {
        self.cnts.compare_exchange(waiting, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The reader is counted, but there is a writer.
    #[cold]
    fn read_slow(&self) {
        if cpu::in_serving_softirq() || cpu::in_hardirq() {
            return self.spin_until(|| self.cnts.load(Ordering::Acquire) & LOCKED == 0);
        }
        self.cnts.fetch_sub(READER, Ordering::Relaxed);
        self.enter_line();
        self.cnts.fetch_add(READER, Ordering::Relaxed);
        self.spin_until(|| self.cnts.load(Ordering::Acquire) & LOCKED == 0);
        self.leave_line();
    }

    #[cold]
    fn write_slow(&self) {
        self.enter_line();
        if !self.swap_free(0) {
            self.cnts.fetch_or(WAITING, Ordering::Relaxed);
            self.spin_until(|| self.swap_free(WAITING));
        }
        self.leave_line();
    }

    fn enter_line(&self) {
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        self.spin_until(|| self.head.load(Ordering::Acquire) == mine);
    }

    fn leave_line(&self) {
        let served = self.head.load(Ordering::Relaxed);
        self.head.store(served.wrapping_add(1), Ordering::Release);
    }

    fn spin_until(&self, so: impl Fn() -> bool) {
        let mut spins = 0u32;
        while !so() {
            cpu::relax(spins);
            spins = spins.saturating_add(1);
            self.debug.contended(spins);
        }
    }
}

impl<T: ?Sized, C> Deref for ReadGuard<'_, T, C> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock; there are readers only.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized, C> Drop for ReadGuard<'_, T, C> {
    /// `read_unlock`.
    #[inline]
    fn drop(&mut self) {
        self.lock.witness.read();
        self.lock.debug.release();
        self.lock.cnts.fetch_sub(READER, Ordering::Release);
    }
}

impl<T: ?Sized, C> Deref for WriteGuard<'_, T, C> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized, C> DerefMut for WriteGuard<'_, T, C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock alone, and is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized, C> Drop for WriteGuard<'_, T, C> {
    /// `write_unlock`.
    #[inline]
    fn drop(&mut self) {
        self.lock.witness.write();
        self.lock.debug.release();
        self.lock.cnts.fetch_and(!LOCKED, Ordering::Release);
    }
}
