//! The socket lock: owned by a process that may sleep, or held as a spinlock in softirq context, with a backlog between.
//!
//! Interface: [`SockLock`]: `lock_sock` (process context) and `bh_lock_sock` (softirq context).
//! Linux counterpart: `socket_lock_t`, `lock_sock_nested`, `release_sock`, `bh_lock_sock` in `net/core/sock.c`.
//! Locks and context: see above. While a process owns the lock, softirq code can only reach the backlog `B`; the owner works
//! that off before it lets go.

use crate::cpu;
use crate::plant::{Plant, planted};
use crate::spinlock::{SpinGuard, SpinLock};
use crate::task::TASK_UNINTERRUPTIBLE;
use crate::wait::{WaitQueueHead, block_here};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::task::Poll;

/// `SINGLE_DEPTH_NESTING`: a lock under another of its class.
const SINGLE_DEPTH_NESTING: u8 = 1;

struct Slock<B> {
    owned: bool,
    /// Somebody may sleep until it is let go.
    contended: bool,
    backlog: B,
}

impl<B> Slock<B> {
    /// Nobody owns it any more; whether somebody may sleep for that.
    #[inline]
    fn let_go(&mut self) -> bool {
        self.owned = false;
        std::mem::take(&mut self.contended)
    }
}

/// Rounds that a process spins for an owned lock before it sleeps: an owner that runs is done in a moment.
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 100 };

/// Guards `T`, with a backlog `B` for those who find it owned.
pub struct SockLock<T, B> {
    slock: SpinLock<Slock<B>>,
    data: UnsafeCell<T>,
}

// SAFETY: `T` is reached by one holder at a time: the owner while `owned`, else whoever holds `slock`.
unsafe impl<T: Send, B: Send> Send for SockLock<T, B> {}
// SAFETY: as above.
unsafe impl<T: Send, B: Send> Sync for SockLock<T, B> {}

/// Process context owns the lock.
pub struct OwnerGuard<'a, T, B: Default> {
    lock: &'a SockLock<T, B>,
    queue: &'a WaitQueueHead,
}

/// Softirq context holds the spinlock; the data is in reach only while no process owns it.
pub struct BhGuard<'a, T, B> {
    lock: &'a SockLock<T, B>,
    slock: SpinGuard<'a, Slock<B>>,
}

impl<T, B: Default> SockLock<T, B> {
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn new(data: T) -> Self {
        SockLock {
            slock: SpinLock::new(Slock { owned: false, contended: false, backlog: B::default() }),
            data: UnsafeCell::new(data),
        }
    }

    /// `lock_sock`: waits until no process owns the lock, and sleeps for it on `queue`, which must be the same each time.
    /// Others may wait there for other things, but none uninterruptibly. Owners hold it for a bounded time.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn lock_sock<'a>(&'a self, queue: &'a WaitQueueHead) -> OwnerGuard<'a, T, B> {
        if !self.try_own(false) {
            self.lock_sock_slow(queue);
        }
        OwnerGuard { lock: self, queue }
    }

    /// `waiter`: others may sleep behind the caller, and it will do so itself if the lock is owned.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    fn try_own(&self, waiter: bool) -> bool {
        let mut s = self.slock.lock_bh();
        s.contended |= waiter;
        !std::mem::replace(&mut s.owned, true)
    }

    /// `__lock_sock`.
    #[cold]
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock_sock_slow(&self, queue: &WaitQueueHead) {
        cpu::assert_may_sleep();
        for spins in 0..SPINS {
            cpu::relax(spins);
            if self.try_own(false) {
                return;
            }
        }
        block_here(|wait| {
            wait.prepare_to_wait_exclusive_state(queue, TASK_UNINTERRUPTIBLE);
            if !self.try_own(true) {
                return Poll::Pending;
            }
            wait.finish_wait();
            Poll::Ready(())
        });
    }

    /// `bh_lock_sock`. Bottom halves must be off.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn bh_lock_sock(&self) -> BhGuard<'_, T, B> {
        BhGuard { lock: self, slock: self.slock.lock() }
    }

    /// `bh_lock_sock_nested`: of a child that nobody else locks yet, while its parent's may be held.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn bh_lock_sock_nested(&self) -> BhGuard<'_, T, B> {
        BhGuard { lock: self, slock: self.slock.lock_nested(SINGLE_DEPTH_NESTING) }
    }

    /// The data, when the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T, B: Default> OwnerGuard<'_, T, B> {
    /// What `take` takes out of the backlog; the lock stays owned either way.
    pub fn take_backlog(&mut self, take: impl FnOnce(&mut B) -> Option<B>) -> Option<B> {
        take(&mut self.lock.slock.lock_bh().backlog)
    }

    /// `release_sock`, one round: lets go if there is nothing to `take` out of the backlog, else stays the owner and hands
    /// that out.
    pub fn try_release(self, take: impl FnOnce(&mut B) -> Option<B>) -> Result<(), (Self, B)> {
        let mut s = self.lock.slock.lock_bh();
        if !planted(Plant::BacklogForgotten)
            && let Some(b) = take(&mut s.backlog)
        {
            drop(s);
            return Err((self, b));
        }
        let contended = s.let_go();
        drop(s);
        let queue = self.queue;
        std::mem::forget(self);
        wake_next(queue, contended);
        Ok(())
    }
}

impl<T, B: Default> Drop for OwnerGuard<'_, T, B> {
    fn drop(&mut self) {
        let contended = self.lock.slock.lock_bh().let_go();
        wake_next(self.queue, contended);
    }
}

#[inline]
fn wake_next(queue: &WaitQueueHead, contended: bool) {
    if contended {
        queue.__wake_up(TASK_UNINTERRUPTIBLE, 1, 0);
    }
}

impl<T, B: Default> Deref for OwnerGuard<'_, T, B> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard is the owner.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T, B: Default> DerefMut for OwnerGuard<'_, T, B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the owner, and is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T, B> BhGuard<'_, T, B> {
    /// `sock_owned_by_user`.
    #[inline]
    pub fn owned_by_user(&self) -> bool {
        self.slock.owned
    }

    /// The data, unless a process owns it.
    #[inline]
    pub fn data(&mut self) -> Option<&mut T> {
        if self.slock.owned {
            return None;
        }
        // SAFETY: the spinlock is held and nobody owns the lock; an owner would first need the spinlock.
        Some(unsafe { &mut *self.lock.data.get() })
    }

    /// Where to leave work for the owner.
    #[inline]
    pub fn backlog(&mut self) -> &mut B {
        &mut self.slock.backlog
    }
}
