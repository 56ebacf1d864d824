//! The socket lock: owned by a process that may sleep, or held as a spinlock in softirq context, with a backlog between.
//!
//! Interface: [`SockLock`]: `lock_sock` (process context) and `bh_lock_sock` (softirq context).
//! Linux counterpart: `socket_lock_t`, `lock_sock_nested`, `release_sock`, `bh_lock_sock` in `net/core/sock.c`.
//! Locks and context: see above. While a process owns the lock, softirq code can only reach the backlog `B`; the owner works
//! that off before it lets go.

use crate::cpu;
use crate::plant::{Plant, planted};
use crate::spinlock::{SpinGuard, SpinLock};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

/// `SINGLE_DEPTH_NESTING`: a lock under another of its class.
const SINGLE_DEPTH_NESTING: u8 = 1;

struct Slock<B> {
    owned: bool,
    backlog: B,
}

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
pub struct OwnerGuard<'a, T, B: Default>(&'a SockLock<T, B>);

/// Softirq context holds the spinlock; the data is in reach only while no process owns it.
pub struct BhGuard<'a, T, B> {
    lock: &'a SockLock<T, B>,
    slock: SpinGuard<'a, Slock<B>>,
}

impl<T, B: Default> SockLock<T, B> {
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn new(data: T) -> Self {
        SockLock { slock: SpinLock::new(Slock { owned: false, backlog: B::default() }), data: UnsafeCell::new(data) }
    }

    /// `lock_sock`: waits until no process owns the lock. Owners hold it for a bounded time, never across a sleep.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn lock_sock(&self) -> OwnerGuard<'_, T, B> {
        let mut spins = 0;
        loop {
            {
                let mut s = self.slock.lock_bh();
                if !s.owned {
                    s.owned = true;
                    return OwnerGuard(self);
                }
            }
            cpu::assert_may_sleep();
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
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
        take(&mut self.0.slock.lock_bh().backlog)
    }

    /// `release_sock`, one round: lets go if there is nothing to `take` out of the backlog, else stays the owner and hands
    /// that out.
    pub fn try_release(self, take: impl FnOnce(&mut B) -> Option<B>) -> Result<(), (Self, B)> {
        let mut s = self.0.slock.lock_bh();
        if !planted(Plant::BacklogForgotten)
            && let Some(b) = take(&mut s.backlog)
        {
            drop(s);
            return Err((self, b));
        }
        s.owned = false;
        drop(s);
        std::mem::forget(self);
        Ok(())
    }
}

impl<T, B: Default> Drop for OwnerGuard<'_, T, B> {
    fn drop(&mut self) {
        self.0.slock.lock_bh().owned = false;
    }
}

impl<T, B: Default> Deref for OwnerGuard<'_, T, B> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard is the owner.
        unsafe { &*self.0.data.get() }
    }
}

impl<T, B: Default> DerefMut for OwnerGuard<'_, T, B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the owner, and is borrowed mutably.
        unsafe { &mut *self.0.data.get() }
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
