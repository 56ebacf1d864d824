//! The mutex: a lock whose waiters sleep.
//!
//! Interface: [`Mutex`]: `lock`, `lock_interruptible`, `lock_killable`, `try_lock`, `poll_lock`; the guard derefs to the data.
//! Linux counterpart: `kernel/locking/mutex.c`.
//! Locks and context: process context, inside a kernel ([`Kernel::enter`](crate::Kernel::enter)); never where sleeping is
//! forbidden. The holder may sleep.
//!
//! Whoever comes when the lock is free takes it, even before those who wait: that keeps a busy lock from being handed from
//! sleeper to sleeper. A waiter that was woken and found it taken again sets [`HANDOFF`]: from then on only the first waiter
//! may take it, so none starves.

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

const LOCKED: u32 = 1;
/// `MUTEX_FLAG_HANDOFF`.
const HANDOFF: u32 = 2;

/// Mutual exclusion by sleeping, for sections that may be long or sleep themselves.
pub struct Mutex<T: ?Sized> {
    state: AtomicU32,
    waiters: WaitQueueHead,
    witness: Witness,
    debug: LockDebug,
    data: UnsafeCell<T>,
}

// SAFETY: the lock hands out one `&mut T` at a time, so sharing it only moves `T` between threads.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Holds the lock.
pub struct MutexGuard<'a, T: ?Sized>(&'a Mutex<T>);

impl<T> Mutex<T> {
    maybe_const! {
        /// `mutex_init`. The place of the call is the lock's class for lockdep.
        #[track_caller]
        pub fn new(data: T) -> Self {
            Mutex {
                state: AtomicU32::new(0),
                waiters: WaitQueueHead::new(),
                witness: Witness::new(),
                debug: LockDebug::new(Kind::Sleeping, std::any::type_name::<T>),
                data: UnsafeCell::new(data),
            }
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    #[track_caller]
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// `mutex_lock`: no signal ends the wait.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Ok(g) = self.lock_state(TASK_UNINTERRUPTIBLE) {
                return g;
            }
        }
    }

    /// `mutex_lock_interruptible`: `EINTR` if a signal comes first.
    #[track_caller]
    pub fn lock_interruptible(&self) -> Result<MutexGuard<'_, T>> {
        self.lock_state(TASK_INTERRUPTIBLE)
    }

    /// `mutex_lock_killable`: `EINTR` if a fatal signal comes first.
    #[track_caller]
    pub fn lock_killable(&self) -> Result<MutexGuard<'_, T>> {
        self.lock_state(TASK_KILLABLE)
    }

    #[track_caller]
    fn lock_state(&self, state: u32) -> Result<MutexGuard<'_, T>> {
        might_sleep();
        let at = Location::caller();
        self.debug.acquire(How::LOCK, at);
        if !self.take(false) {
            let _waiting = (state == TASK_UNINTERRUPTIBLE).then(|| Waiting::new(&self.debug, at));
            block_here(|wait| self.poll_take(wait, state))?;
        }
        Ok(self.taken(How::LOCK, at))
    }

    /// `mutex_lock` in a sleep of `state`, as a poll: `EINTR` if a signal ends it. Giving `wait` up leaves the others their
    /// turns.
    #[track_caller]
    pub fn poll_lock(&self, wait: &mut Wait, state: u32) -> Poll<Result<MutexGuard<'_, T>>> {
        // Who polls does not wait: it can be part of no circle.
        let at = Location::caller();
        self.poll_take(wait, state).map_ok(|()| self.taken(How::POLL, at))
    }

    /// `mutex_trylock`.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // A first waiter that gave up may have left its claim behind.
        let unclaimed = || self.state.load(Ordering::Relaxed) == HANDOFF && !self.waiters.has_sleeper();
        let got = self.take(false) || (unclaimed() && self.take(true));
        got.then(|| self.taken(How::TRY, Location::caller()))
    }

    /// `mutex_is_locked`.
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LOCKED != 0
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    fn taken(&self, how: How, at: &'static Location<'static>) -> MutexGuard<'_, T> {
        self.debug.acquired(how, at);
        self.witness.write();
        MutexGuard(self)
    }

    /// Takes the lock if it is free, and if it is handed on, only as the first waiter.
    #[inline]
    fn take(&self, first: bool) -> bool {
        let mut s = self.state.load(Ordering::Relaxed);
        while s & LOCKED == 0 && (s & HANDOFF == 0 || first) {
            match self.state.compare_exchange_weak(s, LOCKED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => s = now,
            }
        }
        false
    }

    fn poll_take(&self, wait: &mut Wait, state: u32) -> Poll<Result<()>> {
        let waited = wait.is_on(&self.waiters);
        let first = wait.prepare_to_wait_in_turn(&self.waiters, state);
        let mut got = self.take(first);
        if !got && wait.task().signal_pending_state(state) {
            wait.abort_exclusive_wait();
            return Poll::Ready(Err(Errno::EINTR));
        }
        if !got && first && waited {
            self.state.fetch_or(HANDOFF, Ordering::AcqRel);
            got = self.take(true);
        }
        if !got {
            return Poll::Pending;
        }
        wait.finish_wait();
        Poll::Ready(Ok(()))
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
        self.0.witness.write();
        self.0.debug.release();
        self.0.state.fetch_and(!LOCKED, Ordering::Release);
        self.0.waiters.wake_up_first();
    }
}
