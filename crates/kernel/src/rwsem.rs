//! The reader-writer semaphore: a reader-writer lock whose waiters sleep.
//!
//! Interface: [`RwSemaphore`]: `down_read`, `down_write`, their forms, polls; [`WriteGuard::downgrade_write`].
//! Linux counterpart: `kernel/locking/rwsem.c`.
//! Locks and context: process context, nothing held that forbids sleeping. Holders may sleep.
//!
//! Waiters are served in the order in which they came, readers that follow one another together; newcomers queue behind.

use crate::lockdep::{How, Kind, LockDebug, Waiting, might_sleep};
use crate::maybe_const;
use crate::sync::Witness;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::task::{TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_UNINTERRUPTIBLE};
use crate::wait::{Wait, WaitQueueHead, block_here};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::task::Poll;
use uapi::{Errno, Result};

const WRITER: u32 = 1;
/// One reader.
const READER: u32 = 2;

const TRY_READ: How = How { trylock: true, ..How::READ };

/// Several readers or one writer, sleeping (`struct rw_semaphore`).
pub struct RwSemaphore<T: ?Sized> {
    count: AtomicU32,
    waiters: WaitQueueHead,
    witness: Witness,
    debug: LockDebug,
    data: UnsafeCell<T>,
}

// SAFETY: sharing the lock moves `T` between threads (writers) and shares it (readers).
unsafe impl<T: ?Sized + Send> Send for RwSemaphore<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSemaphore<T> {}

/// Holds the lock with other readers.
pub struct ReadGuard<'a, T: ?Sized>(&'a RwSemaphore<T>);

/// Holds the lock alone.
pub struct WriteGuard<'a, T: ?Sized>(&'a RwSemaphore<T>);

impl<T> RwSemaphore<T> {
    maybe_const! {
        /// `init_rwsem`. The place of the call is the lock's class for lockdep.
        #[track_caller]
        pub fn new(data: T) -> Self {
            RwSemaphore {
                count: AtomicU32::new(0),
                waiters: WaitQueueHead::new(),
                witness: Witness::new(),
                debug: LockDebug::new(Kind::Sleeping, std::any::type_name::<T>),
                data: UnsafeCell::new(data),
            }
        }
    }
}

impl<T: Default> Default for RwSemaphore<T> {
    #[track_caller]
    fn default() -> Self {
        RwSemaphore::new(T::default())
    }
}

impl<T: ?Sized> RwSemaphore<T> {
    /// Takes it as a reader; no signal ends the wait.
    #[track_caller]
    pub fn down_read(&self) -> ReadGuard<'_, T> {
        loop {
            if let Ok(g) = self.read_state(TASK_UNINTERRUPTIBLE) {
                return g;
            }
        }
    }

    /// Takes it as a reader; `EINTR` if a signal comes first.
    #[track_caller]
    pub fn down_read_interruptible(&self) -> Result<ReadGuard<'_, T>> {
        self.read_state(TASK_INTERRUPTIBLE)
    }

    /// Takes it as a reader; `EINTR` if a fatal signal comes first.
    #[track_caller]
    pub fn down_read_killable(&self) -> Result<ReadGuard<'_, T>> {
        self.read_state(TASK_KILLABLE)
    }

    /// Takes it as a reader if no writer has it and nobody waits.
    #[track_caller]
    pub fn down_read_trylock(&self) -> Option<ReadGuard<'_, T>> {
        let at = Location::caller();
        self.try_take(How::READ).then(|| self.have_read(TRY_READ, at))
    }

    /// Takes it as the writer; no signal ends the wait.
    #[track_caller]
    pub fn down_write(&self) -> WriteGuard<'_, T> {
        loop {
            if let Ok(g) = self.write_state(TASK_UNINTERRUPTIBLE) {
                return g;
            }
        }
    }

    /// Takes it as the writer; `EINTR` if a fatal signal comes first.
    #[track_caller]
    pub fn down_write_killable(&self) -> Result<WriteGuard<'_, T>> {
        self.write_state(TASK_KILLABLE)
    }

    /// Takes it as the writer if nobody has it or waits.
    #[track_caller]
    pub fn down_write_trylock(&self) -> Option<WriteGuard<'_, T>> {
        let at = Location::caller();
        self.try_take(How::LOCK).then(|| self.have_write(How::TRY, at))
    }

    /// `down_read` in a sleep of `state`, as a poll: `EINTR` if a signal ends it.
    #[track_caller]
    pub fn poll_down_read(&self, wait: &mut Wait, state: u32) -> Poll<Result<ReadGuard<'_, T>>> {
        // Who polls does not wait: it can be part of no circle.
        let at = Location::caller();
        self.poll_take(wait, state, How::READ).map_ok(|()| self.have_read(How::POLL_READ, at))
    }

    /// `down_write` in a sleep of `state`, as a poll: `EINTR` if a signal ends it.
    #[track_caller]
    pub fn poll_down_write(&self, wait: &mut Wait, state: u32) -> Poll<Result<WriteGuard<'_, T>>> {
        let at = Location::caller();
        self.poll_take(wait, state, How::LOCK).map_ok(|()| self.have_write(How::POLL, at))
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[track_caller]
    fn read_state(&self, state: u32) -> Result<ReadGuard<'_, T>> {
        let at = Location::caller();
        self.down(state, How::READ, at)?;
        Ok(self.have_read(How::READ, at))
    }

    #[track_caller]
    fn write_state(&self, state: u32) -> Result<WriteGuard<'_, T>> {
        let at = Location::caller();
        self.down(state, How::LOCK, at)?;
        Ok(self.have_write(How::LOCK, at))
    }

    #[track_caller]
    fn down(&self, state: u32, how: How, at: &'static Location<'static>) -> Result<()> {
        might_sleep();
        self.debug.acquire(how, at);
        if self.try_take(how) {
            return Ok(());
        }
        let _waiting = (state == TASK_UNINTERRUPTIBLE).then(|| Waiting::new(&self.debug, at));
        block_here(|wait| self.poll_take(wait, state, how))
    }

    fn have_read(&self, how: How, at: &'static Location<'static>) -> ReadGuard<'_, T> {
        self.debug.acquired(how, at);
        self.witness.read();
        ReadGuard(self)
    }

    fn have_write(&self, how: How, at: &'static Location<'static>) -> WriteGuard<'_, T> {
        self.debug.acquired(how, at);
        self.witness.write();
        WriteGuard(self)
    }

    /// For who has not queued: not past those who have.
    fn try_take(&self, how: How) -> bool {
        !self.waiters.has_sleeper() && self.take(how)
    }

    fn take(&self, how: How) -> bool {
        let next = |n: u32| match how.read {
            true => (n & WRITER == 0).then_some(n + READER),
            false => (n == 0).then_some(WRITER),
        };
        self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, next).is_ok()
    }

    fn poll_take(&self, wait: &mut Wait, state: u32, how: How) -> Poll<Result<()>> {
        let first = wait.prepare_to_wait_in_turn(&self.waiters, state);
        if first && self.take(how) {
            wait.finish_wait();
            if how.read {
                // The next may be a reader as well.
                self.waiters.wake_up_first();
            }
            return Poll::Ready(Ok(()));
        }
        if wait.task().signal_pending_state(state) {
            wait.abort_exclusive_wait();
            return Poll::Ready(Err(Errno::EINTR));
        }
        Poll::Pending
    }
}

impl<'a, T: ?Sized> WriteGuard<'a, T> {
    /// `downgrade_write`: the writer becomes a reader, with no other writer in between.
    pub fn downgrade_write(self) -> ReadGuard<'a, T> {
        let lock = self.0;
        std::mem::forget(self);
        lock.witness.write();
        lock.count.store(READER, Ordering::Release);
        lock.waiters.wake_up_first();
        ReadGuard(lock)
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock; there are readers only.
        unsafe { &*self.0.data.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    /// `up_read`.
    fn drop(&mut self) {
        self.0.witness.read();
        self.0.debug.release();
        if self.0.count.fetch_sub(READER, Ordering::Release) == READER {
            self.0.waiters.wake_up_first();
        }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.data.get() }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock alone, and is borrowed mutably.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    /// `up_write`.
    fn drop(&mut self) {
        self.0.witness.write();
        self.0.debug.release();
        self.0.count.store(0, Ordering::Release);
        self.0.waiters.wake_up_first();
    }
}
